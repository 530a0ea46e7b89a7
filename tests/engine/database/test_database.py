"""Opening, locking, and what is said when the database cannot be used."""

import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types
import pytest
from sqlalchemy import Column, MetaData, Table, Text, func, insert, select, text
from sqlalchemy.exc import IntegrityError, StatementError

from engine.database.base import JsonColumn, UtcTime, now_sql
from engine.database.database import Database, Synchronous, parse_url, safe_name
from engine.errors import Unavailable
from engine.store.tables import graphs

scratch = Table(
    "scratch", MetaData(), Column("id", Text, primary_key=True), Column("at", UtcTime), Column("data", JsonColumn)
)


@pytest.fixture
async def with_scratch(database: Database) -> Database:
    """The database with a table of every own column type."""
    async with database.begin() as connection:
        await connection.run_sync(scratch.create)
    return database


async def count(database: Database) -> int:
    async with database.read() as connection:
        return (await connection.execute(select(func.count()).select_from(scratch))).scalar_one()


async def test_a_time_comes_back_in_utc_to_the_microsecond(with_scratch: Database) -> None:
    local = datetime(2026, 3, 1, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5)))
    async with with_scratch.begin() as connection:
        await connection.execute(insert(scratch).values(id="a", at=local))
    async with with_scratch.read() as connection:
        stored = (await connection.execute(select(scratch.c.at))).scalar_one()
    assert stored == local
    assert stored is not None
    assert stored.tzinfo is UTC


async def test_a_time_without_a_timezone_is_refused(with_scratch: Database) -> None:
    with pytest.raises(StatementError, match="without a timezone"):
        async with with_scratch.begin() as connection:
            await connection.execute(insert(scratch).values(id="a", at=datetime(2026, 3, 1)))


async def test_the_database_clock_compares_with_stored_times(with_scratch: Database) -> None:
    past, future = (datetime.now(UTC) + timedelta(minutes=minutes) for minutes in (-5, 5))
    async with with_scratch.begin() as connection:
        await connection.execute(insert(scratch), [{"id": "past", "at": past}, {"id": "future", "at": future}])
        await connection.execute(insert(scratch).values(id="now", at=now_sql()))
    async with with_scratch.read() as connection:
        due = (await connection.execute(select(scratch.c.id).where(scratch.c.at <= now_sql()))).scalars().all()
        now = (await connection.execute(select(now_sql()))).scalar_one()
    assert sorted(due) == ["now", "past"]
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=30)


@pytest.mark.parametrize("value", [{"ü": [1, 2.5, None, "\n"]}, [], "text", 0, False, {"big": 2**53 - 1}])
async def test_json_comes_back_as_it_was(with_scratch: Database, value: object) -> None:
    async with with_scratch.begin() as connection:
        await connection.execute(insert(scratch).values(id="a", data=value))
    async with with_scratch.read() as connection:
        assert (await connection.execute(select(scratch.c.data))).scalar_one() == value


async def test_no_json_is_null(with_scratch: Database) -> None:
    async with with_scratch.begin() as connection:
        await connection.execute(insert(scratch).values(id="a", data=None))
    async with with_scratch.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM scratch WHERE data IS NULL"))).scalar_one() == 1


