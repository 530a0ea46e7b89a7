"""Builds the engine and its bookkeeping step by step, and closes them in reverse order.

Expensive imports are made where they are used: commands that only read import no LangGraph, and the Collector's
listener imports no engine.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from api.access.gate import Gate
from api.settings import Settings, prepare_process
from api.wiring.access import build_gate
from api.wiring.database import build_database, open_database
from api.wiring.exporters import open_exporters
from api.wiring.ingest import build_ingest
from api.wiring.pipelines import MakeSink, PipelineParts, open_pipeline
from api.wiring.readiness import Readiness
from api.wiring.recovery import build_eraser, build_replay, build_scoring
from api.wiring.resources import build_resources, store_builtin_templates
from api.wiring.shutdown import CLOSE_SECONDS, Patience, enter_within
from engine.database.database import Database
from engine.store.acceptance import Admission
from engine.store.leases import Lease

if TYPE_CHECKING:
    from engine.dispatch.inprocess import Dispatcher
    from engine.engine import ExecutionEngine
    from engine.resources import Models, Resources
    from engine.store.checkpoints import Checkpoints
    from telemetry.collector.receiver import Receiver
    from telemetry.journal.journal import Journal
    from telemetry.journal.scoring import Scoring
    from telemetry.metrics.exposition import Metrics
    from telemetry.recovery.replay import Replay
    from telemetry.recovery.sweeper import Sweeper
    from telemetry.retention.erasure import Eraser
    from telemetry.sdk.providers import Telemetry

CANCELLED_FROM_OUTSIDE = "asked to stop"
"""The reason of a cancellation without a reason."""


@dataclass(slots=True)
class Runtime:
    """The running service: the engine, its bookkeeping, and the parts of both."""

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
    """Ends executions that no process runs."""
    checkpoints: "Checkpoints"
    eraser: "Eraser"
    """Deletes the content of ended executions."""
    scoring: "Scoring"
    """Gives executions scores."""
    replay: "Replay"
    """Replays dead letters to their consumers."""
    readiness: Readiness
    gate: Gate
    """Tells who sends a request."""
    readers: Counter[str] = field(default_factory=Counter)
    """Readers per execution, apart from the request that started it."""
    is_draining: bool = False
    """No new executions are accepted; running ones may end."""

    @property
    def demo_notice(self) -> str | None:
        """What to say at the start where the offline model answers since nothing else is set; null elsewhere."""
        from engine.models.offline import NOTICE, OFFLINE

        is_demo = self.settings.model is None and self.resources.models.default() == OFFLINE
        return NOTICE if is_demo else None

    def cancel(self, execution_id: str, reason: str | None) -> bool:
        """Ask an execution to stop; false if it does not run in this process."""
        return self.engine.cancel(execution_id, reason or CANCELLED_FROM_OUTSIDE)

    async def drain(self) -> None:
        """Accept no more executions, let the running ones end for `SPANLOOM_DRAIN_SECONDS`, then hand them over."""
        self.is_draining = True
        await self.dispatcher.stop()
        await self.engine.close(self.settings.drain_seconds)


@asynccontextmanager
async def open_runtime(
    settings: Settings, *, models: "Models | None" = None, patience: Patience | None = None
) -> AsyncIterator[Runtime]:
    """The running service; `models` replace the providers'. Raises a `SpanloomError` that says what to do.

    `patience` says how long its end waits until traces are exported.
    """
    prepare_process(settings)
    patience = patience or Patience()
    async with AsyncExitStack() as stack:
        database = await enter_within(stack, CLOSE_SECONDS, "the database", open_database(settings))
        await store_builtin_templates(database)
        await _seal_webhook_urls(settings, database)
        resources = build_resources(settings, database, stack, models=models)
        telemetry = open_exporters(settings, stack, patience)
        ingest = build_ingest(settings, database)
        parts = PipelineParts(settings, database, telemetry, ingest.metrics, ingest.receiver, patience)
        make_sink = await stack.enter_async_context(open_pipeline(parts))
        journal = await _open_journal(parts, make_sink, stack)
        checkpoints = await _open_checkpoints(settings, stack)
        engine = _build_engine(parts, resources, journal, checkpoints)
        runtime = Runtime(
            settings=settings,
            database=database,
            telemetry=telemetry,
            metrics=ingest.metrics,
            receiver=ingest.receiver,
            journal=journal,
            resources=resources,
            engine=engine,
            dispatcher=_build_dispatcher(settings, engine, journal),
            sweeper=_build_sweeper(parts, make_sink, checkpoints),
            checkpoints=checkpoints,
            eraser=build_eraser(settings, database, checkpoints),
            scoring=build_scoring(database, make_sink(), telemetry),
            replay=build_replay(settings, database, ingest.receiver.health),
            readiness=Readiness(database),
            gate=build_gate(settings, database),
        )
        stack.push_async_callback(runtime.readiness.close)
        stack.push_async_callback(runtime.gate.close)
        await runtime.gate.needs_key()
        await _renew_leases(runtime, stack)
        stack.push_async_callback(engine.close)
        yield runtime


async def _seal_webhook_urls(settings: Settings, database: Database) -> None:
    from api.wiring.webhooks import seal_urls

    await seal_urls(settings, database)


async def _open_journal(parts: PipelineParts, make_sink: MakeSink, stack: AsyncExitStack) -> "Journal":
    """The journal. From now on it receives every span and event of ours."""
    from telemetry.journal.journal import Journal

    settings = parts.settings
    closed = Journal(
        parts.database,
        make_sink(),
        lease=Lease(str(uuid4()), settings.lease_seconds),
        admission=Admission(settings.max_queued, settings.idempotency_hours),
    )
    journal = await enter_within(stack, CLOSE_SECONDS, "the journal", closed)
    parts.telemetry.add(journal.spans, journal.events)
    return journal


async def _open_checkpoints(settings: Settings, stack: AsyncExitStack) -> "Checkpoints":
    """Checkpoints in the database, or in memory if the database cannot hold them."""
    from engine.store.checkpoints import in_memory, open_checkpoints, problem

    if problem(settings.database_url) is not None:
        return in_memory()
    return await enter_within(stack, CLOSE_SECONDS, "the checkpoints", open_checkpoints(settings.database_url))


def _build_engine(
    parts: PipelineParts, resources: "Resources", journal: "Journal", checkpoints: "Checkpoints"
) -> "ExecutionEngine":
    from engine.content.policy import ContentPolicy
    from engine.engine import ExecutionEngine

    return ExecutionEngine(
        resources,
        content=ContentPolicy(parts.telemetry.capture, parts.settings.content),
        ledger=journal,
        checkpoints=checkpoints,
        tracer_provider=parts.telemetry.tracer_provider,
        logger_provider=parts.telemetry.logger_provider,
        disconnect_seconds=parts.settings.disconnect_seconds,
    )


def _build_dispatcher(settings: Settings, engine: "ExecutionEngine", journal: "Journal") -> "Dispatcher":
    from engine.dispatch.inprocess import Dispatcher

    return Dispatcher(engine, journal, slots=settings.worker_slots)


def _build_sweeper(parts: PipelineParts, make_sink: MakeSink, checkpoints: "Checkpoints") -> "Sweeper":
    from telemetry.recovery.sweeper import Sweeper

    return Sweeper(
        parts.database,
        make_sink(),
        lease_seconds=parts.settings.lease_seconds,
        sweep_seconds=parts.settings.sweep_seconds,
        on_ended=checkpoints.forget,
        export=parts.telemetry.export,
        capture=parts.telemetry.capture,
    )


async def _renew_leases(runtime: Runtime, stack: AsyncExitStack) -> None:
    """Renew the leases of executions in this process, and stop those that others cancelled or took over."""
    from telemetry.recovery.lease_renewal import LeaseRenewal

    settings, journal = runtime.settings, runtime.journal
    journal.listen_for_cancel(runtime.cancel)
    journal.listen_for_fencing(runtime.engine.fence_off)
    await stack.enter_async_context(
        LeaseRenewal(journal, lambda: build_database(settings), renew_seconds=settings.lease_renew_seconds)
    )
