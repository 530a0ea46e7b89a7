"""Runs workflows as the service does, with the real journal, records and database, but scripted models."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from api.settings import Settings
from api.wiring.runtime import Runtime, open_runtime
from engine.content.policy import ContentPolicy
from engine.engine import ExecutionEngine
from engine.execution.handle import Execution
from engine.graph import JsonObject
from engine.request import Caller, ExecutionRequest
from engine.resources import Resources, Template, Tool
from engine.result import ExecutionResult
from engine.retrieval.files import FilesRetriever
from engine.store.definitions import save_definition
from engine.store.templates import sync_builtin
from engine.testing.models import PerTokenPrices, Script, ScriptedModel, ScriptedModels
from engine.tools.builtin import builtin_tools
from engine.tracing import semconv
from telemetry.reads.executions import ExecutionRecord, get_execution
from telemetry.reads.traces import Trace, TraceSpan, get_trace
from telemetry.signals.records import is_journalled

OWNER = "default"


class WatchedEngine(ExecutionEngine):
    """An engine that keeps the executions it started, so that a test can inspect them."""

    model: ScriptedModel
    started: list[Execution]

    async def start(self, request: ExecutionRequest, caller: Caller | None = None, *, streaming: bool) -> Execution:
        execution = await super().start(request, caller, streaming=streaming)
        self.started.append(execution)
        return execution


@dataclass(slots=True)
class WorkflowRunner:
    """A runtime, and engines on it that call scripted models."""

    runtime: Runtime
    files: Path | None
    stack: AsyncExitStack
    spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    log: InMemoryLogRecordExporter = field(default_factory=InMemoryLogRecordExporter)

    def keep_signals(self) -> None:
        """Keep all signals in memory from now on."""
        self.runtime.telemetry.add(SimpleSpanProcessor(self.spans), SimpleLogRecordProcessor(self.log))

    def engine(self, script: Script, tools: Iterable[Tool] = ()) -> WatchedEngine:
        """An engine with a model of its own; a client that leaves is not waited for."""
        runtime, telemetry, model = self.runtime, self.runtime.telemetry, ScriptedModel(script)
        engine = WatchedEngine(
            self._resources(model, tools),
            ledger=runtime.journal,
            checkpoints=runtime.checkpoints,
            content=ContentPolicy(telemetry.capture, runtime.settings.content),
            tracer_provider=telemetry.tracer_provider,
            logger_provider=telemetry.logger_provider,
        )
        return self._watched(engine, model)

    def silent_engine(self, script: Script, tools: Iterable[Tool] = ()) -> WatchedEngine:
        """An engine without ledger and telemetry, as in library use."""
        model = ScriptedModel(script)
        return self._watched(WatchedEngine(self._resources(model, tools)), model)

    def _resources(self, model: ScriptedModel, tools: Iterable[Tool]) -> Resources:
        return replace(
            self.runtime.resources,
            models=ScriptedModels(model),
            prices=PerTokenPrices(),
            tools=builtin_tools() | {tool.spec.name: tool for tool in tools},
            retrievers={"files": FilesRetriever([self.files])} if self.files else {},
        )

    def _watched(self, engine: WatchedEngine, model: ScriptedModel) -> WatchedEngine:
        engine.model, engine.started = model, []
        self.stack.push_async_callback(engine.close)
        return engine

    async def store_template(self, key: str, graph: JsonObject) -> None:
        """Store a template without parameters."""
        closed: JsonObject = {"type": "object", "properties": {}, "additionalProperties": False}
        template = Template(f"id-{key}", key, 1, key, "", "test", (), closed, {}, graph, is_builtin=True)
        async with self.runtime.database.begin() as connection:
            await sync_builtin(connection, [template])

    async def store_definition(self, slug: str, graph: JsonObject) -> None:
        """Store a definition of the default owner."""
        async with self.runtime.database.begin() as connection:
            await save_definition(connection, OWNER, slug, slug, graph, f"hash of {slug}")

    async def record(self, execution_id: str) -> ExecutionRecord:
        """The record of an execution."""
        async with self.runtime.database.read() as connection:
            record = await get_execution(connection, execution_id, OWNER)
        assert record is not None
        return record

    async def trace(self, execution_id: str) -> Trace:
        """The stored trace of an execution."""
        async with self.runtime.database.read() as connection:
            trace = await get_trace(connection, execution_id, OWNER)
        assert trace is not None
        return trace

    def said(self, execution_id: str) -> list[LogRecord]:
        """The events of an execution that the books hold, in order."""
        records = [each.log_record for each in self.journalled()]
        return [one for one in records if (one.attributes or {}).get(semconv.EXECUTION_ID) == execution_id]

    def journalled(self) -> list[ReadableLogRecord]:
        """The events that the books hold; others are for trace stores alone."""
        return [each for each in self.log.get_finished_logs() if is_journalled(each.log_record.event_name)]

    def emitted(self) -> Sequence[ReadableSpan]:
        """Every span that ended."""
        return self.spans.get_finished_spans()


@asynccontextmanager
async def workflow_runner(
    url: str, files: Path | None = None, *, keep_signals: bool = True, public_url: str | None = None
) -> AsyncIterator[WorkflowRunner]:
    """A runner over the database; the retriever `files` reads the folder. Signals are kept in memory, too."""
    async with open_runtime(Settings(database_url=url, public_url=public_url)) as runtime, AsyncExitStack() as stack:
        runner = WorkflowRunner(runtime, files, stack)
        if keep_signals:
            runner.keep_signals()
        yield runner


def request(source: Mapping[str, object], message: str = "hello", **more: object) -> ExecutionRequest:
    """A request with a source and a message."""
    return ExecutionRequest.model_validate({"source": source, "input": {"message": message}, **more})


async def streamed(engine: ExecutionEngine, wanted: ExecutionRequest) -> ExecutionResult:
    """Stream an execution; returns the result from its last event."""
    async for event in engine.stream(wanted):
        if event.type.is_closing:
            return ExecutionResult.model_validate_json(json.dumps(event.data))
    raise AssertionError("the stream has no closing event")


def drawing(spans: Iterable[TraceSpan]) -> str:
    """The stored span tree as text: names, and status and error type if not completed."""
    lines = []
    for span in spans:
        status = span.status if span.depth == 0 or span.status != "completed" else None
        notes = [note for note in (status, span.error_type) if note]
        lines.append("  ".join(["  " * span.depth + span.name, *notes]))
    return "\n" + "\n".join(lines) + "\n"
