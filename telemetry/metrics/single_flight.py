"""Concurrent requests for the same work share one run of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs one piece of work at a time. Callers that arrive meanwhile share the next run.

    At most one run is active and one is pending per key, however slow the work and however many the callers.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._next: dict[str, asyncio.Task[T]] = {}

    async def __call__(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for the next run for the key and return its result. Raises the error of the work."""
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._run(key, work), name=f"single flight {key}")
        return await asyncio.shield(task)

    async def _run(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        async with self._turn:
            del self._next[key]
            return await work()
