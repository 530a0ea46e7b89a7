"""Deletes the content of ended executions everywhere: from the engine's tables, and from those of the bookkeeper.

The numbers stay: records, spans, roll-ups and deliveries hold no content but the parameters of the template.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from engine.graph import JsonObject
from engine.retention import erasure
from engine.retention.erasure import Reason
from engine.store import control_reads
from engine.tracing import semconv
from telemetry.collector.signature import Signer
from telemetry.signals import otlp
from telemetry.signals.records import BadSignal
from telemetry.store.score_tables import score_comments
from telemetry.store.tables import dead_letter, executions, outbox

BATCH = 50
"""Executions per transaction: so few that nobody waits for its locks."""

DeleteCheckpoints = Callable[[str, int], Awaitable[None]]
"""Deletes the checkpoints of an execution with so many attempts."""


class Eraser:
    """Deletes content; repeating it is harmless."""

    def __init__(self, database: Database, signer: Signer, delete_checkpoints: DeleteCheckpoints) -> None:
        self._database = database
        self._signer = signer
        self._delete_checkpoints = delete_checkpoints

    async def erase(self, execution_ids: Sequence[str], reason: Reason) -> None:
        """Delete the content of these executions, a batch per transaction, and leave tombstones.

        Raises `NotFinished` or `ConversationBusy`; then the batch, and those after it, are as they were.
        """
        for start in range(0, len(execution_ids), BATCH):
            batch = sorted(execution_ids[start : start + BATCH])
            async with self._database.begin() as connection:
                await erasure.check_erasable(connection, batch)
                await self.erase_rows(connection, batch, reason)
                attempts = await control_reads.get_attempts(connection, batch)
            for execution_id, count in attempts.items():
                await self._delete_checkpoints(execution_id, count)
        await self._database.scrub()

    async def erase_rows(self, connection: AsyncConnection, execution_ids: Sequence[str], reason: Reason) -> None:
        """Delete the content of these ended executions in the caller's transaction, and leave tombstones."""
        await erase_stored(connection, execution_ids, reason)
        for execution_id in execution_ids:
            await self._strip_outbox(connection, execution_id)

    async def _strip_outbox(self, connection: AsyncConnection, execution_id: str) -> None:
        """Signals that wait for the Collector still reach it, without their content."""
        waiting = (
            select(outbox.c.id, outbox.c.is_event, outbox.c.payload)
            .where(outbox.c.id.startswith(f"{execution_id}/"))
            .order_by(outbox.c.id)
            .with_for_update()
        )
        for row in (await connection.execute(waiting)).all():
            payload = self._stripped_event(row.payload) if row.is_event else otlp.strip_span(row.payload)
            if payload is not None:
                await connection.execute(update(outbox).where(outbox.c.id == row.id).values(payload=payload))

    def _stripped_event(self, payload: bytes) -> bytes | None:
        """The event without the template's parameters, signed again; null if it has none or cannot be read."""
        try:
            event = otlp.decode_event(payload)
        except (BadSignal, otlp.Undecodable):
            return None
        if semconv.PARAMS not in event.attributes:
            return None
        attributes = {key: value for key, value in event.attributes.items() if key != semconv.PARAMS}
        return otlp.encode(replace(event, attributes=attributes), self._signer.sign)


async def erase_stored(connection: AsyncConnection, execution_ids: Sequence[str], reason: Reason) -> None:
    """Delete the content of these ended executions from all tables but the outbox, and leave tombstones."""
    await erasure.bury(connection, execution_ids, reason)
    await erasure.erase(connection, execution_ids)
    await connection.execute(update(executions).where(executions.c.id.in_(execution_ids)).values(params={}))
    await connection.execute(delete(score_comments).where(score_comments.c.execution_id.in_(execution_ids)))
    await _strip_letters(connection, execution_ids)


async def _strip_letters(connection: AsyncConnection, execution_ids: Sequence[str]) -> None:
    """Take the parameters out of dead letters, which are replayed, and delete those that are kept only to be read."""
    letters = await connection.execute(
        select(dead_letter.c.id, dead_letter.c.signal).where(dead_letter.c.execution_id.in_(execution_ids))
    )
    for id_, signal in letters.all():
        if signal.get("type") not in ("span", "event"):
            await connection.execute(delete(dead_letter).where(dead_letter.c.id == id_))
        elif (stripped := _stripped_letter(signal)) != signal:
            await connection.execute(update(dead_letter).where(dead_letter.c.id == id_).values(signal=stripped))


def _stripped_letter(signal: JsonObject) -> JsonObject:
    """The letter without the template's parameters."""
    attributes = signal.get("attributes")
    if not isinstance(attributes, dict) or semconv.PARAMS not in attributes:
        return signal
    return signal | {"attributes": {key: value for key, value in attributes.items() if key != semconv.PARAMS}}
