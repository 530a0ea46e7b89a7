"""OTLP messages reduced to the fields that records are made of; each attribute stays encoded bytes.

The same attributes come with span after span, and looking up bytes takes a tenth of the time of parsing a message. The
shapes are derived from OTLP's own messages with fewer fields, so both read the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from telemetry.signals.records import is_ours


class SpanShape(Protocol):
    """A `Span`; each attribute is the bytes of a `KeyValue`."""

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    name: str
    start_time_unix_nano: int
    end_time_unix_nano: int
    attributes: Sequence[bytes]
    status: Status


class EventShape(Protocol):
    """A `LogRecord`; each attribute is the bytes of a `KeyValue`."""

    event_name: str
    time_unix_nano: int
    trace_id: bytes
    span_id: bytes
    attributes: Sequence[bytes]


def span_of(payload: bytes) -> SpanShape:
    """Decode one `Span`. Raises `DecodeError`."""
    return cast(SpanShape, _CLASSES[Span].FromString(payload))


def event_of(payload: bytes) -> EventShape:
    """Decode one `LogRecord`. Raises `DecodeError`."""
    return cast(EventShape, _CLASSES[LogRecord].FromString(payload))


def spans_of(body: bytes) -> Iterator[SpanShape]:
    """The spans of our scopes in an export request. Raises `DecodeError`."""
    request: Any = _CLASSES[ExportTraceServiceRequest].FromString(body)
    return (
        span
        for resource in request.resource_spans
        for scope in resource.scope_spans
        if is_ours(scope.scope.name)
        for span in scope.spans
    )


def events_of(body: bytes) -> Iterator[EventShape]:
    """The events of our scopes in an export request: log records that have an event name. Raises `DecodeError`."""
    request: Any = _CLASSES[ExportLogsServiceRequest].FromString(body)
    return (
        record
        for resource in request.resource_logs
        for scope in resource.scope_logs
        if is_ours(scope.scope.name)
        for record in scope.log_records
        if record.event_name
    )


_UNCHANGED = "unchanged"
_AS_BYTES = "as bytes"
_SPAN = ("trace_id", "span_id", "parent_span_id", "name", "start_time_unix_nano", "end_time_unix_nano", "status")
_EVENT = ("event_name", "time_unix_nano", "trace_id", "span_id")
_FIELDS: dict[type[Message], Mapping[str, type[Message] | str]] = {
    ExportTraceServiceRequest: {"resource_spans": ResourceSpans},
    ResourceSpans: {"scope_spans": ScopeSpans},
    ScopeSpans: {"scope": _UNCHANGED, "spans": Span},
    Span: {**dict.fromkeys(_SPAN, _UNCHANGED), "attributes": _AS_BYTES},
    ExportLogsServiceRequest: {"resource_logs": ResourceLogs},
    ResourceLogs: {"scope_logs": ScopeLogs},
    ScopeLogs: {"scope": _UNCHANGED, "log_records": LogRecord},
    LogRecord: {**dict.fromkeys(_EVENT, _UNCHANGED), "attributes": _AS_BYTES},
}
"""The fields read from each message: as a shape of its own, unchanged, or as bytes."""

_PACKAGE = "spanloom.otlp"


def _shape(original: type[Message]) -> DescriptorProto:
    shape = DescriptorProto()
    original.DESCRIPTOR.CopyToProto(shape)
    fields = [field for field in shape.field if field.name in _FIELDS[original]]
    for field in fields:
        _reshape(field, _FIELDS[original][field.name])
    return DescriptorProto(name=original.DESCRIPTOR.name, field=fields)


def _reshape(field: FieldDescriptorProto, how: type[Message] | str) -> None:
    if how == _AS_BYTES:
        field.type = FieldDescriptorProto.TYPE_BYTES
        field.ClearField("type_name")
    elif not isinstance(how, str):
        field.type_name = f".{_PACKAGE}.{how.DESCRIPTOR.name}"


def _make_classes() -> dict[type[Message], type[Message]]:
    file = FileDescriptorProto(
        name="spanloom/otlp.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[module.DESCRIPTOR.name for module in (common_pb2, trace_pb2)],
        message_type=map(_shape, _FIELDS),
    )

    pool = descriptor_pool.Default()
    pool.Add(file)
    return {
        original: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{original.DESCRIPTOR.name}"))
        for original in _FIELDS
    }


_CLASSES = _make_classes()
