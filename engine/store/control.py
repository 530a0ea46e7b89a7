"""Decides an execution's fate: accepted, claimed, asked to cancel, paused, ended. Works in the caller's transaction.

The journal commits many executions at once, so the deciding functions take groups and say which execution lost; a loser
never spoils the transaction for the others. Leases and due times are compared with the database's clock alone.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import insert, later_sql, now_sql
from engine.errors import ConversationBusy, IdempotencyMismatch, QueueFull, Refusal, Replayed
from engine.graph import JsonObject, OnLost
from engine.identity import ExecutionIdentity
from engine.ledger import Acceptance, Claim, ClaimReason, Finish, Pause, Release, Root
from engine.result import Status
from engine.store import approvals, unfinished
from engine.store.conversations import NewMessages, append, make_missing, set_summaries
from engine.store.tables import execution_control, graphs

MAX_CRASHES = 3
"""An execution whose attempts crashed that often is given up."""

_TERMINAL = [status for status in Status if status.is_terminal]


@dataclass(frozen=True, slots=True)
class Lease:
    """Whose executions they are, and for how long without a sign of life."""

    owner: str
    seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Admission:
    """Under which limits executions are accepted."""

    max_queued: int = 1_000
    """Per owner."""
    idempotency_hours: float = 24.0


@dataclass(frozen=True, slots=True)
class ControlRow:
    """What is decided about one execution. Times are UTC."""

    execution_id: str
    owner: str
    status: Status
    attempt: int
    conversation_id: str | None
    correlation_id: str
    trace_id: str | None
    """Of the attempt that runs, or ran last."""
    root: Root | None
    """The same attempt's root span; null where it has not begun."""
    identity: ExecutionIdentity
    source: str
    workflow_name: str
    graph_hash: str | None
    on_lost: OnLost
    crashes: int
    is_leased: bool
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


async def accept_many(
    connection: AsyncConnection, acceptances: Sequence[Acceptance], lease: Lease, admission: Admission = Admission()
) -> dict[str, Refusal]:
    """Make executions durable with their graphs, and the users' messages in their conversations.

    Gives those that were refused, with why; nothing of them is kept. An execution that is there already (a commit that
    seemed to fail) counts as accepted and is not written again.
    """
    refused = await _queue_full(connection, acceptances, admission.max_queued)
    for item in acceptances:
        if item.identity.execution_id in refused and (replayed := await _replay(connection, item)) is not None:
            refused[item.identity.execution_id] = replayed
    wanted = [item for item in acceptances if item.identity.execution_id not in refused]
    if not wanted:
        return refused
    await _free_old_keys(connection, wanted, admission.idempotency_hours)
    await _keep_graphs(connection, wanted)
    accepted = await _insert(connection, wanted, lease)
    await _keep_user_messages(connection, [item for item in wanted if item.identity.execution_id in accepted])
    missed = [item for item in wanted if item.identity.execution_id not in accepted]
    return refused | await _why_missed(connection, missed)


async def accept(connection: AsyncConnection, acceptance: Acceptance, lease: Lease) -> None:
    """`accept_many` for one. Raises the `Refusal`."""
    for refusal in (await accept_many(connection, [acceptance], lease)).values():
        raise refusal


