"""The rows that retention deletes with their execution: where they are, when they are due, and how they are deleted.

`list_stores` is the list. A new table with content of executions belongs to `_WITH_CONTROL`, and to `erasure`.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, Dialect, Select, Table, Text, cast, delete, select, tuple_, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import among
from engine.retention import erasure
from engine.retention.erasure import Reason
from engine.store.tables import call_content, conversation_messages, execution_control, tombstones
from telemetry.records.rollups import CALL_COLUMNS, RECORD_COLUMNS, Deltas
from telemetry.retention.holds import Hold
from telemetry.retention.periods import Periods
from telemetry.store.score_tables import execution_scores, score_comments
from telemetry.store.tables import executions, spans, webhook_events

CONTENT = "content of kept control rows"
SPANS_AT_ONCE = 600
"""Span rows deleted in one transaction; an execution may have any number."""


Erase = Callable[[AsyncConnection, Sequence[str], Reason], Awaitable[None]]
"""Deletes the content of executions whose control rows stay, and says why."""


@dataclass(frozen=True, slots=True)
class Described:
    """Where executions are described that have ended: their owner, workflow, template, and when they ended."""

    id: Column[str]
    completed_at: Column[datetime]
    columns: tuple[ColumnElement[Any], ...]
    """With the names of the record's columns."""

    def those_of(self, dialect: Dialect, execution_ids: Sequence[str]) -> Select[Any]:
        """The ended ones of these executions, by id."""
        chosen = (among(dialect, self.id, execution_ids), self.completed_at.is_not(None))
        return select(*self.columns).where(*chosen).order_by(self.id)


@dataclass(frozen=True, slots=True)
class Batch:
    """Executions whose rows are due, as they are described, sorted by id; `now` is by the database's clock."""

    records: Sequence[RowMapping]
    now: datetime

    @property
    def ids(self) -> list[str]:
        """The ids of the executions."""
        return [record["id"] for record in self.records]


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many rows were deleted, by table; `is_all` is false if some of the batch are left for another transaction."""

    rows: Counter[str] = field(default_factory=Counter)
    is_all: bool = True


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one table that belong to an execution."""

    table: Table
    execution_id: Column[str]
    condition: ColumnElement[bool] | None = None

    def chosen(self, dialect: Dialect, execution_ids: Sequence[str]) -> list[ColumnElement[bool]]:
        """The conditions for those of some executions."""
        chosen = among(dialect, self.execution_id, execution_ids)
        return [chosen] if self.condition is None else [chosen, self.condition]


@dataclass(frozen=True, slots=True)
class Store:
    """Rows that are due at the same time, and go in one transaction."""

    rows: Rows
    """The rows that are looked for, by the id of their execution."""
    period: Callable[[Periods], timedelta | None]
    """Null: for ever."""
    delete: Callable[[AsyncConnection, Batch], Awaitable[Deleted]]
    holds: tuple[Hold, ...] = ()
    also: tuple[Rows, ...] = ()
    """Rows that go with them, for the count beforehand."""
    name: str | None = None
    """What reports call its rows, if not by their table."""
    described: Described = field(default_factory=lambda: _BY_RECORDS)

    def page(self, after: str, before: str, limit: int) -> Select[str]:
        """The next executions that have such rows, in the order of their ids."""
        id_ = self.rows.execution_id
        statement = select(id_).where(id_ > after, id_ < before).distinct().order_by(id_).limit(limit)
        return statement if self.rows.condition is None else statement.where(self.rows.condition)


async def _delete_control(connection: AsyncConnection, batch: Batch) -> Deleted:
    """Delete control rows and all content of their executions."""
    ids = batch.ids
    rows = await erasure.erase_with_control(connection, ids)
    comments = await connection.execute(delete(score_comments).where(*_COMMENTS.chosen(connection.dialect, ids)))
    await _mark(connection, "control_pruned_at", batch, ids, params={})
    return Deleted(rows + Counter({score_comments.name: comments.rowcount}))


async def _delete_spans(connection: AsyncConnection, batch: Batch) -> Deleted:
    """Delete span rows, and keep the sums of the model calls among them for the roll-ups."""
    c = spans.c
    key = tuple_(c.execution_id, c.span_id)
    chosen = among(connection.dialect, c.execution_id, batch.ids)
    ordered = select(c.execution_id, c.span_id).where(chosen).order_by(c.execution_id, c.span_id)
    rest = (await connection.execute(ordered.offset(SPANS_AT_ONCE).limit(1))).one_or_none()
    statement = delete(spans).where(chosen)
    if rest is not None:
        statement = statement.where(key < tuple_(*rest, types=[c.execution_id.type, c.span_id.type]))
    returning = (c.execution_id, c.kind, *(c[name] for name in CALL_COLUMNS))
    rows = (await connection.execute(statement.returning(*returning))).mappings().all()
    deltas = Deltas()
    calls: dict[str, list[RowMapping]] = {row["execution_id"]: [] for row in rows}
    for row in rows:
        if row["kind"] == "model":
            calls[row["execution_id"]].append(row)
    for record in batch.records:
        deltas.add_stored_calls(record, calls.get(record["id"], ()))
    await deltas.write_pruned(connection)
    await _mark(connection, "spans_pruned_at", batch, sorted(calls))
    return Deleted(Counter({spans.name: len(rows)}), is_all=rest is None)