async def test_an_error_rolls_everything_back(with_scratch: Database) -> None:
    async def fail() -> None:
        async with with_scratch.begin() as connection:
            await connection.execute(insert(scratch).values(id="a"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await count(with_scratch) == 0


async def test_a_cancelled_writer_rolls_back_and_frees_the_connection(with_scratch: Database) -> None:
    written = asyncio.Event()

    async def write() -> None:
        async with with_scratch.begin() as connection:
            await connection.execute(insert(scratch).values(id="a"))
            written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write(), name="writer")
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with with_scratch.begin() as connection:
        await connection.execute(insert(scratch).values(id="a"))
    assert await count(with_scratch) == 1


async def test_a_savepoint_is_rolled_back_alone(with_scratch: Database) -> None:
    async with with_scratch.begin() as connection:
        await connection.execute(insert(scratch).values(id="kept"))
        savepoint = await connection.begin_nested()
        await connection.execute(insert(scratch).values(id="lost"))
        with pytest.raises(IntegrityError):
            await connection.execute(insert(scratch).values(id="kept"))
        await savepoint.rollback()
    async with with_scratch.read() as connection:
        assert (await connection.execute(select(scratch.c.id))).scalars().all() == ["kept"]


async def test_writers_of_one_process_wait_for_each_other(with_scratch: Database) -> None:
    async def add(number: int) -> None:
        async with with_scratch.begin() as connection:
            known = (await connection.execute(select(func.count()).select_from(scratch))).scalar_one()
            await asyncio.sleep(0)
            await connection.execute(insert(scratch).values(id=f"{number}", data=known))

    await asyncio.gather(*(add(number) for number in range(20)))
    assert await count(with_scratch) == 20


async def test_readers_do_not_wait_for_the_writer(with_scratch: Database) -> None:
    async with with_scratch.begin() as connection:
        await connection.execute(insert(scratch).values(id="a"))
        assert await count(with_scratch) == 0
    assert await count(with_scratch) == 1


async def test_reading_never_writes_to_sqlite(sqlite_url: str) -> None:
    async with Database(sqlite_url) as database:
        async with database.begin() as connection:
            await connection.run_sync(scratch.create)
        with pytest.raises(Unavailable):
            async with database.read() as connection:
                await connection.execute(insert(scratch).values(id="a"))


@pytest.mark.parametrize(("synchronous", "code"), [("NORMAL", 1), ("FULL", 2)])
async def test_sqlite_is_set_up_for_one_writer_and_many_readers(
    sqlite_url: str, synchronous: Synchronous, code: int
) -> None:
    names = ("journal_mode", "auto_vacuum", "foreign_keys", "synchronous")
    async with Database(sqlite_url, synchronous=synchronous) as database, database.begin() as connection:
        await connection.run_sync(scratch.create)
        settings = [(await connection.execute(text(f"PRAGMA {name}"))).scalar_one() for name in names]
    assert settings == ["wal", 2, 1, code]


async def test_a_locked_file_is_said(sqlite_url: str, tmp_path: Path) -> None:
    async with Database(sqlite_url, busy_seconds=0.05) as database:
        async with database.begin() as connection:
            await connection.run_sync(scratch.create)
        other = sqlite3.connect(tmp_path / "spanloom.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match=r"spanloom\.db is locked by another process"):
            async with database.begin():
                pytest.fail("it was opened")
        other.close()
        async with database.begin() as connection:
            await connection.execute(insert(scratch).values(id="a"))


async def test_a_full_disk_is_said(sqlite_url: str) -> None:
    async with Database(sqlite_url) as database:
        async with database.begin() as connection:
            await connection.run_sync(scratch.create)
            await connection.execute(text("PRAGMA max_page_count = 1"))
        with pytest.raises(Unavailable, match="is full; free disk space"):
            async with database.begin() as connection:
                await connection.execute(insert(scratch).values(id="a", data="x" * 100_000))


async def test_a_read_only_file_is_said(sqlite_url: str, tmp_path: Path) -> None:
    async with Database(sqlite_url) as database, database.begin() as connection:
        await connection.run_sync(scratch.create)
    async with Database(f"sqlite:///file:{tmp_path}/spanloom.db?mode=ro&uri=true") as database:
        with pytest.raises(Unavailable, match="is read-only; make the file"):
            async with database.begin() as connection:
                await connection.execute(insert(scratch).values(id="a"))


async def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path}/no/such.db") as database:
        with pytest.raises(Unavailable, match=r"no/such\.db cannot be opened; check that its folder exists"):
            async with database.begin():
                pytest.fail("it was opened")


async def test_a_file_of_another_kind_is_said(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader, " * 100)
    async with Database(f"sqlite:///{tmp_path}/letter.txt") as database:
        with pytest.raises(Unavailable, match="is not an SQLite database"):
            async with database.begin():
                pytest.fail("it was opened")


async def test_a_missing_schema_is_said(database_url: str) -> None:
    async with Database(database_url) as database:
        with pytest.raises(Unavailable, match="run `spanloom migrate`"):
            async with database.read() as connection:
                await connection.execute(select(graphs))


async def test_a_server_that_is_not_there_is_said() -> None:
    async with Database("postgresql://somebody:secret@127.0.0.1:1/none") as database:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1/none cannot be reached") as refused:
            async with database.begin():
                pytest.fail("it was opened")
    assert "secret" not in refused.value.message


@pytest.mark.postgres
async def test_a_missing_database_is_said(postgres_url: str) -> None:
    async with Database(postgres_url + "_not_there") as database:
        with pytest.raises(Unavailable, match="does not exist on the server"):
            async with database.begin():
                pytest.fail("it was opened")


@pytest.mark.postgres
async def test_an_unknown_role_is_said(postgres_url: str) -> None:
    url = parse_url(postgres_url).set(username="nobody_of_this_name", password="wrong")
    async with Database(url.render_as_string(hide_password=False)) as database:
        with pytest.raises(Unavailable, match="refused the user or password"):
            async with database.begin():
                pytest.fail("it was opened")


@pytest.mark.postgres
async def test_parameters_of_the_url_reach_the_server(postgres_url: str) -> None:
    url = f"{postgres_url}?sslmode=prefer&connect_timeout=3&search_path=pg_catalog"
    async with Database(url) as database, database.read() as connection:
        assert (await connection.execute(text("SHOW search_path"))).scalar_one() == "pg_catalog"


@pytest.mark.postgres
async def test_a_connection_the_server_has_closed_is_replaced(postgres_url: str) -> None:
    async with Database(postgres_url) as database, Database(postgres_url) as other:
        async with database.read() as connection:
            pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        async with other.begin() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        async with database.read() as connection:
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1


@pytest.mark.postgres
async def test_a_process_that_stands_still_in_a_transaction_keeps_no_locks(postgres_url: str) -> None:
    async with Database(postgres_url, idle_seconds=0.5) as still, Database(postgres_url) as other:
        async with other.begin() as connection:
            await connection.execute(text("CREATE TABLE counts (number int)"))
            await connection.execute(text("INSERT INTO counts VALUES (1)"))
        with pytest.raises(Unavailable, match=r"try again|cannot be reached"):
            async with still.begin() as mine:
                await mine.execute(text("UPDATE counts SET number = 2"))
                async with asyncio.timeout(10), other.begin() as theirs:
                    await theirs.execute(text("UPDATE counts SET number = number + 10"))
                await mine.execute(text("UPDATE counts SET number = 3"))
        async with still.read() as connection:
            assert (await connection.execute(text("SELECT number FROM counts"))).scalar_one() == 11


@pytest.mark.postgres
async def test_a_process_that_stands_still_gets_no_lock_that_it_waited_for(postgres_url: str) -> None:
    idle_seconds = 4.5
    together = asyncio.Barrier(4)
    async with Database(postgres_url, idle_seconds=idle_seconds) as still, Database(postgres_url) as other:
        async with other.begin() as connection:
            await connection.execute(text("CREATE TABLE counts (number int)"))
            await connection.execute(text("INSERT INTO counts VALUES (1)"))

        async def stand_still(after_seconds: float) -> None:
            async with still.begin() as mine:
                await mine.execute(text("SELECT 1"))
                await together.wait()
                await asyncio.sleep(after_seconds)
                await mine.execute(text("UPDATE counts SET number = 2"))
                await asyncio.Event().wait()

        standing = [asyncio.create_task(stand_still(seconds)) for seconds in (0.0, 0.1, 0.2)]
        await together.wait()
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)
        async with other.begin() as theirs:
            await theirs.execute(text("UPDATE counts SET number = number + 10"))
        assert asyncio.get_running_loop().time() - began < 1.75 * idle_seconds
        for each in standing:
            each.cancel()
        await asyncio.gather(*standing, return_exceptions=True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/name", "of the kind mysql are not supported"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("spanloom.db", "cannot be read"),
    ],
)
def test_a_url_that_names_no_database_is_said(url: str, message: str) -> None:
    with pytest.raises(Unavailable, match=message):
        Database(url)


def test_a_name_for_people_holds_no_password() -> None:
    assert safe_name(parse_url("postgresql://me:secret@db.example/books")) == "db.example:5432/books"


@pytest.mark.postgres
async def test_a_connection_whose_driver_is_confused_is_given_up(
    migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As asyncpg says it when the server has died between two of its steps."""

    async def pid(database: Database) -> int:
        async with database.read() as connection:
            return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())

    async def confused(*arguments: object, **more: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    async with Database(migrated_postgres_url) as database:
        before = await pid(database)
        with monkeypatch.context() as patch:
            patch.setattr(asyncpg.Connection, "prepare", confused)
            with pytest.raises(Unavailable, match="cannot be reached"):
                async with database.begin() as connection:
                    await connection.execute(text("SELECT 1 AS never_prepared_before"))
        assert await pid(database) != before


async def test_an_error_names_no_value_of_its_statement(with_scratch: Database) -> None:
    statement = insert(scratch).values(id="twice", data={"prompt": "canary"})
    with pytest.raises(IntegrityError) as raised:
        async with with_scratch.begin() as connection:
            await connection.execute(statement)
            await connection.execute(statement)
    assert "canary" not in str(raised.value)
    assert "hidden" in str(raised.value)
