"""A database with the schema in it."""

from collections.abc import AsyncIterator

import pytest

from engine.database.database import Database


@pytest.fixture
async def database(migrated_sqlite_url: str) -> AsyncIterator[Database]:
    """An empty SQLite database."""
    async with Database(migrated_sqlite_url) as opened:
        yield opened
