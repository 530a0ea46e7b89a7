"""Builds the OpenTelemetry providers and exporters, and reads the `OTEL_*` variables that the bare SDK ignores.

The providers are our own, never the global ones. The `OTEL_*` settings for exporting are honoured; the sampler and
`OTEL_SDK_DISABLED` do not affect our spans, because records would vanish with them.
"""

import logging
import os
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TypeVar

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.util.re import parse_env_headers

from engine.content.policy import Capture
from engine.security.redaction import know_secrets, mask_url
from engine.tracing import semconv
from engine.tracing.attributes import content_hash, with_hashed_params
from telemetry.sdk.conversion import for_other_tools, log_record, readable_span
from telemetry.sdk.exporting import CountedExports, CountedSpans, Deliveries, FailingAttempts, LogsIfTaken
from telemetry.sdk.internals import (
    BatchLogRecordProcessor,
    ConsoleLogRecordExporter,
    GrpcLogExporter,
    HttpLogExporter,
    HttpSpanExporter,
    LoggerProvider,
    LogRecordExporter,
    LogRecordProcessor,
    ReadWriteLogRecord,
    RecordingLoggerProvider,
    RecordingTracerProvider,
    watch_requests,
    with_attributes,
)
from telemetry.sdk.naming import left_out_names
from telemetry.signals.records import Attributes, EventRecord, SpanRecord, is_journalled, is_ours
from telemetry.signals.sanitize import sanitize

EXPORT_DELAY_MILLIS = 250
"""Puts a trace into its backend within a second of the execution's end; `OTEL_BSP_SCHEDULE_DELAY` overrides it."""

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURE_SWITCHES = {"TRUE": Capture.SPAN_ONLY, "FALSE": Capture.NO_CONTENT}
_QUERY = "url.query"
_SIGNALS = ("TRACES", "LOGS")

T = TypeVar("T")

log = logging.getLogger(__name__)


class ExportSettingInvalid(ValueError):
    """An OTEL_* variable has a value that is not supported."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The providers of the engine's spans and events, which go to the journal and to exporters."""

    tracer_provider: TracerProvider
    logger_provider: LoggerProvider
    exporting: Sequence[SpanProcessor] = ()
    """The exporters of our spans; none where the shipper sends them."""
    deliveries: Deliveries = field(default_factory=Deliveries)
    """The spans on their way to the exporters' backends."""
    former_names: bool = True
    """Whether spans hold names that the GenAI conventions have changed, too."""
    exports_ours: bool = True
    """Whether the exporters get our signals; else the shipper sends them."""
    capture: Capture = Capture.NO_CONTENT
    """What spans and events that leave this process hold of prompts and answers."""

    def add(self, spans: SpanProcessor, events: LogRecordProcessor) -> None:
        """Pass every ended span and every event to these processors too."""
        self.tracer_provider.add_span_processor(spans)
        self.logger_provider.add_log_record_processor(events)

    def export(self, spans: Iterable[SpanRecord]) -> None:
        """Export spans that no tracer here has ended, such as those of a process that died."""
        for span in spans if self.exporting else ():
            ended = readable_span(span, self.tracer_provider.resource, former_names=self.former_names)
            for processor in self.exporting:
                processor.on_end(ended)

    def export_event(self, event: EventRecord) -> None:
        """Export an event of ours that the journal does not take: a score."""
        if self.exports_ours:
            self.logger_provider.get_logger(semconv.SCOPE_ENGINE).emit(log_record(event))

    @property
    def resource(self) -> Attributes:
        """The resource attributes, as the trace store shows them."""
        return {key: sanitize(value)[0] for key, value in self.tracer_provider.resource.attributes.items()}

    def shutdown(self) -> None:
        """Export the rest and close. Blocks for seconds if a backend hangs: call it in a thread, with a timeout."""
        self.tracer_provider.shutdown()
        self.logger_provider.shutdown()


