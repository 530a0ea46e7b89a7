"""Shared by the tests of the bookkeeper: executions reported by the real tracker, and a journal that records them."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import RowMapping, select
from uuid_utils.compat import UUID, uuid7

from engine.database.database import Database
from engine.database.retry import RETRY_SECONDS
from engine.identity import ExecutionIdentity
from engine.ledger import Acceptance, Finish
from engine.resources import ModelReply, ModelRequest, Passage
from engine.result import Status
from engine.store.leases import Lease
from engine.store.tables import execution_control
from engine.testing.models import PerTokenPrices, ScriptedModel
from engine.tracing import semconv
from engine.tracing.attributes import Attributes
from engine.tracing.semconv import Waste
from engine.tracing.spans import NodeSpan
from engine.tracing.tracker import Tracing, WorkflowTracker
from engine.usage import Usage, UsageReport
from telemetry.collector.signature import Signer
from telemetry.journal.journal import FLUSH_SECONDS, POLL_SECONDS, Journal
from telemetry.pipeline.pipeline import Consumer, Pipeline
from telemetry.records.consumer import Records
from telemetry.sdk.conversion import event_record, span_record
from telemetry.sdk.providers import Telemetry, build_telemetry
from telemetry.signals.records import Signal, is_journalled
from telemetry.store.tables import executions

SIGNER = Signer(lambda: ("0123456789abcdef" * 4,))
"""Signs what the journals of the tests put into the outbox, and recognises it."""

REQUEST = ModelRequest(system="", messages=[])
ANSWER = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=30, reasoning_tokens=5)
EVERY_KIND = ANSWER.model_copy(update={"cache_write_tokens": 10})


def an_id(at: datetime, number: int) -> str:
    """A UUIDv7 made at that time."""
    milliseconds = int(at.timestamp() * 1000)
    return str(UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | number))


def identity(**changes: object) -> ExecutionIdentity:
    """An execution of the template `answer`."""
    made = ExecutionIdentity(
        execution_id=str(uuid7()),
        attempt=1,
        owner="default",
        workflow_name="answer",
        source="template",
        trigger="api",
        streaming=False,
        queued_ns=(now := time.time_ns()),
        started_ns=now,
        correlation_id="c-1",
        template_id="t-1",
        template_version=3,
        graph_hash="sha256:00",
        tags={"team": "a"},
        params={"style": "short"},
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the callers name the fields


@dataclass(slots=True)
class Story:
    """An execution that is reported step by step."""

    tracker: WorkflowTracker
    identity: ExecutionIdentity
    node_number: int = field(default=0)

    def answer(
        self, usage: Usage | None = ANSWER, *, model: str = "small", wasted: bool = False, streams: bool = False
    ) -> None:
        """A node with one model call."""
        node = self.node("model")
        call = node.model_call(ScriptedModel([], model=model), REQUEST, streams=streams)
        if streams:
            call.first_chunk()
        if wasted:
            call.fail("overloaded", "too busy", Waste.RETRIED, UsageReport(usage))
            node.retrying("overloaded", "too busy", 0.5)
            return
        call.complete(ModelReply(text="hi", usage=usage, model=model, finish_reason="stop"))
        node.complete(label=None, edges="e1", degraded=False)

    def unread(self, *keys: str) -> None:
        """A node with one model call, whose provider reported figures that nobody knows."""
        node = self.node("model")
        call = node.model_call(ScriptedModel([], model="small"), REQUEST)
        call.complete(ModelReply(text="hi", usage=ANSWER, unread_usage_keys=keys))
        node.complete(label=None, edges="e1", degraded=False)

    def tool(self) -> None:
        """A node with one tool call and one retrieval."""
        node = self.node("tools")
        node.tool_call("calculate", "call-1").complete()
        node.retrieval("files").complete([Passage(str(number), "a.md", "text", 0.5) for number in range(2)])
        node.complete(label="again", edges="e2", degraded=False)

    def cancelled_call(self) -> None:
        """A node that was cancelled during its model call."""
        node = self.node("model")
        node.model_call(ScriptedModel([], model="small"), REQUEST).cancel()
        node.cancel()

    def node(self, type_: str) -> NodeSpan:
        """Begin a node."""
        self.node_number += 1
        id_ = f"n{self.node_number}"
        static: Attributes = {semconv.NODE_ID: id_, semconv.NODE_TYPE: type_, semconv.NODE_PATH: id_}
        return self.tracker.start_node(f"execute_node {id_}", static, 1, 1)

    def acceptance(self) -> Acceptance:
        """The acceptance that the engine passes to the ledger."""
        return Acceptance(
            identity=self.identity,
            status=Status.RUNNING,
            request={},
            graph=b"{}",
            user_message=None,
            root=self.tracker.root,
            on_lost="fail",
        )

    def finish(self, status: Status = Status.COMPLETED) -> Finish:
        """The finish that the engine passes to the ledger."""
        return Finish(self.identity.execution_id, self.identity.attempt, status, {"response": "hi"})


@dataclass(slots=True)
class Bookkeeper:
    """A journal over a database, and the providers it listens to."""

    database: Database
    telemetry: Telemetry
    journal: Journal

    def begin(self, **changes: object) -> Story:
        """Start reporting an execution."""
        return begin(self.telemetry, **changes)

    async def completed(self, **changes: object) -> Story:
        """An execution with two nodes and one model call, through the ledger from accept to finish."""
        story = self.begin(**changes)
        await self.journal.accept(story.acceptance())
        story.answer()
        story.tool()
        story.tracker.complete()
        assert await self.journal.finish(story.finish())
        return story


async def decide(database: Database) -> None:
    """Add the control rows that records written by the consumer alone lack; they agree with the records."""
    async with database.begin() as connection:
        known = select(execution_control.c.execution_id)
        records = await connection.execute(select(executions).where(executions.c.id.not_in(known)))
        for record in records.mappings().all():
            await connection.execute(execution_control.insert().values(_control_values(record)))


def _control_values(record: RowMapping) -> dict[str, object]:
    same = (
        "owner_id",
        "status",
        "attempt",
        "conversation_id",
        "trace_id",
        "root_span_id",
        "workflow_name",
        "graph_hash",
    )
    return {
        **{name: record[name] for name in same},
        "execution_id": record["id"],
        "source": record["workflow_source"],
        "correlation_id": record["correlation_id"] or record["id"],
        "root_started_at": record["queued_at"],
        "accepted_at": record["queued_at"],
        "finished_at": record["completed_at"],
        "on_lost": "fail",
        "request": {},
    }


def begin(telemetry: Telemetry, **changes: object) -> Story:
    """An execution whose root span has begun."""
    tracing = Tracing.over(telemetry.tracer_provider, telemetry.logger_provider)
    story = Story(WorkflowTracker(tracing, PerTokenPrices()), identity(**changes))
    story.tracker.start(story.identity)
    return story


@asynccontextmanager
async def bookkeeper(
    database: Database,
    consumers: Sequence[Consumer] | None = None,
    *,
    timeout_seconds: float = 10.0,
    lease: Lease | None = None,
    flush_seconds: float = FLUSH_SECONDS,
    poll_seconds: float = POLL_SECONDS,
    retry_seconds: float = RETRY_SECONDS,
) -> AsyncIterator[Bookkeeper]:
    """A running bookkeeper; its consumer is the records unless others are given."""
    pipeline = Pipeline([Records()] if consumers is None else consumers, timeout_seconds=timeout_seconds)
    telemetry = build_telemetry()
    journal = Journal(
        database,
        pipeline,
        lease=lease,
        flush_seconds=flush_seconds,
        poll_seconds=poll_seconds,
        retry_seconds=retry_seconds,
    )
    async with journal:
        telemetry.add(journal.spans, journal.events)
        yield Bookkeeper(database, telemetry, journal)
    telemetry.shutdown()


@dataclass(slots=True)
class Listener:
    """Providers that keep every signal in memory, as the journal would read it."""

    telemetry: Telemetry = field(default_factory=build_telemetry)
    spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    events: InMemoryLogRecordExporter = field(default_factory=InMemoryLogRecordExporter)

    def __post_init__(self) -> None:
        self.telemetry.add(SimpleSpanProcessor(self.spans), SimpleLogRecordProcessor(self.events))

    def begin(self, **changes: object) -> Story:
        """Start reporting an execution."""
        return begin(self.telemetry, **changes)

    def complete(self, executions: int, *, tools: bool = False) -> None:
        """Report executions that complete: two events each, and three spans, or six with a tool's."""
        for _ in range(executions):
            story = self.begin()
            story.answer()
            if tools:
                story.tool()
            story.tracker.complete()

    def queue(self, **changes: object) -> None:
        """Report a queued execution."""
        tracing = Tracing.over(self.telemetry.tracer_provider, self.telemetry.logger_provider)
        WorkflowTracker(tracing, PerTokenPrices()).queue(identity(**changes))

    def journalled(self) -> list[ReadableLogRecord]:
        """The events that the books hold; others are for trace stores alone."""
        return [each for each in self.events.get_finished_logs() if is_journalled(each.log_record.event_name)]

    def signals(self) -> list[Signal]:
        """The signals, events first, each in order."""
        return [
            *map(event_record, self.journalled()),
            *map(span_record, self.spans.get_finished_spans()),
        ]
