"""Reads everything that the books hold about executions, page by page: a window may hold more than fits into memory."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Column, RowMapping, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.store import control_reads
from engine.store.control_reads import DecidedExecution
from engine.store.tables import execution_control
from telemetry.reconcile.window import DAY, HOUR, Window, floor_hour
from telemetry.records.rollups import accepted_at
from telemetry.records.rows import EXECUTION_COLUMNS, SPAN_COLUMNS
from telemetry.store.bulk import Row
from telemetry.store.retention_tables import pruned_rollups
from telemetry.store.tables import (
    PRUNED_MARKS,
    execution_rollups,
    execution_rollups_daily,
    executions,
    outbox,
    spans,
    webhook_deliveries,
    webhook_events,
)

_EXECUTIONS = 200
_SPANS = 4_000
"""The most of a page, unless one execution alone has more spans."""

_ID_LENGTH = 36

_RECORD_COLUMNS = (*EXECUTION_COLUMNS, *PRUNED_MARKS)

AT = {name: place for place, name in enumerate(SPAN_COLUMNS)}
"""Column of a span to its place in the row."""


@dataclass(slots=True)
class ExecutionBooks:
    """All rows about one execution."""

    id: str
    record: Mapping[str, Any] | None = None
    decided: DecidedExecution | None = None
    spans: list[Row] = field(default_factory=list)
    """Cells in the order of `SPAN_COLUMNS`."""
    events: list[RowMapping] = field(default_factory=list)
    deliveries: list[RowMapping] = field(default_factory=list)
    in_outbox: bool = False
    """Signals of it are still on the way through the Collector."""


async def occupied_hours(connection: AsyncConnection, window: Window) -> list[Window]:
    """The hours of the window that any row belongs to, in order."""
    hours: list[Window] = []
    since = window.since
    while (hour := await next_hour(connection, Window(since, window.until))) is not None:
        hours.append(Window(hour, hour + HOUR))
        since = hour + HOUR
    return hours


async def occupied_days(connection: AsyncConnection, window: Window, hours: Iterable[Window]) -> list[Window]:
    """The days of these hours, and those within the window that have a roll-up."""
    bucket = execution_rollups_daily.c.bucket_day
    since = window.since.replace(hour=0)
    stored = (
        await connection.execute(select(bucket).where(bucket >= since, bucket < window.until).distinct())
    ).scalars()
    days = {
        time.replace(hour=0, minute=0, second=0, microsecond=0) for time in (*stored, *(one.since for one in hours))
    }
    return [Window(day, day + DAY) for day in sorted(days)]


async def next_hour(connection: AsyncConnection, window: Window) -> datetime | None:
    """The first hour of the window with anything in the books."""
    if window.since >= window.until:
        return None
    found: list[datetime] = []
    for column in _ID_COLUMNS:
        first = (await connection.execute(select(func.min(column)).where(window.holds(column)))).scalar()
        if first is not None:
            found.append(max(window.since, _hour_of(first, window.since)))
    for bucket in (execution_rollups.c.bucket_hour, pruned_rollups.c.bucket_hour):
        within = (bucket >= window.since, bucket < window.until)
        first_bucket = (await connection.execute(select(func.min(bucket)).where(*within))).scalar()
        found += [] if first_bucket is None else [floor_hour(first_bucket)]
    return min(found, default=None)


_ID_COLUMNS: tuple[Column[str], ...] = (
    executions.c.id,
    spans.c.execution_id,
    execution_control.c.execution_id,
    webhook_events.c.execution_id,
)


def _hour_of(execution_id: str, otherwise: datetime) -> datetime:
    try:
        return floor_hour(accepted_at(execution_id))
    except (ValueError, OverflowError):  # no id of ours
        return otherwise


async def read_pages(connection: AsyncConnection, window: Window) -> AsyncIterator[list[ExecutionBooks]]:
    """The executions of the window by id, with those that have no record."""
    after, end = window.first_id, window.end_id
    while after < end:
        upto, page = await _read_page(connection, after, end)
        yield page
        after = upto


async def _read_page(connection: AsyncConnection, after: str, end: str) -> tuple[str, list[ExecutionBooks]]:
    """The next page, and the id that it goes up to."""
    records = await _read_records(connection, after, end)
    decided = await control_reads.get_decisions(connection, after, end, limit=_EXECUTIONS)
    upto = _last_of_page(records, decided, end)
    page: defaultdict[str, ExecutionBooks] = _Page()
    for record in records:
        if record["id"] <= upto:
            page[record["id"]].record = record
    for one in decided:
        if one.execution_id <= upto:
            page[one.execution_id].decided = one
    await _add_spans(connection, after, upto, page)
    await _add_webhooks(connection, after, upto, page)
    await _mark_outbox(connection, after, upto, page)
    return upto, [page[id_] for id_ in sorted(page)]


class _Page(defaultdict[str, ExecutionBooks]):
    def __missing__(self, id_: str) -> ExecutionBooks:
        self[id_] = ExecutionBooks(id_)
        return self[id_]


def _last_of_page(records: Sequence[Mapping[str, Any]], decided: Sequence[DecidedExecution], end: str) -> str:
    """The last id of a page that has neither too many executions nor too many spans."""
    upto: str = end
    if len(records) == _EXECUTIONS:
        upto = records[-1]["id"]
    if len(decided) == _EXECUTIONS:
        upto = min(upto, decided[-1].execution_id)
    counted = 0
    for record in records:
        counted += record["spans_stored"]
        if counted >= _SPANS:
            return min(upto, str(record["id"]))
    return upto


async def _read_records(connection: AsyncConnection, after: str, end: str) -> list[dict[str, Any]]:
    columns = [executions.c[name] for name in _RECORD_COLUMNS]
    within = (executions.c.id > after, executions.c.id <= end)
    rows = await connection.execute(select(*columns).where(*within).order_by(executions.c.id).limit(_EXECUTIONS))
    return [dict(zip(_RECORD_COLUMNS, row, strict=True)) for row in rows]


async def _add_spans(connection: AsyncConnection, after: str, upto: str, page: dict[str, ExecutionBooks]) -> None:
    id_ = spans.c.execution_id
    statement = select(*(spans.c[name] for name in SPAN_COLUMNS)).where(id_ > after, id_ <= upto)
    for row in await connection.execute(statement):
        page[row[AT["execution_id"]]].spans.append(tuple(row))


async def _add_webhooks(connection: AsyncConnection, after: str, upto: str, page: dict[str, ExecutionBooks]) -> None:
    id_ = webhook_events.c.execution_id
    within = (id_ > after, id_ <= upto)
    for event in (await connection.execute(select(webhook_events).where(*within))).mappings():
        page[event["execution_id"]].events.append(event)
    if not any(books.events for books in page.values()):
        return
    of_event = webhook_deliveries.c.event_id == webhook_events.c.event_id
    statement = select(webhook_deliveries, id_.label("execution_of_event")).join(webhook_events, of_event)
    for delivery in (await connection.execute(statement.where(*within))).mappings():
        page[delivery["execution_of_event"]].deliveries.append(delivery)


async def _mark_outbox(connection: AsyncConnection, after: str, upto: str, page: dict[str, ExecutionBooks]) -> None:
    """Mark the executions with signals in the outbox: an id there is that of the execution, a slash, and hex digits."""
    execution = func.substr(outbox.c.id, 1, _ID_LENGTH)
    statement = select(execution).where(outbox.c.id > after, outbox.c.id < f"{upto}/g").distinct()
    for id_ in (await connection.execute(statement)).scalars():
        if id_ in page:
            page[id_].in_outbox = True
