"""A service that behaves badly in a planned way, below the client's HTTP library."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx2

Answer = httpx2.Response | Exception | Callable[[httpx2.Request], httpx2.Response]


@dataclass(slots=True)
class FakeService(httpx2.BaseTransport):
    """Gives the answers in turn, the last one again and again; keeps the requests."""

    answers: list[Answer]
    requests: list[httpx2.Request] = field(default_factory=list)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx2.Response) else answer(request)

    def sent(self, header: str) -> list[str | None]:
        """The header of each request."""
        return [request.headers.get(header) for request in self.requests]


class AsyncFakeService(httpx2.AsyncBaseTransport):
    """The same for asyncio."""

    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return self._service.handle_request(request)


def problem(code: str, status: int, **headers: str) -> httpx2.Response:
    """A problem document."""
    document = {
        "type": f"urn:spanloom:problem:{code}",
        "title": code,
        "status": status,
        "code": code,
        "detail": f"It is {code}.",
        "instance": None,
        "correlation_id": None,
        "trace_id": None,
        "execution_id": None,
        "retry_after_seconds": None,
        "errors": [],
        "report": None,
    }
    return httpx2.Response(status, json=document, headers=headers)


class CutStream(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """Pieces of a body, then the connection breaks; or ends, without an error."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces = pieces
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        if self._error is not None:
            raise self._error

    async def __aiter__(self):  # type: ignore[no-untyped-def]
        for piece in self:
            yield piece


def frame(type_: str, seq: int, attempt: int = 1, **data: object) -> bytes:
    """One event as the service sends it."""
    document = {
        "type": type_,
        "seq": seq,
        "execution_id": "e",
        "attempt": attempt,
        "at": "2026-11-30T12:00:00.000000Z",
        "data": data,
        "field_of_a_newer_service": 1,
    }
    text = httpx2.Response(200, json=document).text
    return f"event: {type_}\ndata: {text}\nid: {attempt}-{seq}\n\n".encode()


def stream(*pieces: bytes, error: Exception | None = None) -> httpx2.Response:
    """An answer whose body is an event stream."""
    headers = {"Content-Type": "text/event-stream", "X-Execution-ID": "e"}
    return httpx2.Response(200, headers=headers, stream=CutStream(*pieces, error=error))
