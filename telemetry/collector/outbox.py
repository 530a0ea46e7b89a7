"""The outbox: durable signals on their way through the Collector, each with marks of the consumers that still owe it.

A consumer clears its mark in the transaction that stores the signal; a row without marks is deleted. Every function
works in the caller's transaction, and locks rows in the order of their ids.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Column, ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import among, database_time, now_sql
from telemetry.store.bulk import BulkInsert
from telemetry.store.tables import outbox

RECORDS = "records"
WEBHOOKS = "webhooks"

_OWES: dict[str, Column[bool]] = {RECORDS: outbox.c.owes_records, WEBHOOKS: outbox.c.owes_webhooks}
"""Each consumer's mark."""

_PAGE = 1_000
_MOST_CLAIMED = 4_096


@dataclass(frozen=True, slots=True)
class Parcel:
    """One signal as the outbox keeps it; `payload` is an OTLP `Span` or `LogRecord`."""

    id: str
    is_event: bool
    scope: str
    payload: bytes
    attempts: int = 0
    """How often it was handed to the Collector."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The size of the outbox, and how long its oldest signals have waited."""

    waiting: int
    unshipped: int
    oldest_seconds: float
    record_lag_seconds: float
    """How long the oldest signal has waited that is not in its record yet."""


def owing(consumers: Collection[str], *, is_event: bool) -> list[str]:
    """Which of these consumers must store a signal: only the records need spans."""
    return [name for name in _OWES if name in consumers and (is_event or name == RECORDS)]


async def keep(connection: AsyncConnection, parcels: Sequence[Parcel], consumers: Collection[str]) -> None:
    """Insert signals; existing rows stay unchanged."""
    at = datetime.now(UTC)
    marks = {is_event: [name in owing(consumers, is_event=is_event) for name in _OWES] for is_event in (False, True)}
    rows = [
        (one.id, one.is_event, one.scope, one.payload, *marks[one.is_event], at, 0)
        for one in sorted(parcels, key=lambda parcel: parcel.id)
    ]
    await _KEEP.run(connection, rows)


async def claim(connection: AsyncConnection, *, are_events: bool, max_bytes: int) -> list[Parcel]:
    """Take unshipped signals, those with the fewest attempts first, and mark them as shipped.

    As many as fit into `max_bytes`, but at least one. Rows that another process has locked are skipped.
    """
    waiting = (
        select(outbox.c.id, func.length(outbox.c.payload))
        .where(outbox.c.is_event == are_events, outbox.c.shipped_at.is_(None))
        .order_by(outbox.c.attempts, outbox.c.kept_at)
        .limit(_MOST_CLAIMED)
        .with_for_update(skip_locked=True)
    )
    ids: list[str] = []
    size = 0
    for id_, length in await connection.execute(waiting):
        size += length
        if ids and size > max_bytes:
            break
        ids.append(id_)
    return await _mark_shipped(connection, ids)


async def release(connection: AsyncConnection, ids: Collection[str]) -> None:
    """Make claimed signals that were not delivered available to ship again."""
    await lock(connection, ids)
    await connection.execute(update(outbox).where(_are(connection, ids)).values(shipped_at=None))


async def unconfirmed(connection: AsyncConnection, consumer: str, after_seconds: float | None) -> list[Parcel]:
    """A page of owed signals that were shipped at least `after_seconds` ago, or (null) of all owed signals.

    Rows that another process has locked are skipped.
    """
    statement = (
        select(outbox.c.id, outbox.c.is_event, outbox.c.scope, outbox.c.payload, outbox.c.attempts)
        .where(_OWES[consumer])
        .order_by(outbox.c.id)
        .limit(_PAGE)
        .with_for_update(skip_locked=True)
    )
    if after_seconds is not None:
        now = await database_time(connection)
        statement = statement.where(outbox.c.shipped_at <= now - timedelta(seconds=after_seconds))
    return [Parcel(*row) for row in await connection.execute(statement)]


async def lock(connection: AsyncConnection, ids: Collection[str]) -> None:
    """Lock the rows, so that other processes wait for this transaction. SQLite has a single writer anyway."""
    if connection.dialect.name != "sqlite":
        rows = select(outbox.c.id).where(_are(connection, ids)).order_by(outbox.c.id).with_for_update()
        await connection.execute(select(func.count()).select_from(rows.subquery()))


async def confirm(connection: AsyncConnection, consumer: str, ids: Collection[str]) -> int:
    """Clear the consumer's marks and delete rows without marks; returns the number cleared. The rows must be locked."""
    mine = _OWES[consumer]
    others = or_(*(mark for mark in _OWES.values() if mark is not mine))
    owed = and_(_are(connection, ids), mine)
    confirmed = (await connection.execute(delete(outbox).where(owed, ~others))).rowcount
    if confirmed < len(ids):
        confirmed += (await connection.execute(update(outbox).where(owed).values({mine: False}))).rowcount
    return confirmed


async def read_backlog(connection: AsyncConnection) -> Backlog:
    """The backlog; all zero if the outbox is empty."""
    unshipped = func.count().filter(outbox.c.shipped_at.is_(None))
    oldest_of_records = func.min(outbox.c.kept_at).filter(outbox.c.owes_records)
    statement = select(func.count(), unshipped, func.min(outbox.c.kept_at), oldest_of_records).select_from(outbox)
    count, waiting, oldest, of_records = (await connection.execute(statement)).one()
    return Backlog(count, waiting, _age(oldest), _age(of_records))


def _age(since: datetime | None) -> float:
    return 0.0 if since is None else max(0.0, (datetime.now(UTC) - since).total_seconds())


async def _mark_shipped(connection: AsyncConnection, ids: Sequence[str]) -> list[Parcel]:
    statement = (
        update(outbox)
        .where(_are(connection, ids))
        .values(shipped_at=now_sql(), attempts=outbox.c.attempts + 1)
        .returning(outbox.c.id, outbox.c.is_event, outbox.c.scope, outbox.c.payload, outbox.c.attempts)
    )
    return [Parcel(*row) for row in await connection.execute(statement)]


def _are(connection: AsyncConnection, ids: Collection[str]) -> ColumnElement[bool]:
    return among(connection.dialect, outbox.c.id, sorted(ids))


_KEEP = BulkInsert(
    outbox,
    ("id", "is_event", "scope", "payload", "owes_records", "owes_webhooks", "kept_at", "attempts"),
    "ON CONFLICT (id) DO NOTHING",
)
