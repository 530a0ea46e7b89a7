"""Our providers follow the `OTEL_*` settings for exporting, and ignore those that would make records vanish."""

import gzip
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine.content.policy import Capture
from engine.tracing import semconv
from telemetry.sdk import providers
from telemetry.sdk.providers import ExportSettingInvalid, Telemetry, build_telemetry
from telemetry.signals.sanitize import MAX_ATTRIBUTES
from tests.telemetry.bookkeeper import Listener, begin


@dataclass(slots=True)
class Received:
    """What a backend got: paths, bodies and headers, in order."""

    url: str
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def span_names(self) -> list[str]:
        """Names of all spans received."""
        requests = [ExportTraceServiceRequest.FromString(b) for p, b in self._posted() if p.endswith("traces")]
        return [s.name for r in requests for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]

    def event_names(self) -> list[str]:
        """Names of all events received."""
        requests = [ExportLogsServiceRequest.FromString(b) for p, b in self._posted() if p.endswith("logs")]
        return [
            e.event_name for r in requests for rl in r.resource_logs for sl in rl.scope_logs for e in sl.log_records
        ]

    def _posted(self) -> Iterator[tuple[str, bytes]]:
        return zip(self.paths, self.bodies, strict=True)


@pytest.fixture
def backend() -> Iterator[Received]:
    """An OTLP/HTTP receiver on loopback that takes everything."""
    received = Received("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            received.headers.append({name.lower(): value for name, value in self.headers.items()})
            received.paths.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, name="otlp-backend")
    thread.start()
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


def tell(telemetry: Telemetry) -> None:
    """One execution, exported at the end."""
    story = begin(telemetry)
    story.answer()
    story.tracker.complete()
    telemetry.shutdown()


SPANS = ["chat small", "execute_node n1", "invoke_workflow answer"]
EVENTS = ["workflow.execution.started", "workflow.execution.completed"]


def test_by_default_nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(providers, "BatchSpanProcessor", lambda *args, **how: made.append("spans"))
    build_telemetry().shutdown()
    assert made == []


def test_an_endpoint_gets_spans_and_events(backend: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url)
    tell(build_telemetry())
    assert backend.span_names() == SPANS
    assert backend.event_names() == EVENTS


def test_a_trace_leaves_within_a_second(backend: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url)
    delays: list[float | None] = []

    def noted(exporter: SpanExporter, schedule_delay_millis: float | None) -> BatchSpanProcessor:
        delays.append(schedule_delay_millis)
        return BatchSpanProcessor(exporter, schedule_delay_millis=schedule_delay_millis)

    monkeypatch.setattr(providers, "BatchSpanProcessor", noted)
    build_telemetry().shutdown()
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "9000")
    build_telemetry().shutdown()
    assert delays[0] is not None
    assert delays[0] <= 500
    assert delays[1] is None, "then the SDK reads the variable"


@pytest.mark.parametrize(
    ("variable", "path", "names"),
    [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/v1/traces", SPANS),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "/v1/logs", EVENTS),
    ],
)
def test_an_endpoint_of_one_signal_gets_that_signal(
    backend: Received, monkeypatch: pytest.MonkeyPatch, variable: str, path: str, names: list[str]
) -> None:
    monkeypatch.setenv(variable, backend.url + path)
    tell(build_telemetry())
    assert set(backend.paths) == {path}
    assert [*backend.span_names(), *backend.event_names()] == names


