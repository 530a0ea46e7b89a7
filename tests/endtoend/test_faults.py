"""Collector and receiver are stopped, killed and robbed under load: no record is lost, none is there twice.

With `FAULTS_LONG=1` in the environment the Collector is away for 30 s instead of 5, and the receiver fails in 5 % of
its transactions instead of 20 %, so that it takes longer until enough have failed.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import func, select

from engine.store.database import Database
from telemetry.tables import executions, outbox, webhook_deliveries
from tests.conftest import StartCollector
from tests.endtoend.load import run_until
from tests.endtoend.wiring import Wired, drained, eventually, sending_to, serving, wired
from tests.house.lock import ROOT
from tests.relay import TOKEN
from tests.services.process import free_port, running
from tests.ways import count
from tests.workshop import Workshop

pytestmark = [pytest.mark.collector, pytest.mark.slow]

KILLS = 5
IS_LONG = os.environ.get("FAULTS_LONG") == "1"
OUTAGE_SECONDS = 30 if IS_LONG else 5
ERRORS = 0.05 if IS_LONG else 0.2
LEAST_EXECUTIONS = 50
ROBBED = 500
"""Signals in a queue that is deleted."""
LEAST_ERRORS = 5
PATIENT_SECONDS = 600.0
"""Longer than a receiver takes to start again and again on a busy machine: what is lost would stay owed."""


@asynccontextmanager
async def under_load(shop: Workshop) -> AsyncIterator[list[str]]:
    """Executions begin and end while the block runs. The ids of those accepted are there when it has ended."""
    stop, ids = asyncio.Event(), list[str]()
    load = asyncio.create_task(run_until(shop, stop), name="load")
    try:
        yield ids
    finally:
        stop.set()
        ids += await load


async def assert_whole(database: Database, ids: list[str]) -> None:
    """Each has one record and one delivery; that the books agree is looked at after every test."""
    async with database.read() as connection:
        records = (await connection.execute(select(executions.c.id))).scalars().all()
        deliveries = (await connection.execute(select(webhook_deliveries.c.execution_id))).scalars().all()
    assert len(ids) > LEAST_EXECUTIONS
    assert sorted(records) == sorted(ids)
    assert sorted(deliveries) == sorted(ids)


async def shipped_and_owed(database: Database) -> int:
    """Signals that the Collector took and has not brought back."""
    statement = select(func.count()).select_from(outbox).where(outbox.c.shipped_at.is_not(None))
    async with database.read() as connection:
        return (await connection.execute(statement)).scalar_one()


async def until(counted: Callable[[], Awaitable[int]], least: int) -> None:
    """Return once there are that many."""
    async with asyncio.timeout(60):
        while True:
            if await counted() >= least:
                return
            await asyncio.sleep(0.02)


async def shipping(service: Wired) -> None:
    """The shipper gets something to the Collector."""
    before = service.outbox.shipped
    await eventually(lambda: service.outbox.shipped > before)


async def noticed(service: Wired) -> None:
    """The shipper has found the Collector gone."""
    before = service.outbox.failed_posts
    await eventually(lambda: service.outbox.failed_posts > before)


async def test_a_collector_that_is_stopped_and_killed_loses_nothing(
    migrated_sqlite_url: str, documents: Path, start_collector: StartCollector
) -> None:
    kills = 0
    async with wired(migrated_sqlite_url, documents, start_collector) as service:
        async with under_load(service.shop) as ids:
            await asyncio.to_thread(service.collector.stop)
            await noticed(service)
            await asyncio.sleep(OUTAGE_SECONDS)
            assert not service.outbox.is_reachable
            await asyncio.to_thread(service.collector.start)
            await eventually(lambda: service.outbox.is_reachable)
            for _ in range(KILLS):
                await shipping(service)
                await asyncio.to_thread(service.collector.kill)
                await noticed(service)
                await asyncio.to_thread(service.collector.start)
                kills += 1
        await service.drained()
        print(f"1 outage of {OUTAGE_SECONDS} s, {kills} kills, {len(ids)} executions, {service.outbox}")
        assert kills == KILLS
        assert service.outbox.served_locally.total() == 0, "its queues have outlived it"
        await assert_whole(service.database, ids)


async def test_what_was_in_a_queue_that_is_gone_is_served_without_it(
    migrated_sqlite_url: str, documents: Path, start_collector: StartCollector
) -> None:
    async with wired(migrated_sqlite_url, documents, start_collector, confirm_seconds=3.0) as service:
        async with under_load(service.shop) as ids:
            service.receiving_database.share = 2.0
            await eventually(lambda: service.outbox.requests[503] >= 3)
            await until(lambda: shipped_and_owed(service.database), ROBBED)
            await asyncio.to_thread(service.collector.kill)
            lost = await shipped_and_owed(service.database)
            stored = sum(file.stat().st_size for file in service.collector.queues.rglob("*") if file.is_file())
            shutil.rmtree(service.collector.queues)
            service.receiving_database.share = 0.0
            await asyncio.to_thread(service.collector.start)
            confirmed = service.outbox.confirmed.total()
            await eventually(lambda: service.outbox.confirmed.total() > confirmed)
        await service.drained()
        print(f"{lost} signals lost with {stored} bytes of queues, {len(ids)} executions, {service.outbox}")
        assert lost >= ROBBED
        assert stored > 0
        assert service.outbox.served_locally.total() >= lost
        await assert_whole(service.database, ids)


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
            "SPANLOOM_INGEST_BIND": f"127.0.0.1:{self.port}",
        }
        command = [sys.executable, "-m", "tests.endtoend.unlucky_receiver", str(ERRORS), str(self.starts)]
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
        return sum(log.read_text().count("cannot be stored now") for log in logs)


async def test_a_receiver_that_fails_and_is_killed_loses_nothing(
    migrated_url: str, documents: Path, start_collector: StartCollector, tmp_path: Path
) -> None:
    receiver = ReceiverProcess(migrated_url, tmp_path)
    kills = 0

    async def records() -> int:
        return await count(shop.runtime.database, executions)

    collector = await asyncio.to_thread(
        lambda: start_collector(**sending_to(f"http://127.0.0.1:{receiver.port}")),
    )
    await asyncio.to_thread(receiver.start)
    try:
        async with serving(migrated_url, documents, collector, confirm_seconds=PATIENT_SECONDS) as shop:
            async with under_load(shop) as ids:
                for _ in range(KILLS):
                    await until(records, await records() + 1)
                    await asyncio.to_thread(receiver.kill)
                    kills += 1
                    await asyncio.to_thread(receiver.start)
                await eventually(lambda: receiver.errors() >= LEAST_ERRORS)
            await drained(shop.runtime.database)
            served_locally = shop.runtime.receiver.health.outbox.served_locally
            print(f"{kills} kills, {receiver.errors()} answers of 503, {len(ids)} executions")
            assert kills == KILLS
            assert served_locally.total() == 0, "the Collector asked again until it was told 200"
            await assert_whole(shop.runtime.database, ids)
    finally:
        await asyncio.to_thread(receiver.stop)
