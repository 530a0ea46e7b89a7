"""A database for every store test, once on SQLite and once on PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

from engine.database.base import metadata
from engine.database.database import Database
from engine.store.tables import execution_control


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A new database with the engine's tables; another test checks that the migrations create the same ones."""
    async with Database(database_url) as opened:
        assert execution_control.name in metadata.tables
        async with opened.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield opened
