"""Deletes the checkpoints that ended executions have left.

The process that ends an execution deletes them after the commit. One that dies in between, or whose connection is cut,
leaves them; and an attempt that was fenced off may still write some afterwards. Retention may have deleted the control
row before they are found.
"""

import asyncio
import logging
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from engine.database.database import Database
from engine.errors import Unavailable
from engine.store import control_reads
from telemetry.records.rollups import first_id

if TYPE_CHECKING:
    from engine.store.checkpoints import Checkpoints

_IS_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""A UUIDv7: other applications may keep their threads in the same tables."""
_SURE = timedelta(hours=1)
"""An older execution without a control row is none that has just begun."""

log = logging.getLogger(__name__)


async def delete_leftovers(database: Database, checkpoints: "Checkpoints") -> int:
    """Delete all checkpoints of ended executions; returns the number of those executions. Raises `Unavailable`."""
    stored = await checkpoints.attempts()
    before = first_id(datetime.now(UTC) - _SURE)
    async with database.read() as connection:
        ended = await control_reads.ended(connection, stored)
        known = await control_reads.get_owners(connection, stored)
    ended += [id_ for id_ in stored if id_ not in known and id_ < before and _IS_ID.fullmatch(id_)]
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
