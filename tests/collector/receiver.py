"""Stands in for our receiver: takes OTLP as protobuf, writes down what came, and answers what the test wants."""

import gzip
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from engine.tracing import semconv

SPANS = "/internal/otlp/v1/traces"
EVENTS = "/internal/otlp/v1/logs"
WEBHOOKS = "/internal/otlp/webhooks/v1/logs"


@dataclass(slots=True)
class Receiver:
    """What was taken, by route."""

    url: str
    status: int = 200
    refusing: set[str] = field(default_factory=set)
    """Routes that are answered 503."""
    spans: list[Span] = field(default_factory=list)
    scopes: set[str] = field(default_factory=set)
    events: dict[str, list[LogRecord]] = field(default_factory=lambda: {EVENTS: [], WEBHOOKS: []})
    paths: set[str] = field(default_factory=set)
    headers: list[dict[str, str]] = field(default_factory=list)
    refused: int = 0
    """Requests that left nothing else."""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def environment(self) -> dict[str, str]:
        """What sends a Collector here."""
        return {"RECORDS_OTLP_ENDPOINT": f"{self.url}/internal/otlp", "WEBHOOKS_OTLP_ENDPOINT": self.url + WEBHOOKS}

    def span_ids(self) -> list[str]:
        """The ids of all spans, as often as they came."""
        return sorted(span.span_id.hex() for span in self.spans)

    def event_ids(self, route: str) -> list[str]:
        """The ids of all events of a route, as often as they came."""
        return sorted(text_of(event.attributes, semconv.EVENT_ID) for event in self.events[route])

    def has(self, spans: int, events: int = 0) -> bool:
        """Whether that many spans and, on both routes, that many events have come."""
        return len(self.spans) >= spans and all(len(taken) >= events for taken in self.events.values())

    def wait_for(self, reached: Callable[[], bool], seconds: float = 30) -> bool:
        """Whether that became true in time; it is asked after each request."""
        with self._changed:
            return self._changed.wait_for(reached, seconds)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """One request. Returns the status of the answer."""
        with self._changed:
            self.paths.add(path)
            self.headers.append(headers)
            status = 503 if path in self.refusing else self.status
            if status != 200:
                self.refused += 1
            elif path == SPANS:
                self._take_spans(ExportTraceServiceRequest.FromString(body))
            else:
                self._take_events(path, ExportLogsServiceRequest.FromString(body))
            self._changed.notify_all()
            return status

    def _take_spans(self, request: ExportTraceServiceRequest) -> None:
        for group in (scope for resource in request.resource_spans for scope in resource.scope_spans):
            self.scopes.add(group.scope.name)
            self.spans.extend(group.spans)

    def _take_events(self, path: str, request: ExportLogsServiceRequest) -> None:
        for group in (scope for resource in request.resource_logs for scope in resource.scope_logs):
            self.events[path].extend(group.log_records)


def text_of(attributes: Iterable[KeyValue], key: str) -> str:
    """The text of an attribute, empty if there is none."""
    return next((each.value.string_value for each in attributes if each.key == key), "")


@contextmanager
def receiving(port: int | None = None) -> Iterator[Receiver]:
    """A receiver on loopback until the block ends, on a free port unless one is given."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            plain = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            status = receiver.take(self.path, {name.lower(): value for name, value in self.headers.items()}, plain)
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port or 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, name="receiver")
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
