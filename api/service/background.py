"""Runs a process's background work: the keeper's jobs and the worker's dispatcher, each restarted after an error."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from api.wiring.retention import build_retention
from api.wiring.runtime import Runtime
from api.wiring.webhooks import build_sender
from engine.database.frozen import keep_ending
from telemetry.reconcile.job import ReconcileJob
from telemetry.recovery.leftovers import keep_deleting

KEEPER_RESTART_SECONDS = 5.0
LEFTOVER_SWEEPS = 12
"""Sweeps from one search for leftover checkpoints to the next: a minute, by default."""
WORKER_RESTART_SECONDS = 1.0
STOP_SECONDS = 1.0
"""Seconds that the keeper's jobs may take to stop."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def run_keeper(runtime: Runtime) -> AsyncIterator[None]:
    """Run the keeper's jobs during the block: sweep lost executions and what they left, end frozen connections, replay
    dead letters, send webhooks, compare the books, and delete what is due.
    """
    database, sweep_seconds = runtime.database, runtime.settings.sweep_seconds
    reconcile = ReconcileJob(database, runtime.settings.prometheus_url)
    sender = build_sender(runtime.settings, database, runtime.receiver.health.deliveries)
    jobs: dict[str, Callable[[], Awaitable[None]]] = {
        "sweeper": runtime.sweeper.run,
        "frozen connections": partial(keep_ending, database, every_seconds=sweep_seconds),
        "leftover checkpoints": partial(
            keep_deleting, database, runtime.checkpoints, every_seconds=LEFTOVER_SWEEPS * sweep_seconds
        ),
        "dead letters": runtime.replay.run,
        "reconcile": reconcile.run,
        "deliveries": sender.run,
        "retention": build_retention(runtime.settings, database, runtime.eraser, runtime.receiver.health).run,
    }
    tasks = [asyncio.create_task(_restart_forever(name, run), name=name) for name, run in jobs.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=STOP_SECONDS)


async def _restart_forever(name: str, run: Callable[[], Awaitable[None]]) -> None:
    while True:
        await _run_once(name, run)
        await asyncio.sleep(KEEPER_RESTART_SECONDS)


@asynccontextmanager
async def run_worker(runtime: Runtime) -> AsyncIterator[None]:
    """Claim queued executions and run them during the block."""
    task = asyncio.create_task(_dispatch(runtime), name="dispatcher")
    try:
        yield
    finally:
        await runtime.dispatcher.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _dispatch(runtime: Runtime) -> None:
    while not runtime.dispatcher.is_stopped:
        if not await _run_once("dispatcher", runtime.dispatcher.run):
            await asyncio.sleep(WORKER_RESTART_SECONDS)


async def _run_once(name: str, run: Callable[[], Awaitable[None]]) -> bool:
    """Whether the job ended without an error; an error is logged."""
    [result] = await asyncio.gather(run(), return_exceptions=True)
    if isinstance(result, BaseException):
        log.error("%s failed and is restarted", name, exc_info=result)
        return False
    return True
