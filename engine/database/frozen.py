"""Ends PostgreSQL connections of processes that are frozen in the middle of a statement.

The server's own `idle_in_transaction_session_timeout` begins with the answer to a statement. One that is sent in parts
(COPY, or prepared and not yet executed) has no answer yet, and a long answer may not have been read: while the server
waits for its client it keeps all locks of the transaction, and no timeout of its own ends that. Only
`pg_terminate_backend` does.
"""

import asyncio
import logging

from sqlalchemy import text

from engine.database.database import APPLICATION_NAME, COMMAND_SECONDS, IDLE_SECONDS, Database
from engine.errors import Unavailable

_END = text(
    """
    SELECT pid, pg_terminate_backend(pid) AS is_ended FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND application_name = :application
      AND state = 'active'
      AND greatest(query_start, state_change) < clock_timestamp() - make_interval(secs =>
          CASE wait_event WHEN 'ClientRead' THEN CAST(:idle_seconds AS float8)
                          WHEN 'ClientWrite' THEN CAST(:command_seconds AS float8) END)
    """
)

log = logging.getLogger(__name__)


async def end_frozen(
    database: Database, *, idle_seconds: float = IDLE_SECONDS, command_seconds: float = COMMAND_SECONDS
) -> int:
    """End connections of spanloom whose statement has waited for its client for longer than `idle_seconds`.

    Also ends those whose client has not read a result for `command_seconds`, when a live process has given up. Their
    open transactions are rolled back. SQLite has no such connections. Returns their number. Raises `Unavailable`.
    """
    if database.dialect_name == "sqlite":
        return 0
    async with database.read() as connection:
        limits = {"idle_seconds": idle_seconds, "command_seconds": command_seconds}
        found = await connection.execute(_END, limits | {"application": APPLICATION_NAME})
        pids = [row.pid for row in found if row.is_ended]
    if pids:
        log.warning("connections of frozen processes were ended", extra={"pids": pids})
    return len(pids)


async def keep_ending(database: Database, *, every_seconds: float) -> None:
    """Call `end_frozen` regularly until cancelled."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await end_frozen(database)
        except Unavailable as error:
            log.warning("frozen connections could not be looked for; trying again", extra={"error": str(error)})