def build_telemetry(*, exports_ours: bool = True, phoenix_project: str | None = None) -> Telemetry:
    """Build providers with the exporters that `OTEL_*` names; by default nothing is exported.

    `phoenix_project` names the project in which Phoenix shows the traces. Without `exports_ours` the exporters get only
    the signals of other libraries, because the shipper sends ours. Raises `ExportSettingInvalid` for an unsupported
    exporter or protocol, or an unknown capture mode.
    """
    capture = find_capture()
    know_secrets(value for signal in _SIGNALS for value in _headers(signal).values())
    project = {semconv.PHOENIX_PROJECT: phoenix_project} if phoenix_project else {}
    resource = Resource.create(_service() | project)
    left_out = left_out_names()
    tracers = RecordingTracerProvider(resource, left_out)
    tracers.add_span_processor(_HashedQueries())
    loggers = RecordingLoggerProvider(resource, left_out)
    exporting: list[SpanProcessor] = []
    deliveries = Deliveries()
    for span_exporter in _exporters("TRACES", _SPAN_EXPORTERS):
        spans = _exported(span_exporter, deliveries)
        tracers.add_span_processor(spans if exports_ours else _OtherSpans(spans))
        exporting += [spans] if exports_ours else []
    for log_exporter in _exporters("LOGS", _LOG_EXPORTERS):
        if isinstance(log_exporter, HttpLogExporter):
            watch_requests(log_exporter, LogsIfTaken)
        delay = _delay_millis("OTEL_BLRP_SCHEDULE_DELAY")
        events = BatchLogRecordProcessor(log_exporter, schedule_delay_millis=delay)
        loggers.add_log_record_processor(_HashedParams(events) if exports_ours else _OtherEvents(events))
    _warn_of_ignored_variables()
    return Telemetry(tracers, loggers, exporting, deliveries, not left_out, exports_ours, capture)


def _exported(exporter: SpanExporter, deliveries: Deliveries) -> SpanProcessor:
    """A processor that exports spans in batches and counts them."""
    if isinstance(exporter, HttpSpanExporter):
        watch_requests(exporter, partial(FailingAttempts, deliveries=deliveries))
    delay = _delay_millis("OTEL_BSP_SCHEDULE_DELAY")
    batches = BatchSpanProcessor(CountedExports(_Peers(exporter), deliveries), schedule_delay_millis=delay)
    return CountedSpans(batches, deliveries)


def find_capture() -> Capture:
    """What traces shall hold of prompts and answers. Raises `ExportSettingInvalid`."""
    given = os.environ.get(_CAPTURE, "").strip().upper() or Capture.NO_CONTENT
    named = _CAPTURE_SWITCHES.get(given, given)
    if named not in list(Capture):
        values = ", ".join(Capture)
        raise ExportSettingInvalid(f"{_CAPTURE}={given} is not known; use {values}, true (SPAN_ONLY) or false")
    return Capture(named)


class _Peers(SpanExporter):
    """Exports spans with what other tools look for on them. It runs in the exporter's thread."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch."""
        return self._inner.export([for_other_tools(span) for span in spans])

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


class _HashedQueries(SpanProcessor):
    """Hashes the queries of URLs in the spans of other libraries: people put ids, texts and keys into them."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Hash the query as the span starts, before any exporter has it."""
        query = (span.attributes or {}).get(_QUERY)
        if isinstance(query, str):
            span.set_attribute(_QUERY, content_hash(query.encode("utf-8", "replace")))


class _HashedParams(LogRecordProcessor):
    """Passes events on with hashes of the template's parameters; the journal gets them with the parameters."""

    def __init__(self, inner: LogRecordProcessor) -> None:
        self._inner = inner

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        attributes = log_record.log_record.attributes
        if attributes and semconv.PARAMS in attributes:
            log_record = with_attributes(log_record, with_hashed_params(attributes))
        self._inner.on_emit(log_record)

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


