"""The connection of a client to the service: sends calls, repeats what may be repeated, and opens event streams."""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeVar

import httpx2
import stamina

from api.client.calls import Call, problem_of
from api.client.errors import Unreachable

T = TypeVar("T")

DEFAULT_SERVER = "http://127.0.0.1:8000"

_CONNECT_SECONDS = 5.0
_STREAM_SECONDS = 45.0
"""Without any byte, pings included, a stream is broken: the service pings every 15 s."""
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Server:
    """Where the service is, and the key that opens it. The key is in no representation."""

    url: str = DEFAULT_SERVER
    api_key: str | None = field(default=None, repr=False)
    verify: ssl.SSLContext | bool = True

    def options(self) -> dict[str, Any]:
        """The options of an httpx2 client. Redirects are not followed: they would carry the key elsewhere."""
        headers = {"Accept": "application/json", "User-Agent": f"spanloom/{version('spanloom')}"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return {
            "base_url": self.url,
            "headers": headers,
            "verify": self.verify,
            "timeout": httpx2.Timeout(30.0, connect=_CONNECT_SECONDS),
        }


class Connection:
    """A connection that blocks."""

    def __init__(self, server: Server, transport: httpx2.BaseTransport | None = None) -> None:
        self._http = httpx2.Client(transport=transport, **server.options())

    def send(self, call: Call[T]) -> T:
        """Send the call and read its answer. Raises `ServerProblem` or `Unreachable`."""
        try:
            for attempt in stamina.retry_context(on=call.pause_before_repeating, attempts=_ATTEMPTS):
                with attempt:
                    return call.read(self._http.request(**_request(call)))
        except httpx2.HTTPError as error:
            raise unreachable(error) from error
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def stream(self, call: Call[Any]) -> Iterator[httpx2.Response]:
        """The answer of a call, whose body is read as it comes; any status. Raises `httpx2.HTTPError`."""
        with self._http.stream(**_request(call, _STREAM_SECONDS)) as answer:
            if answer.status_code not in call.answers:
                answer.read()
                raise problem_of(answer)
            yield answer

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


class AsyncConnection:
    """A connection for asyncio."""

    def __init__(self, server: Server, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._http = httpx2.AsyncClient(transport=transport, **server.options())

    async def send(self, call: Call[T]) -> T:
        """Send the call and read its answer. Raises `ServerProblem` or `Unreachable`."""
        try:
            async for attempt in stamina.retry_context(on=call.pause_before_repeating, attempts=_ATTEMPTS):
                with attempt:
                    return call.read(await self._http.request(**_request(call)))
        except httpx2.HTTPError as error:
            raise unreachable(error) from error
        raise AssertionError("the last attempt returns or raises")

    @asynccontextmanager
    async def stream(self, call: Call[Any]) -> AsyncIterator[httpx2.Response]:
        """The answer of a call, whose body is read as it comes; any status. Raises `httpx2.HTTPError`."""
        async with self._http.stream(**_request(call, _STREAM_SECONDS)) as answer:
            if answer.status_code not in call.answers:
                await answer.aread()
                raise problem_of(answer)
            yield answer

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()


def _request(call: Call[Any], seconds: float | None = None) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": call.path,
        "params": call.parameters,
        "headers": call.sent_headers,
        "content": call.content,
        "timeout": httpx2.Timeout(seconds or call.seconds, connect=_CONNECT_SECONDS),
    }


def unreachable(error: Exception) -> Unreachable:
    """The error for a connection that cannot be made or broke."""
    return Unreachable(f"The server cannot be reached, or the connection broke: {str(error) or type(error).__name__}")
