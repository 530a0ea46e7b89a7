"""The same model call and tool call through spanloom and through OpenTelemetry's own helper, attribute by attribute.

`DIFFERENCES` lists every difference with its reason. A release of the helper that says more, less or other things than
today fails here, and shows what to look at.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util.genai.handler import TelemetryHandler

from engine.identity import ExecutionIdentity
from engine.resources import ModelReply, ModelRequest, ModelSettings
from engine.testing.models import PerTokenPrices, ScriptedModel
from engine.tracing import semconv
from engine.tracing.attributes import Attributes
from engine.tracing.semconv import Waste
from engine.tracing.spans import NodeSpan
from engine.tracing.tracker import Tracing, WorkflowTracker
from engine.usage import Usage

OURS, THEIRS, BOTH = "spanloom alone", "the helper alone", "both, not the same"


@dataclass(frozen=True, slots=True)
class Difference:
    """What one of the two says and the other does not, or says otherwise."""

    where: str
    reason: str


CONVENTIONS = ("gen_ai.", "openai.", "server.", "error.")
"""Attributes outside these namespaces are compared by nobody: they are ours, or for tools with names of their own."""

DIFFERENCES: Mapping[str, Difference] = {
    semconv.GENAI_COST: Difference(OURS, "in no convention; Langfuse and Phoenix read it"),
    semconv.FORMER_CACHE_WRITE: Difference(OURS, "the former name, until it is turned off"),
    semconv.RESPONSE_FINGERPRINT: Difference(OURS, "of OpenAI's instrumentation, which the helper is not"),
    semconv.ERROR_TYPE: Difference(BOTH, "ours is a code with a documented list, the helper's is a class name"),
    semconv.AGENT_NAME: Difference(
        "on the root in ours, on tool calls in the helper", "a tree names its workflow once; tools have workflow.name"
    ),
}
"""By key. Model calls, tool calls, searches and executions differ in nothing else."""


class Endpoint(ScriptedModel):
    """A scripted model that stands for a provider's server."""

    server_address = "api.openai.com"
    server_port = 443


MODEL = Endpoint([], provider="openai", model="gpt-5")
SETTINGS = ModelSettings(
    max_tokens=512,
    temperature=0.5,
    top_p=0.9,
    frequency_penalty=0.1,
    presence_penalty=0.2,
    stop=("END",),
    seed=7,
    response_schema={"type": "object"},
)
USAGE = Usage(
    input_tokens=50, output_tokens=9, cache_read_tokens=20, cache_write_tokens=10, reasoning_tokens=4, total_tokens=59
)
REPLY = ModelReply(
    "{}", finish_reason="stop", model="gpt-5-2025-08-07", response_id="r-1", usage=USAGE, system_fingerprint="fp_1"
)
CONVERSATION = "conversation-1"


@contextmanager
def recording() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


@contextmanager
def our_node() -> Iterator[tuple[NodeSpan, InMemorySpanExporter]]:
    """A node of an execution that runs a template within a conversation."""
    with recording() as (provider, exporter):
        tracker = WorkflowTracker(Tracing.over(provider, None), PerTokenPrices())
        identity = ExecutionIdentity(
            "id",
            1,
            "owner",
            "helpdesk",
            "template",
            "api",
            True,
            1,
            1,
            template_id="t-1",
            template_version=3,
            conversation_id=CONVERSATION,
        )
        tracker.start(identity)
        static: Attributes = {semconv.NODE_ID: "answer", semconv.NODE_TYPE: "model"}
        yield tracker.start_node("execute_node answer", static, 1, 1), exporter


def our_call(*, fails: bool) -> ReadableSpan:
    with our_node() as (node, exporter):
        call = node.model_call(MODEL, ModelRequest("", [], settings=SETTINGS))
        if fails:
            call.fail("timeout", "too late", Waste.FAILED)
        else:
            call.complete(REPLY)
        [span] = exporter.get_finished_spans()
        return span


def their_call(*, fails: bool) -> ReadableSpan:
    with recording() as (provider, exporter):
        call = TelemetryHandler(provider).inference(
            "openai", request_model="gpt-5", server_address="api.openai.com", server_port=443
        )
        call.conversation_id, call.prompt_name, call.prompt_version = CONVERSATION, "helpdesk", "3"
        call.max_tokens, call.temperature, call.top_p = 512, 0.5, 0.9
        call.frequency_penalty, call.presence_penalty = 0.1, 0.2
        call.stop_sequences, call.seed, call.output_type = ["END"], 7, "json"
        if fails:
            call.fail(TimeoutError("too late"))
        else:
            call.response_model_name, call.response_id, call.finish_reasons = "gpt-5-2025-08-07", "r-1", ["stop"]
            call.input_tokens, call.output_tokens, call.thinking_tokens = 50, 9, 4
            call.cache_read_input_tokens, call.cache_write_input_tokens = 20, 10
            call.stop()
        [span] = exporter.get_finished_spans()
        return span


