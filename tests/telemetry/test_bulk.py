"""Many rows are written as few are: the same statement, whichever way PostgreSQL gets them."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from engine.store.database import Database
from telemetry.bulk import BulkInsert
from telemetry.tables import dead_letter

AT = datetime(2026, 11, 20, 15, 30, 1, 234567, tzinfo=UTC)
MANY = 450
INSERT = BulkInsert(
    dead_letter,
    ("id", "consumer", "execution_id", "signal", "reason", "at"),
    "ON CONFLICT (id) DO UPDATE SET reason = dead_letter.reason || excluded.reason WHERE dead_letter.reason <> 'kept'",
    ("id", "reason"),
)


def _rows(first: int, number: int, reason: str = "a") -> list[tuple[object, ...]]:
    return [(f"{index:05}", "records", None, {"name": "ü"}, reason, AT) for index in range(first, first + number)]


@pytest.mark.parametrize("number", [3, MANY])
async def test_what_was_inserted_or_updated_is_returned(migrated_url: str, number: int) -> None:
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
