"""Leases: which process runs an execution, until when, and which executions no process runs.

All functions work in the caller's transaction. Leases are compared with the database's clock alone.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import later_sql, now_sql
from engine.result import Status
from engine.store.control import TERMINAL, ControlRow, read_row
from engine.store.tables import execution_control

_control = execution_control.c


@dataclass(frozen=True, slots=True)
class Lease:
    """The process that owns executions, and how long it keeps them without renewing."""

    owner: str
    seconds: float = 30.0


async def owned(connection: AsyncConnection, execution_ids: Collection[str], lease_owner: str) -> dict[str, int]:
    """The attempts that run under this lease, by execution id. Their rows stay locked until the transaction ends.

    An execution that is missing is fenced off: a newer attempt has begun, it has ended, or its lease was taken away.
    """
    if not execution_ids:
        return {}
    rows = await connection.execute(
        select(_control.execution_id, _control.attempt)
        .where(_control.execution_id.in_(sorted(execution_ids)), _control.lease_owner == lease_owner)
        .where(_control.status == Status.RUNNING)
        .order_by(_control.execution_id)
        .with_for_update()
    )
    return {row.execution_id: row.attempt for row in rows}


async def renew(connection: AsyncConnection, lease: Lease, execution_ids: Collection[str]) -> frozenset[str]:
    """Renew the lease of these executions and return the ids of those that still had it."""
    leased = sorted(await owned(connection, execution_ids, lease.owner))
    if leased:
        prolonged = update(execution_control).where(_control.execution_id.in_(leased))
        await connection.execute(prolonged.values(lease_until=later_sql(lease.seconds)))
    return frozenset(leased)


async def expired(connection: AsyncConnection, limit: int) -> list[ControlRow]:
    """Running executions whose lease has expired, oldest first. Their rows stay locked until the transaction ends."""
    rows = await connection.execute(
        select(execution_control)
        .where(_control.status == Status.RUNNING, _control.lease_until < now_sql())
        .order_by(_control.lease_until, _control.execution_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [read_row(row) for row in rows]


async def unowned(connection: AsyncConnection, execution_id: str, owner: str | None) -> ControlRow | None:
    """An unfinished execution that no process owns (queued, paused or claimable). Its row stays locked."""
    mine = [_control.owner_id == owner] if owner is not None else []
    rows = await connection.execute(
        select(execution_control)
        .where(_control.execution_id == execution_id, _control.lease_owner.is_(None), *mine)
        .where(_control.status.not_in(TERMINAL))
        .with_for_update()
    )
    row = rows.one_or_none()
    return None if row is None else read_row(row)


async def unowned_asked_to_stop(connection: AsyncConnection, limit: int) -> list[ControlRow]:
    """Unowned executions with a cancel request. Their rows stay locked."""
    rows = await connection.execute(
        select(execution_control)
        .where(_control.lease_owner.is_(None), _control.status.not_in(TERMINAL))
        .where(_control.cancel_requested_at.is_not(None))
        .order_by(_control.execution_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [read_row(row) for row in rows]
