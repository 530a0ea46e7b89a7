"""Deletes the content of ended executions from the engine's tables; the numbers stay.

Works in the caller's transaction. A tombstone says why the content is gone, and keeps a signal that comes late from
bringing it back.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Literal

from sqlalchemy import delete, exists, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import among, insert, now_sql
from engine.errors import ConversationBusy, NotFinished
from engine.graph import JsonObject
from engine.result import without_content
from engine.retention import call_content
from engine.store import approvals, unfinished
from engine.store.control import TERMINAL
from engine.store.tables import conversation_messages, conversations, execution_control, graphs, tombstones
from engine.tracing.attributes import redacted_tags

Reason = Literal["not_stored", "expired", "forgotten"]

_control = execution_control.c
_message = conversation_messages.c


async def check_erasable(connection: AsyncConnection, execution_ids: Collection[str]) -> None:
    """Lock the control rows of executions whose content shall go.

    Raises `NotFinished`, or `ConversationBusy` while a later turn of the same conversation uses their messages.
    """
    rows = await connection.execute(
        select(_control.execution_id, _control.status, _control.conversation_id)
        .where(_control.execution_id.in_(execution_ids))
        .order_by(_control.execution_id)
        .with_for_update()
    )
    talks: set[str] = set()
    for row in rows:
        if row.status not in TERMINAL:
            raise NotFinished(
                f"Execution {row.execution_id} is {row.status}, and needs its content; "
                "wait for its end or cancel it, then forget it."
            )
        if row.conversation_id is not None:
            talks.add(row.conversation_id)
    busy = select(_control.execution_id).where(_control.conversation_id.in_(talks), _control.finished_at.is_(None))
    if talks and (await connection.execute(busy.limit(1))).first() is not None:
        raise ConversationBusy


async def erase(connection: AsyncConnection, execution_ids: Sequence[str]) -> None:
    """Delete everything that these executions were asked and answered. The caller has checked that this may be."""
    await _erase_conversations(connection, execution_ids)
    await strip_control(connection, execution_ids)
    await _strip_identities(connection, execution_ids)
    await call_content.forget(connection, execution_ids)
    await approvals.forget(connection, execution_ids)
    await unfinished.forget(connection, execution_ids)
    await _delete_graphs(connection, execution_ids)


async def erase_with_control(connection: AsyncConnection, execution_ids: Sequence[str]) -> Counter[str]:
    """Delete everything that these ended executions were asked and answered, with their control rows, by table.

    Nothing else may need the rows. The caller has checked that this may be.
    """
    messages = await _erase_conversations(connection, execution_ids)
    calls = await call_content.forget(connection, execution_ids)
    await approvals.forget(connection, execution_ids)
    ended = (among(connection.dialect, _control.execution_id, execution_ids), _control.finished_at.is_not(None))
    gone = await connection.execute(delete(execution_control).where(*ended))
    names = (execution_control.name, call_content.TABLE, conversation_messages.name)
    return Counter(dict(zip(names, (gone.rowcount, calls, messages), strict=True)))


async def in_busy_conversations(connection: AsyncConnection, execution_ids: Collection[str]) -> set[str]:
    """Those of these executions whose messages an unfinished turn of the same conversation uses."""
    busy = select(_control.conversation_id).where(_control.finished_at.is_(None), _control.conversation_id.is_not(None))
    mine = among(connection.dialect, _control.execution_id, execution_ids)
    found = await connection.execute(select(_control.execution_id).where(mine, _control.conversation_id.in_(busy)))
    return set(found.scalars())


async def bury(connection: AsyncConnection, execution_ids: Collection[str], reason: Reason) -> None:
    """Say that the content of these executions is gone. Of several reasons the last one counts."""
    if not execution_ids:
        return
    statement = insert(connection.dialect, tombstones).values(at=now_sql())
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["execution_id"], set_={"reason": statement.excluded.reason}),
        [{"execution_id": id_, "reason": reason} for id_ in sorted(execution_ids)],
    )


async def buried(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, Reason]:
    """Why the content of executions is gone, by id; executions that have theirs are missing."""
    id_ = tombstones.c.execution_id
    statement = select(id_, tombstones.c.reason).where(among(connection.dialect, id_, sorted(execution_ids)))
    return {row.execution_id: row.reason for row in await connection.execute(statement)}


async def why_gone(connection: AsyncConnection, execution_id: str) -> Reason | None:
    """Why the content of an execution is gone; null if it was not deleted."""
    return (await buried(connection, [execution_id])).get(execution_id)


async def strip_control(connection: AsyncConnection, execution_ids: Collection[str]) -> None:
    """Delete request and answer from the control rows; a request without its input cannot run again."""
    if not execution_ids:
        return
    rows = await connection.execute(
        select(_control.execution_id, _control.result).where(_control.execution_id.in_(execution_ids))
    )
    for row in rows.all():
        await connection.execute(
            update(execution_control)
            .where(_control.execution_id == row.execution_id)
            .values(request={}, result=_stripped(row.result))
        )


def _stripped(result: JsonObject | None) -> JsonObject | None:
    return None if result is None else without_content(result)


async def _strip_identities(connection: AsyncConnection, execution_ids: Collection[str]) -> None:
    """Delete the parameters; of the tags stays what the records have."""
    rows = await connection.execute(
        select(_control.execution_id, _control.subject).where(
            _control.execution_id.in_(execution_ids), _control.subject.is_not(None)
        )
    )
    for row in rows.all():
        identity = row.subject | {"params": {}, "tags": redacted_tags(row.subject.get("tags", {}))}
        await connection.execute(
            update(execution_control).where(_control.execution_id == row.execution_id).values(subject=identity)
        )


async def _erase_conversations(connection: AsyncConnection, execution_ids: Sequence[str]) -> int:
    """Delete the messages of these executions, and what was made of them: summaries, and what later calls were sent.

    Returns the number of messages.
    """
    said = await connection.execute(
        select(_message.conversation_id, func.min(_message.position).label("first"))
        .where(_message.execution_id.in_(execution_ids))
        .group_by(_message.conversation_id)
    )
    for conversation_id, first in said.all():
        await _drop_summary(connection, conversation_id, first)
        later = select(_control.execution_id).where(
            _control.conversation_id == conversation_id, _control.execution_id > min(execution_ids)
        )
        await call_content.forget(connection, list((await connection.execute(later)).scalars()))
    gone = await connection.execute(delete(conversation_messages).where(_message.execution_id.in_(execution_ids)))
    return gone.rowcount


async def _drop_summary(connection: AsyncConnection, conversation_id: str, first: int) -> None:
    """Delete the conversation's summary unless it covers only messages before the first deleted one."""
    summary = (
        await connection.execute(
            select(conversations.c.summary).where(conversations.c.conversation_id == conversation_id)
        )
    ).scalar()
    if summary is None:
        return
    covered = await connection.execute(
        select(_message.position).where(
            _message.conversation_id == conversation_id, _message.message_id == summary.get("covers")
        )
    )
    position = covered.scalar()
    if position is None or position >= first:
        await connection.execute(
            update(conversations).where(conversations.c.conversation_id == conversation_id).values(summary=None)
        )


async def _delete_graphs(connection: AsyncConnection, execution_ids: Sequence[str]) -> None:
    """Delete the graphs that no other execution names: parameters are filled in, and so may hold content.

    On PostgreSQL the lock waits for acceptances that have found a graph stored, and that name it once they commit.
    """
    named = select(_control.graph_hash).where(
        _control.execution_id.in_(execution_ids), _control.graph_hash.is_not(None)
    )
    hashes = set((await connection.execute(named)).scalars())
    if not hashes:
        return
    if connection.dialect.name == "postgresql":
        await connection.execute(text("LOCK TABLE graphs IN SHARE ROW EXCLUSIVE MODE"))
    needed = exists().where(
        _control.graph_hash == graphs.c.content_hash,
        _control.execution_id.not_in(execution_ids),
        _control.execution_id.not_in(select(tombstones.c.execution_id)),
    )
    await connection.execute(delete(graphs).where(graphs.c.content_hash.in_(hashes), ~needed))
