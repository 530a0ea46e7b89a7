"""Leases say which process runs an execution and until when; this module also finds unowned executions.

All functions work in the caller's transaction. Only the database's clock decides whether a lease has expired.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from time import monotonic

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import later_sql, now_sql
from engine.result import Status
from engine.store.control import TERMINAL, ControlRow, read_row
from engine.store.tables import execution_control

_control = execution_control.c


@dataclass(frozen=True, slots=True)
class Lease:
    """The process that owns executions, and the seconds until its lease expires unless it is renewed."""

    owner: str
    seconds: float = 30.0
    began: float = field(default_factory=monotonic)
    """When the process began to run executions, in seconds of `time.monotonic()`."""

    @property
    def age_seconds(self) -> float:
        """How long the process has been running executions."""
        return monotonic() - self.began


async def owned(connection: AsyncConnection, execution_ids: Collection[str], lease_owner: str) -> dict[str, int]:
    """Return the attempts that run under this lease, by execution id; locks their rows until the transaction ends.

    A missing execution is fenced off: a newer attempt has started, it has ended, or its lease was taken away.
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
    """Renew the lease of these executions and return the ids that this process still owned."""
    leased = sorted(await owned(connection, execution_ids, lease.owner))
    if leased:
        prolonged = update(execution_control).where(_control.execution_id.in_(leased))
        await connection.execute(
            prolonged.values(lease_until=later_sql(lease.seconds), lease_age_seconds=lease.age_seconds)
        )
    return frozenset(leased)


async def expired(connection: AsyncConnection, limit: int) -> list[ControlRow]:
    """Return running executions with an expired lease, oldest first; locks their rows until the transaction ends."""
    rows = await connection.execute(
        select(execution_control)
        .where(_control.status == Status.RUNNING, _control.lease_until < now_sql())
        .order_by(_control.lease_until, _control.execution_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [read_row(row) for row in rows]


async def unowned(connection: AsyncConnection, execution_id: str, owner: str | None) -> ControlRow | None:
    """Return an unfinished execution if no process owns it (queued, paused or claimable); locks its row."""
    mine = [_control.owner_id == owner] if owner is not None else []
    rows = await connection.execute(
        select(execution_control)
        .where(_control.execution_id == execution_id, _control.lease_owner.is_(None), *mine)
        .where(_control.status.not_in(TERMINAL))
        .with_for_update()
    )
    row = rows.one_or_none()
    return None if row is None else read_row(row)


async def unowned_with_cancel_request(connection: AsyncConnection, limit: int) -> list[ControlRow]:
    """Return unfinished, unowned executions with a cancel request; locks their rows."""
    rows = await connection.execute(
        select(execution_control)
        .where(_control.lease_owner.is_(None), _control.status.not_in(TERMINAL))
        .where(_control.cancel_requested_at.is_not(None))
        .order_by(_control.execution_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [read_row(row) for row in rows]
