"""The outermost middleware: checks host and size of every request, adds ids and headers to every response, and turns
errors into problem documents.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress

from fastapi import Request
from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import Problem, RequestIds, internal_error, problem_of
from api.settings import is_loopback
from engine.errors import SpanloomError

_DRAINED_BYTES = 32 * 1024 * 1024
_DRAIN_SECONDS = 5.0
_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

log = logging.getLogger(__name__)


class OuterMiddleware:
    """Refuses requests with a foreign host, too large a body or a NUL, and adds headers to every response."""

    def __init__(self, app: ASGIApp, *, allowed_hosts: Sequence[str], max_body_bytes: int) -> None:
        self._app = app
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. This is the one place where HTTP catches every exception."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        ids = _make_ids(headers)
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
                log.exception("request failed", extra=_fields(ids))
            await answer.refuse(refusal, scope, receive)
        except ClientDisconnect:
            log.debug("the client disconnected before it had sent the whole request", extra=_fields(ids))
        except Exception:
            log.exception("request failed", extra=_fields(ids))
            if answer.has_begun:
                raise
            await answer.refuse(internal_error(), scope, receive)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = _host_name(headers.get("host", ""))
        if not (is_loopback(host) or host in self._allowed_hosts):
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
            headers["X-Correlation-ID"] = self._ids.correlation_id
            headers["traceresponse"] = self._ids.traceresponse
            headers["X-Content-Type-Options"] = "nosniff"
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


def _make_ids(headers: Headers) -> RequestIds:
    """The ids of the server span; random ids, under which nothing is stored, if the request is not traced."""
    span = trace.get_current_span().get_span_context()
    trace_id = trace.format_trace_id(span.trace_id) if span.is_valid else secrets.token_hex(16)
    span_id = trace.format_span_id(span.span_id) if span.is_valid else secrets.token_hex(8)
    given = headers.get("x-correlation-id", "")
    correlation_id = given if _CORRELATION_ID.fullmatch(given) else trace_id
    return RequestIds(correlation_id, trace_id, span_id, span.trace_flags.sampled)


def _fields(ids: RequestIds) -> dict[str, str]:
    """The ids as fields of a log line."""
    return {"correlation_id": ids.correlation_id, "trace_id": ids.trace_id}


def _host_name(header: str) -> str:
    """The host of a Host header in lower case, without the port and without the brackets of an IPv6 address."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower().rstrip(".")
