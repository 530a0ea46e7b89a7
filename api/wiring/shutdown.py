"""Closing within a time: what hangs is left behind, so that the process ends.

A process that is asked to stop has `EXIT_SECONDS`; whoever sent the signal kills it a little later.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TypeVar

EXIT_SECONDS = 27.0
"""From the signal to the end of the process, whatever does not let go."""

CLOSE_SECONDS = 1.0
"""How long each long-lived object may take to close."""

EXIT_CODE = 1

_T = TypeVar("_T")

log = logging.getLogger(__name__)


async def enter_within(
    stack: AsyncExitStack, seconds: float, name: str, manager: AbstractAsyncContextManager[_T]
) -> _T:
    """Enter a context manager whose exit may take so long, and does not ask why."""
    entered = await manager.__aenter__()
    stack.push_async_callback(within, seconds, name, lambda: manager.__aexit__(None, None, None))
    return entered


async def within(seconds: float, name: str, close: Callable[[], Awaitable[object]]) -> None:
    """Close something; if it takes longer it is left to itself, and the log says so."""

    async def work() -> None:
        await close()

    closing = asyncio.create_task(work(), name=f"close {name}")
    await asyncio.wait({closing}, timeout=seconds)
    if closing.done():
        closing.result()
        return
    closing.cancel()
    log.warning("%s did not close in %g s", name, seconds)


class LastResort:
    """Ends the process a while after it was asked to stop, by a thread: an event loop may be blocked, a task deaf."""

    def __init__(self, seconds: float = EXIT_SECONDS, end: Callable[[int], object] = os._exit) -> None:
        self._seconds = seconds
        self._end = end
        self._is_armed = False

    def arm(self) -> None:
        """The process was asked to stop; what it is asked later makes it no longer."""
        if not self._is_armed:
            self._is_armed = True
            threading.Thread(target=self._wait, name="last resort", daemon=True).start()

    def _wait(self) -> None:
        time.sleep(self._seconds)
        log.error("the process did not end in %g s and is ended now; what it ran is found by its lease", self._seconds)
        logging.shutdown()
        self._end(EXIT_CODE)