async def owned(connection: AsyncConnection, execution_ids: Collection[str], lease_owner: str) -> dict[str, int]:
    """The attempts that run under this lease, by execution; their rows stay locked until the transaction ends.

    All others are fenced off: a newer attempt has begun, the execution has ended, or the lease was taken away.
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


async def begin_roots(connection: AsyncConnection, begun: Sequence[tuple[ExecutionIdentity, Root]]) -> None:
    """Keep the root spans of attempts that were claimed and begin now. The caller owns them."""
    if begun:
        await connection.execute(_BEGIN, [_root_values(identity, root) for identity, root in begun])


async def finish_many(
    connection: AsyncConnection, finishes: Sequence[Finish], *, with_traces: Collection[str] = ()
) -> None:
    """Take executions to their terminal status, with result, conversation messages and summary.

    The caller owns them (`owned`). `with_traces`: those that left something behind while they ran.
    """
    if not finishes:
        return
    await connection.execute(_FINISH, [_finish_values(item) for item in finishes])
    await _keep_answers(connection, finishes)
    await forget(connection, with_traces)


async def pause_many(connection: AsyncConnection, pauses: Sequence[Pause]) -> None:
    """Let executions wait, with the questions they ask. The caller owns them."""
    if not pauses:
        return
    await connection.execute(_PAUSE, [_pause_values(item) for item in pauses])
    await approvals.ask(connection, [(item.execution_id, each) for item in pauses for each in item.approvals])


async def release_many(connection: AsyncConnection, releases: Sequence[Release]) -> None:
    """Let another process go on with executions. The caller owns them."""
    if releases:
        await _make_claimable(connection, [item.execution_id for item in releases], "shutdown", crashes=0)


async def claim_many(connection: AsyncConnection, lease: Lease, limit: int) -> list[Claim]:
    """Take on executions that wait for a process, oldest first: a new attempt of each, under this lease."""
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
            identity=_identity(row, attempt=_next_attempt(row)),
            reason=row.claim_reason or ("queued" if row.status == Status.QUEUED else "timer"),
            request=row.request,
            graph=None if row.graph is None else row.graph.encode(),
            age_seconds=max(0.0, (row.now - row.accepted_at).total_seconds()),
            previous_root=_root(row),
            carried=carried[row.execution_id],
            on_lost=row.on_lost,
            any_folder=row.any_folder,
            caller_trace=row.caller_trace,
            answers=answers[row.execution_id],
            paused_seconds=row.paused_seconds + waited[row.execution_id],
        )
        for row in rows
    ]


async def renew(connection: AsyncConnection, lease: Lease, execution_ids: Collection[str]) -> frozenset[str]:
    """Prolong the lease of those of these executions that still have it; gives their ids."""
    leased = sorted(await owned(connection, execution_ids, lease.owner))
    if leased:
        prolonged = update(execution_control).where(_control.execution_id.in_(leased))
        await connection.execute(prolonged.values(lease_until=later_sql(lease.seconds)))
    return frozenset(leased)


async def expired(connection: AsyncConnection, limit: int) -> list[ControlRow]:
    """Running executions whose lease is over, longest first; their rows stay locked until the transaction ends."""
    rows = await connection.execute(
        select(execution_control)
        .where(_control.status == Status.RUNNING, _control.lease_until < now_sql())
        .order_by(_control.lease_until, _control.execution_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [_read(row) for row in rows]


async def unowned(connection: AsyncConnection, execution_id: str, owner: str | None) -> ControlRow | None:
    """An unfinished execution that no process owns (queued, paused, or waiting to be claimed), its row locked."""
    mine = [_control.owner_id == owner] if owner is not None else []
    rows = await connection.execute(
        select(execution_control)
        .where(_control.execution_id == execution_id, _control.lease_owner.is_(None), *mine)
        .where(_control.status.not_in(_TERMINAL))
        .with_for_update()
    )
    row = rows.one_or_none()
    return None if row is None else _read(row)


async def ask_to_stop_unowned(connection: AsyncConnection, limit: int) -> list[ControlRow]:
    """Unowned executions that are asked to stop, their rows locked."""
    rows = await connection.execute(
        select(execution_control)
        .where(_control.lease_owner.is_(None), _control.status.not_in(_TERMINAL))
        .where(_control.cancel_requested_at.is_not(None))
        .order_by(_control.execution_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [_read(row) for row in rows]


async def lose(connection: AsyncConnection, execution_ids: Sequence[str]) -> None:
    """The attempts of these executions crashed, and another process is to go on. The caller has locked them."""
    await _make_claimable(connection, execution_ids, "crash", crashes=1)


async def conclude(connection: AsyncConnection, finishes: Sequence[Finish]) -> None:
    """Take executions that no process owns to their terminal status. The caller has locked them."""
    await finish_many(connection, finishes, with_traces=[item.execution_id for item in finishes])


async def make_answered(connection: AsyncConnection, execution_id: str) -> bool:
    """Let a paused execution go on, as its question is answered; false if it is not paused."""
    rows = await connection.execute(
        update(execution_control)
        .where(_control.execution_id == execution_id, _control.status == Status.PAUSED)
        .where(_control.cancel_requested_at.is_(None))
        .values(_GOES_ON | {"claim_reason": "answer"})
        .returning(_control.execution_id)
    )
    return rows.scalar() is not None


async def forget(connection: AsyncConnection, execution_ids: Collection[str]) -> None:
    """Drop what ended executions kept while they ran."""
    if execution_ids:
        await unfinished.forget(connection, execution_ids)
        await approvals.forget(connection, execution_ids)


async def request_cancel(
    connection: AsyncConnection, execution_id: str, owner: str, reason: str | None
) -> ControlRow | None:
    """Ask an unfinished execution to stop; the first reason stays. Gives the row, also of one that has ended."""
    await connection.execute(
        update(execution_control)
        .where(_control.execution_id == execution_id, _control.owner_id == owner)
        .where(_control.status.not_in(_TERMINAL), _control.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now_sql(), cancel_reason=reason)
    )
    return await get(connection, execution_id, owner)


async def cancel_requests(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, str | None]:
    """Which of these unfinished executions are asked to stop, and why."""
    rows = await connection.execute(
        select(_control.execution_id, _control.cancel_reason)
        .where(_control.execution_id.in_(execution_ids))
        .where(_control.cancel_requested_at.is_not(None))
        .where(_control.status.not_in(_TERMINAL))
    )
    return {row.execution_id: row.cancel_reason for row in rows}


async def get(connection: AsyncConnection, execution_id: str, owner: str) -> ControlRow | None:
    """The row of an execution; null if this owner has none of that id."""
    rows = await connection.execute(
        select(execution_control).where(_control.execution_id == execution_id, _control.owner_id == owner)
    )
    row = rows.one_or_none()
    return None if row is None else _read(row)


async def kept_graph(connection: AsyncConnection, graph_hash: str) -> bytes | None:
    """The canonical graph of this hash; null if it is not kept."""
    found = (await connection.execute(select(graphs.c.graph).where(graphs.c.content_hash == graph_hash))).scalar()
    return None if found is None else found.encode()


async def find_by_key(connection: AsyncConnection, owner: str, key: str) -> str | None:
    """The execution that this owner's Idempotency-Key has started; null if there is none."""
    rows = await connection.execute(
        select(_control.execution_id).where(_control.owner_id == owner, _control.idempotency_key == key)
    )
    return rows.scalar()


