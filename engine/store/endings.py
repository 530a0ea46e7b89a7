"""Ends the run of an execution with a terminal status or a pause. Works in the caller's transaction."""

from collections.abc import Collection, Sequence

from sqlalchemy import bindparam, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import now_sql
from engine.ledger import Finish, Pause
from engine.result import Status
from engine.store import approvals, unfinished
from engine.store.conversations import NewMessages, append, set_summaries
from engine.store.tables import execution_control


async def finish_many(
    connection: AsyncConnection, finishes: Sequence[Finish], *, with_unfinished_rows: Collection[str] = ()
) -> None:
    """Set the terminal status of executions, with result, conversation messages and summary.

    The caller must own them (`leases.owned`). `with_unfinished_rows` names the executions that have rows which exist
    only until the end (journalled parts, reservations, questions); these rows are deleted.
    """
    if not finishes:
        return
    await connection.execute(_FINISH, [_finish_values(item) for item in finishes])
    await _append_messages(connection, finishes)
    await _delete_unfinished_rows(connection, with_unfinished_rows)


async def pause_many(connection: AsyncConnection, pauses: Sequence[Pause]) -> None:
    """Pause executions and store the questions they ask. The caller must own them."""
    if not pauses:
        return
    await connection.execute(_PAUSE, [_pause_values(item) for item in pauses])
    await approvals.ask(connection, [(item.execution_id, each) for item in pauses for each in item.approvals])


async def conclude(connection: AsyncConnection, finishes: Sequence[Finish]) -> None:
    """Set the terminal status of executions that no process owns. The caller must have locked their rows."""
    await finish_many(connection, finishes, with_unfinished_rows=[item.execution_id for item in finishes])


async def _delete_unfinished_rows(connection: AsyncConnection, execution_ids: Collection[str]) -> None:
    """Delete the rows that exist only until an execution ends."""
    if execution_ids:
        await unfinished.forget(connection, execution_ids)
        await approvals.forget(connection, execution_ids)


_FINISH = (
    update(execution_control)
    .where(execution_control.c.execution_id == bindparam("of_execution"))
    .values(
        status=bindparam("ended_as"),
        result=bindparam("with_result"),
        last_seq=bindparam("closing_seq"),
        finished_at=now_sql(),
        lease_owner=None,
        lease_until=None,
        lease_age_seconds=None,
        not_before=None,
        claim_reason=None,
    )
)


def _finish_values(item: Finish) -> dict[str, object]:
    return {
        "of_execution": item.execution_id,
        "ended_as": item.status,
        "with_result": item.result,
        "closing_seq": item.last_seq,
    }


_PAUSE = (
    update(execution_control)
    .where(execution_control.c.execution_id == bindparam("of_execution"))
    .values(
        status=Status.PAUSED,
        result=bindparam("with_result"),
        last_seq=bindparam("closing_seq"),
        not_before=bindparam("due_at"),
        paused_at=now_sql(),
        lease_owner=None,
        lease_until=None,
        lease_age_seconds=None,
        early_losses=0,
    )
)


def _pause_values(item: Pause) -> dict[str, object]:
    return {
        "of_execution": item.execution_id,
        "with_result": item.result,
        "closing_seq": item.last_seq,
        "due_at": item.due_at,
    }


async def _append_messages(connection: AsyncConnection, finishes: Sequence[Finish]) -> None:
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
