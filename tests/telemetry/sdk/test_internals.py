"""Our own recording spans are what an exporter, a processor and the SDK's own spans expect."""

import ast
import inspect
import logging
import re
from collections.abc import Mapping

import pytest
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.common.http import _OTLPHTTPClient
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk._logs import Logger, LoggerProvider, ReadWriteLogRecord
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Tracer as ApiTracer

from engine.tracing import semconv
from engine.tracing.remote_spans import with_fixed_ids
from telemetry.sdk import internals
from telemetry.sdk.internals import RecordedSpan, RecordingTracer
from telemetry.sdk.providers import build_telemetry

OWN = {"_left_out", "_tracer", "_logger", "_context"}
"""Private names of our own classes in the module."""

MODULES = {
    "opentelemetry._logs",
    "opentelemetry.exporter.otlp.proto.grpc._log_exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.sdk._logs",
    "opentelemetry.sdk._logs.export",
}
PRIVATE = {
    TracerProvider: {"_disabled", "_span_limits"},
    LoggerProvider: {"_disabled"},
    Tracer: {"_instrumentation_scope"},
    Logger: {"_log_record_limits", "_multi_log_record_processor"},
    Span: {"_attributes", "_end_time", "_limits", "_lock", "_span_processor", "_start_time"},
    SpanProcessor: {"_on_ending"},
    HttpSpanExporter: {"_client"},
    _OTLPHTTPClient: {"_transport"},
}
"""Class of the SDK to the private names that the module uses."""


def _of_the_sdk() -> Mapping[type, object]:
    tracers, loggers = TracerProvider(shutdown_on_exit=False), LoggerProvider(shutdown_on_exit=False)
    tracer, logger = tracers.get_tracer("stock"), loggers.get_logger("stock")
    span = tracer.start_span("stock")
    span.end()
    return {
        TracerProvider: tracers,
        LoggerProvider: loggers,
        Tracer: tracer,
        Logger: logger,
        Span: span,
        SpanProcessor: SpanProcessor(),
        HttpSpanExporter: (exporter := HttpSpanExporter()),
        _OTLPHTTPClient: exporter._client,
    }


def test_the_sdk_still_has_every_private_name_that_is_used() -> None:
    stock = _of_the_sdk()
    missing = {
        f"{kind.__name__}.{name}" for kind in PRIVATE for name in PRIVATE[kind] if not hasattr(stock[kind], name)
    }
    assert missing == set()
    assert "__post_init__" in vars(ReadWriteLogRecord)


def test_every_private_name_that_is_used_is_listed_here() -> None:
    nodes = list(ast.walk(ast.parse(inspect.getsource(internals))))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr)}
    assert names - OWN == set().union(*PRIVATE.values())
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and "._" in (node.module or "")}
    assert modules == MODULES


class _SameIds(RandomIdGenerator):
    """The ids 1, 2, 3 and on."""

    def __init__(self) -> None:
        self._last = 0

    def generate_span_id(self) -> int:
        self._last += 1
        return self._last

    def generate_trace_id(self) -> int:
        return 7


def _pair() -> tuple[InMemorySpanExporter, Tracer, RecordingTracer]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_ON, id_generator=_SameIds(), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    stock = provider.get_tracer(semconv.SCOPE_ENGINE)
    assert isinstance(stock, Tracer)
    return exporter, stock, RecordingTracer(stock, provider._span_limits, frozenset())


def _tell(tracer: ApiTracer, parent: Context) -> None:
    """A root with everything a span can hold, and a child."""
    root = tracer.start_span("root", context=parent, attributes={"a": 1, "b": "text"}, start_time=1_000)
    inside = set_span_in_context(root, Context())
    child = tracer.start_span("child", context=inside, kind=SpanKind.CLIENT, start_time=2_000)
    child.set_attributes({"list": ["x", "y"], "flag": True})
    child.set_attribute("share", 0.5)
    child.add_event("exception", {"exception.type": "ValueError"}, timestamp=2_500)
    child.set_status(Status(StatusCode.ERROR, "it broke"))
    child.end(3_000)
    root.end(4_000)


def _remote() -> Context:
    flags = TraceFlags(TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID)
    context = SpanContext(99, 98, True, flags, TraceState([("vendor", "v")]))
    return set_span_in_context(NonRecordingSpan(context), Context())


