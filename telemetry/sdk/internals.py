"""The only module that uses what the OpenTelemetry SDK does not promise: its `_logs` modules and private attributes.

The SDK asks a sampler, cleans each value and copies the span when it ends: 13 µs a span, a third of an execution. The
spans and events here take their attributes as they are, because all are recorded and ours are well formed. Rare
features (events, exceptions, `start_as_current_span`) are left to the SDK. An upgrade of the SDK that moves a
private name fails in `tests/telemetry/sdk/test_internals.py` first.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from typing import Any

from opentelemetry._logs import Logger as ApiLogger
from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.sdk._logs import (
    Logger,
    LoggerProvider,
    LogRecordLimits,
    LogRecordProcessor,
    ReadableLogRecord,
    ReadWriteLogRecord,
)
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, ConsoleLogRecordExporter, LogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, Tracer, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, get_current_span
from opentelemetry.trace import Span as ApiSpan
from opentelemetry.trace import Tracer as ApiTracer
from opentelemetry.util.types import AnyValue, Attributes

from engine.tracing.remote_spans import fixed_ids
from telemetry.sdk.exporting import Wrap
from telemetry.signals.records import is_ours
from telemetry.signals.sanitize import MAX_ATTRIBUTES

__all__ = [
    "BatchLogRecordProcessor",
    "ConsoleLogRecordExporter",
    "GrpcLogExporter",
    "HttpLogExporter",
    "HttpSpanExporter",
    "LogRecordExporter",
    "LogRecordProcessor",
    "LoggerProvider",
    "ReadWriteLogRecord",
    "ReadableLogRecord",
    "RecordedEvent",
    "RecordedSpan",
    "RecordingLogger",
    "RecordingLoggerProvider",
    "RecordingTracer",
    "RecordingTracerProvider",
    "watch_requests",
    "with_attributes",
]

log = logging.getLogger(__name__)

# Every limit is named, so that no `OTEL_*` variable cuts an id or pushes it out.
_SPAN_LIMITS = SpanLimits(
    max_attributes=MAX_ATTRIBUTES,
    max_span_attributes=MAX_ATTRIBUTES,
    max_attribute_length=SpanLimits.UNSET,
    max_span_attribute_length=SpanLimits.UNSET,
)
_LOG_LIMITS = LogRecordLimits(
    max_attributes=MAX_ATTRIBUTES,
    max_log_record_attributes=MAX_ATTRIBUTES,
    max_attribute_length=LogRecordLimits.UNSET,
    max_log_record_attribute_length=LogRecordLimits.UNSET,
)

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SAMPLED_RANDOM = TraceFlags(TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID)


class RecordedSpan(Span):
    """An SDK span whose attributes are a plain dict, stored as given; processors get the span itself, not a copy."""

    def __init__(
        self,
        tracer: Tracer,
        limits: SpanLimits,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Attributes,
        links: Sequence[Link] = (),
        left_out: frozenset[str] = frozenset(),
    ) -> None:
        ReadableSpan.__init__(
            self,
            name,
            context,
            parent,
            tracer.resource,
            kind=kind,
            events=[],
            links=[link for link in links if link.context.is_valid],
            instrumentation_scope=tracer._instrumentation_scope,
        )
        self._attributes: dict[str, AnyValue] = dict(attributes or {})
        self._span_processor = tracer.span_processor
        self._limits = limits
        self._left_out = left_out
        self._lock = threading.Lock()

    def set_attributes(self, attributes: Mapping[str, AnyValue]) -> None:
        """Add attributes to a span that has not ended; later ones are lost, with a warning."""
        with self._lock:
            if self._end_time is None:
                self._attributes.update(attributes)
                return
        log.warning("attributes were set on a span that has ended; they are lost")

    def set_attribute(self, key: str, value: AnyValue) -> None:
        """Add one attribute."""
        self.set_attributes({key: value})

    def end(self, end_time: int | None = None) -> None:
        """Set the end time and pass the span to the processors, once."""
        with self._lock:
            if self._end_time is not None:
                log.warning("a span was ended twice")
                return
            self._end_time = time.time_ns() if end_time is None else end_time
            for key in self._left_out:
                self._attributes.pop(key, None)
        self._span_processor._on_ending(self)
        self._span_processor.on_end(self)


class RecordingTracer(ApiTracer):
    """Starts `RecordedSpan`s with the scope and the processors of an SDK tracer; all are sampled."""

    def __init__(self, tracer: Tracer, limits: SpanLimits, left_out: frozenset[str]) -> None:
        self._tracer = tracer
        self._limits = limits
        self._left_out = left_out

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> ApiSpan:
        """Start a span below the span of `context`, or the root span whose ids the context fixes."""
        tracer = self._tracer
        parent = get_current_span(context).get_span_context()
        own, above = self._context(context, parent), parent if parent.is_valid else None
        span = RecordedSpan(tracer, self._limits, name, own, above, kind, attributes, links or (), self._left_out)
        span._start_time = time.time_ns() if start_time is None else start_time
        tracer.span_processor.on_start(span, context)
        return span

    def start_as_current_span(self, *arguments: Any, **keywords: Any) -> AbstractContextManager[ApiSpan]:  # type: ignore[override]  # passed on unchanged
        """Start a span of the SDK's own and make it current."""
        return self._tracer.start_as_current_span(*arguments, **keywords)

    def _context(self, context: Context | None, parent: SpanContext) -> SpanContext:
        """The ids that the context fixes, else a new span id in the parent's trace or in a new one."""
        ids, fixed = self._tracer.id_generator, fixed_ids(context)
        if fixed is not None:
            return SpanContext(fixed.trace_id, fixed.span_id, False, _SAMPLED)
        if not parent.is_valid:
            return SpanContext(ids.generate_trace_id(), ids.generate_span_id(), False, _SAMPLED_RANDOM)
        flags = _SAMPLED_RANDOM if parent.trace_flags & TraceFlags.RANDOM_TRACE_ID else _SAMPLED
        return SpanContext(parent.trace_id, ids.generate_span_id(), False, flags, parent.trace_state)


