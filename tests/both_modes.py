"""The books kept in both modes at once: the same executions reach an embedded journal and one behind a Collector."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

from sqlalchemy import Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.service.server import listen, receiving, url_of
from api.settings import Settings
from api.wiring.ingest import Ingest
from engine.database.database import Database
from engine.errors import Unavailable
from engine.ledger import Checkpoint
from engine.result import Status
from telemetry.collector.receiver import Receiver, Unconfirmed
from telemetry.collector.shipper import Shipper
from telemetry.health import Health
from telemetry.journal.journal import Journal
from telemetry.journal.sinks import OutboxSink
from telemetry.metrics.exposition import Metrics
from telemetry.pipeline.pipeline import Consumer, Pipeline
from telemetry.records.consumer import Records
from telemetry.sdk.providers import Collector, Destination, Telemetry, build_telemetry
from telemetry.store.score_tables import execution_scores, score_comments
from telemetry.store.tables import (
    execution_rollups,
    execution_rollups_daily,
    executions,
    outbox,
    spans,
    webhook_deliveries,
    webhook_endpoints,
    webhook_events,
)
from telemetry.webhooks.consumer import Webhooks
from tests.misbehaving_collector import TOKEN, MisbehavingCollector, Mood, always, misbehaving
from tests.telemetry.bookkeeper import SIGNER, Story, begin

SECONDS = 60


class FlakyDatabase(Database):
    """A database whose writes fail by chance, before anything is done or once all is committed."""

    random: Random
    share = 0.0

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        chance = self.random.random()
        if chance < self.share / 2:
            raise Unavailable("the database is down")
        async with super().begin() as connection:
            yield connection
        if chance < self.share:
            raise Unavailable("the answer was lost")


@dataclass(slots=True)
class CollectorMode:
    """The parts of the Collector mode, running in this process."""

    database: Database
    journal: Journal
    misbehaving_collector: MisbehavingCollector
    receiver_url: str
    receiving_database: FlakyDatabase
    """The database connection of the receiver."""
    health: Health

    async def drained(self) -> None:
        """Wait until the outbox and the Collector's queues are empty."""
        async with asyncio.timeout(SECONDS):
            while True:
                if not (await count(self.database, outbox) or any(self.misbehaving_collector.queues.values())):
                    return
                await asyncio.sleep(0.02)


def consumers() -> list[Consumer]:
    """The consumers of the service."""
    return [Records(), Webhooks(lambda trace_id: f"http://traces/{trace_id}")]


@asynccontextmanager
async def collector_mode(
    url: str,
    mood: Callable[[], Mood] | None = None,
    *,
    unlucky: float = 0.0,
    repeats: float = 0.0,
    confirm_seconds: float = 60.0,
    endpoint: str | None = None,
) -> AsyncIterator[CollectorMode]:
    """The Collector mode over a migrated database; `endpoint` is where the shipper posts instead."""
    health = Health()
    async with Database(url) as database, FlakyDatabase(url) as receiving_database, AsyncExitStack() as stack:
        receiving_database.random, receiving_database.share = Random(2), unlucky
        receiver = Receiver(receiving_database, consumers(), health, SIGNER)
        settings = Settings(database_url=url, pipeline="collector", ingest_tokens=(TOKEN,))
        listener = stack.enter_context(listen("127.0.0.1", 0))
        await stack.enter_async_context(receiving(Ingest(settings, Metrics(database, health), receiver), listener))
        between = await stack.enter_async_context(
            misbehaving(url_of(listener), mood or always("takes"), repeats=repeats)
        )
        shipper = Shipper(
            database,
            collector_at(endpoint or between.url),
            resource={"service.name": "spanloom"},
            health=health.outbox,
            max_pause_seconds=0.2,
        )
        await stack.enter_async_context(shipper)
        await stack.enter_async_context(Unconfirmed(receiver, after_seconds=confirm_seconds))
        names = [consumer.name for consumer in consumers()]
        sink = OutboxSink(names, health=health, signer=SIGNER, on_commit=shipper.wake)
        journal = await stack.enter_async_context(Journal(database, sink))
        yield CollectorMode(database, journal, between, url_of(listener), receiving_database, health)


