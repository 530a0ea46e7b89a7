"""Work that many ask for at once is done once for all of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Does one piece of work at a time. Whoever asks meanwhile shares the next one, which begins later.

    However slow the work is and however often it is asked for, no more than two wait for it.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._next: dict[str, asyncio.Task[T]] = {}

    async def __call__(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """What the work gives that begins next for the key. Raises what it raises."""
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._run(key, work), name=f"single flight {key}")
        return await asyncio.shield(task)

    async def _run(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        async with self._turn:
            del self._next[key]
            return await work()
