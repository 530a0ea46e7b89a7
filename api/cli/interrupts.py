"""Ctrl-C: the first stops a command in order, a further one ends the process at once.

asyncio raises KeyboardInterrupt at the second one, at whatever line runs then. So it closes its loop over tasks that
are still pending, and says of each that it was destroyed.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from api.cli.exit_codes import INTERRUPTED

T = TypeVar("T")


def leave(*_: object) -> None:
    """End the process at once. What it has written to the database survives, as after a crash."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):  # closed, or interrupted in a write of its own
            stream.flush()
    os._exit(INTERRUPTED)


@contextmanager
def leaving() -> Iterator[None]:
    """End the process at the first Ctrl-C during the block, outside of `run`: there is nothing to stop in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`: the first Ctrl-C cancels the work and raises `KeyboardInterrupt` when it has stopped."""
    try:
        return asyncio.run(_cancelled_once(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _cancelled_once(work: Coroutine[Any, Any, T]) -> T:
    if threading.current_thread() is not threading.main_thread():
        return await work
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def cancel(*_: object) -> None:
        signal.signal(signal.SIGINT, leave)
        loop.call_soon_threadsafe(task.cancel)

    before = signal.signal(signal.SIGINT, cancel)
    try:
        return await work
    finally:
        signal.signal(signal.SIGINT, before)
