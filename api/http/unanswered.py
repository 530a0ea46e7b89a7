"""The outermost layer of the application: what no other layer has answered becomes a problem document."""

import logging
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import RequestIds, internal_error

_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

log = logging.getLogger(__name__)


class UnansweredRequests:
    """Answers `internal_error` for any exception of the application, as long as no response has begun.

    The server would answer in plain text, or not at all where it finds a bad header after it has begun.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Exceptions after the beginning of a response go on to the server, which hangs up."""
        has_begun = False

        async def watch(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                _check_headers(message)
                has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:
            if scope["type"] != "http" or has_begun:
                raise
            ids = scope.get("state", {}).get("ids") or RequestIds.of(Headers(scope=scope))
            log.exception("request failed", extra=ids.fields)
            await internal_error().response(ids, scope["path"])(scope, receive, send)


def _check_headers(message: Message) -> None:
    if any(_BAD_VALUE.search(value) for _, value in message.get("headers", ())):
        raise ValueError("a header of the response has a control character")
