"""Retention under load: the file stops growing, nobody waits for a lock, and the books of what is gone still agree."""

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types
import pytest
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.content.policy import Capture
from engine.database.database import Database
from engine.retention import erasure
from engine.store.acceptance import accept
from engine.store.leases import Lease
from engine.store.tables import execution_control, graphs
from engine.testing.models import Say
from telemetry.collector.receiver import Receiver
from telemetry.health import Health
from telemetry.reads.sizes import read_sizes
from telemetry.recovery.leftovers import delete_leftovers
from telemetry.retention.holds import Hold
from telemetry.retention.job import Retention
from telemetry.retention.periods import Periods, Rule, set_rule, unset_rule
from telemetry.signals import otlp
from telemetry.signals.records import EventRecord, SpanRecord
from telemetry.store.tables import dead_letter, executions, spans, webhook_deliveries
from tests.api.harness import running
from tests.attacks.test_content import MARKS, cells, leave_traces, settled, told
from tests.both_modes import consumers, count
from tests.faults.figures import IS_LONG, Figures, short_or_long
from tests.telemetry.bookkeeper import SIGNER, Listener, an_id, bookkeeper
from tests.telemetry.retention.books import AGO, ALL, KEPT, check_history, compare_now, rollups
from tests.telemetry.retention.history import make_history

pytestmark = [
    pytest.mark.usefixtures("books_left_open"),  # control rows are gone; `check_history` audits the rest
    pytest.mark.timeout(600),
]

WINDOWS, SETTLING = 10, 3
PER_WINDOW = short_or_long(150, 2_000)
MANY = short_or_long(20_000, 100_000)
LOCK_SECONDS = 0.1
PAUSE_SECONDS = 0.02
"""Between two executions while others are deleted."""


class TimedDatabase(Database):
    """Measures how long each writing transaction works, and how long until it is on disk.

    The size of a batch decides the former. The latter adds what the disk takes, as for every commit; on SQLite also the
    move of the log into the file, now and then, for which nobody waits.
    """

    worked: list[float]
    seconds: list[float]

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        async with super().begin() as connection:
            began = time.monotonic()
            yield connection
            self.worked.append(time.monotonic() - began)
        self.seconds.append(time.monotonic() - began)


def timed(url: str) -> TimedDatabase:
    database = TimedDatabase(url)
    database.worked, database.seconds = [], []
    return database


async def vacuum(url: str) -> None:
    """What the autovacuum of a real server does within a minute."""
    if url.startswith("postgresql"):
        connection = await asyncpg.connect(url)
        await connection.execute("VACUUM")
        await connection.close()


async def test_under_a_steady_load_the_database_stops_growing(migrated_url: str, figures: Figures) -> None:
    """Each window deletes what is a window old: the form of an hour in some tenths of a second."""
    sizes: list[int] = []
    async with Database(migrated_url) as database, bookkeeper(database) as keeper:
        begins = [datetime.now(UTC)]
        for window in range(WINDOWS + SETTLING):
            await asyncio.gather(*(keeper.completed() for _ in range(PER_WINDOW)))
            assert await compare_now(database) == []
            begins.append(datetime.now(UTC))
            age = datetime.now(UTC) - begins[-2]
            periods = Periods(content=age, spans=age, records=age, idempotency=age, webhooks=age)
            await Retention(database, periods).delete_due()
            await vacuum(migrated_url)
            if window >= SETTLING:
                async with database.read() as connection:
                    sizes.append((await read_sizes(connection)).total)
        await check_history(database)
        assert await compare_now(database) == []
        kept = await count(database, executions)

    assert PER_WINDOW <= kept < 2 * PER_WINDOW
    with figures("F22") as figure:
        figure.size("executions a window", PER_WINDOW)
        figure.size("windows", len(sizes))
        figure.size("KiB", round(sizes[-1] / 1024))
        figure.reach("largest by smallest size", round(max(sizes) / min(sizes), 3), at_most=1.1)


