"""Reads `execution_control` for the bookkeeper: owners, decisions, unfinished executions, leftover rows.

Each query selects only the columns that its callers need. The engine itself reads whole rows through `control`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import JSON, ColumnElement, Dialect, Select, exists, func, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import among
from engine.graph import JsonObject
from engine.result import Status
from engine.store.tables import approvals, call_reservations, execution_control, journalled

_control = execution_control.c


@dataclass(frozen=True, slots=True)
class ControlSummary:
    """The control columns of an execution whose record is missing or out of date; named as in `execution_control`."""

    execution_id: str
    owner_id: str
    status: str
    attempt: int
    workflow_name: str
    source: str
    graph_hash: str | None
    conversation_id: str | None
    correlation_id: str
    trace_id: str | None
    root_span_id: str | None
    root_started_at: datetime
    cancel_reason: str | None
    finished_at: datetime | None
    result: JsonObject | None
    subject: JsonObject | None
    """The fields of `ExecutionIdentity`."""


class DecidedState(NamedTuple):
    """The last decision about an execution: its attempt, status and result, and why it can be claimed again."""

    execution_id: str
    attempt: int
    status: str
    result: JsonObject | None
    claim_reason: str | None


OUTCOME_FIELDS = (
    "status",
    "error_type",
    "error_class",
    "error_message",
    "duration_ms",
    "usage",
    "cost_nano_usd",
    "unpriced_calls",
    "unmetered_calls",
    "failed_calls",
    "assumed_calls",
    "waste_nano_usd",
    "model_calls",
    "tool_calls",
    "node_executions",
    "unfinished_calls",
    "cost_upper_nano_usd",
    "metadata",
)
"""The fields of `ExecutionResult` that say what an execution did and used."""


@dataclass(frozen=True, slots=True)
class DecidedExecution:
    """All decisions about one execution, for a comparison with its record; named as in `execution_control`."""

    execution_id: str
    owner_id: str
    status: str
    attempt: int
    workflow_name: str
    source: str
    graph_hash: str | None
    conversation_id: str | None
    correlation_id: str
    trace_id: str | None
    root_span_id: str | None
    lease_owner: str | None
    cancel_reason: str | None
    subject: JsonObject | None
    finished_at: datetime | None
    outcome: JsonObject
    """The `OUTCOME_FIELDS` of the result that are not null."""


class UnfinishedCount(NamedTuple):
    """The number of unfinished executions with one status, and when the oldest of them was accepted."""

    status: str
    executions: int
    oldest_accepted_at: datetime


class Leftover(NamedTuple):
    """A table that still holds rows of an execution that has ended."""

    execution_id: str
    table: str


async def get_summary(connection: AsyncConnection, execution_id: str, owner: str | None) -> ControlSummary | None:
    """Return one execution, or null if it does not exist; `owner` null means any owner."""
    statement: Select[tuple[object, ...]] = select(*_SUMMARY_COLUMNS).where(_control.execution_id == execution_id)
    if owner is not None:
        statement = statement.where(_control.owner_id == owner)
    row = (await connection.execute(statement)).mappings().one_or_none()
    return None if row is None else ControlSummary(**row)


_DECISION_COLUMNS = [_control[item.name] for item in fields(DecidedExecution) if item.name != "outcome"]
_SUMMARY_COLUMNS = [_control[item.name] for item in fields(ControlSummary)]


async def get_owners(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, str]:
    """Return the owner of each of these executions; unknown ids are missing."""
    id_ = _control.execution_id
    known = select(id_, _control.owner_id).where(among(connection.dialect, id_, sorted(execution_ids)))
    return {row.execution_id: row.owner_id for row in await connection.execute(known)}


async def lock(connection: AsyncConnection, execution_ids: Collection[str]) -> set[str]:
    """Lock the rows of these executions until the transaction ends; returns the ids of those that exist.

    Whoever locks records, too, locks them afterwards.
    """
    id_ = _control.execution_id
    rows = select(id_).where(among(connection.dialect, id_, sorted(execution_ids))).order_by(id_).with_for_update()
    return set((await connection.execute(rows)).scalars())


async def get_attempts(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, int]:
    """Return the number of attempts of each of these executions; unknown ids are missing."""
    id_ = _control.execution_id
    known = select(id_, _control.attempt).where(among(connection.dialect, id_, sorted(execution_ids)))
    return {row.execution_id: row.attempt for row in await connection.execute(known)}


async def find_ids(connection: AsyncConnection, prefix: str, owner: str | None, *, limit: int) -> list[str]:
    """Return the execution ids that start with `prefix`, newest first; `owner` null means any owner."""
    mine = [_control.owner_id == owner] if owner is not None else []
    statement = select(_control.execution_id).where(_control.execution_id.startswith(prefix, autoescape=True), *mine)
    return list((await connection.execute(statement.order_by(_control.execution_id.desc()).limit(limit))).scalars())


async def get_decided_states(connection: AsyncConnection, execution_ids: Sequence[str]) -> list[DecidedState]:
    """Return the last decision about each of these executions; unknown ids are missing."""
    rows = await connection.execute(
        select(_control.execution_id, _control.attempt, _control.status, _control.result, _control.claim_reason).where(
            _control.execution_id.in_(execution_ids)
        )
    )
    return [DecidedState(*row) for row in rows]


async def count_unfinished(connection: AsyncConnection, statuses: Collection[Status]) -> list[UnfinishedCount]:
    """Count the unfinished executions by status; statuses without executions are missing."""
    rows = await connection.execute(
        select(_control.status, func.count(), func.min(_control.accepted_at))
        .where(_control.finished_at.is_(None), _control.status.in_(statuses))
        .group_by(_control.status)
    )
    return [UnfinishedCount(*row) for row in rows]


async def ended(connection: AsyncConnection, execution_ids: Collection[str]) -> list[str]:
    """Return those of these executions that have ended."""
    if not execution_ids:
        return []
    rows = await connection.execute(
        select(_control.execution_id).where(
            among(connection.dialect, _control.execution_id, execution_ids), _control.finished_at.is_not(None)
        )
    )
    return list(rows.scalars())


async def get_decisions(connection: AsyncConnection, after: str, upto: str, *, limit: int) -> list[DecidedExecution]:
    """Return the decisions about executions, by id, from behind `after` up to `upto`."""
    outcome = _outcome_of(connection.dialect).label("outcome")
    statement = (
        select(*_DECISION_COLUMNS, outcome)
        .where(_control.execution_id > after, _control.execution_id <= upto)
        .order_by(_control.execution_id)
        .limit(limit)
    )
    rows = (await connection.execute(statement)).mappings()
    return [DecidedExecution(**{**row, "outcome": _named(row["outcome"])}) for row in rows]


def _outcome_of(dialect: Dialect) -> ColumnElement[Any]:
    """The parts of the result that the record has too, without the answer, which may be large: read in one pass."""
    result = _control.result
    if dialect.name == "sqlite":
        return type_coerce(func.json_extract(result, *(f"$.{name}" for name in OUTCOME_FIELDS)), JSON)
    return type_coerce(func.jsonb_build_array(*(result[name] for name in OUTCOME_FIELDS)), JSON)


def _named(outcome: list[Any] | None) -> JsonObject:
    return {name: value for name, value in zip(OUTCOME_FIELDS, outcome or (), strict=False) if value is not None}


async def leftovers(connection: AsyncConnection, after: str, upto: str) -> list[Leftover]:
    """Find rows in tables that only unfinished executions use, of executions that have ended or do not exist.

    These are parts, calls in flight and approvals; ids from behind `after` up to `upto`.
    """
    found: list[Leftover] = []
    for table in (journalled, call_reservations, approvals):
        id_ = table.c.execution_id
        unfinished = exists().where(_control.execution_id == id_, _control.finished_at.is_(None))
        ids = await connection.execute(select(id_).where(id_ > after, id_ <= upto, ~unfinished).distinct())
        found += [Leftover(id_, table.name) for id_ in sorted(ids.scalars())]
    return found
