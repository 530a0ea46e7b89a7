"""F6 to F8: Collector and receiver are stopped, killed and robbed under load: no record is lost, none is doubled."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select

from engine.database.base import database_time
from engine.database.database import Database
from telemetry.store.tables import executions, outbox, webhook_deliveries
from tests.both_modes import count
from tests.conftest import StartCollector
from tests.endtoend.load import run_until
from tests.endtoend.wiring import SECRET_KEY, Wired, drained, eventually, sending_to, serving, wired
from tests.faults.figures import Figure, Figures, on, short_or_long
from tests.faults.invariants import violations
from tests.house.lock import ROOT
from tests.misbehaving_collector import TOKEN
from tests.services.process import free_port, running
from tests.workflow_runner import WorkflowRunner

pytestmark = [pytest.mark.collector, pytest.mark.slow]

KILLS = short_or_long(5, 20)
OUTAGES_SECONDS = short_or_long((30,), (10, 60))
DRAIN_SECONDS = 60
"""How long after the Collector's return everything may take to be confirmed."""

ERRORS = 0.05
"""The share of the receiver's transactions that fail; with less of them it takes longer until enough have."""

LEAST_ERRORS = short_or_long(5, 50)
ERRORS_SECONDS = short_or_long(90.0, 900.0)
LEAST_EXECUTIONS = 50
PATIENT_SECONDS = 600.0
"""Longer than a receiver takes to start again and again on a busy machine: what is lost would stay owed."""

ROBBED = 500
"""Signals in a queue that is deleted."""

ROBBED_WITHIN_SECONDS = 20.0
"""Longer than it takes until so many are in it: what is not confirmed by then is served without the Collector."""


@asynccontextmanager
async def under_load(runner: WorkflowRunner) -> AsyncIterator[list[str]]:
    """Executions begin and end while the block runs. The ids of those accepted are there when it has ended."""
    stop, ids = asyncio.Event(), list[str]()
    load = asyncio.create_task(run_until(runner, stop), name="load")
    try:
        yield ids
    finally:
        stop.set()
        ids += await load


async def look(database: Database, ids: list[str], figure: Figure) -> None:
    """Each has one record and one delivery, and the books agree."""
    async with database.read() as connection:
        records = set((await connection.execute(select(executions.c.id))).scalars())
        deliveries = (await connection.execute(select(webhook_deliveries.c.execution_id))).scalars().all()
    assert len(ids) >= LEAST_EXECUTIONS
    figure.size("executions", len(ids))
    figure.none("lost", set(ids) - records)
    figure.none("records that nobody ran", records - set(ids))
    each = len(deliveries) / len(records)
    figure.reach("webhook events per execution", each, at_least=1, at_most=1)
    figure.none("executions without a delivery", records - set(deliveries))
    figure.none("violations", await violations(database))


async def shipped_and_owed(database: Database, by: datetime | None = None) -> int:
    """Signals that the Collector took, by that time, and has not brought back."""
    shipped = outbox.c.shipped_at.is_not(None) if by is None else outbox.c.shipped_at <= by
    async with database.read() as connection:
        return (await connection.execute(select(func.count()).select_from(outbox).where(shipped))).scalar_one()


async def until(counted: Callable[[], Awaitable[int]], least: int) -> None:
    """Return once there are that many."""
    async with asyncio.timeout(60):
        while True:
            if await counted() >= least:
                return
            await asyncio.sleep(0.02)


async def lost_with_the_queue(database: Database, killed_at: datetime) -> int:
    """Signals that the Collector had taken when it was killed.

    Those on their way to it count as taken until their posts have failed: the number is taken when it stands still.
    """
    async with asyncio.timeout(60):
        number = await shipped_and_owed(database, killed_at)
        while True:
            await asyncio.sleep(1.0)
            before, number = number, await shipped_and_owed(database, killed_at)
            if before == number:
                return number


async def shipping(service: Wired) -> None:
    """The shipper gets something to the Collector."""
    before = service.outbox.shipped
    await eventually(lambda: service.outbox.shipped > before)


async def noticed(service: Wired) -> None:
    """The shipper has found the Collector gone."""
    before = service.outbox.failed_posts
    await eventually(lambda: service.outbox.failed_posts > before)


async def test_a_collector_that_is_stopped_and_killed_loses_nothing(
    migrated_sqlite_url: str, documents: Path, start_collector: StartCollector, figures: Figures
) -> None:
    with figures("F6", outages=len(OUTAGES_SECONDS), kills=KILLS) as figure:
        async with wired(migrated_sqlite_url, documents, start_collector) as service:
            async with under_load(service.runner) as ids:
                for seconds in OUTAGES_SECONDS:
                    await asyncio.to_thread(service.collector.stop)
                    await noticed(service)
                    await asyncio.sleep(seconds)
                    figure.hit("outages", not service.outbox.is_reachable)
                    await asyncio.to_thread(service.collector.start)
                    await eventually(lambda: service.outbox.is_reachable)
                for _ in range(KILLS):
                    await shipping(service)
                    await asyncio.to_thread(service.collector.kill)
                    await noticed(service)
                    figure.hit("kills")
                    await asyncio.to_thread(service.collector.start)
            began = time.monotonic()
            await service.drained()
            figure.reach("seconds to drain", time.monotonic() - began, at_most=DRAIN_SECONDS)
            locally = service.outbox.served_locally.total()
            figure.reach("served without the Collector, whose queues have outlived it", locally, at_most=0)
            await look(service.database, ids, figure)


