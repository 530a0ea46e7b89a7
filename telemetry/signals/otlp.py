"""Encodes signals as OTLP protobuf for the outbox and the Collector, and decodes what the receiver gets.

A decoded record equals the encoded one, so that embedded and Collector mode make the same rows. Links, span events and
content are for the trace store only: they are encoded and not decoded.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar, cast

from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status as RpcStatus  # type: ignore[import-untyped]  # its stubs lack the marker
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue as PbValue
from opentelemetry.proto.common.v1.common_pb2 import ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from opentelemetry.util.types import AnyValue

from engine.graph import JsonObject
from engine.tracing import semconv
from engine.tracing.attributes import with_former_names
from telemetry.signals import peers
from telemetry.signals.builders import make_event, make_span
from telemetry.signals.otlp_shapes import EventShape, SpanShape, event_of, events_of, span_of, spans_of
from telemetry.signals.records import (
    Attributes,
    BadSignal,
    EventRecord,
    Kind,
    Signal,
    SpanEvent,
    SpanRecord,
    TraceOnly,
    Value,
)
from telemetry.signals.sanitize import Placed, place

CONTENT_TYPE = "application/x-protobuf"

_SAMPLED = 1
_ENGINE_KINDS = frozenset({Kind.WORKFLOW, Kind.NODE})
_SHORT = 128

_M = TypeVar("_M", bound=Message)
_Shape = TypeVar("_Shape", SpanShape, EventShape)


class Undecodable(ValueError):
    """The bytes are not an OTLP protobuf message."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The signals of our scopes in a request."""

    signed: list[tuple[Signal, str | None]] = field(default_factory=list)
    """Each signal with the signature that it carries; nobody has checked it yet."""
    unreadable: list[tuple[str | None, JsonObject]] = field(default_factory=list)
    """Malformed signals: the execution, if known, and a description."""

    @property
    def signals(self) -> list[Signal]:
        """The signals alone."""
        return [signal for signal, _ in self.signed]


def signal_id(signal: Signal) -> str:
    """The unique id of a signal: its execution and its span or event id. A repeated signal has the same."""
    own = signal.span_id if isinstance(signal, SpanRecord) else signal.id
    return f"{signal.identity.execution_id}/{own}"


def scope_of(signal: Signal) -> str:
    """The instrumentation scope of the signal."""
    is_call = isinstance(signal, SpanRecord) and signal.kind not in _ENGINE_KINDS
    return semconv.SCOPE_GENAI if is_call else semconv.SCOPE_ENGINE


def encode(signal: Signal, sign: Callable[[Signal], str] | None = None, *, former_names: bool = False) -> bytes:
    """Encode the signal as one OTLP `Span` or `LogRecord`; its signature is an attribute that no record holds.

    With `former_names` a span holds them, too; a decoded record has the new ones only. Raises ValueError if OTLP cannot
    represent the signal.
    """
    if isinstance(signal, SpanRecord):
        encoded = _encode_span(signal, former_names=former_names)
    else:
        encoded = _encode_event(signal)
    if sign is None:
        return encoded
    carrier = Span if isinstance(signal, SpanRecord) else LogRecord
    return encoded + _one(carrier, semconv.SIGNAL_SIGNATURE, sign(signal))


def decode_span(payload: bytes) -> SpanRecord:
    """Decode one `Span`. Raises `Undecodable` or `BadSignal`."""
    with _decoding():
        return _span_record(span_of(payload))


def decode_event(payload: bytes) -> EventRecord:
    """Decode one `LogRecord`. Raises `Undecodable` or `BadSignal`."""
    with _decoding():
        return _event_record(event_of(payload))


def decode_traces(body: bytes) -> Decoded:
    """Decode an export request of spans. Raises `Undecodable`."""
    with _decoding():
        return _decode(spans_of(body), _span_record, "span", lambda span: span.name)


def decode_logs(body: bytes) -> Decoded:
    """Decode an export request of events; log records without an event name are left out. Raises `Undecodable`."""
    with _decoding():
        return _decode(events_of(body), _event_record, "event", lambda record: record.event_name)


def strip_span(payload: bytes) -> bytes | None:
    """An encoded `Span` without content; its signature still holds. Null if it has none, or cannot be read."""
    try:
        span = Span.FromString(payload)
    except DecodeError:
        return None
    kept = [pair for pair in span.attributes if pair.key not in semconv.TRACE_ONLY_KEYS]
    if len(kept) == len(span.attributes):
        return None
    del span.attributes[:]
    span.attributes.extend(kept)
    return span.SerializeToString()