def collector_at(url: str) -> Collector:
    """A Collector at an address."""
    traces, logs = (Destination(f"{url}/v1/{signal}", {}, 5.0, signal == "traces") for signal in ("traces", "logs"))
    return Collector(traces, logs, ssl.create_default_context())


@dataclass(slots=True)
class BothModes:
    """Runs executions whose signals reach both journals."""

    telemetry: Telemetry
    embedded: Journal
    embedded_database: Database
    collector: CollectorMode

    async def tell(self, number: int) -> str:
        """Run an execution in both journals; its number decides what happens."""
        story = begin(self.telemetry, workflow_name=f"w{number % 3}", streaming=number % 2 == 0)
        journals = (self.embedded, self.collector.journal)
        for journal in journals:
            await journal.accept(story.acceptance())
        tell(story, number)
        if number % 5 == 0:
            for journal in journals:
                await journal.checkpoint(Checkpoint(story.identity.execution_id, 1))
        status = end(story, number)
        for journal in journals:
            assert await journal.finish(story.finish(status))
        return story.identity.execution_id


@asynccontextmanager
async def both_modes(embedded_url: str, way: CollectorMode) -> AsyncIterator[BothModes]:
    """An embedded journal beside that of the Collector mode."""
    telemetry = build_telemetry()
    async with Database(embedded_url) as database:
        for each in (database, way.database):
            await add_endpoint(each)
        async with Journal(database, Pipeline(consumers())) as embedded:
            for journal in (embedded, way.journal):
                telemetry.add(journal.spans, journal.events)
            yield BothModes(telemetry, embedded, database, way)
    telemetry.shutdown()


def tell(story: Story, number: int) -> None:
    """Emit the spans of an execution; its number decides which."""
    story.answer()
    if number % 3 == 0:
        story.answer(wasted=True)
        story.answer(usage=None)
    if number % 4 == 0:
        story.tool()
    if number % 7 == 0:
        story.node("model").fail("no_route", "nothing fits", unhandled=RuntimeError("x"))
    if number % 11 == 0:
        story.cancelled_call()


def end(story: Story, number: int) -> Status:
    """End an execution; its number decides how."""
    if number % 10 == 1:
        story.tracker.fail("timeout", "too late", "n1")
        return Status.FAILED
    if number % 10 == 2:
        story.tracker.cancel("enough")
        return Status.CANCELLED
    story.tracker.complete()
    return Status.COMPLETED


async def add_endpoint(database: Database) -> None:
    """Add an endpoint that subscribes to all closing events."""
    async with database.begin() as connection:
        await connection.execute(
            webhook_endpoints.insert().values(
                id="endpoint",
                owner_id="default",
                url="https://receiver.example/",
                events=["workflow.execution.completed", "workflow.execution.failed", "workflow.execution.cancelled"],
                header_names=[],
                sealed_secret="",
                status="active",
                failures_in_row=0,
                created_at=datetime.now(UTC),
                updated_at=datetime.now(UTC),
            )
        )


async def rows_of_books(database: Database) -> dict[str, list[dict[str, object]]]:
    """All rows of the books, by table, ordered by primary key."""
    found: dict[str, list[dict[str, object]]] = {}
    async with database.read() as connection:
        books = (executions, spans, execution_rollups, execution_rollups_daily, webhook_events)
        for table in (*books, execution_scores, score_comments):
            rows = await connection.execute(select(table).order_by(*table.primary_key.columns))
            found[table.name] = [dict(row) for row in rows.mappings()]
        d = webhook_deliveries.c
        deliveries = await connection.execute(select(d.id, d.event_id, d.endpoint_id, d.execution_id).order_by(d.id))
        found["webhook_deliveries"] = [dict(row) for row in deliveries.mappings()]
    return found


async def count(database: Database, table: Table) -> int:
    """The number of rows in a table."""
    async with database.read() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()
