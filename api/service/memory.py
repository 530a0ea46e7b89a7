"""The memory of a process that runs for long: garbage is collected rarely, and free pages go back to the system."""

import asyncio
import ctypes
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

TRIM_SECONDS = 30.0
_GARBAGE_THRESHOLDS = (10_000, 5, 5)


def collect_garbage_rarely() -> None:
    """Leave what is loaded by now out of the garbage collection, and collect after more allocations than by default.

    Not after many more: of a refused answer of 5 MB, few objects hold much memory until the next collection.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)


@asynccontextmanager
async def trimming(every_seconds: float = TRIM_SECONDS) -> AsyncIterator[None]:
    """Give free pages back to the system again and again during the block.

    Large answers and bursts leave the C library's heap in pieces, and glibc keeps the free pages between them: the
    process would grow by some MiB an hour although it uses no more.
    """
    task = asyncio.create_task(_trim_forever(every_seconds), name="trim")
    try:
        yield
    finally:
        task.cancel()


async def _trim_forever(every_seconds: float) -> None:
    while True:
        await asyncio.sleep(every_seconds)
        await asyncio.to_thread(trim)


def trim() -> bool:
    """Give free pages back. False where the C library cannot (only glibc can), or where there were none.

    Takes milliseconds, without Python's lock.
    """
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return give_back is not None and bool(give_back(ctypes.c_size_t(0)))