def traces_request(resource: Attributes, spans: Iterable[tuple[str, bytes]]) -> bytes:
    """Build an export request from encoded spans, each with its scope."""
    scopes: dict[str, ScopeSpans] = {}
    for name, payload in spans:
        scope = scopes.get(name)
        if scope is None:
            scope = scopes[name] = ScopeSpans(scope=_scope(name), schema_url=semconv.SCHEMA_URL)
        scope.spans.add().MergeFromString(payload)
    group = ResourceSpans(resource=_resource(resource), scope_spans=scopes.values())
    return ExportTraceServiceRequest(resource_spans=[group]).SerializeToString()


def logs_request(resource: Attributes, events: Iterable[tuple[str, bytes]]) -> bytes:
    """Build an export request from encoded events, each with its scope."""
    scopes: dict[str, ScopeLogs] = {}
    for name, payload in events:
        scope = scopes.get(name)
        if scope is None:
            scope = scopes[name] = ScopeLogs(scope=_scope(name), schema_url=semconv.SCHEMA_URL)
        scope.log_records.add().MergeFromString(payload)
    group = ResourceLogs(resource=_resource(resource), scope_logs=scopes.values())
    return ExportLogsServiceRequest(resource_logs=[group]).SerializeToString()


def _scope(name: str) -> InstrumentationScope:
    return InstrumentationScope(name=name, version=semconv.SCOPE_VERSION)


def rejected_signals(response: bytes, *, are_events: bool) -> int:
    """The number of rejected signals in an export response. Raises `Undecodable`."""
    if are_events:
        return _parse(ExportLogsServiceResponse, response).partial_success.rejected_log_records
    return _parse(ExportTraceServiceResponse, response).partial_success.rejected_spans


def error_status(code: int, message: str) -> bytes:
    """Encode the protobuf `Status` that OTLP requires as the body of an error; `code` is a gRPC status code."""
    body: bytes = RpcStatus(code=code, message=message).SerializeToString()
    return body


def _encode_span(span: SpanRecord, *, former_names: bool) -> bytes:
    attributes = span.fields | span.attributes
    attributes |= peers.added_to(attributes)
    if former_names:
        attributes = with_former_names(attributes)
    head = Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        name=span.name,
        kind=Span.SPAN_KIND_CLIENT if span.kind.is_client else Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        flags=_SAMPLED,
    )
    if span.parent_span_id is not None:
        head.parent_span_id = bytes.fromhex(span.parent_span_id)
    if span.is_error:
        head.status.code = Status.STATUS_CODE_ERROR
        message = attributes.get(semconv.ERROR_MESSAGE)
        if message and isinstance(message, str):
            head.status.message = message
            del attributes[semconv.ERROR_MESSAGE]
    elif span.is_ok:
        head.status.code = Status.STATUS_CODE_OK
    if span.trace_only is not None:
        attributes |= span.trace_only.content
        _add_trace_only(head, span.trace_only)
    if span.is_error and all(event.name != semconv.EXCEPTION_ON_SPAN for event in head.events):
        exception = peers.exception_of(attributes.get(semconv.ERROR_TYPE), head.status.message)
        event = SpanEvent(semconv.EXCEPTION_ON_SPAN, span.end_ns, exception)
        _add_trace_only(head, TraceOnly([], [event], {}))
    return b"".join([head.SerializeToString(), *_attributes(Span, attributes)])


def _add_trace_only(head: Span, part: TraceOnly) -> None:
    for link in part.links:
        head.links.add(
            trace_id=bytes.fromhex(link.trace_id),
            span_id=bytes.fromhex(link.span_id),
            attributes=_key_values(link.attributes),
        )
    for event in part.events:
        head.events.add(name=event.name, time_unix_nano=event.at_ns, attributes=_key_values(event.attributes))


def _encode_event(event: EventRecord) -> bytes:
    head = LogRecord(
        time_unix_nano=event.at_ns,
        observed_time_unix_nano=event.at_ns,
        severity_number=SeverityNumber.SEVERITY_NUMBER_INFO,
        event_name=event.name,
        trace_id=bytes.fromhex(event.trace_id or ""),
        span_id=bytes.fromhex(event.span_id or ""),
        flags=_SAMPLED,
    )
    return b"".join([head.SerializeToString(), *_attributes(LogRecord, event.attributes)])


_Carrier = type[Span] | type[LogRecord]


def _attributes(carrier: _Carrier, attributes: Attributes) -> list[bytes]:
    """Encode each attribute as a message of its own: protobuf messages joined together are one message."""
    return [
        _common(carrier, key, value)
        if (kind := value.__class__) is bool or (kind is str and len(str(value)) <= _SHORT)
        else _one(carrier, key, value)
        for key, value in attributes.items()
    ]