@pytest.mark.slow
@pytest.mark.timeout(short_or_long(900, 14_400))
async def test_deleting_many_executions_holds_no_lock_while_others_go_on(migrated_url: str, figures: Figures) -> None:
    async with timed(migrated_url) as deleting, Database(migrated_url) as database, bookkeeper(database) as keeper:
        await make_history(keeper, MANY, since=timedelta(days=400), span=timedelta(days=30))
        assert await compare_now(database) == []
        before = await rollups(database)
        waits: list[float] = []
        gc.collect()
        gc.freeze()  # the many objects of a test run, which a collection would look through for a tenth of a second
        run = asyncio.create_task(Retention(deleting, Periods(records=timedelta(days=365))).delete_due(), name="delete")
        while not run.done():
            began = time.monotonic()
            await keeper.completed()
            waits.append(time.monotonic() - began)
            await asyncio.sleep(PAUSE_SECONDS)
        report = await run
        gc.unfreeze()
        await check_history(database)

        assert report.rows["executions"] == report.rows["execution_control"] == MANY
        assert report.rows["spans"] == 6 * MANY
        assert await count(database, executions) == len(waits) > 10
        assert [row for row in await rollups(database) if row in before] == before
    with figures("F22") as figure:
        figure.size("deleted executions", MANY)
        figure.size("transactions", len(deleting.seconds))
        # In the short form other tests have the processor, too: a transaction is then as long as they let it be.
        bound = LOCK_SECONDS * 1000 if IS_LONG else None
        figure.reach("median transaction ms", in_ms(median(deleting.worked)), at_most=LOCK_SECONDS * 1000)
        figure.reach("longest transaction ms", in_ms(max(deleting.worked)), at_most=bound)
        figure.size("longest with its commit ms", in_ms(max(deleting.seconds)))
        figure.size("executions meanwhile", len(waits))
        figure.size("median ms of theirs", in_ms(median(waits)))
        figure.size("longest ms of theirs", in_ms(max(waits)))


def in_ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


async def test_a_kill_in_the_middle_loses_nothing(migrated_url: str) -> None:
    async with Database(migrated_url) as database, bookkeeper(database) as keeper:
        await make_history(keeper, 3_000, since=timedelta(days=400), span=timedelta(days=2))
        assert await compare_now(database) == []
        before = await rollups(database)
        total = await count(database, spans)
        with deleting(migrated_url) as process:
            while await count(database, spans) > total * 3 // 4:
                assert process.poll() is None, "it ended before it could be killed"
                await asyncio.sleep(0.01)
            process.kill()
        left = await count(database, spans)
        assert 0 < left < total
        await check_history(database)

        with deleting(migrated_url) as process:
            assert await asyncio.to_thread(process.wait, 100) == 0
        await check_history(database)
        assert (await count(database, spans), await count(database, executions)) == (0, 0)
        assert await rollups(database) == before