async def _delete_records(connection: AsyncConnection, batch: Batch) -> Deleted:
    """Delete records with everything that is left of their executions, and keep their sums for the roll-ups."""
    deltas = Deltas()
    for record in batch.records:
        deltas.add_stored_end(record)
    await deltas.write_pruned(connection)
    rows: Counter[str] = Counter()
    for each in (*_WITH_RECORDS, _RECORDS):
        chosen = each.chosen(connection.dialect, batch.ids)
        rows[each.table.name] += (await connection.execute(delete(each.table).where(*chosen))).rowcount
    return Deleted(rows)


async def _mark(connection: AsyncConnection, mark: str, batch: Batch, ids: Sequence[str], **more: object) -> None:
    """Say on the records that rows of theirs were deleted."""
    chosen = among(connection.dialect, executions.c.id, ids)
    unmarked = executions.c[mark].is_(None)
    await connection.execute(update(executions).where(chosen, unmarked).values({mark: batch.now, **more}))


_BY_RECORDS: Described = Described(
    executions.c.id, executions.c.completed_at, tuple(executions.c[name] for name in RECORD_COLUMNS)
)
_BY_DECISIONS = Described(
    execution_control.c.execution_id,
    execution_control.c.finished_at,
    (
        execution_control.c.execution_id.label("id"),
        execution_control.c.owner_id,
        execution_control.c.workflow_name,
        execution_control.c.source.label("workflow_source"),
        execution_control.c.subject["template_id"].as_string().label("template_id"),
        execution_control.c.finished_at.label("completed_at"),
    ),
)
"""Content does not stay for ever where a record is missing."""

_HAS_CONTENT = execution_control.c.finished_at.is_not(None) & (cast(execution_control.c.request, Text) != "{}")
_CONTROL = Rows(execution_control, execution_control.c.execution_id, execution_control.c.finished_at.is_not(None))
_COMMENTS = Rows(score_comments, score_comments.c.execution_id)
_SPANS = Rows(spans, spans.c.execution_id)
_RECORDS = Rows(executions, executions.c.id, executions.c.completed_at.is_not(None))
_WITH_CONTROL = (
    Rows(call_content, call_content.c.execution_id),
    Rows(conversation_messages, conversation_messages.c.execution_id),
    _COMMENTS,
)
_WITH_RECORDS = (
    Rows(webhook_events, webhook_events.c.execution_id),
    Rows(execution_scores, execution_scores.c.execution_id),
    _COMMENTS,
    Rows(tombstones, tombstones.c.execution_id),
)
"""Rows that go with the record of their execution."""

_OWED = (Hold.OUTBOX, Hold.DEAD_LETTERS)


def list_stores(erase: Erase) -> tuple[Store, ...]:
    """All stores, in the order in which they are deleted. `erase` deletes content without its control row."""

    async def erase_held(connection: AsyncConnection, batch: Batch) -> Deleted:
        if batch.records:
            await erase(connection, batch.ids, "expired")
        return Deleted(Counter({CONTENT: len(batch.records)}))

    def of_content(periods: Periods) -> timedelta:
        return periods.content_at_most

    return (
        Store(
            _CONTROL,
            of_content,
            _delete_control,
            (*_OWED, Hold.NOT_COMPARED, Hold.CONVERSATION),
            also=_WITH_CONTROL,
        ),
        # Content does not wait for what holds its control row back.
        Store(
            Rows(execution_control, execution_control.c.execution_id, _HAS_CONTENT),
            of_content,
            erase_held,
            (Hold.CONVERSATION,),
            name=CONTENT,
            described=_BY_DECISIONS,
        ),
        Store(_SPANS, lambda periods: periods.spans_at_most, _delete_spans, (*_OWED, Hold.NOT_COMPARED)),
        Store(
            _RECORDS,
            lambda periods: periods.records,
            _delete_records,
            (*_OWED, Hold.NOT_COMPARED, Hold.DELIVERIES, Hold.CONTROL, Hold.SPANS),
            also=_WITH_RECORDS,
        ),
    )
