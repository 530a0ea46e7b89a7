"""What a process does that runs executions from the queue."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.wiring.runtime import Runtime

RESTART_SECONDS = 1.0

log = logging.getLogger(__name__)


@asynccontextmanager
async def working(runtime: Runtime) -> AsyncIterator[None]:
    """Claim executions that wait for a process, and run them, while the block runs."""
    task = asyncio.create_task(_supervise(runtime), name="dispatcher")
    try:
        yield
    finally:
        await runtime.dispatcher.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _supervise(runtime: Runtime) -> None:
    while not runtime.dispatcher.is_stopped:
        [broken] = await asyncio.gather(runtime.dispatcher.run(), return_exceptions=True)
        if isinstance(broken, BaseException):
            log.error("the dispatcher broke and is begun again", exc_info=broken)
            await asyncio.sleep(RESTART_SECONDS)
