"""Lets web pages of listed origins call the service, each request with a key (CORS, as the Fetch standard has it)."""

from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_TAKEN = (
    "Authorization",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "traceparent",
    "tracestate",
    "X-Correlation-ID",
)
_EXPOSED = (
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "Retry-After",
    "traceresponse",
    "WWW-Authenticate",
    "X-Correlation-ID",
    "X-Execution-ID",
)


class Cors:
    """Adds the headers for pages of these origins, and answers their preflight requests, which have no key.

    Cookies are never allowed: a page sends its key itself. Without keys every page could do everything, so nothing is
    added then. Requests of other origins are answered as if there was no CORS.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str], is_closed: Callable[[], bool]) -> None:
        self._app = app
        self._is_closed = is_closed
        self._cors = CORSMiddleware(
            app, allow_origins=origins, allow_methods=_METHODS, allow_headers=_TAKEN, expose_headers=_EXPOSED
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        origin = Headers(scope=scope).get("origin", "") if scope["type"] == "http" else ""
        is_allowed = self._is_closed() and self._cors.is_allowed_origin(origin)
        await (self._cors if is_allowed else self._app)(scope, receive, send)
