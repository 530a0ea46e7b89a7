"""Event streams: each `ExecutionEvent` is sent as one server-sent event, called a frame."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from api.schemas.problems import ProblemDocument
from engine.documents.json_text import to_json
from engine.errors import SpanloomError
from engine.events import ExecutionEvent

PING_SECONDS = 15.0
RECHECK_SECONDS = 15.0
"""How often a stream checks that its reader's key still counts."""
SLOW_SECONDS = 30.0
"""A reader that accepts no data for this long is disconnected. The execution never waits for readers."""

_BURST = 4
"""Frames sent before the event loop gets a turn. A lost connection is noticed only then, and asyncio warns at the fifth
write to a lost connection.
"""

_OPENING = b"retry: 2000\n\n"
_PING = b": ping\n\n"

log = logging.getLogger(__name__)


def frame(event: ExecutionEvent) -> bytes:
    """The event as a frame; its id is `<attempt>-<seq>`."""
    return b"event: %b\ndata: %b\nid: %d-%d\n\n" % (
        event.type.encode(),
        to_json(event.document()),
        event.attempt,
        event.seq,
    )


def error_frame(problem: ProblemDocument) -> bytes:
    """A frame that says why the stream broke, while the execution may go on. It has no id."""
    return b"event: stream_error\ndata: %b\n\n" % to_json(problem.model_dump(mode="json"))


async def frames(
    follow: Callable[[ExecutionEvent | None], AsyncGenerator[ExecutionEvent, None]],
    broken: Callable[[SpanloomError | None], ProblemDocument],
    *,
    recheck: Callable[[], Awaitable[None]],
    first: ExecutionEvent | None = None,
    ping_seconds: float = PING_SECONDS,
) -> AsyncGenerator[bytes, None]:
    """The frames of a stream, up to its closing event.

    `recheck` is asked every `RECHECK_SECONDS` and raises a `SpanloomError` if the reader may read no more.

    `follow` yields the events after the given one, and from the start for None. `broken` makes the problem document
    for a stream that ends without a closing event.
    """
    yield _OPENING + (b"" if first is None else frame(first))
    last = first
    check_at = time.monotonic() + RECHECK_SECONDS
    while not _is_closing(last):
        async with aclosing(follow(last)) as events:
            try:
                while not _is_closing(last):
                    if time.monotonic() >= check_at:
                        await recheck()
                        check_at = time.monotonic() + RECHECK_SECONDS
                    async with asyncio.timeout(min(ping_seconds, check_at - time.monotonic())):
                        last = await anext(events)
                    yield frame(last)
            except TimeoutError:
                yield _PING
            except SpanloomError as error:
                yield error_frame(broken(error))
                return
            except StopAsyncIteration:
                yield error_frame(broken(None))
                return


def _is_closing(event: ExecutionEvent | None) -> bool:
    return event is not None and event.type.is_closing


class EventStream(StreamingResponse):
    """A response that sends frames and calls `on_close` when it ends, for whatever reason."""

    media_type = "text/event-stream"

    def __init__(
        self, content: AsyncGenerator[bytes, None], on_close: Callable[[], None], headers: dict[str, str]
    ) -> None:
        super().__init__(content, headers=headers | {"X-Accel-Buffering": "no"})
        self._content = content
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the end, or until the client disconnects or stops reading."""
        sent = 0

        async def send_in_time(message: Message) -> None:
            nonlocal sent
            async with asyncio.timeout(SLOW_SECONDS):
                await send(message)
            sent += 1
            if sent % _BURST == 0:
                await asyncio.sleep(0)

        try:
            async with aclosing(self._content):
                await super().__call__(scope, receive, send_in_time)
        except* TimeoutError:
            log.warning("disconnected a reader that accepted no events for %g s", SLOW_SECONDS)
        finally:
            self._on_close()
