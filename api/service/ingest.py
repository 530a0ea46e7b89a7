"""The Collector's endpoint: OTLP over HTTP on a separate listener, with separate tokens.

200 means that all signals of the request are committed. Our own failures are 503: on 500 the Collector would drop the
signals for good. Requests are not traced.
"""

import hmac
import logging
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from api.wiring.ingest import Ingest
from engine.errors import SpanloomError
from telemetry.collector.outbox import RECORDS, WEBHOOKS
from telemetry.signals.otlp import CONTENT_TYPE, Undecodable, error_status, partial_success

MAX_BYTES = 16 * 1024 * 1024
"""The largest body, compressed or not."""

RETRY_AFTER_SECONDS = 2

_REFUSED = "the receiver refused some signals; `spanloom dead-letters` shows some of them and why"

_GRPC_CODES = {400: 3, 401: 16, 404: 5, 405: 12, 413: 8, 415: 3, 503: 14}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Destination:
    """Where the signals of a path go. `store` returns how many were refused."""

    consumer: str
    store: Callable[[bytes], Awaitable[int]]


class Refused(Exception):
    """A request that is refused; the message is for the operator of the Collector."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def create_ingest_app(ingest: Ingest) -> Starlette:
    """The application for the Collector's requests, with metrics."""
    receiver = ingest.receiver
    destinations = {
        "/internal/otlp/v1/traces": _Destination(RECORDS, receiver.traces),
        "/internal/otlp/v1/logs": _Destination(RECORDS, receiver.logs),
        "/internal/otlp/webhooks/v1/logs": _Destination(WEBHOOKS, receiver.webhook_logs),
    }
    routes = [
        Route(path, _exporting(ingest, destination), methods=["POST"]) for path, destination in destinations.items()
    ]
    metrics = Route("/metrics", _metrics(ingest), methods=["GET"])
    return Starlette(routes=[*routes, metrics], exception_handlers={HTTPException: _no_such_route})


Endpoint = Callable[[Request], Awaitable[Response]]


def _exporting(ingest: Ingest, destination: _Destination) -> Endpoint:
    async def export(request: Request) -> Response:
        response = await _answer(ingest, destination, request)
        ingest.receiver.health.outbox.requests[response.status_code] += 1
        return response

    return export


async def _answer(ingest: Ingest, destination: _Destination, request: Request) -> Response:
    """Store the signals and respond. This is the one place where these requests catch every exception."""
    try:
        _authorize(ingest, request)
        encoding = _encoding(request)
        refused = await _store(ingest, destination, await _read(request), encoding)
    except Refused as refusal:
        return _error(refusal.status, str(refusal))
    except Undecodable as error:
        return _error(400, str(error))
    except ClientDisconnect:
        return _error(400, "the body is incomplete")
    except SpanloomError as error:
        log.warning("the signals from the Collector could not be stored", extra={"error": error.message})
        return _error(503, error.message)
    except Exception:
        log.exception("the signals from the Collector could not be stored")
        return _error(503, "the signals cannot be stored now")
    return Response(partial_success(refused, _REFUSED) if refused else b"", media_type=CONTENT_TYPE)


async def _store(ingest: Ingest, destination: _Destination, sent: bytes, encoding: str) -> int:
    """Store the signals of a body; returns how many were refused. Raises `Undecodable` once the body is kept."""
    try:
        return await destination.store(_unpack(sent) if encoding == "gzip" else sent)
    except Undecodable:
        await ingest.receiver.refuse_body(destination.consumer, sent, encoding)
        raise


def _metrics(ingest: Ingest) -> Endpoint:
    async def metrics(request: Request) -> Response:
        try:
            _authorize(ingest, request)
            content_type, content = await ingest.metrics.exposition(request.headers.get("accept", ""))
        except Refused as refusal:
            return _error(refusal.status, str(refusal))
        except SpanloomError as error:
            return _error(503, error.message)
        return Response(content, headers={"Content-Type": content_type})

    return metrics


def _authorize(ingest: Ingest, request: Request) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    shown = token.strip().encode()
    # Compare with every token, so that the time taken reveals nothing.
    known = [hmac.compare_digest(shown, valid.encode()) for valid in ingest.settings.ingest_tokens]
    if scheme.lower() != "bearer" or not any(known):
        raise Refused(401, "send one of SPANLOOM_INGEST_TOKENS as a bearer token")


def _encoding(request: Request) -> str:
    """How the body is compressed, `identity` or `gzip`. Raises `Refused` for another form."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise Refused(415, f"send protobuf ({CONTENT_TYPE}): JSON would garble the ids")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise Refused(415, "compress with gzip, or do not compress")
    return encoding


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise Refused(413, f"the body has more than {MAX_BYTES} bytes; send smaller batches")
    return bytes(body)


def _unpack(packed: bytes) -> bytes:
    """The body decompressed. Raises `Refused` if it is too large, and `Undecodable`."""
    gzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        body = gzip.decompress(packed, MAX_BYTES + 1)
    except zlib.error:
        raise Undecodable("the body is not valid gzip") from None
    if len(body) > MAX_BYTES:
        raise Refused(413, f"the body has more than {MAX_BYTES} bytes decompressed; send smaller batches")
    if not gzip.eof or gzip.unused_data:
        raise Undecodable("the body is not valid gzip: it is incomplete, or something follows it")
    return body


def _error(status: int, message: str) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(error_status(_GRPC_CODES[status], message), status, headers, media_type=CONTENT_TYPE)


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _error(
        error.status_code, "this listener has no such path or method; see the exporters in otel-collector.yaml"
    )
    response.headers.update(error.headers or {})
    return response
