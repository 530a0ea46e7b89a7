"""A SQLite file becomes smaller, some pages at a time, unless another program made it."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from telemetry.retention import pages
from telemetry.retention.pages import KEPT_SHARE, _give_some_back, can_shrink, give_back


async def fill(database: Database, rows: int) -> None:
    async with database.begin() as connection:
        await connection.execute(text("CREATE TABLE filler (body BLOB)"))
        for _ in range(rows):
            await connection.execute(text("INSERT INTO filler VALUES (zeroblob(100000))"))


async def test_a_new_file_gives_free_pages_back(sqlite_url: str) -> None:
    async with Database(sqlite_url) as database:
        await fill(database, 100)
        async with database.begin() as connection:
            await connection.execute(text("DELETE FROM filler"))
        given = await give_back(database)
        async with database.read() as connection:
            size = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
            free = (await connection.execute(text("PRAGMA freelist_count"))).scalar_one()
        assert await can_shrink(database)
    assert given > 2_000
    assert free <= size * KEPT_SHARE + 1


async def test_a_transaction_gives_many_pages_back(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    async def give_some_back(connection: AsyncConnection) -> int:
        steps.append(await _give_some_back(connection))
        return steps[-1]

    monkeypatch.setattr(pages, "_give_some_back", give_some_back)
    async with Database(sqlite_url) as database:
        await fill(database, 100)
        async with database.begin() as connection:
            await connection.execute(text("DELETE FROM filler"))
        await give_back(database)
    assert steps[:2] == [pages.PAGES_AT_ONCE] * 2
    assert len(steps) < 20


async def test_a_file_of_another_program_keeps_its_pages(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE something (x)")
    async with Database(f"sqlite:///{file}") as database:
        await fill(database, 10)
        async with database.begin() as connection:
            await connection.execute(text("DELETE FROM filler"))
        assert not await can_shrink(database)
        assert await give_back(database) == 0


async def test_postgres_needs_none_of_this(postgres_url: str) -> None:
    async with Database(postgres_url) as database:
        assert await can_shrink(database)
        assert await give_back(database) == 0
