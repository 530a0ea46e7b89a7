"""Converts spans and log records of the SDK into records, and records back."""

from collections.abc import Mapping
from types import MappingProxyType

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.types import AnyValue

from engine.tracing import semconv
from engine.tracing.attributes import with_former_names
from telemetry.sdk.internals import ReadableLogRecord, ReadWriteLogRecord
from telemetry.signals import peers
from telemetry.signals.builders import make_event, make_span
from telemetry.signals.otlp import scope_of
from telemetry.signals.records import (
    Attempt,
    Attributes,
    BadSignal,
    EventRecord,
    SpanEvent,
    SpanLink,
    SpanRecord,
    TraceOnly,
    is_ours,
)
from telemetry.signals.sanitize import MAX_DOCUMENT_BYTES, clean_text, place_all, sanitize


def attempt_of(attributes: Mapping[str, AnyValue] | None) -> Attempt | None:
    """The attempt that the attributes name; null if they name none."""
    if attributes is None:
        return None
    execution_id, attempt = attributes.get(semconv.EXECUTION_ID), attributes.get(semconv.EXECUTION_ATTEMPT)
    return (execution_id, attempt) if isinstance(execution_id, str) and isinstance(attempt, int) else None


def span_record(span: ReadableSpan) -> SpanRecord:
    """Convert an ended SDK span. Raises `BadSignal`."""
    context = span.context
    start, end = span.start_time, span.end_time
    if context is None or start is None or end is None:
        raise BadSignal("the span has not ended")
    parent = span.parent
    attributes = _plain(span.attributes)
    return make_span(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_span_id=f"{parent.span_id:016x}" if parent is not None else None,
        name=span.name,
        start_ns=start,
        end_ns=end,
        placed=place_all(attributes),
        failed=span.status.status_code is StatusCode.ERROR,
        description=span.status.description,
        trace_only=_trace_only(span, attributes),
    )


def readable_span(record: SpanRecord, resource: Resource, *, former_names: bool = False) -> ReadableSpan:
    """Convert a record into an ended SDK span, as an exporter gets it from a tracer; with former names, too."""
    attributes = record.fields | record.attributes
    attributes = with_former_names(attributes) if former_names else attributes
    message = attributes.pop(semconv.ERROR_MESSAGE, None) if record.is_error else None
    code = StatusCode.ERROR if record.is_error else StatusCode.OK if record.is_ok else StatusCode.UNSET
    part = record.trace_only or TraceOnly([], [], {})
    return ReadableSpan(
        record.name,
        context=_context(record.trace_id, record.span_id),
        parent=_context(record.trace_id, record.parent_span_id) if record.parent_span_id else None,
        resource=resource,
        attributes=attributes | part.content,
        events=[Event(event.name, event.attributes, event.at_ns) for event in part.events],
        links=[Link(_context(link.trace_id, link.span_id), link.attributes) for link in part.links],
        kind=SpanKind.CLIENT if record.kind.is_client else SpanKind.INTERNAL,
        status=Status(code, message if isinstance(message, str) else None),
        start_time=record.start_ns,
        end_time=record.end_ns,
        instrumentation_scope=InstrumentationScope(scope_of(record), semconv.SCOPE_VERSION, semconv.SCHEMA_URL),
    )


def for_other_tools(span: ReadableSpan) -> ReadableSpan:
    """The span with what other tools look for on it, if it is one of ours or that of an HTTP request."""
    scope, attributes = span.instrumentation_scope, _plain(span.attributes)
    if scope is not None and is_ours(scope.name):
        added = peers.added_to(attributes)
    elif span.kind is SpanKind.SERVER:
        added = peers.CHAIN
    else:
        return span
    events = list(span.events)
    is_failed = span.status.status_code is StatusCode.ERROR
    if is_failed and all(event.name != semconv.EXCEPTION_ON_SPAN for event in events):
        exception = peers.exception_of(attributes.get(semconv.ERROR_TYPE), span.status.description)
        events.append(Event(semconv.EXCEPTION_ON_SPAN, exception, span.end_time))
    return ReadableSpan(
        span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes={**attributes, **added},
        events=events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=scope,
    )


def log_record(event: EventRecord) -> LogRecord:
    """Convert an event into a log record, as a logger takes it."""
    context = Context()
    if event.trace_id and event.span_id:
        context = set_span_in_context(NonRecordingSpan(_context(event.trace_id, event.span_id)), context)
    return LogRecord(
        timestamp=event.at_ns,
        context=context,
        severity_number=SeverityNumber.INFO,
        event_name=event.name,
        attributes=event.attributes,
    )


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def event_record(event: ReadWriteLogRecord | ReadableLogRecord) -> EventRecord:
    """Convert an SDK log record that has an event name. Raises `BadSignal`."""
    record = event.log_record
    if record.event_name is None or record.timestamp is None:
        raise BadSignal("the event has no name or no time")
    attributes = _plain(record.attributes)
    return make_event(
        name=record.event_name,
        at_ns=record.timestamp,
        trace_id=f"{record.trace_id:032x}" if record.trace_id else None,
        span_id=f"{record.span_id:016x}" if record.span_id else None,
        placed=place_all(attributes),
    )


def _trace_only(span: ReadableSpan, attributes: Mapping[str, AnyValue]) -> TraceOnly | None:
    content = {
        key: sanitize(attributes[key], MAX_DOCUMENT_BYTES)[0] for key in semconv.TRACE_ONLY_KEYS & attributes.keys()
    }
    if not (content or span.links or span.events):
        return None
    return TraceOnly(
        [
            SpanLink(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}", _clean_all(link.attributes))
            for link in span.links
        ],
        [SpanEvent(clean_text(event.name)[0], event.timestamp, _clean_all(event.attributes)) for event in span.events],
        content,
    )


def _clean_all(attributes: Mapping[str, AnyValue] | None) -> Attributes:
    return {clean_text(key)[0]: sanitize(value)[0] for key, value in _plain(attributes).items() if value is not None}


def _plain(attributes: Mapping[str, AnyValue] | None) -> Mapping[str, AnyValue]:
    """A copy of the attributes as a dict, because the SDK's container takes a lock per key."""
    if attributes is None:
        return {}
    return attributes.copy() if isinstance(attributes, MappingProxyType) else dict(attributes)
