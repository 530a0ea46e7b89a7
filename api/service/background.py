"""What a service does beside answering requests."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from api.wiring.runtime import Runtime
from api.wiring.webhooks import sender_of
from engine.database.frozen import keep_ending
from telemetry.reconcile.job import ReconcileJob

RESTART_SECONDS = 5.0
STOP_SECONDS = 1.0
"""How long work may take to let go when the service stops."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def keeping(runtime: Runtime) -> AsyncIterator[None]:
    """Find executions and connections without a process, try again what was kept aside, send webhooks, and compare the
    books, while the block runs.
    """
    job = ReconcileJob(runtime.database, runtime.settings.prometheus_url)
    sender = sender_of(runtime.settings, runtime.database, runtime.receiver.health.deliveries)
    work: dict[str, Callable[[], Awaitable[None]]] = {
        "sweeper": runtime.sweeper.run,
        "frozen connections": partial(keep_ending, runtime.database, every_seconds=runtime.settings.sweep_seconds),
        "dead letters": runtime.replay.run,
        "reconcile": job.run,
        "deliveries": sender.run,
    }
    tasks = [asyncio.create_task(_supervise(name, run), name=name) for name, run in work.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=STOP_SECONDS)


async def _supervise(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Work that never ends. Where it broke it is begun again, a little later, and the log says so."""
    while True:
        [broken] = await asyncio.gather(run(), return_exceptions=True)
        if isinstance(broken, BaseException):
            log.error("%s broke and is begun again", name, exc_info=broken)
        await asyncio.sleep(RESTART_SECONDS)
