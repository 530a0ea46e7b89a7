"""The HTTP client through which every provider is called. It bounds answers, and follows no redirect.

The SDKs read a whole reply, or a whole event of a stream, into memory, and build an object for each value in it. So
the size and the number of values are checked before. A redirect could carry the key and the messages to another
server: SDKs put keys into headers that no HTTP library removes.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from engine.models.counts import counted
from engine.models.provider_errors import AnswerRefused
from engine.models.reports import Reader, Reported, listener
from engine.resources import AnswerLimits

MAX_MARKS = 60_000
"""The most strings, containers and commas in a reply, or in one event of a stream: that is some 20,000 values."""
MAX_LINES = 256
"""The most lines of one event: SDKs copy an event once for each of its lines."""

_HELD = 4
"""A reply or an event may have this many times the bytes of an answer: JSON writes some letters in six bytes."""
_IN_ALL = 256
"""A stream may have this many times the bytes of an answer: each of its events repeats ids and names, for one token."""
_PIECE_BYTES = 4_096
"""How much the SDK is given at once, some 20 tokens; then others have their turn."""

_MARK_BYTES = (b",", b"[", b"{", b'"')
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,\[{]', re.DOTALL)
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
_BETWEEN_EVENTS = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)|(?<=\r\r)")
_OF_THE_CODING = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class ModelClient(httpx2.AsyncClient):
    """A client for one provider. Its responses raise `AnswerRefused` as soon as they hold too much.

    The usage in a response is read by `reader` and reported to who listens when the request is sent.
    """

    def __init__(self, limits: AnswerLimits, reader: Reader, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(
            verify=tls or True,
            timeout=httpx2.Timeout(600, connect=5),
            limits=httpx2.Limits(max_connections=1_000, max_keepalive_connections=100),
        )
        self._answer_limits = limits
        self._reader = reader

    async def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = False,
        auth: Any = httpx2.USE_CLIENT_DEFAULT,
        follow_redirects: object = False,
    ) -> httpx2.Response:
        """Send a request as httpx2 does. The SDKs ask for redirects to be followed; they are refused."""
        received = await super().send(request, stream=True, auth=auth, follow_redirects=False)
        try:
            if received.has_redirect_location:
                raise AnswerRefused("bad_request", "it redirects elsewhere; set the base URL to where it is now")
            body = _BoundedBody(received, self._answer_limits, self._reader, is_read_at_once=not stream)
            answer = _with_body(received, body)
            if not stream:
                await answer.aread()
        except BaseException:
            await received.aclose()
            raise
        return answer


def _with_body(received: httpx2.Response, body: "_BoundedBody") -> httpx2.Response:
    headers = [(name, value) for name, value in received.headers.multi_items() if name not in _OF_THE_CODING]
    return httpx2.Response(
        received.status_code,
        headers=headers,
        stream=body,
        request=received.request,
        extensions=received.extensions,
    )


class _BoundedBody(httpx2.AsyncByteStream):
    """The decoded body of a response, checked."""

    def __init__(
        self, received: httpx2.Response, limits: AnswerLimits, reader: Reader, *, is_read_at_once: bool
    ) -> None:
        self._received = received
        self._reader = reader
        self._reported = listener() or Reported()
        self._most_held = _HELD * limits.max_bytes
        self._most_in_all = (_HELD if is_read_at_once else _IN_ALL) * limits.max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        is_stream = self._received.headers.get("content-type", "").lower().startswith("text/event-stream")
        async for data in self._events() if is_stream else self._document():
            problem = _problem_of_events(data) if is_stream else _problem_of_values(data)
            if problem is not None:
                del data  # tracebacks keep what a frame refers to
                raise AnswerRefused("invalid_output", problem)
            data = self._with_possible_counts(data, is_stream)
            for start in range(0, len(data), _PIECE_BYTES):
                yield data[start : start + _PIECE_BYTES]
                await asyncio.sleep(0)

    async def aclose(self) -> None:
        await self._received.aclose()

    async def _document(self) -> AsyncIterator[bytes]:
        body = bytearray()
        async for data in self._received.aiter_bytes():
            body += data
            _check_size(body, len(body), self._most_held)
        yield bytes(body)

    async def _events(self) -> AsyncIterator[bytes]:
        """The events as they arrive, whole ones only."""
        rest, in_all = bytearray(), 0
        async for data in self._received.aiter_bytes():
            seen = max(0, len(rest) - 3)
            in_all += len(data)
            rest += data
            _check_size(rest, in_all, self._most_in_all)
            ends = [at + len(mark) for mark in _EVENT_ENDS if (at := rest.rfind(mark, seen)) >= 0]
            if ends:
                yield bytes(rest[: max(ends)])
                del rest[: max(ends)]
            _check_size(rest, len(rest), self._most_held)
        if rest:
            yield bytes(rest)

    def _with_possible_counts(self, data: bytes, is_stream: bool) -> bytes:
        """The document or events without counts that cannot be true. The others are reported."""
        if b'"usage' not in data:
            return data
        if not is_stream:
            return self._counted(data) or data
        return b"".join(map(self._with_possible_counts_of_event, _BETWEEN_EVENTS.split(data)))

    def _with_possible_counts_of_event(self, event: bytes) -> bytes:
        lines = event.splitlines()
        corrected = self._counted(b"\n".join(line.removeprefix(b"data:") for line in lines if line[:5] == b"data:"))
        if corrected is None:
            return event
        others = [line for line in lines if line and not line.startswith(b"data:")]
        return b"\n".join([*others, b"data: " + corrected]) + b"\n\n"

    def _counted(self, document: bytes) -> bytes | None:
        """Report the usage in a document. The corrected document, if a count was false."""
        found = counted(document)
        if found is None:
            return None
        self._reported.hear(found.document, self._reader)
        return found.corrected


def _check_size(buffer: bytearray, size: int, most: int) -> None:
    """Raises `AnswerRefused` if the size is too large. The buffer is emptied then: the traceback refers to it."""
    if size > most:
        buffer.clear()
        raise AnswerRefused(
            "invalid_output",
            f"it is larger than {most:,} bytes on the wire; raise SPANLOOM_MAX_ANSWER_BYTES if it may be",
        )


def _problem_of_values(data: bytes) -> str | None:
    """Whether there are too many values. The letters in strings are looked at only where there are many marks."""
    if sum(map(data.count, _MARK_BYTES)) <= MAX_MARKS:
        return None
    for number, _ in enumerate(_MARK.finditer(data)):
        if number >= MAX_MARKS:
            return f"it holds more than {MAX_MARKS:,} values and strings"
    return None


def _problem_of_events(events: bytes) -> str | None:
    """Whether one of the events is too much. Where all of them together are not, none is."""
    if len(events) <= MAX_MARKS and _lines(events) <= MAX_LINES:
        return None
    for event in _BETWEEN_EVENTS.split(events):
        if _lines(event) > MAX_LINES:
            return f"an event of its stream has more than {MAX_LINES} lines"
        problem = _problem_of_values(event)
        if problem is not None:
            return problem
    return None


def _lines(events: bytes) -> int:
    """How many lines there are at most: SDKs take a lone CR for a line break, too."""
    return events.count(b"\n") + events.count(b"\r")
