"""Reads the control row of an execution, which holds all decisions about it, and stores cancel requests.

All functions work in the caller's transaction. `acceptance`, `leases`, `claims` and `endings` make the other decisions.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import now_sql
from engine.graph import JsonObject, Limits, OnLost
from engine.identity import ExecutionIdentity
from engine.ledger import ClaimReason, Root, SpanIds
from engine.result import Status
from engine.store.tables import execution_control, graphs

TERMINAL = [status for status in Status if status.is_terminal]

_control = execution_control.c


@dataclass(frozen=True, slots=True)
class ControlRow:
    """One row of `execution_control`: the decisions about one execution. Times are UTC."""

    execution_id: str
    owner: str
    status: Status
    attempt: int
    conversation_id: str | None
    correlation_id: str
    trace_id: str | None
    """The trace of the current attempt, or of the last one."""
    root: Root | None
    """The root span of the same attempt; of a queued execution the one that it will begin. Null before a later attempt
    has started."""
    first_root: SpanIds | None
    """The root span of the first attempt, of which the later ones are children."""
    identity: ExecutionIdentity
    source: str
    workflow_name: str
    graph_hash: str | None
    on_lost: OnLost
    crashes: int
    early_losses: int
    """Attempts in a row whose process died soon after its start."""
    is_leased: bool
    lease_age_seconds: float | None
    """How long the process had been running when it last renewed its lease."""
    claim_reason: ClaimReason | None
    request: JsonObject
    result: JsonObject | None
    last_seq: int | None
    not_before: datetime | None
    cancel_requested_at: datetime | None
    cancel_reason: str | None
    accepted_at: datetime
    paused_at: datetime | None
    paused_seconds: float
    finished_at: datetime | None

    @property
    def has_request(self) -> bool:
        """Whether the request is still there; it goes with the other content."""
        return bool(self.request)

    @property
    def user(self) -> str | None:
        """The caller's user; null if there is none, or no request any more."""
        user = self.request.get("user")
        return user if isinstance(user, str) else None


async def get(connection: AsyncConnection, execution_id: str, owner: str) -> ControlRow | None:
    """Return the row of an execution; null if this owner has no execution with this id."""
    rows = await connection.execute(
        select(execution_control).where(_control.execution_id == execution_id, _control.owner_id == owner)
    )
    row = rows.one_or_none()
    return None if row is None else read_row(row)


async def get_graph(connection: AsyncConnection, graph_hash: str) -> bytes | None:
    """Return the canonical JSON of the graph with this hash; null if it is not stored."""
    found = (await connection.execute(select(graphs.c.graph).where(graphs.c.content_hash == graph_hash))).scalar()
    return None if found is None else found.encode()


async def get_run_seconds(connection: AsyncConnection, row: ControlRow) -> float:
    """Return the limit on the run time of an execution; the default without a graph."""
    graph = None if row.graph_hash is None else await get_graph(connection, row.graph_hash)
    limits = None if graph is None else orjson.loads(graph).get("limits")
    return Limits.model_validate(limits or {}, strict=False).run_seconds


async def request_cancel(
    connection: AsyncConnection, execution_id: str, owner: str, reason: str | None
) -> ControlRow | None:
    """Request that an execution stops, and return its row. Only the first reason is kept.

    An execution that has already ended is not changed.
    """
    await connection.execute(
        update(execution_control)
        .where(_control.execution_id == execution_id, _control.owner_id == owner)
        .where(_control.status.not_in(TERMINAL), _control.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now_sql(), cancel_reason=reason)
    )
    return await get(connection, execution_id, owner)


async def count_queued(connection: AsyncConnection, owner: str) -> int:
    """Return how many executions of an owner are queued."""
    queued = select(func.count()).where(_control.owner_id == owner, _control.status == Status.QUEUED)
    return (await connection.execute(queued)).scalar_one()


async def cancel_requests(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, str | None]:
    """Return the cancel reason of each of these executions that is unfinished and has a cancel request."""
    rows = await connection.execute(
        select(_control.execution_id, _control.cancel_reason)
        .where(_control.execution_id.in_(execution_ids))
        .where(_control.cancel_requested_at.is_not(None))
        .where(_control.status.not_in(TERMINAL))
    )
    return {row.execution_id: row.cancel_reason for row in rows}


def read_row(row: Row[Any]) -> ControlRow:
    return ControlRow(
        execution_id=row.execution_id,
        owner=row.owner_id,
        status=Status(row.status),
        attempt=row.attempt,
        conversation_id=row.conversation_id,
        correlation_id=row.correlation_id,
        trace_id=row.trace_id,
        root=read_root(row),
        first_root=read_first_root(row),
        identity=read_identity(row, attempt=row.attempt),
        source=row.source,
        workflow_name=row.workflow_name,
        graph_hash=row.graph_hash,
        on_lost=row.on_lost,
        crashes=row.crashes,
        early_losses=row.early_losses,
        is_leased=row.lease_owner is not None,
        lease_age_seconds=row.lease_age_seconds,
        claim_reason=row.claim_reason,
        request=row.request,
        result=row.result,
        last_seq=row.last_seq,
        not_before=row.not_before,
        cancel_requested_at=row.cancel_requested_at,
        cancel_reason=row.cancel_reason,
        accepted_at=row.accepted_at,
        paused_at=row.paused_at,
        paused_seconds=row.paused_seconds,
        finished_at=row.finished_at,
    )


def read_root(row: Row[Any]) -> Root | None:
    if row.trace_id is None or row.root_span_id is None:
        return None
    return Root(row.trace_id, row.root_span_id, row.root_parent_span_id, row.root_started_at)


def read_first_root(row: Row[Any]) -> SpanIds | None:
    """Read the ids of the first attempt's root span, the parent of all later ones.

    A later root without a parent was written before attempts shared a trace; it counts as the first.
    """
    parent = row.root_parent_span_id if row.attempt > 1 else None
    span_id = parent or row.root_span_id
    return None if row.trace_id is None or span_id is None else SpanIds(row.trace_id, span_id)


def read_identity(row: Row[Any], *, attempt: int) -> ExecutionIdentity:
    """Read the stored identity. Unknown fields are skipped because a newer version may have written them."""
    known = {name: value for name, value in row.subject.items() if name in ExecutionIdentity.__dataclass_fields__}
    return ExecutionIdentity(**known | {"attempt": attempt})