_control = execution_control.c

_GOES_ON = {
    "status": Status.RUNNING,
    "lease_owner": None,
    "lease_until": None,
    "not_before": None,
}
"""Waits for a process to claim it."""


async def _queue_full(
    connection: AsyncConnection, acceptances: Sequence[Acceptance], max_queued: int
) -> dict[str, Refusal]:
    """Counted in the accepting transaction; on PostgreSQL one transaction an owner counts at a time."""
    by_owner: dict[str, list[str]] = {}
    for item in acceptances:
        if item.status is Status.QUEUED:
            by_owner.setdefault(item.identity.owner, []).append(item.identity.execution_id)
    refused: dict[str, Refusal] = {}
    for owner, ids in sorted(by_owner.items()):
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"queue {owner}"})
        queued = await connection.execute(
            select(func.count()).where(_control.owner_id == owner, _control.status == Status.QUEUED)
        )
        room = max(0, max_queued - queued.scalar_one())
        refused |= {id_: QueueFull() for id_ in ids[room:]}
    return refused


async def _free_old_keys(connection: AsyncConnection, acceptances: Iterable[Acceptance], hours: float) -> None:
    """A key counts for so many hours; after them it may start something else."""
    keys = sorted({(item.identity.owner, item.idempotency.key) for item in acceptances if item.idempotency})
    for owner, key in keys:
        await connection.execute(
            update(execution_control)
            .where(_control.owner_id == owner, _control.idempotency_key == key, _control.status.in_(_TERMINAL))
            .where(_control.accepted_at < later_sql(-hours * 3600))
            .values(idempotency_key=None, idempotency_digest=None)
        )


async def _keep_graphs(connection: AsyncConnection, acceptances: Sequence[Acceptance]) -> None:
    """Sorted by hash, so that two groups that wait for each other's graphs cannot deadlock."""
    kept = {
        item.identity.graph_hash: item.graph
        for item in acceptances
        if item.identity.graph_hash and item.graph is not None
    }
    if not kept:
        return
    statement = insert(connection.dialect, graphs).values(created_at=now_sql()).on_conflict_do_nothing()
    values = [{"content_hash": hash_, "graph": graph.decode()} for hash_, graph in sorted(kept.items())]
    await connection.execute(statement, values)


