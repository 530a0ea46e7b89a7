"""Runs workflows in tests: real engine, scripted models, spans in memory, and a ledger that records its calls."""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from engine.engine import ExecutionEngine
from engine.events import EventType, ExecutionEvent
from engine.execution.defaults import BuiltinTemplates, NoConversations, NoDefinitions
from engine.graph import Json, JsonObject
from engine.ledger import Acceptance, Finish, NullLedger
from engine.request import Caller, ExecutionRequest
from engine.resources import Prices, Resources, Retriever, Tool
from engine.result import ExecutionResult
from engine.testing.models import PerTokenPrices, ScriptedModel, ScriptedModels, Step
from engine.tracing import semconv
from telemetry.sdk.internals import RecordingTracerProvider

START: JsonObject = {"id": "start", "type": "start"}
END: JsonObject = {"id": "end", "type": "end"}


@dataclass
class NotedLedger(NullLedger):
    """A ledger that accepts everything and records it for the test."""

    accepted: list[Acceptance] = field(default_factory=list)
    finished: list[Finish] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def accept(self, acceptance: Acceptance) -> None:
        self.accepted.append(acceptance)

    def abandon(self, execution_id: str, attempt: int = 1) -> None:
        self.accepted = [each for each in self.accepted if each.identity.execution_id != execution_id]

    async def finish(self, finish: Finish) -> bool:
        self.finished.append(finish)
        self.ended.set()
        return True


@dataclass(frozen=True)
class Run:
    """The result, events and spans of one execution."""

    result: ExecutionResult
    events: list[ExecutionEvent]
    spans: list[ReadableSpan]
    event_names: list[str]

    @property
    def tree(self) -> str:
        """The span tree as a drawing."""
        return span_tree(self.spans)

    def types(self) -> list[str]:
        """The types of the events, in order."""
        return [event.type.value for event in self.events]

    def span(self, name: str) -> Mapping[str, object]:
        """The attributes of the only span of this name."""
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, [span.name for span in self.spans]
        return found[0].attributes or {}


def scripted_resources(
    *models: ScriptedModel,
    tools: Iterable[Tool] = (),
    retrievers: Mapping[str, Retriever] | None = None,
    prices: Prices | None = None,
    no_checkpoints: str | None = None,
) -> Resources:
    """The resources of an engine without a database: these models, and nothing else but the built-in templates."""
    return Resources(
        models=ScriptedModels(*models),
        prices=prices or PerTokenPrices(),
        tools={tool.spec.name: tool for tool in tools},
        retrievers=retrievers or {},
        templates=BuiltinTemplates(),
        definitions=NoDefinitions(),
        conversations=NoConversations(),
        no_checkpoints=no_checkpoints,
    )


class Harness:
    """An engine over scripted models that records all spans and events."""

    def __init__(
        self,
        script: Sequence[Step] = (),
        *,
        models: Sequence[ScriptedModel] = (),
        tools: Iterable[Tool] = (),
        retrievers: Mapping[str, Retriever] | None = None,
        prices: Prices | None = None,
        disconnect_seconds: float = 0,
        fixes_ids: bool = False,
    ) -> None:
        """`fixes_ids`: the tracer provider is the service's, which begins a queued execution under its ids."""
        self.disconnect_seconds = disconnect_seconds
        self.exporter = InMemorySpanExporter()
        self.log = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped
        self.tracers = RecordingTracerProvider(Resource.create()) if fixes_ids else TracerProvider(sampler=ALWAYS_ON)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.loggers = LoggerProvider()
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self.log))
        self.model = models[0] if models else ScriptedModel(list(script))
        self.resources = scripted_resources(
            *(models or (self.model,)), tools=tools, retrievers=retrievers, prices=prices
        )
        self.use(NotedLedger())

    def use(self, ledger: NotedLedger) -> None:
        """Create the engine again, with this ledger."""
        self.ledger = ledger
        self.engine = ExecutionEngine(
            self.resources,
            ledger=ledger,
            tracer_provider=self.tracers,
            logger_provider=self.loggers,
            disconnect_seconds=self.disconnect_seconds,
        )

    async def run(self, graph: JsonObject, input: JsonObject | None = None, **request: Json) -> Run:
        """Run a graph to its end, reading its events."""
        return await self.request(graph_request(graph, input, **request))

    async def request(self, request: ExecutionRequest, caller: Caller | None = None) -> Run:
        """Run a request to its end, reading its events."""
        events = [event async for event in self.engine.stream(request, caller)]
        result = ExecutionResult.model_validate_json(dumps(events[-1].data))
        return Run(result, events, self.spans(), self.event_names())

    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended."""
        return list(self.exporter.get_finished_spans())

    def event_names(self) -> list[str]:
        """The names of the events of the books, in order."""
        names = [str(each.log_record.event_name) for each in self.log.get_finished_logs()]
        return [name for name in names if name.startswith(semconv.EVENT_PREFIX)]


def dumps(value: Json) -> str:
    """JSON text."""
    return json.dumps(value)


def graph_request(graph: JsonObject, input: JsonObject | None = None, **request: Json) -> ExecutionRequest:
    """A request that contains its graph."""
    source: JsonObject = {"kind": "graph", "graph": graph}
    document: JsonObject = {"source": source, "input": input or {"message": "hello"}, **request}
    return ExecutionRequest.model_validate(document)


def graph(nodes: list[JsonObject], edges: list[str], **more: Json) -> JsonObject:
    """A graph from nodes and edges like `a -> b` or `a -final-> b`; start and end are added where they are named."""
    known = {str(node["id"]) for node in nodes}
    parsed = [_edge(edge) for edge in edges]
    named = {str(edge[side]) for edge in parsed for side in ("source", "target")}
    added = [node for node in (START, END) if node["id"] in named - known]
    return {"schema": "spanloom/1", "name": "test", "nodes": [*added, *nodes], "edges": list(parsed), **more}


def _edge(text: str) -> JsonObject:
    source, arrow, target = text.split(maxsplit=2)
    label = arrow.removesuffix("->").strip("-")
    edge: JsonObject = {"source": source, "target": target}
    return edge | {"when": label} if label else edge


def span_tree(spans: Sequence[ReadableSpan]) -> str:
    """One line per span with name and status; children are below their parent in the order they began."""
    by_parent: dict[int | None, list[ReadableSpan]] = {}
    ids = {span.context.span_id for span in spans}
    for span in sorted(spans, key=lambda each: (each.start_time or 0, each.end_time or 0)):
        parent = span.parent.span_id if span.parent and span.parent.span_id in ids else None
        by_parent.setdefault(parent, []).append(span)
    lines: list[str] = []
    _draw(by_parent, None, 0, lines)
    return "\n" + "\n".join(lines) + "\n"


def _draw(by_parent: dict[int | None, list[ReadableSpan]], parent: int | None, depth: int, lines: list[str]) -> None:
    for span in by_parent.get(parent, []):
        attributes = span.attributes or {}
        status = attributes.get(semconv.EXECUTION_STATUS) or attributes.get(semconv.NODE_STATUS)
        error = attributes.get(semconv.ERROR_TYPE)
        notes = [str(note) for note in (status if status != "completed" or depth == 0 else None, error) if note]
        lines.append("  ".join(["  " * depth + span.name, *notes]))
        _draw(by_parent, span.context.span_id, depth + 1, lines)


def token_text(events: Iterable[ExecutionEvent]) -> str:
    """The joined tokens."""
    return "".join(str(event.data["text"]) for event in events if event.type is EventType.TOKEN)