def test_otel_traces_exporter_none_sends_no_spans(backend: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    tell(build_telemetry())
    assert backend.span_names() == []
    assert backend.event_names() == EVENTS


def test_otel_logs_exporter_none_sends_no_events(backend: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url)
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    tell(build_telemetry())
    assert backend.span_names() == SPANS
    assert backend.event_names() == []


def test_otel_traces_exporter_may_name_several(backend: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = InMemorySpanExporter()
    monkeypatch.setitem(providers._SPAN_EXPORTERS, "console", lambda: printed)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp, console")
    tell(build_telemetry())
    assert [span.name for span in printed.get_finished_spans()] == SPANS == backend.span_names()


def test_otel_exporter_otlp_headers_are_sent(backend: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=a")
    tell(build_telemetry())
    assert {headers["x-team"] for headers in backend.headers} == {"a"}


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_the_protocol_chooses_the_exporter(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    made: list[str] = []

    def stop(protocol: str) -> Callable[[], object]:
        def make() -> object:
            made.append(protocol)
            raise ExportSettingInvalid

        return make

    exporters = {name: stop(name) for name in ("http/protobuf", "grpc")}
    monkeypatch.setattr(providers, "_SPAN_EXPORTERS", exporters)
    for protocol in (None, "grpc", "http/protobuf"):
        if protocol is not None:
            monkeypatch.setenv(variable, protocol)
        with pytest.raises(ExportSettingInvalid):
            build_telemetry()
    assert made == ["http/protobuf", "grpc", "http/protobuf"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_LOGS_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
    ],
)
def test_an_unsupported_value_is_reported(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ExportSettingInvalid, match=f"{variable}={value}"):
        build_telemetry()


@pytest.mark.parametrize(("variable", "value"), [("OTEL_METRICS_EXPORTER", "otlp"), ("OTEL_CONFIG_FILE", "otel.yaml")])
def test_an_ignored_variable_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with caplog.at_level(logging.WARNING):
        build_telemetry().shutdown()
    assert f"{variable} is ignored" in caplog.text


def test_otel_sdk_disabled_stops_exports_but_not_the_books(backend: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    listener = Listener()
    tell(listener.telemetry)
    assert len(listener.signals()) == 5
    assert backend.paths == []


def test_a_sampler_of_the_environment_does_not_reach_our_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    listener = Listener()
    tell(listener.telemetry)
    assert len(listener.signals()) == 5


def test_limits_of_the_environment_cut_no_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2")
    listener = Listener()
    story = listener.begin()
    story.tracker.complete()
    assert {signal.identity.execution_id for signal in listener.signals()} == {story.identity.execution_id}


def test_more_attributes_than_the_sdk_keeps_by_default_do_not_push_out_the_ids() -> None:
    listener = Listener()
    node = listener.begin().node("model")
    node.update({f"own.{number}": number for number in range(200)})
    node.complete(label=None, edges=None, degraded=False)
    (span,) = listener.spans.get_finished_spans()
    assert span.attributes is not None
    assert semconv.EXECUTION_ID in span.attributes
    assert 200 < len(span.attributes) <= MAX_ATTRIBUTES


def test_the_service_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = build_telemetry().tracer_provider.resource.attributes
    assert (ours["service.name"], ours["service.version"]) == ("spanloom", "0.1.0")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "theirs")
    assert build_telemetry().tracer_provider.resource.attributes["service.name"] == "theirs"


def test_the_global_provider_is_left_alone() -> None:
    before = trace.get_tracer_provider()
    telemetry = build_telemetry()
    assert trace.get_tracer_provider() is before
    assert telemetry.tracer_provider is not before


def test_parameters_and_queries_leave_only_as_hashes(backend: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url)
    listener = Listener()
    listener.begin(params={"style": "canary-param", "limit": 3}).tracker.complete()
    tracer = listener.telemetry.tracer_provider.get_tracer("fastapi")
    tracer.start_span("GET", attributes={"url.query": "key=canary-query", "url.path": "/v1/executions"}).end()
    listener.telemetry.shutdown()
    left = b"".join(backend.bodies).decode("utf-8", "replace")
    assert "canary" not in left
    assert "/v1/executions" in left
    assert left.count('{"style":"sha256:') == 3, "the root span, `started` and `completed`"
    kept = [(log.log_record.attributes or {})[semconv.PARAMS] for log in listener.events.get_finished_logs()]
    assert kept == ['{"style":"canary-param","limit":3}'] * 2, "the books have them"


@pytest.mark.parametrize(
    ("given", "capture"),
    [
        ("", Capture.NO_CONTENT),
        ("no_content", Capture.NO_CONTENT),
        ("False", Capture.NO_CONTENT),
        ("SPAN_ONLY", Capture.SPAN_ONLY),
        (" true ", Capture.SPAN_ONLY),
        ("event_only", Capture.EVENT_ONLY),
        ("Span_And_Event", Capture.SPAN_AND_EVENT),
    ],
)
def test_the_capture_mode_is_read_in_any_case(monkeypatch: pytest.MonkeyPatch, given: str, capture: Capture) -> None:
    monkeypatch.setenv(CAPTURE, given)
    telemetry = build_telemetry()
    assert telemetry.capture is capture
    telemetry.shutdown()


@pytest.mark.parametrize("given", ["SPANS", "1", "yes", "true,false"])
def test_an_unknown_capture_mode_is_an_error_that_says_the_values(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(CAPTURE, given)
    with pytest.raises(ExportSettingInvalid, match="NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT"):
        build_telemetry()


CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
