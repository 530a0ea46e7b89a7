"""A statement that takes too long ends where it runs, and its connection goes on."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from engine.database.time_limit import is_in_transaction, within

SECONDS = 0.2
ENDLESS = {
    "sqlite": "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT max(n) FROM n",
    "postgresql": "SELECT pg_sleep(60)",
}
ENDLESS_WRITE = {
    "sqlite": f"UPDATE graphs SET graph = ({ENDLESS['sqlite']})",
    "postgresql": "UPDATE graphs SET graph = 'x' WHERE pg_sleep(60) IS NOT NULL",
}


async def run(connection: AsyncConnection, statement: str) -> None:
    """Only that."""
    await connection.execute(text(statement))


async def keep_a_graph(connection: AsyncConnection) -> None:
    """Something to lose."""
    await run(connection, "INSERT INTO graphs VALUES ('h', '{}', '2026-01-01 00:00:00')")


async def test_a_statement_without_end_is_ended_and_the_transaction_goes_on(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        async with database.begin() as connection:
            await keep_a_graph(connection)
            savepoint = await connection.begin_nested()
            with pytest.raises(TimeoutError):
                await within(connection, SECONDS, run(connection, ENDLESS[database.dialect_name]))
            assert is_in_transaction(connection)
            await savepoint.rollback()
        async with database.read() as connection:
            assert (await connection.execute(text("SELECT content_hash FROM graphs"))).scalars().all() == ["h"]


async def test_whether_the_transaction_outlives_a_write_without_end_is_told(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        is_sqlite = database.dialect_name == "sqlite"
        async with database.begin() as connection:
            await keep_a_graph(connection)
            with pytest.raises(TimeoutError):
                await within(connection, SECONDS, run(connection, ENDLESS_WRITE[database.dialect_name]))
            assert is_in_transaction(connection) is not is_sqlite
            await connection.rollback()
        async with database.begin() as connection:
            await keep_a_graph(connection)


async def test_the_next_writer_need_not_wait_for_what_was_ended(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        for _ in range(3):
            async with database.begin() as connection:
                with pytest.raises(TimeoutError):
                    await within(connection, SECONDS, run(connection, ENDLESS[database.dialect_name]))
                await connection.rollback()


@pytest.mark.postgres
async def test_a_wait_for_a_lock_that_the_database_ends_is_no_other_error(migrated_postgres_url: str) -> None:
    async with Database(migrated_postgres_url) as holding, Database(migrated_postgres_url, idle_seconds=0.5) as waiting:
        async with holding.begin() as holder, waiting.begin() as waiter:
            await keep_a_graph(holder)
            with pytest.raises(TimeoutError, match="waited too long for a lock"):
                await within(waiter, 60.0, keep_a_graph(waiter))
            assert is_in_transaction(waiter)
            await waiter.rollback()


async def test_work_that_waits_for_something_else_is_ended_too(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        async with database.begin() as connection:
            with pytest.raises(TimeoutError):
                await within(connection, SECONDS, _wait())
            assert is_in_transaction(connection) or database.dialect_name == "sqlite"
            await keep_a_graph(connection)


async def test_what_is_done_in_time_is_not_touched(migrated_url: str) -> None:
    async with Database(migrated_url) as database, database.begin() as connection:
        await within(connection, 30, keep_a_graph(connection))
        with pytest.raises(DBAPIError):
            await within(connection, 30, run(connection, "SELECT no_such_column"))


async def _wait() -> None:
    await asyncio.Event().wait()
