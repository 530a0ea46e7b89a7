"""The only place that builds OpenTelemetry SDK objects, and reads the `OTEL_*` variables that the bare SDK ignores.

Our providers are our own, never the global ones. What `OTEL_*` says about exporting is done; the sampler and
`OTEL_SDK_DISABLED` do not reach our spans, or records would vanish with them.
"""

import logging
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeVar

from opentelemetry._logs import Logger as ApiLogger
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.sdk._logs import Logger, LoggerProvider, LogRecordLimits, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    ConsoleLogRecordExporter,
    LogRecordExporter,
)
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Tracer as ApiTracer
from opentelemetry.util.re import parse_env_headers
from opentelemetry.util.types import Attributes as ApiAttributes

from telemetry.sdk.internals import RecordingLogger, RecordingTracer
from telemetry.signals.records import Attributes, is_ours
from telemetry.signals.sanitize import MAX_ATTRIBUTES, sanitize

EXPORT_DELAY_MILLIS = 250
"""A trace is to be in its backend one second after the execution ended; `OTEL_BSP_SCHEDULE_DELAY` overrides."""

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

T = TypeVar("T")

log = logging.getLogger(__name__)


# Each is named, so that no variable cuts an id or pushes it out.
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


class ExportSettingInvalid(ValueError):
    """An OTEL_* variable has a value that is not supported."""


class _Tracers(TracerProvider):
    """A provider that `OTEL_SDK_DISABLED` does not switch off: the books are made from its spans."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(sampler=ALWAYS_ON, resource=resource, span_limits=_SPAN_LIMITS, shutdown_on_exit=False)
        self._disabled = False

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: ApiAttributes = None,
    ) -> ApiTracer:
        """The SDK's tracer; for our own scopes one that costs less."""
        name = instrumenting_module_name
        tracer = super().get_tracer(name, instrumenting_library_version, schema_url, attributes)
        return RecordingTracer(tracer, self._span_limits) if is_ours(name) and isinstance(tracer, Tracer) else tracer


class _Loggers(LoggerProvider):
    """The same for events."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource=resource, log_record_limits=_LOG_LIMITS, shutdown_on_exit=False)
        self._disabled = False

    def get_logger(
        self, name: str, version: str | None = None, schema_url: str | None = None, attributes: ApiAttributes = None
    ) -> ApiLogger:
        """The SDK's logger; for our own scopes one that costs less."""
        logger = super().get_logger(name, version, schema_url, attributes)
        return RecordingLogger(logger) if is_ours(name) and isinstance(logger, Logger) else logger


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Our providers. Spans and events of the engine come from them and go to the journal and to exporters."""

    tracer_provider: TracerProvider
    logger_provider: LoggerProvider

    def add(self, spans: SpanProcessor, events: LogRecordProcessor) -> None:
        """Show every ended span and every event to these, too."""
        self.tracer_provider.add_span_processor(spans)
        self.logger_provider.add_log_record_processor(events)

    @property
    def resource(self) -> Attributes:
        """Who says it, as the trace store shows it."""
        return {key: sanitize(value)[0] for key, value in self.tracer_provider.resource.attributes.items()}

    def shutdown(self) -> None:
        """Export what is left and close. Blocks for seconds if a backend hangs: call it in a thread, with a cap."""
        self.tracer_provider.shutdown()
        self.logger_provider.shutdown()


def build_telemetry(*, exports_ours: bool = True) -> Telemetry:
    """Providers with exporters as `OTEL_*` says; by default nothing is exported.

    `exports_ours`: else the exporters get other libraries' signals alone, as ours leave by the shipper. Raises
    `ExportSettingInvalid` for a value that names no exporter or protocol of ours.
    """
    resource = Resource.create(_service())
    tracers = _Tracers(resource)
    loggers = _Loggers(resource)
    for span_exporter in _exporters("TRACES", _SPAN_EXPORTERS):
        delay = _delay_millis("OTEL_BSP_SCHEDULE_DELAY")
        spans = BatchSpanProcessor(span_exporter, schedule_delay_millis=delay)
        tracers.add_span_processor(spans if exports_ours else _OtherSpans(spans))
    for log_exporter in _exporters("LOGS", _LOG_EXPORTERS):
        delay = _delay_millis("OTEL_BLRP_SCHEDULE_DELAY")
        events = BatchLogRecordProcessor(log_exporter, schedule_delay_millis=delay)
        loggers.add_log_record_processor(events if exports_ours else _OtherEvents(events))
    _say_what_has_no_effect()
    return Telemetry(tracers, loggers)


class _OtherSpans(SpanProcessor):
    """Passes on the spans of other libraries."""

    def __init__(self, inner: SpanProcessor) -> None:
        self._inner = inner

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is exported before a span ends."""

    def on_end(self, span: ReadableSpan) -> None:
        scope = span.instrumentation_scope
        if scope is None or not is_ours(scope.name):
            self._inner.on_end(span)

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


class _OtherEvents(LogRecordProcessor):
    """Passes on the log records of other libraries."""

    def __init__(self, inner: LogRecordProcessor) -> None:
        self._inner = inner

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        scope = log_record.instrumentation_scope
        if scope is None or not is_ours(scope.name):
            self._inner.on_emit(log_record)

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one kind of signal is posted to, and how."""

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
    """The Collector as `OTEL_EXPORTER_OTLP_*` names it, `http://localhost:4318` by default.

    Raises `ExportSettingInvalid` for gRPC: signals are shipped over OTLP/HTTP.
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
        raise ExportSettingInvalid(f"{url} is no address of a Collector; it begins with http:// or https://")
    return Destination(
        url=url,
        headers=parse_env_headers(_of_signal(signal, "HEADERS"), liberal=True),
        timeout_seconds=_timeout_seconds(signal),
        compress=_of_signal(signal, "COMPRESSION") == "gzip",
    )


def _timeout_seconds(signal: str) -> float:
    text = _of_signal(signal, "TIMEOUT") or "10"
    try:
        return float(text)
    except ValueError:
        raise ExportSettingInvalid(f"OTEL_EXPORTER_OTLP_TIMEOUT={text} is no number of seconds") from None


def _of_signal(signal: str, name: str) -> str:
    """The variable of one signal, or else the one of all."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{name}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") or ""


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=os.environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE") or None)
    certificate = os.environ.get("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")
    if certificate:
        context.load_cert_chain(certificate, os.environ.get("OTEL_EXPORTER_OTLP_CLIENT_KEY") or None)
    return context


def _service() -> dict[str, str]:
    """Who we are, where the environment does not say it."""
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
    """The exporters of one signal; without `OTEL_<signal>_EXPORTER`, OTLP if an endpoint is named."""
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
    """Null where the variable is set: then the SDK reads it."""
    return None if variable in os.environ else EXPORT_DELAY_MILLIS


def _say_what_has_no_effect() -> None:
    if os.environ.get("OTEL_METRICS_EXPORTER", "none") not in ("none", "prometheus"):
        log.warning("OTEL_METRICS_EXPORTER has no effect: metrics are read from /metrics")
    if os.environ.get("OTEL_CONFIG_FILE"):
        log.warning("OTEL_CONFIG_FILE has no effect: use the OTEL_EXPORTER_* variables")
