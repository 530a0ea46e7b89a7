"""The one retry of database work that must not be lost: with growing waits, for a bounded time."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import stamina

from engine.errors import Unavailable

T = TypeVar("T")

RETRY_SECONDS = 30.0

_TRANSIENT = (Unavailable, OSError)
"""Errors that a retry may overcome; any other error would occur again."""


async def insist(work: Callable[[int], Awaitable[T]], *also: type[Exception], seconds: float = RETRY_SECONDS) -> T:
    """Do this work, and try again while the database has trouble. `work` is given the number of the attempt, from 1.

    `also` are further errors that a retry may overcome. The last error is raised once the time is over.
    """
    async for attempt in stamina.retry_context(
        on=(*_TRANSIENT, *also), attempts=None, timeout=seconds, wait_initial=0.1, wait_max=2.0
    ):
        with attempt:
            return await work(attempt.num)
    raise Unavailable
