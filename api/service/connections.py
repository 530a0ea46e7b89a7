"""Connections of clients, with bounds that the HTTP server does not have itself.

uvicorn waits without limit for a request that arrives byte by byte, keeps headers of any size in memory, and takes any
number of connections. Its own answers are plain text, and it drops the host of a request target.
"""

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.http.problems import Problem, RequestIds

MAX_HEADER_BYTES = 64 * 1024
"""The most bytes of a request line and its headers."""

_LINGER_SECONDS = 1.0
"""How long a refused client may go on sending: one that is cut off while it sends never sees the response."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What the clients of one server may do; `open` counts the connections by address."""

    header_seconds: float
    """For a request line and its headers, from the first byte or the opening of the connection."""
    body_seconds: float
    """For the body of a request, from the end of its headers."""
    per_address: int
    """Connections of one address at a time."""
    open: Counter[str] = field(default_factory=Counter)


def bounded(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """The protocol for a uvicorn server with these limits."""

    class Connection(BoundedConnection):
        _limits = limits

    return Connection


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol, within limits."""

    _limits: ConnectionLimits

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._address: str | None = None
        """The client's address while its connection counts."""
        self._deadline: asyncio.TimerHandle | None = None
        self._is_in_headers = True
        """Headers are expected, or have arrived in part."""
        self._header_bytes = 0
        self._bytes_of_no_body = 0
        """Of chunk sizes and trailers, since the last byte of a body."""
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if self._limits.open[address] >= self._limits.per_address:
            most = self._limits.per_address
            self._refuse(Problem("too_many_connections", f"Close some: an address may have {most} at a time."))
            return
        self._address = address
        self._limits.open[address] += 1
        self._start_deadline(self._limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        if self._address is not None:
            self._limits.open[self._address] -= 1
            if not self._limits.open[self._address]:
                del self._limits.open[self._address]
            self._address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser in pieces, so that it never holds more than headers may have."""
        while data and not (self._is_refused or self.transport.is_closing()):
            room = MAX_HEADER_BYTES - self._header_bytes
            piece, data = data[:room], data[room:]
            self._feed(piece)

    def _feed(self, piece: bytes) -> None:
        if self._is_in_headers and self._deadline is None:
            self._start_deadline(self._limits.header_seconds)
        self._header_bytes += len(piece)
        self._bytes_of_no_body += len(piece)
        super().data_received(piece)
        if not self._is_in_headers:
            self._header_bytes = 0
        unread = self._header_bytes if self._is_in_headers else self._bytes_of_no_body
        if unread >= MAX_HEADER_BYTES and not self._is_refused:
            limit = MAX_HEADER_BYTES // 1024
            self._refuse(Problem("headers_too_large", f"Send a request line, headers and trailers below {limit} KiB."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_headers = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Leave out trailers: nobody reads them, and they would stand among the headers."""
        if self._is_in_headers:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._bytes_of_no_body = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        if not self.url.startswith(b"/"):
            self._read_target()
        super().on_headers_complete()
        self._is_in_headers = False
        self._bytes_of_no_body = 0
        self._start_deadline(self._limits.body_seconds)

    def on_message_complete(self) -> None:
        self._is_in_headers = True
        self._header_bytes = 0
        self._stop_deadline()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem("malformed_request", "Send a request as RFC 9112 defines it."))

    def _read_target(self) -> None:
        """Take the host from a target in absolute form, as RFC 9112 section 3.2.2 wants; other forms are not served."""
        scheme, _, rest = self.url.partition(b"://")
        authority = re.split(rb"[/?#]", rest, maxsplit=1)[0]
        if scheme.lower() not in (b"http", b"https") or not authority:
            raise ValueError("neither a path nor a URL")
        path = rest[len(authority) :]
        self.url = path if path.startswith(b"/") else b"/" + path
        self.headers[:] = [(name, value) for name, value in self.headers if name != b"host"]
        self.headers.append((b"host", authority))

    def _start_deadline(self, seconds: float) -> None:
        self._stop_deadline()
        self._deadline = self.loop.call_later(seconds, self._on_deadline)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        """Refuse the request that has not arrived, unless an earlier one on the connection is still being answered."""
        if self._answering() and (self._is_in_headers or self.pipeline):
            self._start_deadline(self._limits.header_seconds)
            return
        part, seconds = "body", self._limits.body_seconds
        if self._is_in_headers:
            part, seconds = "headers", self._limits.header_seconds
        self._refuse(Problem("request_timeout", f"Send the {part} of a request within {seconds:g} seconds."))

    def _answering(self) -> RequestResponseCycle | None:
        """The newest request, if its response is not complete."""
        cycle: RequestResponseCycle | None = self.cycle
        return None if cycle is None or cycle.response_complete else cycle

    def _refuse(self, problem: Problem) -> None:
        """End the connection; with this answer, unless it would stand in the middle of another."""
        self._is_refused = True
        self._stop_deadline()
        self._unset_keepalive_if_required()
        cycle = self._answering()
        if cycle is None:
            may_answer = self._is_in_headers
        else:
            may_answer = not (self._is_in_headers or self.pipeline or cycle.response_started)
            cycle.disconnected = True
            cycle.message_event.set()
        if may_answer:
            self.transport.write(_written(problem, Headers(raw=self.headers or [])))
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


def _written(problem: Problem, headers: Headers) -> bytes:
    """The problem as the bytes of an HTTP response."""
    response = problem.response(RequestIds.of(headers), None)
    response.headers["Connection"] = "close"
    status = HTTPStatus(response.status_code)
    lines = [f"HTTP/1.1 {status} {status.phrase}".encode(), *(b": ".join(pair) for pair in response.raw_headers)]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