def _one(carrier: _Carrier, key: str, value: Value) -> bytes:
    return carrier(attributes=[KeyValue(key=key, value=_value(value))]).SerializeToString()


# A cache: names and outcomes recur, and ids while their execution runs.
_common = cast(Callable[[_Carrier, str, Value], bytes], lru_cache(maxsize=2_048, typed=True)(_one))


def _resource(attributes: Attributes) -> Resource:
    return Resource(attributes=_key_values(attributes))


def _key_values(attributes: Attributes) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items()]


def _value(value: Value) -> PbValue:
    if isinstance(value, bool):
        return PbValue(bool_value=value)
    if isinstance(value, str):
        return PbValue(string_value=value)
    if isinstance(value, int):
        return PbValue(int_value=value)
    if isinstance(value, float):
        return PbValue(double_value=value)
    return PbValue(array_value=ArrayValue(values=[_value(item) for item in value]))


def partial_success(rejected: int, message: str) -> bytes:
    """The response to an export request of which some signals were rejected; it has the same form for both kinds."""
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = message
    return response.SerializeToString()


def _decode(
    messages: Iterable[_Shape],
    read: Callable[[_Shape], Signal],
    kind: str,
    name_of: Callable[[_Shape], str],
) -> Decoded:
    decoded = Decoded()
    for message in messages:
        try:
            decoded.signed.append((read(message), _signature(message.attributes)))
        except BadSignal as bad:
            decoded.unreadable.append((None, {"type": kind, "name": name_of(message), "problem": str(bad)}))
    return decoded


def _span_record(span: SpanShape) -> SpanRecord:
    return make_span(
        trace_id=_own_id(span.trace_id, 16),
        span_id=_own_id(span.span_id, 8),
        parent_span_id=span.parent_span_id.hex() or None,
        name=span.name,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        placed=_placed(span.attributes),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        description=span.status.message,
    )


def _event_record(record: EventShape) -> EventRecord:
    return make_event(
        name=record.event_name,
        at_ns=record.time_unix_nano,
        trace_id=_hex(record.trace_id, 16),
        span_id=_hex(record.span_id, 8),
        placed=_placed(record.attributes),
    )


def _own_id(id_: bytes, length: int) -> str:
    """An id of a span in hex. Raises `BadSignal` for another length, and where there is none."""
    known = _hex(id_, length)
    if known is None:
        raise BadSignal("the span has no id or no trace id")
    return known


def _hex(id_: bytes, length: int) -> str | None:
    """An id in hex; null if it was left out, or is all zeros. Raises `BadSignal` for another length."""
    if len(id_) not in (0, length):
        raise BadSignal(f"an id has {len(id_)} bytes instead of {length}")
    return id_.hex() if any(id_) else None


def _placed(attributes: Iterable[bytes]) -> list[Placed]:
    known = _PLACED.get
    return [known(data) or _place(data) for data in attributes]


def _signature(attributes: Sequence[bytes]) -> str | None:
    """The signature among the attributes; it was the last one when they were encoded."""
    for data in reversed(attributes):
        if _SIGNATURE in data and (pair := KeyValue.FromString(data)).key == semconv.SIGNAL_SIGNATURE:
            return pair.value.string_value
    return None


_SIGNATURE = semconv.SIGNAL_SIGNATURE.encode()


def _place(data: bytes) -> Placed:
    pair = KeyValue.FromString(data)
    placed = place(pair.key, _read(pair.value))
    if len(data) <= _SHORT and pair.key != semconv.SIGNAL_SIGNATURE:
        if len(_PLACED) >= _MOST_PLACED:
            _PLACED.clear()
        _PLACED[data] = placed
    return placed


_PLACED: dict[bytes, Placed] = {}
"""Cache of short attributes that were decoded: names, ids and outcomes recur."""

_MOST_PLACED = 4_096


def _read(value: PbValue) -> AnyValue:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "int_value":
            return value.int_value
        case "bool_value":
            return value.bool_value
        case "double_value":
            return value.double_value
        case "array_value":
            return [_read(item) for item in value.array_value.values]
        case "kvlist_value":
            return {pair.key: _read(pair.value) for pair in value.kvlist_value.values}
        case "bytes_value":
            return value.bytes_value
        case _:
            return None


def _parse(kind: type[_M], data: bytes) -> _M:
    with _decoding():
        return kind.FromString(data)


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except DecodeError as error:
        raise Undecodable("the bytes are not an OTLP protobuf message") from error
