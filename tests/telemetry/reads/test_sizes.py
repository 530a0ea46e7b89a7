"""The size of the database and of its tables is read at small cost."""

import pytest

from engine.database.database import Database
from telemetry.reads import sizes
from tests.telemetry.bookkeeper import Bookkeeper


async def test_every_table_has_a_size(keeper: Bookkeeper) -> None:
    for _ in range(20):
        await keeper.completed()
    async with keeper.database.read() as connection:
        found = await sizes.read_sizes(connection)
    assert {"spans", "executions", "execution_control", "outbox"} <= found.tables.keys()
    assert found.tables["spans"] > found.tables["outbox"]
    assert found.total >= sum(found.tables.values()) // 2


async def test_a_large_file_is_not_read(migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MOST_PAGES", 10)
    async with Database(migrated_sqlite_url) as database, database.read() as connection:
        found = await sizes.read_sizes(connection)
    assert found.tables == {}
    assert found.total > 100_000
    assert found.free is not None