async def test_what_was_in_a_queue_that_is_gone_is_served_without_it(
    migrated_sqlite_url: str, documents: Path, start_collector: StartCollector, figures: Figures
) -> None:
    with figures("F7", signals_lost=ROBBED) as figure:
        async with wired(
            migrated_sqlite_url, documents, start_collector, confirm_seconds=ROBBED_WITHIN_SECONDS
        ) as service:
            async with under_load(service.runner) as ids:
                service.receiving_database.share = 2.0
                await eventually(lambda: service.outbox.requests[503] >= 3)
                await until(lambda: shipped_and_owed(service.database), ROBBED + ROBBED // 2)
                await asyncio.to_thread(service.collector.kill)
                async with service.database.read() as connection:
                    killed_at = await database_time(connection)
                await noticed(service)
                lost = await lost_with_the_queue(service.database, killed_at)
                figure.hit("signals lost", lost)
                assert sum(file.stat().st_size for file in service.collector.queues.rglob("*") if file.is_file())
                shutil.rmtree(service.collector.queues)
                service.receiving_database.share = 0.0
                await asyncio.to_thread(service.collector.start)
                confirmed = service.outbox.confirmed.total()
                await eventually(lambda: service.outbox.confirmed.total() > confirmed)
            await service.drained()
            figure.reach("served without the Collector", service.outbox.served_locally.total(), at_least=lost)
            await look(service.database, ids, figure)


@dataclass(slots=True)
class ReceiverProcess:
    """The receiver as a process of its own, which answers 503 now and then, and can be killed."""

    database_url: str
    folder: Path
    port: int = field(default_factory=free_port)
    starts: int = 0
    _running: ExitStack = field(default_factory=ExitStack)
    _process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start, or start again, and wait until it listens."""
        self.starts += 1
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "SPANLOOM_DATABASE_URL": self.database_url,
            "SPANLOOM_PIPELINE": "collector",
            "SPANLOOM_INGEST_TOKENS": TOKEN,
            "SPANLOOM_SECRET_KEY": SECRET_KEY,
            "SPANLOOM_INGEST_BIND": f"127.0.0.1:{self.port}",
        }
        command = [sys.executable, "-m", "tests.faults.unlucky_receiver", str(ERRORS), str(self.starts)]
        log = self.folder / f"receiver-{self.starts}"
        self._process = self._running.enter_context(
            running(command, log=log, ready=lambda: "ready at" in log.read_text(), environment=environment)
        )

    def kill(self) -> None:
        """SIGKILL: nothing is said or finished."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.stop()

    def stop(self) -> None:
        """End it in order."""
        self._running.close()

    def errors(self) -> int:
        """How many requests were answered 503."""
        logs = self.folder.glob("receiver-*")
        return sum(log.read_text().count("from the Collector could not be stored") for log in logs)


@on("sqlite")
async def test_a_receiver_that_fails_and_is_killed_loses_nothing(
    migrated_url: str, documents: Path, start_collector: StartCollector, tmp_path: Path, figures: Figures
) -> None:
    receiver = ReceiverProcess(migrated_url, tmp_path)

    async def records() -> int:
        return await count(runner.runtime.database, executions)

    collector = await asyncio.to_thread(lambda: start_collector(**sending_to(f"http://127.0.0.1:{receiver.port}")))
    await asyncio.to_thread(receiver.start)
    with figures("F8", kills=KILLS, answers_of_503=LEAST_ERRORS) as figure:
        try:
            async with serving(migrated_url, documents, collector, confirm_seconds=PATIENT_SECONDS) as runner:
                async with under_load(runner) as ids:
                    for _ in range(KILLS):
                        await until(records, await records() + 1)
                        await asyncio.to_thread(receiver.kill)
                        figure.hit("kills")
                        await asyncio.to_thread(receiver.start)
                    await eventually(lambda: receiver.errors() >= LEAST_ERRORS, ERRORS_SECONDS)
                await drained(runner.runtime.database)
                figure.hit("answers of 503", receiver.errors())
                locally = runner.runtime.receiver.health.outbox.served_locally.total()
                figure.reach("served without the Collector, which asks again until it is told 200", locally, at_most=0)
                await look(runner.runtime.database, ids, figure)
        finally:
            await asyncio.to_thread(receiver.stop)
