"""Names of the GenAI conventions 0.1.0 beside their former ones, as a trace store gets them over OTLP."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import select

from engine.graph import JsonObject
from engine.testing.models import Call, Fail, Say, Step
from engine.tracing import semconv
from engine.usage import Usage
from telemetry.signals import otlp
from telemetry.signals.records import SpanRecord
from telemetry.store.tables import spans as span_rows
from tests.attacks.otlp_sink import Sink, otlp_sink
from tests.engine.harness import graph
from tests.telemetry.bookkeeper import Listener
from tests.workflow_runner import WorkflowRunner, request, streamed, workflow_runner

OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
FORMER = {"gen_ai.workflow.name", "gen_ai.usage.cache_creation.input_tokens"}
CACHED = Usage(input_tokens=50, output_tokens=9, cache_read_tokens=20, cache_write_tokens=10, total_tokens=59)
SETTINGS: JsonObject = {
    "stop": ["END"],
    "seed": 7,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "response_schema": {"type": "object"},
}
SETTLED = graph(
    [
        {
            "id": "look",
            "type": "retrieval",
            "config": {"retriever": "files", "max_documents": 3, "options": {"path": "."}},
        },
        {"id": "answer", "type": "model", "stream": True, "config": SETTINGS},
    ],
    ["start -> look", "look -found-> answer", "look -empty-> answer", "answer -> end"],
)


@dataclass(frozen=True, slots=True)
class Received:
    """What the trace store was sent."""

    requests: list[ExportTraceServiceRequest]
    events: list[LogRecord]

    def spans(self, operation: str) -> list[dict[str, object]]:
        """The attributes of the spans of an operation."""
        found = [attributes(span) for span in _spans(self.requests)]
        return [one for one in found if one.get("gen_ai.operation.name") == operation]


def attributes(signal: Span | LogRecord) -> dict[str, object]:
    return {pair.key: _plain(pair.value) for pair in signal.attributes}


def _plain(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    assert kind is not None
    return [_plain(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def _spans(requests: list[ExportTraceServiceRequest]) -> Iterator[Span]:
    for one in requests:
        for resource in one.resource_spans:
            for scope in resource.scope_spans:
                yield from scope.spans


def received(sink: Sink) -> Received:
    logs = [ExportLogsServiceRequest.FromString(body) for body in sink.bodies.get("/v1/logs", [])]
    events = [
        record
        for one in logs
        for resource in one.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]
    return Received([ExportTraceServiceRequest.FromString(body) for body in sink.bodies.get("/v1/traces", [])], events)


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sink]:
    with otlp_sink() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


async def run_everything(url: str, folder: Path) -> None:
    """A templated chat that continues, a tool call, a search with all settings, and a failure."""
    script: list[Step] = [
        Say("Cached.", usage=CACHED),
        Call("calculate", {"expression": "6 * 7"}),
        Say("42"),
        Say('{"a": 1}'),
        Fail("auth", "wrong key"),
    ]
    (folder / "tower.md").write_text("The clock hangs in the north tower.\n")
    async with workflow_runner(url, folder) as runner:
        engine = runner.engine(script)
        await engine.execute(request({"kind": "template", "template": "universal_chat"}))
        chat: JsonObject = {"kind": "chat", "params": {"enable_tools": True}}
        await engine.execute(request(chat, "what is 6 * 7?"))
        await streamed(engine, request({"kind": "graph", "graph": SETTLED}, "where is the clock?"))
        await engine.execute(request({"kind": "template", "template": "universal_chat"}))


async def test_a_trace_store_gets_the_names_of_the_conventions(
    migrated_sqlite_url: str, tmp_path: Path, sink: Sink
) -> None:
    await run_everything(migrated_sqlite_url, tmp_path)
    store = received(sink)

    roots = store.spans("invoke_workflow")
    assert [(root["gen_ai.agent.name"], root["gen_ai.workflow.name"]) for root in roots] == [
        ("universal_chat", "universal_chat"),
        ("chat", "chat"),
        ("test", "test"),
        ("universal_chat", "universal_chat"),
    ]
    cached, calling, answered, settled, failed = store.spans("chat")
    assert cached["gen_ai.usage.cache_write.input_tokens"] == 10
    assert cached["gen_ai.usage.cache_creation.input_tokens"] == 10
    assert (cached["gen_ai.prompt.name"], cached["gen_ai.prompt.version"]) == ("universal_chat", "1")
    assert failed["gen_ai.prompt.name"] == "universal_chat"
    assert "gen_ai.prompt.name" not in settled
    assert calling["gen_ai.conversation.id"] == answered["gen_ai.conversation.id"] == roots[1]["gen_ai.conversation.id"]
    assert {key: settled[key] for key in settled if key.startswith("gen_ai.request") or "output.type" in key} == {
        "gen_ai.request.model": "scripted-1",
        "gen_ai.request.max_tokens": 1024,
        "gen_ai.request.stream": True,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.request.frequency_penalty": 0.5,
        "gen_ai.request.presence_penalty": -0.5,
        "gen_ai.output.type": "json",
    }
    assert not {"gen_ai.output.type", "gen_ai.request.seed", "gen_ai.request.stop_sequences"} & cached.keys()
    [tool] = store.spans("execute_tool")
    assert str(tool["gen_ai.tool.description"]).startswith("Work out an arithmetic expression")
    [search] = store.spans("retrieval")
    assert search["gen_ai.retrieval.top_k"] == 3


async def test_every_scope_has_a_version_and_a_schema(migrated_sqlite_url: str, tmp_path: Path, sink: Sink) -> None:
    await run_everything(migrated_sqlite_url, tmp_path)
    scopes = {
        (scope.scope.name, scope.scope.version, scope.schema_url)
        for one in received(sink).requests
        for resource in one.resource_spans
        for scope in resource.scope_spans
        if scope.scope.name.startswith("spanloom.")
    }
    schema = "https://opentelemetry.io/schemas/gen-ai/0.1.0"
    assert scopes == {(name, version("spanloom"), schema) for name in ("spanloom.engine", "spanloom.genai")}


def test_signals_shipped_to_the_collector_have_them_too() -> None:
    listener = Listener()
    listener.begin().tracker.complete()
    [root] = [one for one in listener.signals() if isinstance(one, SpanRecord)]
    body = otlp.traces_request({}, [(otlp.scope_of(root), otlp.encode(root, former_names=True))])
    [resource] = ExportTraceServiceRequest.FromString(body).resource_spans
    [scope] = resource.scope_spans
    assert (scope.scope.version, scope.schema_url) == (semconv.SCOPE_VERSION, semconv.SCHEMA_URL)
    sent = attributes(scope.spans[0])
    assert sent["gen_ai.agent.name"] == sent["gen_ai.workflow.name"]
    assert otlp.decode_traces(body).signals == [root]


@pytest.mark.parametrize(
    ("given", "has_former"),
    [
        ("", True),
        ("http,database/dup", True),
        ("GEN_AI_LATEST_EXPERIMENTAL", True),
        ("gen_ai_latest_experimental_2", True),
        ("gen_ai_latest_experimental", False),
        (" http/dup , gen_ai_latest_experimental ,unheard of", False),
    ],
)
async def test_former_names_stand_beside_the_new_ones_until_they_are_turned_off(
    migrated_sqlite_url: str,
    tmp_path: Path,
    sink: Sink,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    has_former: bool,
) -> None:
    monkeypatch.setenv(OPT_IN, given)
    await run_everything(migrated_sqlite_url, tmp_path)
    store = received(sink)
    keys = {key for span in _spans(store.requests) for key in attributes(span)}
    assert keys & FORMER == (FORMER if has_former else set())
    assert {"gen_ai.agent.name", "gen_ai.usage.cache_write.input_tokens"} <= keys
    names = {event.event_name for event in store.events if event.event_name.startswith("gen_ai.")}
    former = {"gen_ai.client.operation.exception"} if has_former else set()
    assert names == {"gen_ai.client.inference.exception"} | former


async def test_the_books_are_the_same_with_former_names_and_without(
    migrated_sqlite_url: str, other_sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for url, given in ((migrated_sqlite_url, ""), (other_sqlite_url, "gen_ai_latest_experimental")):
        monkeypatch.setenv(OPT_IN, given)
        await run_everything(url, tmp_path)
        async with workflow_runner(url) as runner:
            rows.append(await stored(runner))
    assert rows[0] == rows[1]
    keys = {key for _, _, row in rows[0] for key in row}
    assert not keys & FORMER
    assert 10 in [written for _, written, _ in rows[0]]


async def stored(runner: WorkflowRunner) -> list[tuple[str, int | None, list[str]]]:
    """Name, cache writes and attribute keys of all span rows."""
    columns = (span_rows.c.name, span_rows.c.cache_write_tokens, span_rows.c.attributes)
    async with runner.runtime.database.read() as connection:
        found = (await connection.execute(select(*columns).order_by(span_rows.c.started_at, span_rows.c.name))).all()
    return [(row.name, row.cache_write_tokens, sorted(row.attributes)) for row in found]


def test_a_signal_that_an_older_program_left_in_the_outbox_is_booked_in_full() -> None:
    listener = Listener()
    story = listener.begin()
    story.answer()
    story.tracker.complete()
    [call] = [one for one in listener.signals() if isinstance(one, SpanRecord) and one.kind == "model"]
    written = semconv.CALL_TOKENS["cache_write_tokens"]
    call = replace(call, fields={**call.fields, written: 10})
    old = otlp.encode(replace(call, fields={key: v for key, v in call.fields.items() if key != written}))
    counted = KeyValue(key="gen_ai.usage.cache_creation.input_tokens", value=AnyValue(int_value=10))
    former = Span(attributes=[counted])
    assert otlp.decode_span(old + former.SerializeToString()) == call


async def test_a_failed_call_is_an_event_that_repeats_neither_prompt_nor_secret(
    migrated_sqlite_url: str, sink: Sink
) -> None:
    prompt, key = "the launch code is 0000-1111-2222", "sk-" + "a1b2c3d4" * 4
    async with workflow_runner(migrated_sqlite_url) as runner:
        engine = runner.engine([Fail("auth", f"no access for {key}: {prompt}")])
        await engine.execute(request({"kind": "chat"}, prompt))
    store = received(sink)
    [call] = [span for span in _spans(store.requests) if span.name.startswith("chat ")]
    told = [event for event in store.events if event.event_name == "gen_ai.client.inference.exception"]
    assert [(event.severity_number, event.trace_id, event.span_id) for event in told] == [
        (13, call.trace_id, call.span_id)
    ]
    said = attributes(told[0])
    assert said["exception.type"] == "engine.errors.ModelFailure"
    assert str(said["exception.message"]).startswith("no access for [redacted]")
    assert (said["error.type"], said["gen_ai.provider.name"]) == ("auth", "scripted")
    everything = b"".join(body for bodies in sink.bodies.values() for body in bodies)
    assert prompt.encode() not in everything
    assert key.encode() not in everything
