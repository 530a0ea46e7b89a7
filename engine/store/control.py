"""Decides an execution's fate: accepted, asked to cancel, ended. Every function works in the caller's transaction.

The journal commits many executions at once, so the deciding functions take groups and say which execution lost; a loser
never spoils the transaction for the others.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import ConversationBusy
from engine.graph import JsonObject
from engine.ledger import Acceptance, Finish
from engine.result import Status
from engine.store.base import insert, now_sql
from engine.store.conversations import NewMessages, append, make_missing, set_summaries
from engine.store.tables import execution_control, graphs

_TERMINAL = [status for status in Status if status.is_terminal]


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
    root_span_id: str | None
    root_started_at: datetime
    workflow_name: str
    source: str
    graph_hash: str | None
    on_lost: str
    request: JsonObject
    result: JsonObject | None
    cancel_requested_at: datetime | None
    cancel_reason: str | None
    accepted_at: datetime
    finished_at: datetime | None


async def accept_many(connection: AsyncConnection, acceptances: Sequence[Acceptance]) -> frozenset[str]:
    """Make executions durable with their graphs, and the users' messages in their conversations.

    Gives the ids that were refused because their conversation has an unfinished execution; nothing of them is kept. An
    execution that is there already (a commit that seemed to fail) counts as accepted and is not written again.
    """
    if not acceptances:
        return frozenset()
    await _keep_graphs(connection, acceptances)
    statement = insert(connection.dialect, execution_control).values(accepted_at=now_sql()).on_conflict_do_nothing()
    rows = await connection.execute(
        statement.returning(execution_control.c.execution_id), [_control_values(item) for item in acceptances]
    )
    accepted = set(rows.scalars())
    missed = {item.execution_id for item in acceptances} - accepted
    await _keep_user_messages(connection, [item for item in acceptances if item.execution_id in accepted])
    return frozenset(missed - await _known(connection, missed))


async def accept(connection: AsyncConnection, acceptance: Acceptance) -> None:
    """`accept_many` for one. Raises `ConversationBusy`."""
    if await accept_many(connection, [acceptance]):
        raise ConversationBusy


async def finish_many(connection: AsyncConnection, finishes: Sequence[Finish]) -> frozenset[str]:
    """Take executions to their terminal status, with result, conversation messages and summary.

    Compare-and-set on execution, attempt and a non-terminal status. Gives the ids that were fenced off: another attempt
    owns them or they have ended; nothing of those is written.
    """
    if not finishes:
        return frozenset()
    by_id: dict[str, Finish] = {}
    for item in finishes:
        by_id.setdefault(item.execution_id, item)
    open_attempts = await _lock_open_attempts(connection, by_id)
    winners = [item for id_, item in by_id.items() if open_attempts.get(id_) == item.attempt]
    if winners:
        await connection.execute(_FINISH, [_finish_values(item) for item in winners])
        await _keep_answers(connection, winners)
    return frozenset(by_id) - {item.execution_id for item in winners}


async def request_cancel(
    connection: AsyncConnection, execution_id: str, owner: str, reason: str | None
) -> ControlRow | None:
    """Ask an unfinished execution to stop; the first reason stays. Gives the row, also of one that has ended."""
    await connection.execute(
        update(execution_control)
        .where(execution_control.c.execution_id == execution_id, execution_control.c.owner_id == owner)
        .where(execution_control.c.status.not_in(_TERMINAL), execution_control.c.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now_sql(), cancel_reason=reason)
    )
    return await get(connection, execution_id, owner)


async def cancel_requests(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, str | None]:
    """Which of these unfinished executions are asked to stop, and why."""
    rows = await connection.execute(
        select(execution_control.c.execution_id, execution_control.c.cancel_reason)
        .where(execution_control.c.execution_id.in_(execution_ids))
        .where(execution_control.c.cancel_requested_at.is_not(None))
        .where(execution_control.c.status.not_in(_TERMINAL))
    )
    return {row.execution_id: row.cancel_reason for row in rows}


async def get(connection: AsyncConnection, execution_id: str, owner: str) -> ControlRow | None:
    """The row of an execution; null if this owner has none of that id."""
    rows = await connection.execute(
        select(execution_control).where(
            execution_control.c.execution_id == execution_id, execution_control.c.owner_id == owner
        )
    )
    row = rows.one_or_none()
    return None if row is None else _read(row)


async def _keep_graphs(connection: AsyncConnection, acceptances: Sequence[Acceptance]) -> None:
    """Sorted by hash, so that two groups that wait for each other's graphs cannot deadlock."""
    kept = {item.graph_hash: item.graph for item in acceptances if item.graph_hash and item.graph is not None}
    if not kept:
        return
    statement = insert(connection.dialect, graphs).values(created_at=now_sql()).on_conflict_do_nothing()
    values = [{"content_hash": hash_, "graph": graph.decode()} for hash_, graph in sorted(kept.items())]
    await connection.execute(statement, values)


