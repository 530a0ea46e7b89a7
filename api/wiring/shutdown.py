"""Closes long-lived objects with a timeout, so that a hanging one does not keep the process from ending.

A process has `EXIT_SECONDS` to stop after a signal: Kubernetes kills it after 30 seconds.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

EXIT_SECONDS = 27.0
"""Seconds from the signal to the end of the process, even if something hangs."""

CLOSE_SECONDS = 1.0
"""Seconds that each long-lived object may take to close."""

EXIT_CODE = 1

EXPORT_SECONDS = 2.0
"""How long a service that stops waits for its last traces, and a command for attempts that fail."""
COMMAND_SECONDS = 30.0
"""How long a command waits for its last traces, as long as its exporter makes progress."""

_T = TypeVar("_T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the end of a process waits for signals to be taken, and who is told about it."""

    seconds: float = EXPORT_SECONDS
    say: Callable[[str], None] | None = None
    """Shows a sentence to the user of a command; a service writes what was not taken to its log."""

    def report(self, sentence: str) -> None:
        """Say that something was not taken."""
        if self.say is None:
            log.warning("%s", sentence)
        else:
            self.say(sentence)


async def enter_within(
    stack: AsyncExitStack, seconds: float, name: str, manager: AbstractAsyncContextManager[_T]
) -> _T:
    """Enter a context manager whose exit may take that many seconds. Its exit gets no exception."""
    entered = await manager.__aenter__()
    stack.push_async_callback(within, seconds, name, lambda: manager.__aexit__(None, None, None))
    return entered


async def within(seconds: float, name: str, close: Callable[[], Awaitable[object]]) -> None:
    """Close an object. If that takes longer, cancel it without waiting and log a warning."""

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
    """Ends the process some time after the signal, from a thread: the event loop may be blocked."""

    def __init__(self, seconds: float = EXIT_SECONDS, end: Callable[[int], object] = os._exit) -> None:
        self._seconds = seconds
        self._end = end
        self._is_armed = False

    def arm(self) -> None:
        """Start the timer; later calls change nothing."""
        if not self._is_armed:
            self._is_armed = True
            threading.Thread(target=self._wait, name="last resort", daemon=True).start()

    def _wait(self) -> None:
        time.sleep(self._seconds)
        log.error(
            "the process did not stop within %g s and exits now; its executions are taken over by lease",
            self._seconds,
        )
        logging.shutdown()
        self._end(EXIT_CODE)