async def _insert(connection: AsyncConnection, acceptances: Sequence[Acceptance], lease: Lease) -> set[str]:
    """The ids that were written. Running executions are leased from now on."""
    written: set[str] = set()
    for status, leased in ((Status.RUNNING, lease), (Status.QUEUED, None)):
        values = [_control_values(item) for item in acceptances if item.status is status]
        if not values:
            continue
        statement = insert(connection.dialect, execution_control).values(
            accepted_at=now_sql(),
            lease_owner=leased.owner if leased else None,
            lease_until=later_sql(leased.seconds) if leased else None,
        )
        rows = await connection.execute(
            statement.on_conflict_do_nothing().returning(execution_control.c.execution_id), values
        )
        written |= set(rows.scalars())
    return written


def _control_values(item: Acceptance) -> dict[str, object]:
    identity, root, key = item.identity, item.root, item.idempotency
    return {
        "execution_id": identity.execution_id,
        "owner_id": identity.owner,
        "status": item.status,
        "attempt": identity.attempt,
        "claim_reason": "queued" if item.status is Status.QUEUED else None,
        "conversation_id": identity.conversation_id,
        "correlation_id": identity.correlation_id or identity.execution_id,
        "trace_id": root.trace_id if root else None,
        "root_span_id": root.span_id if root else None,
        "root_parent_span_id": root.parent_span_id if root else None,
        "root_started_at": root.started_at if root else datetime.fromtimestamp(identity.queued_ns / 1e9, UTC),
        "subject": asdict(identity),
        "caller_trace": item.caller_trace,
        "any_folder": item.any_folder,
        "workflow_name": identity.workflow_name,
        "source": identity.source,
        "graph_hash": identity.graph_hash,
        "on_lost": item.on_lost,
        "request": item.request,
        "idempotency_key": key.key if key else None,
        "idempotency_digest": key.digest if key else None,
    }


async def _keep_user_messages(connection: AsyncConnection, acceptances: Sequence[Acceptance]) -> None:
    chats = [(item.identity.conversation_id, item) for item in acceptances if item.identity.conversation_id is not None]
    if not chats:
        return
    await make_missing(connection, {conversation_id: item.identity.owner for conversation_id, item in chats})
    await append(
        connection,
        [
            NewMessages(conversation_id, item.identity.execution_id, [item.user_message])
            for conversation_id, item in chats
            if item.user_message is not None
        ],
    )


async def _why_missed(connection: AsyncConnection, missed: Sequence[Acceptance]) -> dict[str, Refusal]:
    """Why acceptances were not written; those that had been before are left out."""
    if not missed:
        return {}
    known = await _known(connection, {item.identity.execution_id for item in missed})
    refused: dict[str, Refusal] = {}
    for item in missed:
        if item.identity.execution_id not in known:
            refused[item.identity.execution_id] = await _replay(connection, item) or ConversationBusy()
    return refused


async def _replay(connection: AsyncConnection, item: Acceptance) -> Refusal | None:
    """The execution that the acceptance's key has started; null if the key is not what is in the way."""
    if item.idempotency is None:
        return None
    rows = await connection.execute(
        select(_control.execution_id, _control.idempotency_digest).where(
            _control.owner_id == item.identity.owner, _control.idempotency_key == item.idempotency.key
        )
    )
    row = rows.one_or_none()
    if row is None:
        return None
    return Replayed(row.execution_id) if row.idempotency_digest == item.idempotency.digest else IdempotencyMismatch()


async def _known(connection: AsyncConnection, execution_ids: Collection[str]) -> set[str]:
    if not execution_ids:
        return set()
    column = execution_control.c.execution_id
    return set((await connection.execute(select(column).where(column.in_(execution_ids)))).scalars())