def _control_values(item: Acceptance) -> dict[str, object]:
    return {
        "execution_id": item.execution_id,
        "owner_id": item.owner,
        "status": Status.RUNNING,
        "attempt": item.attempt,
        "conversation_id": item.conversation_id,
        "correlation_id": item.correlation_id,
        "trace_id": item.trace_id,
        "root_span_id": item.root_span_id,
        "root_started_at": item.root_started_at,
        "workflow_name": item.workflow_name,
        "source": item.source,
        "graph_hash": item.graph_hash,
        "on_lost": item.on_lost,
        "request": item.request,
    }


async def _keep_user_messages(connection: AsyncConnection, acceptances: Sequence[Acceptance]) -> None:
    chats = [item for item in acceptances if item.conversation_id is not None]
    if not chats:
        return
    await make_missing(connection, {item.conversation_id: item.owner for item in chats if item.conversation_id})
    await append(
        connection,
        [
            NewMessages(item.conversation_id, item.execution_id, [item.user_message])
            for item in chats
            if item.conversation_id and item.user_message is not None
        ],
    )


async def _known(connection: AsyncConnection, execution_ids: Collection[str]) -> set[str]:
    if not execution_ids:
        return set()
    column = execution_control.c.execution_id
    return set((await connection.execute(select(column).where(column.in_(execution_ids)))).scalars())


async def _lock_open_attempts(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, int]:
    """Attempt of each that has not ended; the rows stay locked (SQLite's writer has the lock already)."""
    rows = await connection.execute(
        select(execution_control.c.execution_id, execution_control.c.attempt)
        .where(execution_control.c.execution_id.in_(execution_ids), execution_control.c.status.not_in(_TERMINAL))
        .order_by(execution_control.c.execution_id)
        .with_for_update()
    )
    return {row.execution_id: row.attempt for row in rows}


_FINISH = (
    update(execution_control)
    .where(execution_control.c.execution_id == bindparam("of_execution"))
    .values(
        status=bindparam("ended_as"),
        result=bindparam("with_result"),
        finished_at=now_sql(),
        lease_owner=None,
        lease_until=None,
    )
)


def _finish_values(item: Finish) -> dict[str, object]:
    return {"of_execution": item.execution_id, "ended_as": item.status, "with_result": item.result}


async def _keep_answers(connection: AsyncConnection, winners: Sequence[Finish]) -> None:
    chats = [item for item in winners if item.conversation_id is not None]
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
        root_span_id=row.root_span_id,
        root_started_at=row.root_started_at,
        workflow_name=row.workflow_name,
        source=row.source,
        graph_hash=row.graph_hash,
        on_lost=row.on_lost,
        request=row.request,
        result=row.result,
        cancel_requested_at=row.cancel_requested_at,
        cancel_reason=row.cancel_reason,
        accepted_at=row.accepted_at,
        finished_at=row.finished_at,
    )
