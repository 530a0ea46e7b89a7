"""Claims: a process takes over executions that no process runs, and executions become claimable.

All functions work in the caller's transaction. Only the database's clock decides whether an execution is due.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import later_sql, now_sql
from engine.identity import ExecutionIdentity
from engine.ledger import Claim, ClaimReason, Release, Root
from engine.result import Status
from engine.store import approvals, unfinished
from engine.store.control import read_identity, read_root
from engine.store.leases import Lease
from engine.store.tables import execution_control, graphs

MAX_CRASHES = 3
"""An execution fails after this number of crashed attempts."""

_control = execution_control.c

_CLAIMABLE = {
    "status": Status.RUNNING,
    "lease_owner": None,
    "lease_until": None,
    "not_before": None,
}
"""The column values that make an execution claimable."""


async def claim_many(connection: AsyncConnection, lease: Lease, limit: int) -> list[Claim]:
    """Claim at most `limit` executions, oldest first. Each starts a new attempt under this lease."""
    rows = (
        await connection.execute(
            select(execution_control, graphs.c.graph, now_sql().label("now"))
            .join_from(execution_control, graphs, graphs.c.content_hash == _control.graph_hash, isouter=True)
            .where(_control.lease_owner.is_(None), _control.cancel_requested_at.is_(None))
            .where(or_(_control.status.in_(("queued", "running")), _is_due()))
            .order_by(_control.accepted_at, _control.execution_id)
            .limit(limit)
            .with_for_update(skip_locked=True, of=execution_control)
        )
    ).all()
    if not rows:
        return []
    waited = {row.execution_id: _seconds_paused(row) for row in rows}
    await connection.execute(_claim_statement(lease), [_claim_values(row, waited[row.execution_id]) for row in rows])
    ids = [row.execution_id for row in rows]
    await approvals.forget_expired(connection, [row.execution_id for row in rows if row.status == Status.PAUSED])
    carried = await unfinished.carried(connection, ids)
    answers = await approvals.answers(connection, ids)
    return [
        Claim(
            identity=read_identity(row, attempt=_next_attempt(row)),
            reason=row.claim_reason or ("queued" if row.status == Status.QUEUED else "timer"),
            request=row.request,
            graph=None if row.graph is None else row.graph.encode(),
            age_seconds=max(0.0, (row.now - row.accepted_at).total_seconds()),
            previous_root=read_root(row),
            carried=carried[row.execution_id],
            on_lost=row.on_lost,
            caller_trace=row.caller_trace,
            answers=answers[row.execution_id],
            paused_seconds=row.paused_seconds + waited[row.execution_id],
        )
        for row in rows
    ]


async def begin_roots(connection: AsyncConnection, begun: Sequence[tuple[ExecutionIdentity, Root]]) -> None:
    """Store the root spans of claimed attempts that begin now. The caller must own the executions."""
    if begun:
        await connection.execute(_BEGIN, [_root_values(identity, root) for identity, root in begun])


async def release_many(connection: AsyncConnection, releases: Sequence[Release]) -> None:
    """Release executions so that another process can claim them. The caller must own them."""
    if releases:
        await _make_claimable(connection, [item.execution_id for item in releases], "shutdown", crashes=0)


async def lose(connection: AsyncConnection, execution_ids: Sequence[str]) -> None:
    """Count a crash for each execution and make it claimable. The caller must have locked their rows."""
    await _make_claimable(connection, execution_ids, "crash", crashes=1)


async def make_answered(connection: AsyncConnection, execution_id: str) -> bool:
    """Make a paused execution claimable because its question was answered; returns false if it is not paused."""
    rows = await connection.execute(
        update(execution_control)
        .where(_control.execution_id == execution_id, _control.status == Status.PAUSED)
        .where(_control.cancel_requested_at.is_(None))
        .values(_CLAIMABLE | {"claim_reason": "answer"})
        .returning(_control.execution_id)
    )
    return rows.scalar() is not None


async def _make_claimable(
    connection: AsyncConnection, execution_ids: Sequence[str], reason: ClaimReason, *, crashes: int
) -> None:
    await connection.execute(
        update(execution_control)
        .where(_control.execution_id.in_(execution_ids))
        .values(_CLAIMABLE | {"claim_reason": reason, "crashes": _control.crashes + crashes})
    )


def _is_due() -> ColumnElement[bool]:
    return and_(_control.status == Status.PAUSED, _control.not_before <= now_sql())


def _claim_statement(lease: Lease) -> Any:
    return (
        update(execution_control)
        .where(_control.execution_id == bindparam("of_execution"))
        .values(
            status=Status.RUNNING,
            attempt=bindparam("next_attempt"),
            lease_owner=lease.owner,
            lease_until=later_sql(lease.seconds),
            claim_reason=None,
            not_before=None,
            paused_at=None,
            paused_seconds=_control.paused_seconds + bindparam("waited_seconds"),
            root_span_id=None,
        )
    )


def _claim_values(row: Row[Any], waited_seconds: float) -> dict[str, object]:
    return {
        "of_execution": row.execution_id,
        "next_attempt": _next_attempt(row),
        "waited_seconds": waited_seconds,
    }


def _next_attempt(row: Row[Any]) -> int:
    """Return the attempt that a claim starts: a queued execution has not started its first one yet."""
    attempt: int = row.attempt
    return attempt if row.status == Status.QUEUED else attempt + 1


def _seconds_paused(row: Row[Any]) -> float:
    """Return the seconds since the pause began; 0 if the execution is not paused."""
    return 0.0 if row.paused_at is None else max(0.0, (row.now - row.paused_at).total_seconds())


_BEGIN = (
    update(execution_control)
    .where(execution_control.c.execution_id == bindparam("of_execution"))
    .values(
        trace_id=bindparam("of_trace"),
        root_span_id=bindparam("as_root"),
        root_parent_span_id=bindparam("parent_span"),
        root_started_at=bindparam("begun_at"),
        subject=bindparam("as_subject"),
    )
)


def _root_values(identity: ExecutionIdentity, root: Root) -> dict[str, object]:
    return {
        "of_execution": identity.execution_id,
        "of_trace": root.trace_id,
        "as_root": root.span_id,
        "parent_span": root.parent_span_id,
        "begun_at": root.started_at,
        "as_subject": asdict(identity),
    }
