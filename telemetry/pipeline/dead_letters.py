"""What could not be stored is kept in `dead_letter`, with its reason; `telemetry/recovery/replay.py` tries it again."""

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
"""Until a signal is given to its consumer again for the first time."""

Unreadable = tuple[str | None, JsonObject]
"""What is no signal: the execution, if known, and what could be told of it."""

log = logging.getLogger(__name__)


class DeadLetters:
    """Keeps signals aside inside the caller's transactions, one at a time, and counts those that were committed."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._kept: Counter[str] = Counter()

    async def keep(self, connection: AsyncConnection, consumer: str, signals: Sequence[Signal], reason: str) -> None:
        """Put signals aside that a consumer could not store."""
        rows = [(signal.identity.execution_id, document(signal)) for signal in signals]
        await self._insert(connection, consumer, rows, reason, wait_seconds=FIRST_WAIT_SECONDS)

    async def keep_documents(
        self, connection: AsyncConnection, consumer: str, rows: Sequence[Unreadable], reason: str
    ) -> None:
        """The same for what could not be read as a signal, or is of no execution: it is not tried again by itself."""
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
        values = [common | {"id": str(uuid7()), "execution_id": id_, "signal": said} for id_, said in rows]
        await connection.execute(insert(dead_letter), values)
        self._kept[consumer] += len(values)
        log.error("signals kept aside", extra={"consumer": consumer, "signals": len(values), "reason": reason})

    def committed(self) -> None:
        """The caller's transaction was committed."""
        self._health.dead_letters.update(self._kept)
        self._kept.clear()

    def rolled_back(self) -> None:
        """The caller's transaction failed, and nothing was kept aside after all."""
        self._kept.clear()


def document(signal: Signal) -> JsonObject:
    """The signal as JSON, without what only the trace store wants."""
    said: JsonObject = asdict(signal)
    said.pop("trace_only", None)
    return {"type": "span" if isinstance(signal, SpanRecord) else "event", **said}
