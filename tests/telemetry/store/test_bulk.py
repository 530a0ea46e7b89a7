"""Bulk inserts have the same effect for few and many rows, on both databases."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from asyncpg import IntegrityConstraintViolationError  # type: ignore[import-untyped]  # asyncpg ships no types
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from telemetry.store.bulk import BulkInsert
from telemetry.store.tables import dead_letter

AT = datetime(2026, 11, 20, 15, 30, 1, 234567, tzinfo=UTC)
MANY = 450
INSERT = BulkInsert(
    dead_letter,
    ("id", "consumer", "execution_id", "signal", "reason", "at"),
    "ON CONFLICT (id) DO UPDATE SET reason = dead_letter.reason || excluded.reason WHERE dead_letter.reason <> 'kept'",
    ("id", "reason"),
)

MOSTLY_NEW = BulkInsert(
    dead_letter,
    ("id", "consumer", "execution_id", "signal", "reason", "at"),
    "ON CONFLICT (id) DO NOTHING",
    ("reason", "id"),
    mostly_new=True,
)


def _rows(first: int, number: int, reason: str = "a") -> list[tuple[object, ...]]:
    return [(f"{index:05}", "records", None, {"name": "ü"}, reason, AT) for index in range(first, first + number)]


@pytest.mark.parametrize("number", [3, MANY])
async def test_inserted_and_updated_rows_are_returned(migrated_url: str, number: int) -> None:
    async with Database(migrated_url) as database, database.begin() as connection:
        assert await INSERT.run(connection, _rows(0, 1, "kept")) == [("00000", "kept")]
        assert await INSERT.run(connection, _rows(1, 1)) == [("00001", "a")]
        stored = await INSERT.run(connection, _rows(0, number, "b"))
        read = (await connection.execute(select(dead_letter).order_by(dead_letter.c.id))).all()
    reasons = ["kept", "ab", *["b"] * (number - 2)]
    assert sorted(stored) == [(row.id, row.reason) for row in read][1:]
    assert [row.reason for row in read] == reasons
    assert {(row.at, row.execution_id, row.signal["name"]) for row in read} == {(AT, None, "ü")}


async def test_two_calls_in_one_transaction_and_one_after_a_rollback_do_not_mix(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        async with database.begin() as connection:
            for first in (0, MANY):
                assert len(await INSERT.run(connection, _rows(first, MANY))) == MANY
            savepoint = await connection.begin_nested()
            await INSERT.run(connection, _rows(2 * MANY, MANY))
            await savepoint.rollback()
            assert len(await INSERT.run(connection, _rows(3 * MANY, MANY))) == MANY
        async with database.begin() as connection:
            assert len(await INSERT.run(connection, _rows(4 * MANY, MANY))) == MANY
        async with database.read() as connection:
            reasons = (await connection.execute(select(dead_letter.c.reason))).scalars().all()
    assert reasons == ["a"] * (4 * MANY)


@pytest.mark.parametrize("there", [0, 1, MANY - 1, MANY], ids="{} are there".format)
@pytest.mark.parametrize("first", [True, False], ids=["the first", "the last"])
async def test_rows_that_are_mostly_new_are_stored_once(migrated_url: str, there: int, first: bool) -> None:
    rows = _rows(0, MANY)
    old, new = (rows[:there], rows[there:]) if first else (rows[MANY - there :], rows[: MANY - there])
    async with Database(migrated_url) as database:
        async with database.begin() as connection:
            assert len(await MOSTLY_NEW.run(connection, old)) == there
        async with database.begin() as connection:
            changed = [(*row[:4], "changed", AT) for row in rows]
            stored = await MOSTLY_NEW.run(connection, changed)
        async with database.read() as connection:
            read = (await connection.execute(select(dead_letter.c.reason, dead_letter.c.id))).all()
    assert sorted(stored) == sorted(("changed", row[0]) for row in new)
    assert sorted(map(tuple, read)) == sorted([("changed", row[0]) for row in new] + [("a", row[0]) for row in old])


@pytest.mark.postgres
async def test_two_who_store_the_same_rows_at_once_store_each_once(migrated_postgres_url: str) -> None:
    async with Database(migrated_postgres_url) as database:

        async def store(connection: AsyncConnection, first: int) -> int:
            return len(await MOSTLY_NEW.run(connection, _rows(first, MANY)))

        async with database.begin() as one:
            assert await store(one, 0) == MANY
            other = asyncio.create_task(_in_transaction(database, lambda connection: store(connection, 100)))
            async with database.read() as watching:
                while not await watching.scalar(WAITS):
                    await watching.commit()
        assert await other == 100


WAITS = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


async def _in_transaction(database: Database, work: Callable[[AsyncConnection], Awaitable[int]]) -> int:
    async with database.begin() as connection:
        return await work(connection)


async def test_a_row_that_breaks_another_rule_is_an_error(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        with pytest.raises((DBAPIError, IntegrityConstraintViolationError)):
            async with database.begin() as connection:
                await MOSTLY_NEW.run(connection, [*_rows(0, MANY), ("x", None, None, {}, "a", AT)])
        async with database.read() as connection:
            assert (await connection.execute(select(dead_letter.c.id))).all() == []