async def _make_claimable(
    connection: AsyncConnection, execution_ids: Sequence[str], reason: ClaimReason, *, crashes: int
) -> None:
    await connection.execute(
        update(execution_control)
        .where(_control.execution_id.in_(execution_ids))
        .values(_GOES_ON | {"claim_reason": reason, "crashes": _control.crashes + crashes})
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
    """The first claim of a queued execution is its first attempt."""
    attempt: int = row.attempt
    return attempt if row.status == Status.QUEUED else attempt + 1


def _seconds_paused(row: Row[Any]) -> float:
    """Since it was paused; 0 if it was not."""
    return 0.0 if row.paused_at is None else max(0.0, (row.now - row.paused_at).total_seconds())


_BEGIN = (
    update(execution_control)
    .where(execution_control.c.execution_id == bindparam("of_execution"))
    .values(
        trace_id=bindparam("of_trace"),
        root_span_id=bindparam("as_root"),
        root_parent_span_id=bindparam("below"),
        root_started_at=bindparam("begun_at"),
        subject=bindparam("as_subject"),
    )
)


def _root_values(identity: ExecutionIdentity, root: Root) -> dict[str, object]:
    return {
        "of_execution": identity.execution_id,
        "of_trace": root.trace_id,
        "as_root": root.span_id,
        "below": root.parent_span_id,
        "begun_at": root.started_at,
        "as_subject": asdict(identity),
    }


_FINISH = (
    update(execution_control)
    .where(execution_control.c.execution_id == bindparam("of_execution"))
    .values(
        status=bindparam("ended_as"),
        result=bindparam("with_result"),
        last_seq=bindparam("told_by"),
        finished_at=now_sql(),
        lease_owner=None,
        lease_until=None,
        not_before=None,
        claim_reason=None,
    )
)


def _finish_values(item: Finish) -> dict[str, object]:
    return {
        "of_execution": item.execution_id,
        "ended_as": item.status,
        "with_result": item.result,
        "told_by": item.last_seq,
    }


_PAUSE = (
    update(execution_control)
    .where(execution_control.c.execution_id == bindparam("of_execution"))
    .values(
        status=Status.PAUSED,
        result=bindparam("with_result"),
        last_seq=bindparam("told_by"),
        not_before=bindparam("due_at"),
        paused_at=now_sql(),
        lease_owner=None,
        lease_until=None,
    )
)


def _pause_values(item: Pause) -> dict[str, object]:
    return {
        "of_execution": item.execution_id,
        "with_result": item.result,
        "told_by": item.last_seq,
        "due_at": item.due_at,
    }


async def _keep_answers(connection: AsyncConnection, finishes: Sequence[Finish]) -> None:
    chats = [item for item in finishes if item.conversation_id is not None]
    await append(
        connection,
        [
            NewMessages(item.conversation_id, item.execution_id, item.messages)
            for item in chats
            if item.conversation_id and item.messages
        ],
    )
    await set_summaries(
        connection,
        {item.conversation_id: item.summary for item in chats if item.conversation_id and item.summary is not None},
    )


def _read(row: Row[Any]) -> ControlRow:
    return ControlRow(
        execution_id=row.execution_id,
        owner=row.owner_id,
        status=Status(row.status),
        attempt=row.attempt,
        conversation_id=row.conversation_id,
        correlation_id=row.correlation_id,
        trace_id=row.trace_id,
        root=_root(row),
        identity=_identity(row, attempt=row.attempt),
        source=row.source,
        workflow_name=row.workflow_name,
        graph_hash=row.graph_hash,
        on_lost=row.on_lost,
        crashes=row.crashes,
        is_leased=row.lease_owner is not None,
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


def _root(row: Row[Any]) -> Root | None:
    if row.trace_id is None or row.root_span_id is None:
        return None
    return Root(row.trace_id, row.root_span_id, row.root_parent_span_id, row.root_started_at)


def _identity(row: Row[Any], *, attempt: int) -> ExecutionIdentity:
    """As it was kept; a row of an older program has only its columns, one of a newer may say more than is known."""
    kept: dict[str, Any] = row.subject or {
        "execution_id": row.execution_id,
        "owner": row.owner_id,
        "workflow_name": row.workflow_name,
        "source": row.source,
        "trigger": "api",
        "streaming": False,
        "queued_ns": _ns(row.root_started_at),
        "started_ns": _ns(row.root_started_at),
        "correlation_id": row.correlation_id,
        "graph_hash": row.graph_hash,
        "conversation_id": row.conversation_id,
    }
    known = {name: value for name, value in kept.items() if name in ExecutionIdentity.__dataclass_fields__}
    return ExecutionIdentity(**known | {"attempt": attempt})


def _ns(at: datetime) -> int:
    return round(at.timestamp() * 1e6) * 1000
