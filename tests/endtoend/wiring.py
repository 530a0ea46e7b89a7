"""The service in the Collector mode, with a real Collector between its shipper and its receiver."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from api.service.server import listen, receiving, url_of
from api.settings import Settings
from api.wiring.ingest import Ingest
from api.wiring.runtime import open_runtime
from api.wiring.secret_key import build_signer
from engine.database.database import Database
from telemetry.collector.receiver import Receiver
from telemetry.health import OutboxHealth
from telemetry.store.tables import outbox
from tests.both_modes import FlakyDatabase, add_endpoint, consumers, count
from tests.conftest import StartCollector
from tests.endtoend.load import AGENT, NAMED
from tests.misbehaving_collector import TOKEN
from tests.services.collector.server import Collector
from tests.workflow_runner import WorkflowRunner

SECONDS = 90
SECRET_KEY = "0123456789abcdef" * 4
CONFIRM_SECONDS = 60.0


@dataclass(slots=True)
class Wired:
    """The running parts."""

    runner: WorkflowRunner
    collector: Collector
    receiving_database: FlakyDatabase
    """The receiver's database; its `share` of failures can be set."""

    @property
    def database(self) -> Database:
        """The database of the service."""
        return self.runner.runtime.database

    @property
    def outbox(self) -> OutboxHealth:
        """The health of shipper and receiver."""
        return self.runner.runtime.receiver.health.outbox

    async def drained(self) -> None:
        """Wait until the outbox is empty."""
        await drained(self.database)


async def drained(database: Database) -> None:
    """Wait until the outbox is empty."""
    async with asyncio.timeout(SECONDS):
        while True:
            if not await count(database, outbox):
                return
            await asyncio.sleep(0.05)


async def eventually(reached: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait until the condition holds; it is evaluated in the event loop's thread."""
    async with asyncio.timeout(seconds):
        while True:
            if reached():
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def wired(
    url: str,
    documents: Path,
    start_collector: StartCollector,
    *configs: Path,
    confirm_seconds: float = CONFIRM_SECONDS,
    is_there: bool = True,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Wired]:
    """A service over a migrated database, its receiver, and a Collector between them and a webhook endpoint.

    If it is not there, the Collector has still to be started.
    """
    with listen("127.0.0.1", 0) as listener:
        sends_to = {**sending_to(url_of(listener)), **(environment or {})}
        collector = await asyncio.to_thread(lambda: start_collector(*configs, **sends_to))
        if not is_there:
            await asyncio.to_thread(collector.stop)
        async with (
            FlakyDatabase(url) as receiving_database,
            serving(url, documents, collector, confirm_seconds) as runner,
        ):
            receiving_database.random = Random(2)
            runtime = runner.runtime
            signer = build_signer(runtime.settings)
            receiver = Receiver(receiving_database, consumers(), runtime.receiver.health, signer)
            async with receiving(Ingest(runtime.settings, runtime.metrics, receiver), listener):
                yield Wired(runner, collector, receiving_database)


def sending_to(receiver_url: str) -> dict[str, str]:
    """Environment variables that point a Collector at our receiver."""
    base = f"{receiver_url}/internal/otlp"
    webhooks = f"{base}/webhooks/v1/logs"
    return {"RECORDS_OTLP_ENDPOINT": base, "WEBHOOKS_OTLP_ENDPOINT": webhooks, "SPANLOOM_INGEST_TOKEN": TOKEN}


@asynccontextmanager
async def serving(
    url: str, documents: Path, collector: Collector | None, confirm_seconds: float = CONFIRM_SECONDS
) -> AsyncIterator[WorkflowRunner]:
    """A runner that ships to the Collector, or is embedded if there is none; it has the workflows of `load`."""
    settings = Settings(
        database_url=url,
        pipeline="collector" if collector else "embedded",
        ingest_tokens=(TOKEN,),
        secret_key=(SECRET_KEY,),
        outbox_confirm_seconds=confirm_seconds,
    )
    with pytest.MonkeyPatch.context() as environment:
        if collector:
            for name, value in collector.sender_environment.items():
                environment.setenv(name, value)
        async with open_runtime(settings) as runtime, AsyncExitStack() as stack:
            await add_endpoint(runtime.database)
            runner = WorkflowRunner(runtime, documents, stack)
            await runner.store_template(NAMED, AGENT)
            await runner.store_definition(NAMED, AGENT)
            yield runner
