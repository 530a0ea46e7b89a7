"""Builds everything that lives long, in order, and takes it down again. Nothing else in the project does.

What costs time or memory to import is imported where it is used: commands that only read import no LangGraph, and what
answers the Collector imports no engine.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from api.settings import Settings, prepare_process
from api.wiring.shutdown import enter_within, within
from engine.database import migrations
from engine.database.database import Database
from engine.errors import Unavailable
from engine.store.acceptance import Admission
from engine.store.leases import Lease

if TYPE_CHECKING:
    from engine.dispatch.inprocess import Dispatcher
    from engine.engine import ExecutionEngine
    from engine.resources import Models, Resources
    from telemetry.collector.receiver import Receiver
    from telemetry.health import Health
    from telemetry.journal.journal import Journal
    from telemetry.journal.sinks import Sink
    from telemetry.metrics.span_metrics import Metrics
    from telemetry.pipeline.pipeline import Consumer
    from telemetry.recovery.replay import Replay
    from telemetry.recovery.sweeper import Sweeper
    from telemetry.sdk.providers import Telemetry

EXPORT_SECONDS = 2.0
"""How long the last traces may take to leave for a backend that may hang."""

CLOSE_SECONDS = 1.0
"""How long anything else may take that is closed at the end."""

CANCELLED_FROM_OUTSIDE = "asked to stop"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Runtime:
    """What runs: the engine over its books, and what they are made of."""

    settings: Settings
    database: Database
    telemetry: "Telemetry"
    metrics: "Metrics"
    receiver: "Receiver"
    journal: "Journal"
    resources: "Resources"
    engine: "ExecutionEngine"
    dispatcher: "Dispatcher"
    sweeper: "Sweeper"
    """Speaks for executions that no process runs."""
    replay: "Replay"
    """Gives what was kept aside to its consumer again."""
    readers: Counter[str] = field(default_factory=Counter)
    """How many follow each execution, apart from the call that started it."""
    is_draining: bool = False
    """No new executions are taken; the running ones may end."""

    def cancel(self, execution_id: str, reason: str | None) -> bool:
        """Ask an execution to stop; false if none of this id runs in this process."""
        return self.engine.cancel(execution_id, reason or CANCELLED_FROM_OUTSIDE)

    async def drain(self) -> None:
        """Take no more executions and let the running ones end, for `SPANLOOM_DRAIN_SECONDS`; then hand them over."""
        self.is_draining = True
        await self.dispatcher.stop()
        await self.engine.close(self.settings.drain_seconds)


@dataclass(frozen=True, slots=True)
class Ingest:
    """What answers the Collector."""

    settings: Settings
    metrics: "Metrics"
    receiver: "Receiver"


@asynccontextmanager
async def open_runtime(settings: Settings, *, models: "Models | None" = None) -> AsyncIterator[Runtime]:
    """What runs workflows and keeps their books; `models` take the place of the providers'.

    Raises a `SpanloomError` that says what to do.
    """
    prepare_process(settings)
    from engine.dispatch.inprocess import Dispatcher
    from engine.engine import ExecutionEngine
    from engine.store.checkpoints import in_memory, open_checkpoints, problem
    from engine.store.templates import sync_builtin
    from engine.templates.template import load_builtin
    from telemetry.collector.receiver import Receiver
    from telemetry.health import Health
    from telemetry.journal.journal import Journal
    from telemetry.metrics.span_metrics import Metrics
    from telemetry.recovery.lease_renewal import LeaseRenewal
    from telemetry.recovery.sweeper import Sweeper
    from telemetry.sdk.providers import build_telemetry

    async with AsyncExitStack() as stack:
        database = await enter_within(stack, CLOSE_SECONDS, "the database", open_database(settings))
        async with database.begin() as connection:
            await sync_builtin(connection, load_builtin())
        resources = _resources(settings, database, models, stack)
        telemetry = build_telemetry(exports_ours=settings.pipeline == "embedded")
        stack.push_async_callback(_in_time, telemetry.shutdown)
        health = Health()
        metrics = Metrics(database, health)
        receiver = Receiver(database, _consumers(settings), health)
        open_sink = _SINKS[settings.pipeline]
        make_sink = await stack.enter_async_context(open_sink(settings, database, telemetry, metrics, receiver))
        books = Journal(
            database,
            make_sink(),
            lease=Lease(str(uuid4()), settings.lease_seconds),
            admission=Admission(settings.max_queued, settings.idempotency_hours),
        )
        journal = await enter_within(stack, CLOSE_SECONDS, "the journal", books)
        telemetry.add(journal.spans, journal.events)
        checkpoints = in_memory()
        if problem(settings.database_url) is None:
            opened = open_checkpoints(settings.database_url)
            checkpoints = await enter_within(stack, CLOSE_SECONDS, "the checkpoints", opened)
        engine = ExecutionEngine(
            resources,
            ledger=journal,
            checkpoints=checkpoints,
            tracer_provider=telemetry.tracer_provider,
            logger_provider=telemetry.logger_provider,
            disconnect_seconds=settings.disconnect_seconds,
        )
        sweeper = Sweeper(
            database,
            make_sink(),
            lease_seconds=settings.lease_seconds,
            sweep_seconds=settings.sweep_seconds,
            on_ended=checkpoints.forget,
        )
        replay = replay_of(settings, database, health)
        dispatcher = Dispatcher(engine, journal, slots=settings.worker_slots)
        runtime = Runtime(
            settings, database, telemetry, metrics, receiver, journal, resources, engine, dispatcher, sweeper, replay
        )
        journal.listen_for_cancel(runtime.cancel)
        journal.listen_for_fencing(engine.fence_off)
        await stack.enter_async_context(
            LeaseRenewal(journal, lambda: _database(settings), renew_seconds=settings.lease_renew_seconds)
        )
        stack.push_async_callback(engine.close)
        yield runtime


@asynccontextmanager
async def open_ingest(settings: Settings) -> AsyncIterator[Ingest]:
    """What answers the Collector, without an engine. Raises a `SpanloomError` that says what to do."""
    from telemetry.collector.receiver import Receiver
    from telemetry.health import Health
    from telemetry.metrics.span_metrics import Metrics

    async with open_database(settings) as database:
        health = Health()
        yield Ingest(settings, Metrics(database, health), Receiver(database, _consumers(settings), health))


@asynccontextmanager
async def open_sweeper(settings: Settings, database: Database) -> AsyncIterator["Sweeper"]:
    """What ends executions that no process runs, without an engine; a running service sends what comes of it."""
    from telemetry.collector.outbox import RECORDS, WEBHOOKS
    from telemetry.health import Health
    from telemetry.journal.sinks import OutboxSink
    from telemetry.pipeline.pipeline import Pipeline
    from telemetry.recovery.sweeper import Sweeper

    async def forget(execution_id: str, attempts: int) -> None:
        prepare_process(settings)
        from engine.store.checkpoints import open_checkpoints, problem

        if problem(settings.database_url) is None:
            async with open_checkpoints(settings.database_url) as checkpoints:
                await checkpoints.forget(execution_id, attempts)

    health = Health()
    if settings.pipeline == "collector":
        sink: Sink = OutboxSink([RECORDS, WEBHOOKS], health=health, on_commit=lambda: None)
    else:
        sink = Pipeline(_consumers(settings), health=health)
    yield Sweeper(database, sink, on_ended=forget)


def replay_of(settings: Settings, database: Database, health: "Health | None" = None) -> "Replay":
    """What tries dead letters again; it needs no engine."""
    from telemetry.recovery.replay import Replay

    return Replay(database, _consumers(settings), health)


def _consumers(settings: Settings) -> list["Consumer"]:
    from telemetry.records.consumer import Records
    from telemetry.webhooks.consumer import Webhooks

    return [Records(), Webhooks(settings.trace_link)]


@asynccontextmanager
async def _embedded(
    settings: Settings, database: Database, telemetry: "Telemetry", metrics: "Metrics", receiver: "Receiver"
) -> AsyncIterator[Callable[[], "Sink"]]:
    """Signals go straight to the consumers, in the transaction that decides."""
    from telemetry.pipeline.pipeline import Pipeline

    await receiver.serve_all()
    yield lambda: Pipeline(_consumers(settings), health=receiver.health, after_commit=metrics.feed)


@asynccontextmanager
async def _by_collector(
    settings: Settings, database: Database, telemetry: "Telemetry", metrics: "Metrics", receiver: "Receiver"
) -> AsyncIterator[Callable[[], "Sink"]]:
    """Signals go into the outbox, from there to the Collector, and come back to the receiver."""
    from telemetry.collector.receiver import Unconfirmed
    from telemetry.collector.shipper import Shipper
    from telemetry.journal.sinks import OutboxSink
    from telemetry.sdk.providers import find_collector

    health = receiver.health
    shipper = Shipper(database, find_collector(), resource=telemetry.resource, health=health.outbox)
    async with shipper, Unconfirmed(receiver, after_seconds=settings.outbox_confirm_seconds):
        names = [intake.name for intake in receiver.intakes]
        yield lambda: OutboxSink(names, health=health, on_commit=shipper.wake)


_SINKS = {"embedded": _embedded, "collector": _by_collector}
"""`SPANLOOM_PIPELINE`, and the one thing that it decides: where signals are put, by a sink for each who puts them."""


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The database with the schema of this program.

    A SQLite file is brought up to date; PostgreSQL is not touched. Raises `Unavailable` with what to do.
    """
    await _check_schema(settings.database_url)
    async with _database(settings) as database:
        yield database


