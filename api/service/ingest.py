"""What the Collector talks to: OTLP over HTTP on a listener of its own, with its own tokens.

200 means that all of it is committed. Our own trouble is 503, as the Collector drops for good on 500. Not traced.
"""

import hmac
import logging
import zlib
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from api.wiring.ingest import Ingest
from engine.errors import SpanloomError
from telemetry.signals.otlp import CONTENT_TYPE, Undecodable, error_status

MAX_BYTES = 16 * 1024 * 1024
"""Of a body, packed and unpacked."""

RETRY_AFTER_SECONDS = 2

_GRPC_CODES = {400: 3, 401: 16, 404: 5, 405: 12, 413: 8, 415: 3, 503: 14}

log = logging.getLogger(__name__)

Store = Callable[[bytes], Awaitable[None]]


class Refused(Exception):
    """The request is answered with an error; the message is for whoever runs the Collector."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def create_ingest_app(ingest: Ingest) -> Starlette:
    """The application over a receiver."""
    receiver = ingest.receiver
    stores: dict[str, Store] = {
        "/internal/otlp/v1/traces": receiver.traces,
        "/internal/otlp/v1/logs": receiver.logs,
        "/internal/otlp/webhooks/v1/logs": receiver.webhook_logs,
    }
    routes = [Route(path, _exporting(ingest, store), methods=["POST"]) for path, store in stores.items()]
    metrics = Route("/metrics", _metrics(ingest), methods=["GET"])
    return Starlette(routes=[*routes, metrics], exception_handlers={HTTPException: _no_such_route})


Endpoint = Callable[[Request], Awaitable[Response]]


def _exporting(ingest: Ingest, store: Store) -> Endpoint:
    async def export(request: Request) -> Response:
        response = await _answer(ingest, store, request)
        ingest.receiver.health.outbox.requests[response.status_code] += 1
        return response

    return export


async def _answer(ingest: Ingest, store: Store, request: Request) -> Response:
    """The home of broad catching for the Collector's requests."""
    try:
        _authorize(ingest, request)
        await store(await _body(ingest, request))
    except Refused as refusal:
        return _error(refusal.status, str(refusal))
    except Undecodable as error:
        return _error(400, str(error))
    except ClientDisconnect:
        return _error(400, "the body is not complete")
    except SpanloomError as error:
        log.warning("the Collector's signals cannot be stored now", extra={"error": error.message})
        return _error(503, error.message)
    except Exception:
        log.exception("the Collector's signals cannot be stored now")
        return _error(503, "the signals cannot be stored now")
    return Response(b"", media_type=CONTENT_TYPE)


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
    # Every token is looked at, so that the time says nothing.
    known = [hmac.compare_digest(shown, valid.encode()) for valid in ingest.settings.ingest_tokens]
    if scheme.lower() != "bearer" or not any(known):
        raise Refused(401, "show one of SPANLOOM_INGEST_TOKENS as a bearer token")


async def _body(ingest: Ingest, request: Request) -> bytes:
    """The body, unpacked. Raises `Refused`, or `Undecodable` once its bytes are kept."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise Refused(415, f"send protobuf ({CONTENT_TYPE}): JSON would spoil the ids")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise Refused(415, "compress with gzip, or not at all")
    packed = await _read(request)
    if encoding == "identity":
        return packed
    try:
        return _unpack(packed)
    except zlib.error:
        await ingest.receiver.undecodable(packed)
        raise Undecodable("the bytes are no gzip") from None


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise Refused(413, f"the body has more than {MAX_BYTES} bytes; send smaller batches")
    return bytes(body)


def _unpack(packed: bytes) -> bytes:
    gzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    body = gzip.decompress(packed, MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise Refused(413, f"the body has more than {MAX_BYTES} bytes unpacked; send smaller batches")
    if not gzip.eof or gzip.unused_data:
        raise zlib.error("incomplete or trailing data")
    return body


def _error(status: int, message: str) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(error_status(_GRPC_CODES[status], message), status, headers, media_type=CONTENT_TYPE)


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _error(error.status_code, "there is nothing for the Collector here")
    response.headers.update(error.headers or {})
    return response
