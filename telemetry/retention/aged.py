"""The rows that retention deletes by their own age: webhook events, graphs, conversations and dead letters."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Column, ColumnElement, Select, Table, delete, func, or_, select, text, tuple_, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import UtcTime, among
from engine.database.time_limit import LOCK_NOT_AVAILABLE
from engine.store.tables import conversation_messages, conversations, execution_control, graphs
from telemetry.retention.periods import Periods
from telemetry.store.tables import dead_letter, executions, webhook_deliveries, webhook_events

LOCK_MS = 50
"""How long a deletion waits for acceptances in progress; others wait behind it."""

Key = tuple[datetime, str]
"""The time and the id of a row."""
Delete = Callable[[AsyncConnection, Sequence[str], datetime], Awaitable[Counter[str]]]


@dataclass(frozen=True, slots=True)
class Aged:
    """Rows of a table that are due a period after their own time."""

    table: Table
    id: Column[str]
    at: Column[datetime]
    is_free: ColumnElement[bool] | None
    """That nothing needs the row; null if nothing ever does."""
    period: Callable[[Periods], timedelta]
    delete: Delete

    def page(self, after: Key | None, before: datetime, limit: int) -> Select[datetime, str]:
        """The next due rows, oldest first."""
        statement = select(self.at, self.id).where(self.at < before).order_by(self.at, self.id).limit(limit)
        if self.is_free is not None:
            statement = statement.where(self.is_free)
        if after is not None:
            statement = statement.where(tuple_(self.at, self.id) > tuple_(*after, types=[UtcTime(), self.id.type]))
        return statement


async def _delete_events(connection: AsyncConnection, ids: Sequence[str], now: datetime) -> Counter[str]:
    """Delete webhook events with their deliveries and attempts, and say so on the records.

    The deliveries are locked before the second look, since one may be asked for again at the same time.
    """
    d, e = webhook_deliveries.c, webhook_events.c
    locked = select(d.id).where(among(connection.dialect, d.event_id, ids)).order_by(d.id).with_for_update()
    deliveries = len((await connection.execute(locked)).all())
    chosen = (among(connection.dialect, e.event_id, ids), _IS_DELIVERED)
    gone = await connection.execute(delete(webhook_events).where(*chosen).returning(e.execution_id))
    of = gone.scalars().all()
    named = among(connection.dialect, executions.c.id, sorted({id_ for id_ in of if id_ is not None}))
    unmarked = executions.c.webhooks_pruned_at.is_(None)
    await connection.execute(update(executions).where(named, unmarked).values(webhooks_pruned_at=now))
    return Counter({webhook_events.name: len(of), webhook_deliveries.name: deliveries})


async def _delete_graphs(connection: AsyncConnection, ids: Sequence[str], now: datetime) -> Counter[str]:
    """Delete graphs that no control row names."""
    return await _delete_unused(connection, graphs, graphs.c.content_hash, ids, _IS_UNNAMED)


async def _delete_conversations(connection: AsyncConnection, ids: Sequence[str], now: datetime) -> Counter[str]:
    """Delete conversations that have lost all their messages."""
    return await _delete_unused(connection, conversations, conversations.c.conversation_id, ids, _IS_SILENT)


async def _delete_unused(
    connection: AsyncConnection, table: Table, id_: Column[str], ids: Sequence[str], is_unused: ColumnElement[bool]
) -> Counter[str]:
    """Delete rows that acceptances may be about to use: none on PostgreSQL while those take longer than `LOCK_MS`."""
    if not await _locks_out_acceptances(connection, table):
        return Counter()
    chosen = (among(connection.dialect, id_, ids), is_unused)
    return Counter({table.name: (await connection.execute(delete(table).where(*chosen))).rowcount})


async def _locks_out_acceptances(connection: AsyncConnection, table: Table) -> bool:
    """Wait for acceptances that have found a row stored, and that use it once they commit. SQLite has one writer."""
    if connection.dialect.name == "sqlite":
        return True
    await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_MS}ms'"))
    try:
        async with connection.begin_nested():
            await connection.execute(text(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE"))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
            return False
        raise
    return True


async def _delete_letters(connection: AsyncConnection, ids: Sequence[str], now: datetime) -> Counter[str]:
    chosen = among(connection.dialect, dead_letter.c.id, ids)
    return Counter({dead_letter.name: (await connection.execute(delete(dead_letter).where(chosen))).rowcount})


_IS_DELIVERED = ~(
    select(webhook_deliveries.c.id)
    .where(webhook_deliveries.c.event_id == webhook_events.c.event_id, webhook_deliveries.c.state == "pending")
    .exists()
)
_IS_UNNAMED = ~(
    select(execution_control.c.execution_id).where(execution_control.c.graph_hash == graphs.c.content_hash).exists()
)
_IS_SILENT = ~or_(
    select(conversation_messages.c.position)
    .where(conversation_messages.c.conversation_id == conversations.c.conversation_id)
    .exists(),
    select(execution_control.c.execution_id)
    .where(
        execution_control.c.conversation_id == conversations.c.conversation_id,
        execution_control.c.finished_at.is_(None),
    )
    .exists(),
)

AGED: tuple[Aged, ...] = (
    Aged(
        webhook_events,
        webhook_events.c.event_id,
        webhook_events.c.at,
        _IS_DELIVERED,
        lambda periods: periods.webhooks,
        _delete_events,
    ),
    Aged(
        graphs,
        graphs.c.content_hash,
        graphs.c.created_at,
        _IS_UNNAMED,
        lambda periods: periods.idempotency,
        _delete_graphs,
    ),
    Aged(
        conversations,
        conversations.c.conversation_id,
        conversations.c.updated_at,
        _IS_SILENT,
        lambda periods: periods.content_at_most,
        _delete_conversations,
    ),
    Aged(dead_letter, dead_letter.c.id, dead_letter.c.at, None, lambda periods: periods.dead_letters, _delete_letters),
)


async def count(connection: AsyncConnection, aged: Aged, before: datetime) -> tuple[int, datetime | None]:
    """How many rows are due, and the time of the oldest."""
    statement = select(func.count(), func.min(aged.at)).where(aged.at < before)
    if aged.is_free is not None:
        statement = statement.where(aged.is_free)
    rows, oldest = (await connection.execute(statement)).one()
    return rows, oldest
