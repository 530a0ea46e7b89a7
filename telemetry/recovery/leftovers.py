"""Deletes the checkpoints that ended executions have left.

The process that ends an execution deletes them after the commit. One that dies in between, or whose connection is cut,
leaves them; and an attempt that was fenced off may still write some afterwards.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from engine.database.database import Database
from engine.errors import Unavailable
from engine.store import control_reads

if TYPE_CHECKING:
    from engine.store.checkpoints import Checkpoints

log = logging.getLogger(__name__)


async def delete_leftovers(database: Database, checkpoints: "Checkpoints") -> int:
    """Delete all checkpoints of ended executions; returns the number of those executions. Raises `Unavailable`."""
    stored = await checkpoints.attempts()
    async with database.read() as connection:
        ended = await control_reads.ended(connection, stored)
    for execution_id in ended:
        await checkpoints.delete_thread(execution_id, stored[execution_id])
    return len(ended)


async def keep_deleting(database: Database, checkpoints: "Checkpoints", *, every_seconds: float) -> None:
    """Call `delete_leftovers` regularly until cancelled."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await delete_leftovers(database, checkpoints)
        except Unavailable as error:
            log.warning("leftover checkpoints could not be deleted; trying again", extra={"error": str(error)})
