"""A backend that takes every export over OTLP and keeps its bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord


@dataclass(slots=True)
class Sink:
    """The backend: its address, and the bodies that it got by path."""

    url: str
    bodies: dict[str, list[bytes]] = field(default_factory=dict)

    def holds(self, path: str, text: str) -> bool:
        """Whether a body that was posted to this path holds the text."""
        return any(text.encode() in body for body in self.bodies.get(path, []))

    def events(self) -> list[LogRecord]:
        """The log records that it got."""
        requests = map(ExportLogsServiceRequest.FromString, list(self.bodies.get("/v1/logs", [])))
        scopes = (scope for request in requests for logs in request.resource_logs for scope in logs.scope_logs)
        return [record for scope in scopes for record in scope.log_records]


@contextmanager
def otlp_sink() -> Iterator[Sink]:
    """A backend for the length of a block."""
    bodies: dict[str, list[bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.setdefault(self.path, []).append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield Sink(f"http://127.0.0.1:{server.server_port}", bodies)
        finally:
            server.shutdown()
            thread.join()
