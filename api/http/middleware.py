"""The middleware of every request: checks its host and size, adds ids and headers to the response, and turns errors
into problem documents.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.hosts import host_of, plain_host
from api.http.problems import Problem, RequestIds, internal_error, problem_of
from api.settings import is_loopback
from engine.errors import SpanloomError

_DRAINED_BYTES = 32 * 1024 * 1024
_DRAIN_SECONDS = 5.0

log = logging.getLogger(__name__)


class OuterMiddleware:
    """Refuses requests with a foreign host, too large a body or a NUL, and adds headers to every response."""

    def __init__(
        self, app: ASGIApp, *, allowed_hosts: Sequence[str], max_body_bytes: int, is_closed: Callable[[], bool]
    ) -> None:
        self._app = app
        self._is_closed = is_closed
        self._allowed_hosts = frozenset(plain_host(host) for host in allowed_hosts)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. What is left becomes a problem here, before the server's span could record its text."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        ids = RequestIds.of(headers)
        scope.setdefault("state", {})["ids"] = ids
        body, answer = _Body(receive, self._max_body_bytes), _Response(ids, send)
        try:
            self._check(scope, headers)
            await self._app(scope, body.receive, answer.send)
        except Problem as problem:
            if problem.code == "body_too_large" and "expect" not in headers:
                await body.drain()
            await answer.refuse(problem, scope, receive)
        except SpanloomError as error:
            refusal = problem_of(error)
            if refusal.status == 500:
                log.exception("request failed", extra=ids.fields)
            await answer.refuse(refusal, scope, receive)
        except ClientDisconnect:
            log.debug("the client disconnected before it had sent the whole request", extra=ids.fields)
        except Exception:
            log.exception("request failed", extra=ids.fields)
            if answer.has_begun:
                raise
            await answer.refuse(internal_error(), scope, receive)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = _host(scope, headers)
        if not (is_loopback(host) or host in self._allowed_hosts or self._is_closed()):
            # A web page whose name leads here has no key, but where none is needed it could do everything.
            raise Problem(
                "host_not_allowed", "Call the service as localhost, or add its name to SPANLOOM_ALLOWED_HOSTS."
            )
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > self._max_body_bytes:
            raise _too_large(self._max_body_bytes)
        if "\0" in scope["path"] or b"%00" in scope["query_string"] or b"\0" in scope["query_string"]:
            raise Problem("invalid_request", "The path and the query may not contain NUL.")


class _Body:
    """The request body, with a limit on its size; the unread rest can be drained."""

    def __init__(self, receive: Receive, most_bytes: int) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._read = 0
        self._is_over = False

    async def receive(self) -> Message:
        """The next part of the body. Raises `Problem` if the body is too large."""
        message = await self._next()
        if self._read > self._most_bytes:
            raise _too_large(self._most_bytes)
        return message

    async def drain(self) -> None:
        """Read the rest, with limits on bytes and time: a client cut off while sending never sees the response."""
        last = self._read + _DRAINED_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._is_over and self._read < last:
                    await self._next()

    async def _next(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        self._is_over = not message.get("more_body", False)
        return message


class _Response:
    """Sends the response with the headers that every response has."""

    def __init__(self, ids: RequestIds, send: Send) -> None:
        self._ids = ids
        self._send = send
        self.has_begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            headers.update(self._ids.headers)
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)

    async def refuse(self, problem: Problem, scope: Scope, receive: Receive) -> None:
        await problem.response(self._ids, scope["path"])(scope, receive, self.send)


def ids_of(request: Request) -> RequestIds:
    """The ids that the middleware gave to a request."""
    ids = request.state.ids
    assert isinstance(ids, RequestIds)
    return ids


def _too_large(most_bytes: int) -> Problem:
    return Problem("body_too_large", f"Send a body of at most {most_bytes} bytes.", headers={"Connection": "close"})


def _host(scope: Scope, headers: Headers) -> str:
    """The host that the request is for. RFC 9112 section 3.2 wants 400 for none, for several, and for no host."""
    given = headers.getlist("host")
    if not given and scope["http_version"] == "1.0":
        return ""
    try:
        [header] = given
        return host_of(header)
    except ValueError:
        raise Problem("invalid_header", "Send one Host header with a host name or address, and a port.") from None
