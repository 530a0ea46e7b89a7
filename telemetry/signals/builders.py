"""Builds records from sanitised attributes, whether the signal comes from the SDK or over OTLP."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

from engine.tracing import semconv
from engine.tracing.semconv import Operation
from telemetry.signals.records import (
    Attributes,
    BadSignal,
    EventRecord,
    Identity,
    Kind,
    SpanRecord,
    TraceOnly,
    Value,
    integer_of,
    text_of,
)
from telemetry.signals.sanitize import Placed, clean_text, split

_KINDS: dict[Value | None, Kind] = {
    Operation.WORKFLOW.value: Kind.WORKFLOW,
    Operation.CHAT.value: Kind.MODEL,
    Operation.TOOL.value: Kind.TOOL,
    Operation.RETRIEVAL.value: Kind.RETRIEVAL,
}


def make_span(
    *,
    trace_id: str,
    span_id: str,
    parent_span_id: str | None,
    name: str,
    start_ns: int,
    end_ns: int,
    placed: Sequence[Placed],
    failed: bool,
    description: str | None,
    trace_only: TraceOnly | None = None,
) -> SpanRecord:
    """Build the record of a span; `failed` and `description` are its status. Raises `BadSignal`."""
    fields, rest = split(placed)
    if description:
        rest[semconv.ERROR_MESSAGE] = clean_text(description)[0]
    kind = _kind(fields, rest)
    return SpanRecord(
        identity=_identity(fields),
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent_span_id,
        kind=kind,
        name=clean_text(name)[0],
        status=_status(kind, fields, rest, failed=failed),
        start_ns=start_ns,
        end_ns=max(start_ns, end_ns),
        fields=fields,
        attributes=rest,
        trace_only=trace_only,
    )


def make_event(
    *, name: str, at_ns: int, trace_id: str | None, span_id: str | None, placed: Sequence[Placed]
) -> EventRecord:
    """Build the record of an event. Raises `BadSignal`."""
    fields, rest = split(placed)
    rest = fields | rest
    seq = integer_of(rest, semconv.EVENT_SEQ)
    event_id = text_of(rest, semconv.EVENT_ID)
    if seq is None or event_id is None:
        raise BadSignal(f"{semconv.EVENT_ID} or {semconv.EVENT_SEQ} is missing")
    return EventRecord(
        identity=_identity(rest),
        id=event_id,
        name=clean_text(name)[0],
        seq=seq,
        at_ns=at_ns,
        trace_id=trace_id,
        span_id=span_id,
        attributes=rest,
    )


def _identity(fields: Attributes) -> Identity:
    try:
        return _make_identity(
            fields[semconv.EXECUTION_ID],
            fields[semconv.EXECUTION_ATTEMPT],
            fields[semconv.OWNER_ID],
            fields[semconv.WORKFLOW_NAME],
            fields[semconv.WORKFLOW_SOURCE],
            fields.get(semconv.TEMPLATE_ID),
            fields.get(semconv.TEMPLATE_VERSION),
            fields.get(semconv.RECORD_LEVEL, "full"),
        )
    except KeyError as missing:
        raise BadSignal(f"{missing.args[0]} is missing") from missing


# All signals of one attempt share an identity.
_make_identity = cast(Callable[..., Identity], lru_cache(maxsize=256)(Identity))


def _kind(fields: Attributes, attributes: Attributes) -> Kind:
    operation = attributes.get(semconv.OPERATION)
    if operation is None and semconv.NODE_ID in fields:
        return Kind.NODE
    if isinstance(operation, str) and operation in _KINDS:
        return _KINDS[operation]
    raise BadSignal(f"{semconv.OPERATION} names no known kind of span")


def _status(kind: Kind, fields: Attributes, attributes: Attributes, *, failed: bool) -> str:
    """The span's status attribute; a call has none, so its status follows from its error and its waste."""
    own = text_of(fields, semconv.NODE_STATUS) if kind is Kind.NODE else text_of(attributes, semconv.EXECUTION_STATUS)
    if own is not None:
        return own
    if failed:
        return "failed"
    cancelled = text_of(fields, semconv.CALL_WASTE) == semconv.Waste.CANCELLED
    return "cancelled" if cancelled else "completed"
