"""Stores signals that a consumer could not store in `dead_letter`, with the reason.

`telemetry/recovery/replay.py` retries them.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from engine.database.base import database_time
from engine.graph import JsonObject
from telemetry.health import Health
from telemetry.signals.records import Signal, SpanRecord
from telemetry.store.tables import dead_letter

FIRST_WAIT_SECONDS = 10.0
"""The delay before the first retry."""

Unreadable = tuple[str | None, JsonObject]
"""A malformed signal: the execution, if known, and a description."""

log = logging.getLogger(__name__)


class DeadLetters:
    """Writes dead letters inside the caller's transactions, one transaction at a time, and counts those committed."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._uncommitted: Counter[str] = Counter()

    async def keep(self, connection: AsyncConnection, consumer: str, signals: Sequence[Signal], reason: str) -> None:
        """Store signals that a consumer could not store; they are retried."""
        rows = [(signal.identity.execution_id, document(signal)) for signal in signals]
        await self._insert(connection, consumer, rows, reason, wait_seconds=FIRST_WAIT_SECONDS)

    async def keep_documents(
        self, connection: AsyncConnection, consumer: str, rows: Sequence[Unreadable], reason: str
    ) -> None:
        """Store malformed signals, or signals of no execution; they are retried only on request."""
        await self._insert(connection, consumer, rows, reason, wait_seconds=None)

    async def _insert(
        self,
        connection: AsyncConnection,
        consumer: str,
        rows: Sequence[Unreadable],
        reason: str,
        *,
        wait_seconds: float | None,
    ) -> None:
        if not rows:
            return
        now = await database_time(connection)
        due = None if wait_seconds is None else now + timedelta(seconds=wait_seconds)
        common = {"consumer": consumer, "reason": reason, "at": now, "due_at": due}
        values = [common | {"id": str(uuid7()), "execution_id": id_, "signal": signal} for id_, signal in rows]
        await connection.execute(insert(dead_letter), values)
        self._uncommitted[consumer] += len(values)
        log.error(
            "signals became dead letters",
            extra={"consumer": consumer, "signals": len(values), "reason": reason},
        )

    def committed(self) -> None:
        """The caller's transaction was committed."""
        self._health.dead_letters.update(self._uncommitted)
        self._uncommitted.clear()

    def rolled_back(self) -> None:
        """The caller's transaction failed, and so its dead letters were not stored."""
        self._uncommitted.clear()


def document(signal: Signal) -> JsonObject:
    """The signal as JSON, without the part for the trace store."""
    fields: JsonObject = asdict(signal)
    fields.pop("trace_only", None)
    return {"type": "span" if isinstance(signal, SpanRecord) else "event", **fields}