@contextmanager
def deleting(url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The command, in a process of its own."""
    settings = {"SPANLOOM_DATABASE_URL": url, "SPANLOOM_RECORDS_DAYS": "365", "SPANLOOM_SECRET_KEY": "x" * 32}
    command = [str(Path(sys.executable).with_name("spanloom")), "retention"]
    with subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_two_processes_that_delete_at_once_count_nothing_twice(migrated_url: str) -> None:
    async with Database(migrated_url) as one, Database(migrated_url) as other, bookkeeper(one) as keeper:
        await make_history(keeper, 600, since=timedelta(days=400), span=timedelta(days=2))
        assert await compare_now(one) == []
        periods = Periods(records=timedelta(days=365))
        reports = await asyncio.gather(*(Retention(each, periods).delete_due() for each in (one, other)))
        await check_history(one)

    assert sum(report.rows["executions"] for report in reports) == 600
    assert sum(report.rows["spans"] for report in reports) == 3_600


async def test_a_collector_that_sends_again_after_months_brings_nothing_back(migrated_url: str) -> None:
    listener = Listener()
    story = listener.begin(execution_id=an_id(datetime.now(UTC) - timedelta(days=1), 1))
    story.answer()
    story.tracker.complete()
    signals = listener.signals()
    async with Database(migrated_url) as database:
        async with database.begin() as connection:
            await accept(connection, story.acceptance(), Lease("nobody", 1.0))
            await connection.execute(
                execution_control.update().values(
                    status="completed", finished_at=datetime.now(UTC), lease_owner=None, lease_until=None
                )
            )
        receiver = Receiver(database, consumers(), Health(), SIGNER)
        await receive(receiver, signals)
        assert await compare_now(database) == []
        before = await rollups(database)

        for periods in (replace(KEPT, spans=AGO), replace(KEPT, content=AGO, idempotency=AGO)):
            await Retention(database, periods).delete_due()
            await receive(receiver, signals)
            assert await count(database, spans) == 0
            assert await rollups(database) == before
            assert await count(database, dead_letter) == 0, "it is known, and ignored"
        await Retention(database, replace(KEPT, records=AGO, content=AGO, idempotency=AGO)).delete_due()
        await receive(receiver, signals)
        assert await count(database, executions) == 0
        await check_history(database)


async def receive(receiver: Receiver, signals: list[SpanRecord | EventRecord]) -> None:
    """What the Collector posts."""
    parcels = [(otlp.scope_of(one), otlp.encode(one, SIGNER.sign)) for one in signals if isinstance(one, SpanRecord)]
    events = [(otlp.scope_of(one), otlp.encode(one, SIGNER.sign)) for one in signals if isinstance(one, EventRecord)]
    await receiver.logs(otlp.logs_request({}, events))
    await receiver.webhook_logs(otlp.logs_request({}, events))
    await receiver.traces(otlp.traces_request({}, parcels))


async def test_a_graph_that_is_just_being_accepted_stays(migrated_postgres_url: str) -> None:
    listener = Listener()
    async with Database(migrated_postgres_url) as database:
        first = listener.begin()
        async with database.begin() as connection:
            await accept(connection, first.acceptance(), Lease("nobody", 1.0))
            await connection.execute(execution_control.delete())
        again = listener.begin()
        periods = replace(KEPT, idempotency=AGO)
        async with database.begin() as connection:
            await accept(connection, again.acceptance(), Lease("nobody", 1.0))
            await Retention(database, periods).delete_due()
        await Retention(database, periods).delete_due()

        assert await count(database, graphs) == 1
        async with database.begin() as connection:
            await connection.execute(execution_control.delete())
        await Retention(database, periods).delete_due()
        assert await count(database, graphs) == 0


@pytest.mark.parametrize("mode", ["embedded", "collector"])
async def test_everything_that_was_said_goes_when_it_is_due(
    migrated_url: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First while dead letters hold the rows back, then the rows themselves."""
    async with told(migrated_url, tmp_path, monkeypatch, mode, capture=Capture.SPAN_ONLY, content="full") as scene:
        await settled(scene)
        await leave_traces(scene)
        runtime, database = scene.service.runtime, scene.database
        content = replace(KEPT, content=AGO, idempotency=AGO)
        assert "call_content.document" in (await cells(database, MARKS))["answer"]

        report = await Retention(database, content, erase=runtime.eraser.erase_rows).delete_due()
        await delete_leftovers(database, runtime.checkpoints)
        assert report.held == {Hold.DEAD_LETTERS: 1}
        assert await cells(database, MARKS) == {}
        found = (await scene.service.client.get(f"/v1/executions/{scene.execution_id}")).json()
        assert (found["content"], found["status"], found["seal"]["complete"]) == ("expired", "completed", True)

        async with database.begin() as connection:
            await connection.execute(dead_letter.delete())
        assert await compare_now(database) == []
        async with database.begin() as connection:
            await connection.execute(
                webhook_deliveries.update().values(state="delivered", next_attempt_at=None, ended_at=datetime.now(UTC))
            )
        for _ in range(2):  # records go after the rows that they outlive, conversations after both
            await Retention(database, ALL, erase=runtime.eraser.erase_rows).delete_due()
        assert await filled(database) <= LASTING
        await check_history(database)


LASTING = {
    "alembic_version",
    "checkpoint_migrations",
    "execution_rollups",
    "execution_rollups_daily",
    "pruned_rollups",
    "reconcile_runs",
    "webhook_endpoints",
    "workflow_templates",
}
"""Tables that still have rows when everything is due: sums, reports, and what people set up."""


async def filled(database: Database) -> set[str]:
    """The tables that have rows, those of LangGraph too."""
    async with database.read() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        return {
            name for name in names if (await connection.execute(text(f'SELECT count(*) FROM "{name}"'))).scalar_one()
        }


async def test_what_was_said_goes_though_the_record_is_missing(migrated_url: str, tmp_path: Path) -> None:
    """Who removed the record must not keep the answer for ever with it."""
    async with running(migrated_url, [Say("the ANSWERXX")]) as service:
        id_ = (await service.start()).json()["execution_id"]
        database = service.runtime.database
        async with database.begin() as connection:
            await connection.execute(executions.delete())
        ruled = Rule(owner="default", content_days=3_650)
        async with database.begin() as connection:
            await set_rule(connection, ruled)
        content = replace(KEPT, content=AGO, idempotency=AGO)
        await Retention(database, content).delete_due()
        assert "answer" in await cells(database, MARKS), "its owner keeps answers longer"

        async with database.begin() as connection:
            await unset_rule(connection, "default", "")
        await Retention(database, content).delete_due()
        assert await cells(database, MARKS) == {}
        async with database.read() as connection:
            assert await erasure.why_gone(connection, id_) == "expired"
        assert await count(database, execution_control) == 1, "what shows that a record is missing stays"


async def test_a_file_gives_its_pages_back(migrated_sqlite_url: str) -> None:
    file = Path(migrated_sqlite_url.removeprefix("sqlite:///"))
    async with Database(migrated_sqlite_url) as database:
        async with bookkeeper(database) as keeper:
            await make_history(keeper, 3_000, since=timedelta(days=400), span=timedelta(days=2))
            assert await compare_now(database) == []
        async with database.read() as connection:
            before = (await read_sizes(connection)).total
        report = await Retention(database, Periods(records=timedelta(days=365))).delete_due()
        await check_history(database)
    assert report.pages_given_back > 100
    assert file.stat().st_size < before / 2
