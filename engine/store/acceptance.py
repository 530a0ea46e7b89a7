"""Accepts executions, which makes them durable, or refuses them. Works in the caller's transaction.

The journal commits many executions at once, so `accept_many` takes a group and returns the refused executions.
A refusal does not affect the other executions of the transaction.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import insert, later_sql, now_sql
from engine.errors import ConversationBusy, IdempotencyMismatch, QueueFull, Refusal, Replayed
from engine.ledger import Acceptance
from engine.result import Status
from engine.store.control import TERMINAL, count_queued
from engine.store.conversations import NewMessages, append, create_missing
from engine.store.leases import Lease
from engine.store.tables import execution_control, graphs

_control = execution_control.c


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits under which executions are accepted."""

    max_queued: int = 1_000
    """Queued executions per owner."""
    idempotency_hours: float = 24.0


async def accept_many(
    connection: AsyncConnection, acceptances: Sequence[Acceptance], lease: Lease, admission: Admission = Admission()
) -> dict[str, Refusal]:
    """Store executions with their graphs, and append the users' messages to their conversations.

    Returns the refusals by execution id; a refused execution leaves no rows. An execution that is already stored
    (after a commit that only seemed to fail) counts as accepted and is not written again.
    """
    refused = await _queue_refusals(connection, acceptances, admission.max_queued)
    for item in acceptances:
        if item.identity.execution_id in refused and (replayed := await _find_replay(connection, item)) is not None:
            refused[item.identity.execution_id] = replayed
    wanted = [item for item in acceptances if item.identity.execution_id not in refused]
    if not wanted:
        return refused
    await _free_old_keys(connection, wanted, admission.idempotency_hours)
    await _store_graphs(connection, wanted)
    accepted = await _insert(connection, wanted, lease)
    await _append_user_messages(connection, [item for item in wanted if item.identity.execution_id in accepted])
    missed = [item for item in wanted if item.identity.execution_id not in accepted]
    return refused | await _find_refusals(connection, missed)


async def accept(connection: AsyncConnection, acceptance: Acceptance, lease: Lease) -> None:
    """Accept one execution. Raises `Refusal` if it is refused."""
    for refusal in (await accept_many(connection, [acceptance], lease)).values():
        raise refusal


async def _queue_refusals(
    connection: AsyncConnection, acceptances: Sequence[Acceptance], max_queued: int
) -> dict[str, Refusal]:
    """Refuse executions beyond their owner's limit of queued executions.

    The count is part of the accepting transaction. On PostgreSQL a lock serializes the transactions of one owner.
    """
    by_owner: dict[str, list[str]] = {}
    for item in acceptances:
        if item.status is Status.QUEUED:
            by_owner.setdefault(item.identity.owner, []).append(item.identity.execution_id)
    refused: dict[str, Refusal] = {}
    for owner, ids in sorted(by_owner.items()):
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"queue {owner}"})
        room = max(0, max_queued - await count_queued(connection, owner))
        refused |= {id_: QueueFull() for id_ in ids[room:]}
    return refused


async def _free_old_keys(connection: AsyncConnection, acceptances: Iterable[Acceptance], hours: float) -> None:
    """Release the idempotency keys of ended executions older than `hours`, so that they can be used again."""
    keys = sorted({(item.identity.owner, item.idempotency.key) for item in acceptances if item.idempotency})
    for owner, key in keys:
        await connection.execute(
            update(execution_control)
            .where(_control.owner_id == owner, _control.idempotency_key == key, _control.status.in_(TERMINAL))
            .where(_control.accepted_at < later_sql(-hours * 3600))
            .values(idempotency_key=None, idempotency_digest=None)
        )


async def _store_graphs(connection: AsyncConnection, acceptances: Sequence[Acceptance]) -> None:
    """Store graphs in the order of their hashes, so that two groups with the same graphs cannot deadlock."""
    found = {
        item.identity.graph_hash: item.graph
        for item in acceptances
        if item.identity.graph_hash and item.graph is not None
    }
    if not found:
        return
    statement = insert(connection.dialect, graphs).values(created_at=now_sql()).on_conflict_do_nothing()
    values = [{"content_hash": hash_, "graph": graph.decode()} for hash_, graph in sorted(found.items())]
    await connection.execute(statement, values)


async def _insert(connection: AsyncConnection, acceptances: Sequence[Acceptance], lease: Lease) -> set[str]:
    """Insert the control rows and return the inserted ids. Running executions get their lease here."""
    written: set[str] = set()
    for status, leased in ((Status.RUNNING, lease), (Status.QUEUED, None)):
        values = [_control_values(item) for item in acceptances if item.status is status]
        if not values:
            continue
        statement = insert(connection.dialect, execution_control).values(
            accepted_at=now_sql(),
            lease_owner=leased.owner if leased else None,
            lease_until=later_sql(leased.seconds) if leased else None,
            lease_age_seconds=leased.age_seconds if leased else None,
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
        "workflow_name": identity.workflow_name,
        "source": identity.source,
        "graph_hash": identity.graph_hash,
        "on_lost": item.on_lost,
        "request": item.request,
        "idempotency_key": key.key if key else None,
        "idempotency_digest": key.digest if key else None,
    }


async def _append_user_messages(connection: AsyncConnection, acceptances: Sequence[Acceptance]) -> None:
    chats = [(item.identity.conversation_id, item) for item in acceptances if item.identity.conversation_id is not None]
    if not chats:
        return
    await create_missing(connection, {conversation_id: item.identity.owner for conversation_id, item in chats})
    await append(
        connection,
        [
            NewMessages(conversation_id, item.identity.execution_id, [item.user_message])
            for conversation_id, item in chats
            if item.user_message is not None
        ],
    )


async def _find_refusals(connection: AsyncConnection, missed: Sequence[Acceptance]) -> dict[str, Refusal]:
    """Return why executions were not inserted. Executions that were already stored count as accepted."""
    if not missed:
        return {}
    stored = await _stored_ids(connection, {item.identity.execution_id for item in missed})
    refused: dict[str, Refusal] = {}
    for item in missed:
        if item.identity.execution_id not in stored:
            refused[item.identity.execution_id] = await _find_replay(connection, item) or ConversationBusy()
    return refused


async def _find_replay(connection: AsyncConnection, item: Acceptance) -> Refusal | None:
    """Return the refusal for an idempotency key that has already started an execution; null for an unused key."""
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


async def _stored_ids(connection: AsyncConnection, execution_ids: Collection[str]) -> set[str]:
    if not execution_ids:
        return set()
    column = execution_control.c.execution_id
    return set((await connection.execute(select(column).where(column.in_(execution_ids)))).scalars())
