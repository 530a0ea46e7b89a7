"""Reads `execution_control` for the bookkeeper: owners, decisions, unfinished executions, leftover rows.

Each query selects only the columns that its callers need. The engine itself reads whole rows through `control`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Select, func, select
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


_SUMMARY_COLUMNS = [_control[item.name] for item in fields(ControlSummary)]


async def get_owners(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, str]:
    """Return the owner of each of these executions; unknown ids are missing."""
    id_ = _control.execution_id
    known = select(id_, _control.owner_id).where(among(connection.dialect, id_, sorted(execution_ids)))
    return {row.execution_id: row.owner_id for row in await connection.execute(known)}


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


async def leased_after_end(connection: AsyncConnection) -> list[str]:
    """Return the ids of executions that have ended but still hold a lease."""
    leased = await connection.execute(
        select(_control.execution_id).where(_control.finished_at.is_not(None), _control.lease_owner.is_not(None))
    )
    return sorted(leased.scalars())


async def leftovers(connection: AsyncConnection) -> list[Leftover]:
    """Find rows of ended executions in tables that only unfinished ones use: parts, calls in flight, approvals."""
    found: list[Leftover] = []
    for table in (journalled, call_reservations, approvals):
        unfinished = select(_control.execution_id).where(_control.finished_at.is_(None))
        ids = await connection.execute(
            select(table.c.execution_id).where(table.c.execution_id.not_in(unfinished)).distinct()
        )
        found += [Leftover(id_, table.name) for id_ in sorted(ids.scalars())]
    return found
