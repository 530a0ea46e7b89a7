"""The only place that builds OpenTelemetry SDK objects, and reads the `OTEL_*` variables that the bare SDK ignores.

Our providers are our own, never the global ones. What `OTEL_*` says about exporting is done; the sampler and
`OTEL_SDK_DISABLED` do not reach our spans, or records would vanish with them.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeVar

from opentelemetry._logs import Logger as ApiLogger
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.sdk._logs import Logger, LoggerProvider, LogRecordLimits, LogRecordProcessor
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    ConsoleLogRecordExporter,
    LogRecordExporter,
)
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Tracer as ApiTracer
from opentelemetry.util.types import Attributes

from telemetry.recording import RecordingLogger, RecordingTracer
from telemetry.signals import is_ours

MAX_ATTRIBUTES = 256
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
        attributes: Attributes = None,
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
        self, name: str, version: str | None = None, schema_url: str | None = None, attributes: Attributes = None
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

    def shutdown(self) -> None:
        """Export what is left and close. Blocks for seconds if a backend hangs: call it in a thread, with a cap."""
        self.tracer_provider.shutdown()
        self.logger_provider.shutdown()


def build_telemetry() -> Telemetry:
    """Providers with exporters as `OTEL_*` says; by default nothing is exported.

    Raises `ExportSettingInvalid` for a value that names no exporter or protocol of ours.
    """
    resource = Resource.create(_service())
    tracers = _Tracers(resource)
    loggers = _Loggers(resource)
    for span_exporter in _exporters("TRACES", _SPAN_EXPORTERS):
        delay = _delay_millis("OTEL_BSP_SCHEDULE_DELAY")
        tracers.add_span_processor(BatchSpanProcessor(span_exporter, schedule_delay_millis=delay))
    for log_exporter in _exporters("LOGS", _LOG_EXPORTERS):
        delay = _delay_millis("OTEL_BLRP_SCHEDULE_DELAY")
        loggers.add_log_record_processor(BatchLogRecordProcessor(log_exporter, schedule_delay_millis=delay))
    _say_what_has_no_effect()
    return Telemetry(tracers, loggers)


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
