"""A process that stands still in the middle of a statement keeps no locks for ever."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database import frozen
from engine.database.database import Database
from engine.database.frozen import end_frozen, keep_ending
from engine.errors import Unavailable

IDLE_SECONDS = 0.3


async def copying(connection: AsyncConnection) -> None:
    """Begin to send rows, and never send one."""

    async def no_rows() -> AsyncIterator[tuple[int]]:
        await asyncio.Event().wait()
        yield (1,)

    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await driver.copy_records_to_table("counts", records=no_rows())


async def prepared(connection: AsyncConnection) -> None:
    """Have a statement prepared, and never execute it."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await driver.prepare("SELECT number FROM counts")
    await asyncio.Event().wait()


async def reading(connection: AsyncConnection) -> None:
    """Ask for more than fits into a socket, and never take it."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    driver._transport.pause_reading()
    try:
        await driver.fetch("SELECT repeat('x', 1000) FROM generate_series(1, 50000)")
    finally:
        driver._transport.resume_reading()


@pytest.fixture
async def counts(postgres_url: str) -> AsyncIterator[Database]:
    """A database with a number in it."""
    async with Database(postgres_url) as database:
        async with database.begin() as connection:
            await connection.execute(text("CREATE TABLE counts (number int)"))
            await connection.execute(text("INSERT INTO counts VALUES (1)"))
        yield database


@pytest.mark.postgres
@pytest.mark.parametrize("stand_still", [copying, prepared, reading])
async def test_a_process_that_stands_still_in_a_statement_is_ended_and_its_locks_are_free(
    counts: Database, stand_still: Callable[[AsyncConnection], Coroutine[None, None, None]]
) -> None:
    is_locked = asyncio.Event()

    async def hold() -> None:
        async with counts.begin() as connection:
            await connection.execute(text("UPDATE counts SET number = 2"))
            is_locked.set()
            await stand_still(connection)

    holder = asyncio.create_task(hold())
    await is_locked.wait()
    assert await end_frozen(counts, idle_seconds=60.0) == 0
    async with asyncio.timeout(10):
        while True:
            if await end_frozen(counts, idle_seconds=IDLE_SECONDS, command_seconds=IDLE_SECONDS):
                break
            await asyncio.sleep(0.05)
        async with counts.begin() as connection:
            found = await connection.execute(text("UPDATE counts SET number = number + 10 RETURNING number"))
            assert found.scalar_one() == 11
    holder.cancel()
    with pytest.raises((asyncio.CancelledError, Unavailable, asyncpg.PostgresError)):
        await holder


async def has_run_for(database: Database, seconds: float) -> None:
    """The statement that sleeps has begun, that long ago."""
    statement = text(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(2)'"
        " AND query_start < clock_timestamp() - make_interval(secs => :seconds)"
    )
    async with asyncio.timeout(10), database.read() as connection:
        while True:
            if (await connection.execute(statement, {"seconds": seconds})).scalar_one():
                return
            await asyncio.sleep(0.02)


@pytest.mark.postgres
async def test_who_works_or_waits_between_statements_or_is_no_spanloom_is_left_alone(
    counts: Database, postgres_url: str
) -> None:
    stranger = await asyncpg.connect(postgres_url, server_settings={"application_name": "a dump"})
    prepared_elsewhere = await stranger.prepare("SELECT number FROM counts")
    async with counts.begin() as working, counts.begin() as waiting:
        await waiting.execute(text("SELECT 1"))
        work = asyncio.create_task(working.execute(text("SELECT pg_sleep(2)")))
        await has_run_for(counts, 0.2)
        assert await end_frozen(counts, idle_seconds=0.1, command_seconds=0.1) == 0
        await work
        assert (await waiting.execute(text("SELECT 1"))).scalar_one() == 1
    assert await prepared_elsewhere.fetchval() == 1
    await stranger.close()


async def test_a_file_has_no_such_connections(sqlite_url: str) -> None:
    async with Database(sqlite_url) as database:
        assert await end_frozen(database, idle_seconds=0.0) == 0


async def test_a_database_that_is_away_is_looked_at_again(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked = asyncio.Semaphore(0)

    async def is_away(database: Database) -> int:
        looked.release()
        raise Unavailable("the database is away")

    monkeypatch.setattr(frozen, "end_frozen", is_away)
    async with Database(migrated_sqlite_url) as database, asyncio.timeout(10):
        keeping = asyncio.create_task(keep_ending(database, every_seconds=0.01))
        for _ in range(3):
            await looked.acquire()
        keeping.cancel()
    assert "could not be looked for" in caplog.text