def our_tool() -> ReadableSpan:
    with our_node() as (node, exporter):
        node.tool_call("calculate", "call-1", {"a": 1}, "Adds numbers.").complete()
        [span] = exporter.get_finished_spans()
        return span


def their_tool() -> ReadableSpan:
    with recording() as (provider, exporter):
        handler = TelemetryHandler(provider)
        tool = handler.tool(
            "calculate",
            tool_call_id="call-1",
            tool_type="function",
            tool_description="Adds numbers.",
            agent_name="helpdesk",
        )
        tool.stop()
        [span] = exporter.get_finished_spans()
        return span


def our_search() -> ReadableSpan:
    with our_node() as (node, exporter):
        node.retrieval("files", "where?", 3).complete()
        [span] = exporter.get_finished_spans()
        return span


def their_search() -> ReadableSpan:
    with recording() as (provider, exporter):
        search = TelemetryHandler(provider).retrieval(data_source_id="files")
        search.top_k = 3
        search.stop()
        [span] = exporter.get_finished_spans()
        return span


def our_root() -> ReadableSpan:
    with our_node() as (node, exporter):
        node.complete(label=None, edges=None, degraded=False)
        tracker = node._recorder
        assert isinstance(tracker, WorkflowTracker)
        tracker.complete()
        return exporter.get_finished_spans()[-1]


def their_root() -> ReadableSpan:
    with recording() as (provider, exporter):
        TelemetryHandler(provider).workflow("helpdesk", conversation_id=CONVERSATION).stop()
        [span] = exporter.get_finished_spans()
        return span


def differences(ours: ReadableSpan, theirs: ReadableSpan) -> dict[str, str]:
    """Key to where it stands, of all keys that do not say the same in both."""
    mine, others = ours.attributes or {}, theirs.attributes or {}
    keys = {key for key in mine.keys() | others.keys() if key.startswith(CONVENTIONS)}
    assert keys & mine.keys() & others.keys(), "they say something that can be compared"
    unequal = [key for key in keys if mine.get(key) != others.get(key)]
    return {key: OURS if key not in others else THEIRS if key not in mine else BOTH for key in unequal}


ANSWERED = {
    semconv.GENAI_COST: OURS,
    semconv.FORMER_CACHE_WRITE: OURS,
    semconv.RESPONSE_FINGERPRINT: OURS,
}


def test_a_call_that_is_answered() -> None:
    ours, theirs = our_call(fails=False), their_call(fails=False)
    assert differences(ours, theirs) == ANSWERED
    assert (ours.name, ours.kind) == (theirs.name, theirs.kind) == ("chat gpt-5", SpanKind.CLIENT)
    assert (ours.status.status_code, theirs.status.status_code) == (StatusCode.OK, StatusCode.UNSET)


def test_a_call_that_fails() -> None:
    ours, theirs = our_call(fails=True), their_call(fails=True)
    assert differences(ours, theirs) == {semconv.ERROR_TYPE: BOTH}
    assert (ours.status.status_code, theirs.status.status_code) == (StatusCode.ERROR, StatusCode.ERROR)


def test_a_tool_call() -> None:
    ours, theirs = our_tool(), their_tool()
    assert differences(ours, theirs) == {semconv.AGENT_NAME: THEIRS}
    assert (ours.name, ours.kind) == (theirs.name, theirs.kind) == ("execute_tool calculate", SpanKind.INTERNAL)


def test_a_search() -> None:
    ours, theirs = our_search(), their_search()
    assert differences(ours, theirs) == {}
    assert (ours.name, ours.kind) == (theirs.name, theirs.kind)


def test_an_execution() -> None:
    ours, theirs = our_root(), their_root()
    assert differences(ours, theirs) == {semconv.AGENT_NAME: OURS}
    assert (ours.name, ours.kind) == (theirs.name, theirs.kind) == ("invoke_workflow helpdesk", SpanKind.INTERNAL)


def test_the_list_of_differences_is_complete_and_has_nothing_else() -> None:
    pairs = [
        (our_call(fails=False), their_call(fails=False)),
        (our_call(fails=True), their_call(fails=True)),
        (our_tool(), their_tool()),
        (our_search(), their_search()),
        (our_root(), their_root()),
    ]
    found = {key for ours, theirs in pairs for key in differences(ours, theirs)}
    assert found == DIFFERENCES.keys()
    assert all(each.reason for each in DIFFERENCES.values())
