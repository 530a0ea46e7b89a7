"""A migrated database on both engines, and a bookkeeper that runs over it."""

from collections.abc import AsyncIterator

import pytest

from engine.database.database import Database
from tests.telemetry.bookkeeper import Bookkeeper, bookkeeper


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    """A database with the schema in it."""
    async with Database(migrated_url) as opened:
        yield opened


@pytest.fixture
async def keeper(database: Database) -> AsyncIterator[Bookkeeper]:
    """Providers, journal and records over the database."""
    async with bookkeeper(database) as running:
        yield running