def _database(settings: Settings) -> Database:
    return Database(settings.database_url, synchronous=settings.sqlite_synchronous)


async def _check_schema(url: str) -> None:
    waiting = await migrations.pending(url)
    if not waiting:
        return
    if Database(url).dialect_name == "postgresql":
        raise Unavailable(f"the database has not the schema of this program ({waiting[-1]}); run `spanloom migrate`")
    await migrations.upgrade(url)


def _resources(settings: Settings, database: Database, models: "Models | None", stack: AsyncExitStack) -> "Resources":
    from api.wiring.default_retriever import ConfiguredFolders
    from engine.models.pricing import GenaiPrices
    from engine.models.registry import LangChainModels
    from engine.resources import Resources
    from engine.retrieval.files import FilesRetriever
    from engine.store.checkpoints import problem
    from engine.store.conversations import StoredConversations
    from engine.store.definitions import StoredDefinitions
    from engine.store.templates import StoredTemplates
    from engine.tools.builtin import builtin_tools

    if models is None:
        models = providers = LangChainModels(settings.providers, settings.model)
        stack.push_async_callback(within, CLOSE_SECONDS, "the providers' clients", providers.aclose)
    files = FilesRetriever(settings.files_roots)
    stack.callback(files.close)
    default = {"default": ConfiguredFolders(files, settings.files_roots)} if settings.files_roots else {}
    return Resources(
        models=models,
        prices=GenaiPrices(settings.prices),
        tools=builtin_tools(),
        retrievers={"files": files, **default},
        templates=StoredTemplates(database),
        definitions=StoredDefinitions(database),
        conversations=StoredConversations(database),
        no_checkpoints=problem(settings.database_url),
    )


async def _in_time(close: Callable[[], None]) -> None:
    """Run something that blocks, in a thread that neither the loop nor the end of the process waits for too long."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        try:
            close()
        finally:
            with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, name="telemetry shutdown", daemon=True).start()
    try:
        async with asyncio.timeout(EXPORT_SECONDS):
            await done.wait()
    except TimeoutError:
        log.warning("the last traces were not exported in %g s", EXPORT_SECONDS)
