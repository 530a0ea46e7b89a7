"""A migrated database for every store test, once on SQLite and once on PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

from engine.store import migrations
from engine.store.database import Database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A new database with the current schema."""
    await migrations.upgrade(database_url)
    async with Database(database_url) as opened:
        yield opened