def watch_requests(exporter: HttpSpanExporter | HttpLogExporter, wrap: Wrap) -> None:
    """Let another transport send the exporter's requests, which wraps its own."""
    client = exporter._client
    client._transport = wrap(client._transport)  # type: ignore[assignment,arg-type]  # it has the methods that are used


class RecordedEvent(ReadWriteLogRecord):
    """An SDK log record whose attributes are a plain dict, stored as given."""

    def __post_init__(self) -> None:
        """Skip the SDK's step that cleans and copies the attributes."""


def with_attributes(event: ReadWriteLogRecord, attributes: Mapping[str, AnyValue]) -> ReadWriteLogRecord:
    """A copy of a log record with other attributes."""
    record = copy(event.log_record)
    record.attributes = attributes
    return RecordedEvent(record, event.resource, event.instrumentation_scope, event.limits)


class RecordingLogger(ApiLogger):
    """Passes events of our scopes to the processors of an SDK logger."""

    def __init__(self, logger: Logger, left_out: frozenset[str]) -> None:
        scope = logger.instrumentation_scope
        super().__init__(scope.name, scope.version, scope.schema_url, scope.attributes)
        self._logger = logger
        self._left_out = left_out

    def enabled(self, **fields: Any) -> bool:
        """Whether the SDK logger is enabled."""
        return self._logger.enabled(**fields)

    def emit(self, record: LogRecord | None = None, **fields: Any) -> None:
        """Pass the event to the processors."""
        logger = self._logger
        if record is None:
            logger.emit(**fields)
            return
        if record.event_name in self._left_out:
            return
        event = RecordedEvent(record, logger.resource, logger.instrumentation_scope, logger._log_record_limits)
        logger._multi_log_record_processor.on_emit(event)


class RecordingTracerProvider(TracerProvider):
    """A tracer provider that `OTEL_SDK_DISABLED` does not switch off, because the records are made from its spans."""

    def __init__(self, resource: Resource, left_out: frozenset[str] = frozenset()) -> None:
        """`left_out`: attributes that spans of our scopes do not end with."""
        super().__init__(sampler=ALWAYS_ON, resource=resource, span_limits=_SPAN_LIMITS, shutdown_on_exit=False)
        self._disabled = False
        self._left_out = left_out

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> ApiTracer:
        """The SDK's tracer; for our own scopes a `RecordingTracer`."""
        name = instrumenting_module_name
        tracer = super().get_tracer(name, instrumenting_library_version, schema_url, attributes)
        if is_ours(name) and isinstance(tracer, Tracer):
            return RecordingTracer(tracer, self._span_limits, self._left_out)
        return tracer


class RecordingLoggerProvider(LoggerProvider):
    """A logger provider that `OTEL_SDK_DISABLED` does not switch off."""

    def __init__(self, resource: Resource, left_out: frozenset[str] = frozenset()) -> None:
        """`left_out`: names of events of our scopes that go nowhere."""
        super().__init__(resource=resource, log_record_limits=_LOG_LIMITS, shutdown_on_exit=False)
        self._disabled = False
        self._left_out = left_out

    def get_logger(
        self, name: str, version: str | None = None, schema_url: str | None = None, attributes: Attributes = None
    ) -> ApiLogger:
        """The SDK's logger; for our own scopes a `RecordingLogger`."""
        logger = super().get_logger(name, version, schema_url, attributes)
        if is_ours(name) and isinstance(logger, Logger):
            return RecordingLogger(logger, self._left_out)
        return logger
