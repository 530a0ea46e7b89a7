"""Ends the connections of processes that stand still in the middle of a statement, on PostgreSQL.

The server's own `idle_in_transaction_session_timeout` begins with the answer to a statement. One that is sent in parts
(COPY, or prepared and not yet executed) has no answer yet: while the server waits for the rest it keeps all locks of
the transaction, and no timeout of its own ends that. Only `pg_terminate_backend` does.
"""

import asyncio
import logging

from sqlalchemy import text

from engine.errors import Unavailable
from engine.store.database import APPLICATION_NAME, IDLE_SECONDS, Database

_END = text(
    """
    SELECT pid, pg_terminate_backend(pid) AS is_ended FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND application_name = :application
      AND state = 'active' AND wait_event = 'ClientRead'
      AND greatest(query_start, state_change) < clock_timestamp() - make_interval(secs => :seconds)
    """
)

log = logging.getLogger(__name__)


async def end_frozen(database: Database, *, idle_seconds: float = IDLE_SECONDS) -> int:
    """End the connections of spanloom's that have left a statement unfinished for that long. How many there were.

    What they had not committed is rolled back. SQLite has no such connections. Raises `Unavailable`.
    """
    if database.dialect_name == "sqlite":
        return 0
    async with database.read() as connection:
        found = await connection.execute(_END, {"application": APPLICATION_NAME, "seconds": idle_seconds})
        pids = [row.pid for row in found if row.is_ended]
    if pids:
        log.warning("connections of processes that stand still were ended", extra={"pids": pids})
    return len(pids)


async def keep_ending(database: Database, *, every_seconds: float) -> None:
    """Do so until cancelled."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await end_frozen(database)
        except Unavailable as error:
            log.warning("connections that stand still could not be looked for", extra={"error": str(error)})