@pytest.mark.parametrize("parent", [Context(), _remote()], ids=["no parent", "a parent elsewhere"])
def test_the_spans_are_exported_as_the_sdk_exports_its_own(parent: Context) -> None:
    messages = []
    for recording in (False, True):
        exporter, stock, ours = _pair()
        _tell(ours if recording else stock, parent)
        messages.append(encode_spans(exporter.get_finished_spans()))
    assert messages[0] == messages[1]
    assert messages[0].resource_spans


def test_a_link_is_kept() -> None:
    exporter, _, ours = _pair()
    link = Link(SpanContext(99, 98, True, TraceFlags(TraceFlags.SAMPLED)))
    ours.start_span("root", context=Context(), links=[link]).end()
    (span,) = exporter.get_finished_spans()
    assert [each.context.span_id for each in span.links] == [98]


def test_a_root_takes_the_ids_that_its_context_fixes_and_keeps_its_links() -> None:
    exporter, _, ours = _pair()
    linked = SpanContext(99, 98, True, TraceFlags(TraceFlags.SAMPLED))
    root = ours.start_span("root", context=with_fixed_ids(SpanContext(7, 8, True)), links=[Link(linked)])
    ours.start_span("child", context=set_span_in_context(root, Context())).end()
    root.end()
    child, ended = exporter.get_finished_spans()
    assert ended.context is not None
    assert (ended.context.trace_id, ended.context.span_id, ended.parent) == (7, 8, None)
    assert [link.context.span_id for link in ended.links] == [98]
    assert child.context is not None
    assert (child.context.trace_id, child.parent) == (7, ended.context)
    assert child.context.span_id != 8


def test_a_link_to_nothing_is_left_out() -> None:
    exporter, _, ours = _pair()
    ours.start_span("root", context=Context(), links=[Link(INVALID_SPAN_CONTEXT)]).end()
    (span,) = exporter.get_finished_spans()
    assert span.links == ()


def test_an_event_of_a_span_is_kept() -> None:
    exporter, _, ours = _pair()
    span = ours.start_span("root", context=Context())
    span.add_event("paused", {"why": "asks"})
    span.end()
    (ended,) = exporter.get_finished_spans()
    assert [(event.name, dict(event.attributes or {})) for event in ended.events] == [("paused", {"why": "asks"})]


def test_a_span_may_be_the_current_one() -> None:
    exporter, _, ours = _pair()
    with ours.start_as_current_span("outer"):
        ours.start_span("inner").end()
    inner, outer = exporter.get_finished_spans()
    assert inner.parent == outer.context


def test_a_span_that_has_ended_does_not_change(caplog: pytest.LogCaptureFixture) -> None:
    exporter, _, ours = _pair()
    span = ours.start_span("root", context=Context(), attributes={"a": 1})
    span.end(5)
    assert not span.is_recording()
    with caplog.at_level(logging.WARNING):
        span.set_attribute("late", 1)
        span.end(6)
        span.set_status(StatusCode.ERROR)
    (ended,) = exporter.get_finished_spans()
    assert (dict(ended.attributes or {}), ended.end_time, ended.status.status_code) == ({"a": 1}, 5, StatusCode.UNSET)
    assert len(caplog.records) == 3


def test_later_changes_to_the_callers_dict_do_not_reach_the_span() -> None:
    _, _, ours = _pair()
    said: dict[str, str | int] = {"a": 1}
    span = ours.start_span("root", context=Context(), attributes=said)
    said["b"] = 2
    span.set_attribute("c", 3)
    assert isinstance(span, ReadableSpan)
    assert (span.attributes, said) == ({"a": 1, "c": 3}, {"a": 1, "b": 2})


def test_only_our_scopes_are_recorded_this_way() -> None:
    tracers = build_telemetry().tracer_provider
    for scope in (semconv.SCOPE_ENGINE, semconv.SCOPE_GENAI):
        assert isinstance(tracers.get_tracer(scope).start_span("x"), RecordedSpan)
    assert not isinstance(tracers.get_tracer("fastapi").start_span("x"), RecordedSpan)


def test_the_message_of_a_span_holds_what_was_said() -> None:
    exporter, _, ours = _pair()
    _tell(ours, Context())
    (resource,) = encode_spans(exporter.get_finished_spans()).resource_spans
    child, root = resource.scope_spans[0].spans
    assert (child.name, child.kind, child.status.message) == ("child", SpanMessage.SPAN_KIND_CLIENT, "it broke")
    assert [each.key for each in child.attributes] == ["list", "flag", "share"]
    assert child.parent_span_id == root.span_id