class _OtherSpans(SpanProcessor):
    """Passes only the spans of other libraries on."""

    def __init__(self, inner: SpanProcessor) -> None:
        self._inner = inner

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: a span is exported when it ends."""

    def on_end(self, span: ReadableSpan) -> None:
        scope = span.instrumentation_scope
        if scope is None or not is_ours(scope.name):
            self._inner.on_end(span)

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


class _OtherEvents(LogRecordProcessor):
    """Passes on what the journal does not take: log records of other libraries, and events with content."""

    def __init__(self, inner: LogRecordProcessor) -> None:
        self._inner = inner

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        scope = log_record.instrumentation_scope
        if scope is None or not is_ours(scope.name) or not is_journalled(log_record.log_record.event_name):
            self._inner.on_emit(log_record)

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


@dataclass(frozen=True, slots=True)
class Destination:
    """The URL that one kind of signal is posted to, with headers, timeout and compression."""

    url: str
    headers: Mapping[str, str]
    timeout_seconds: float
    compress: bool


@dataclass(frozen=True, slots=True)
class Collector:
    """The Collector that the shipper posts to."""

    traces: Destination
    logs: Destination
    tls: ssl.SSLContext


def find_collector() -> Collector:
    """The Collector that `OTEL_EXPORTER_OTLP_*` names, `http://localhost:4318` by default.

    Raises `ExportSettingInvalid` for gRPC, because signals are shipped over OTLP/HTTP.
    """
    return Collector(_destination("TRACES", "v1/traces"), _destination("LOGS", "v1/logs"), _tls())


def _destination(signal: str, path: str) -> Destination:
    if _protocol(signal) != "http/protobuf":
        raise ExportSettingInvalid(
            "SPANLOOM_PIPELINE=collector ships over OTLP/HTTP; set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf "
            "and OTEL_EXPORTER_OTLP_ENDPOINT to the Collector's HTTP port, such as http://localhost:4318"
        )
    base = os.environ.get(_ENDPOINT) or "http://localhost:4318"
    url = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or f"{base.rstrip('/')}/{path}"
    if not url.startswith(("http://", "https://")):
        raise ExportSettingInvalid(
            f"The Collector's URL {mask_url(url)} must begin with http:// or https://, as in http://localhost:4318"
        )
    return Destination(
        url=url,
        headers=_headers(signal),
        timeout_seconds=_timeout_seconds(signal),
        compress=_of_signal(signal, "COMPRESSION") == "gzip",
    )


def _headers(signal: str) -> Mapping[str, str]:
    return parse_env_headers(_of_signal(signal, "HEADERS"), liberal=True)


def _timeout_seconds(signal: str) -> float:
    text = _of_signal(signal, "TIMEOUT") or "10"
    try:
        return float(text)
    except ValueError:
        raise ExportSettingInvalid(f"OTEL_EXPORTER_OTLP_TIMEOUT={text} is not a number of seconds") from None


def _of_signal(signal: str, name: str) -> str:
    """The variable of one signal, else the variable for all signals."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{name}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") or ""


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=os.environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE") or None)
    certificate = os.environ.get("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")
    if certificate:
        context.load_cert_chain(certificate, os.environ.get("OTEL_EXPORTER_OTLP_CLIENT_KEY") or None)
    return context


def _service() -> dict[str, str]:
    """Our service name and version; a name in the environment wins."""
    own = {SERVICE_NAME: "spanloom", SERVICE_VERSION: version("spanloom")}
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if "OTEL_SERVICE_NAME" in os.environ or f"{SERVICE_NAME}=" in given:
        del own[SERVICE_NAME]
    return own


_SPAN_EXPORTERS: dict[str, Callable[[], SpanExporter]] = {
    "http/protobuf": HttpSpanExporter,
    "grpc": GrpcSpanExporter,
    "console": ConsoleSpanExporter,
}
_LOG_EXPORTERS: dict[str, Callable[[], LogRecordExporter]] = {
    "http/protobuf": HttpLogExporter,
    "grpc": GrpcLogExporter,
    "console": ConsoleLogRecordExporter,
}


def _exporters(signal: str, known: dict[str, Callable[[], T]]) -> list[T]:
    """The exporters of one signal; without `OTEL_<signal>_EXPORTER`, OTLP if an endpoint is set."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    variable = f"OTEL_{signal}_EXPORTER"
    names = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
    if not names:
        has_endpoint = any(os.environ.get(name) for name in (_ENDPOINT, f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))
        names = ["otlp"] if has_endpoint else []
    exporters = []
    for name in names:
        if name == "none":
            continue
        if name not in ("otlp", "console"):
            raise ExportSettingInvalid(f"{variable}={name} is not supported; use otlp, console or none")
        exporters.append(known[_protocol(signal) if name == "otlp" else name]())
    return exporters


def _protocol(signal: str) -> str:
    variable = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    if not os.environ.get(variable):
        variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
    protocol = os.environ.get(variable) or "http/protobuf"
    if protocol not in ("http/protobuf", "grpc"):
        raise ExportSettingInvalid(f"{variable}={protocol} is not supported; use http/protobuf or grpc")
    return protocol


def _delay_millis(variable: str) -> float | None:
    """Our delay; null if the variable is set, since the SDK then reads it."""
    return None if variable in os.environ else EXPORT_DELAY_MILLIS


def _warn_of_ignored_variables() -> None:
    if os.environ.get("OTEL_METRICS_EXPORTER", "none") not in ("none", "prometheus"):
        log.warning("OTEL_METRICS_EXPORTER is ignored: Prometheus reads metrics from /metrics")
    if os.environ.get("OTEL_CONFIG_FILE"):
        log.warning("OTEL_CONFIG_FILE is ignored: use the OTEL_EXPORTER_* variables")
