"""What a service does beside answering requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.bootstrap import Runtime
from telemetry.reconcile_runs import ReconcileJob


@asynccontextmanager
async def keeping(runtime: Runtime) -> AsyncIterator[None]:
    """Compare the books once an hour while the block runs."""
    job = ReconcileJob(runtime.database, runtime.settings.prometheus_url)
    task = asyncio.create_task(job.run(), name="reconcile")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
