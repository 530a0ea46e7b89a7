"""Claims: a process takes over executions that no process runs, and executions become claimable.

All functions work in the caller's transaction. Only the database's clock decides whether an execution is due.
"""

import random
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
from engine.store.control import ControlRow, read_first_root, read_identity, read_root
from engine.store.leases import Lease
from engine.store.tables import execution_control, graphs

MAX_CRASHES = 3
"""An execution fails after this number of crashed attempts."""
EARLY_SECONDS = 10.0
"""A process that dies within this time after its start counts as no crash of what it ran: a deploy may be broken."""
BACK_OFF_SECONDS = 1.0
"""How long an execution waits on average after its first early loss; each further one doubles it."""

_control = execution_control.c

_CLAIMABLE = {
    "status": Status.RUNNING,
    "lease_owner": None,
    "lease_until": None,
    "lease_age_seconds": None,
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
            .where(_is_due())
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
            previous_root=None if row.status == Status.QUEUED else read_root(row),
            carried=carried[row.execution_id],
            on_lost=row.on_lost,
            first_root=read_first_root(row),
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


async def lose(connection: AsyncConnection, rows: Sequence[ControlRow]) -> None:
    """Make executions claimable whose process died. The caller must have locked their rows.

    An early loss is no crash; it delays the claim instead. The delays of executions that were lost together differ by
    up to a factor of three, so that one that kills its process soon stands alone.
    """
    crashed = [row.execution_id for row in rows if not was_lost_early(row)]
    if crashed:
        await _make_claimable(connection, crashed, "crash", crashes=1)
    for row in rows:
        if was_lost_early(row):
            losses, due = row.early_losses + 1, later_sql(_back_off_seconds(row))
            values = _CLAIMABLE | {"claim_reason": "crash", "early_losses": losses, "not_before": due}
            await connection.execute(
                update(execution_control).where(_control.execution_id == row.execution_id).values(values)
            )


def was_lost_early(row: ControlRow) -> bool:
    """Whether the process of a lost execution died soon after its start, as far as it was heard of."""
    return row.lease_age_seconds is not None and row.lease_age_seconds < EARLY_SECONDS


def may_be_held_back(row: ControlRow, run_seconds: float) -> bool:
    """Whether an execution that was lost early may run again: its waits in a row must fit into its run time."""
    losses = row.early_losses + 1
    return losses < MAX_CRASHES or BACK_OFF_SECONDS * (2**losses - 1) <= run_seconds


def _back_off_seconds(row: ControlRow) -> float:
    """The wait after an early loss: half as long as the average to half as long again, by chance."""
    return BACK_OFF_SECONDS * float(2**row.early_losses) * random.uniform(0.5, 1.5)


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
        .values(
            _CLAIMABLE | {"claim_reason": reason, "crashes": _control.crashes + crashes, "early_losses": 0},
        )
    )


def _is_due() -> ColumnElement[bool]:
    """A paused execution without a due time waits for its answer."""
    at_once = and_(_control.status.in_((Status.QUEUED, Status.RUNNING)), _control.not_before.is_(None))
    due = and_(_control.status.in_((Status.QUEUED, Status.RUNNING, Status.PAUSED)), _control.not_before <= now_sql())
    return or_(at_once, due)  # each part implies the condition of the partial index


def _claim_statement(lease: Lease) -> Any:
    return (
        update(execution_control)
        .where(_control.execution_id == bindparam("of_execution"))
        .values(
            status=Status.RUNNING,
            attempt=bindparam("next_attempt"),
            lease_owner=lease.owner,
            lease_until=later_sql(lease.seconds),
            lease_age_seconds=lease.age_seconds,
            claim_reason=None,
            not_before=None,
            paused_at=None,
            paused_seconds=_control.paused_seconds + bindparam("waited_seconds"),
            root_span_id=bindparam("as_root"),
            root_parent_span_id=bindparam("parent_span"),
        )
    )


def _claim_values(row: Row[Any], waited_seconds: float) -> dict[str, object]:
    """A first attempt keeps the root span of its acceptance; a later one begins its own, below the first."""
    is_first, first = row.status == Status.QUEUED, read_first_root(row)
    parent = row.root_parent_span_id if is_first else first and first.span_id
    return {
        "as_root": row.root_span_id if is_first else None,
        "parent_span": parent,
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
