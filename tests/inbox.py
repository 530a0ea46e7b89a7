"""An HTTP server that stands in for another program: it writes down each request and answers 200, ok."""

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Received:
    """One request; header names in lower case, the body as it was before compression."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Inbox:
    """What came, oldest first."""

    url: str
    requests: list[Received] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, reached: Callable[[], bool], seconds: float = 20) -> bool:
        """Whether that became true in time; it is asked after each request."""
        with self._changed:
            return self._changed.wait_for(reached, seconds)

    def _take(self, request: Received) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()


@contextmanager
def listening() -> Iterator[Inbox]:
    """An inbox on a free port of loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            plain = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            inbox._take(Received(self.path, {name.lower(): value for name, value in self.headers.items()}, plain))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    inbox = Inbox(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, name="inbox")
    thread.start()
    try:
        yield inbox
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
