"""Stores conversations: their messages in order, and the summary that replaces older messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Row, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import insert, now_sql, storable
from engine.database.database import Database
from engine.graph import JsonObject
from engine.resources import History, Message
from engine.store.tables import conversation_messages, conversations

_FIELDS = ("role", "content", "tool_calls", "tool_call_id", "is_error", "node_id")


@dataclass(frozen=True, slots=True)
class NewMessages:
    """The messages that one execution adds to a conversation, in order."""

    conversation_id: str
    execution_id: str
    messages: Sequence[JsonObject]


class StoredConversations:
    """`engine.resources.Conversations` over the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def history(
        self, conversation_id: str, owner: str, limit: int, *, before: str | None = None
    ) -> History | None:
        """Return the summary and the newest messages after it; null if this owner has no such conversation."""
        async with self._database.read() as connection:
            return await history(connection, conversation_id, owner, limit, before)


async def history(
    connection: AsyncConnection, conversation_id: str, owner: str, limit: int, before: str | None = None
) -> History | None:
    """Return the summary and at most `limit` messages, oldest first; null if this owner has no such conversation.

    The messages never begin with a tool result whose call is beyond the limit. Messages of the execution `before` are
    left out.
    """
    found = await connection.execute(
        select(conversations.c.summary).where(
            conversations.c.conversation_id == conversation_id, conversations.c.owner_id == owner
        )
    )
    row = found.one_or_none()
    if row is None:
        return None
    covers = row.summary.get("covers") if row.summary else None
    messages = await _newest(connection, conversation_id, covers, limit, before)
    return History(conversation_id, row.summary, messages)


async def create_missing(connection: AsyncConnection, owners: Mapping[str, str]) -> None:
    """Create the conversations that do not exist yet; `owners` maps conversation id to owner."""
    statement = (
        insert(connection.dialect, conversations)
        .values(created_at=now_sql(), updated_at=now_sql())
        .on_conflict_do_nothing(index_elements=["conversation_id"])
    )
    values = [{"conversation_id": id_, "owner_id": owner} for id_, owner in sorted(owners.items())]
    await connection.execute(statement, values)


async def append(connection: AsyncConnection, additions: Sequence[NewMessages]) -> None:
    """Append messages to conversations. A message id that the conversation already has is skipped."""
    if not additions:
        return
    last = await _last_positions(connection, {item.conversation_id for item in additions})
    values: list[dict[str, object]] = []
    for item in additions:
        for message in item.messages:
            last[item.conversation_id] = position = last.get(item.conversation_id, 0) + 1
            values.append(_message_values(item, position, message))
    statement = (
        insert(connection.dialect, conversation_messages)
        .values(created_at=now_sql())
        .on_conflict_do_nothing(index_elements=["conversation_id", "message_id"])
    )
    await connection.execute(statement, values)
    await connection.execute(_TOUCH, [{"of_conversation": id_} for id_ in sorted(last)])


async def set_summaries(connection: AsyncConnection, summaries: Mapping[str, JsonObject]) -> None:
    """Replace the summaries of these conversations; `summaries` maps conversation id to summary."""
    if summaries:
        values = [{"of_conversation": id_, "new_summary": text} for id_, text in sorted(summaries.items())]
        await connection.execute(_SUMMARIZE, values)


_TOUCH = (
    update(conversations)
    .where(conversations.c.conversation_id == bindparam("of_conversation"))
    .values(updated_at=now_sql())
)
_SUMMARIZE = (
    update(conversations)
    .where(conversations.c.conversation_id == bindparam("of_conversation"))
    .values(summary=bindparam("new_summary"))
)


async def _last_positions(connection: AsyncConnection, ids: set[str]) -> dict[str, int]:
    rows = await connection.execute(
        select(conversation_messages.c.conversation_id, func.max(conversation_messages.c.position).label("last"))
        .where(conversation_messages.c.conversation_id.in_(ids))
        .group_by(conversation_messages.c.conversation_id)
    )
    return {row.conversation_id: row.last for row in rows}


def _message_values(item: NewMessages, position: int, message: JsonObject) -> dict[str, object]:
    values: dict[str, object] = {name: storable(message.get(name)) for name in _FIELDS}
    return values | {
        "conversation_id": item.conversation_id,
        "execution_id": item.execution_id,
        "position": position,
        "message_id": message["id"],
    }


async def _newest(
    connection: AsyncConnection, conversation_id: str, covers: str | None, limit: int, before: str | None
) -> list[Message]:
    table = conversation_messages
    query = select(table).where(table.c.conversation_id == conversation_id)
    if covers is not None:
        covered = select(table.c.position).where(
            table.c.conversation_id == conversation_id, table.c.message_id == covers
        )
        query = query.where(table.c.position > func.coalesce(covered.scalar_subquery(), 0))
    if before is not None:
        query = query.where(table.c.execution_id != before)
    rows = await connection.execute(query.order_by(table.c.position.desc()).limit(limit))
    messages = [_read(row) for row in reversed(rows.all())]
    first = next((index for index, message in enumerate(messages) if message["role"] != "tool"), len(messages))
    return messages[first:]


def _read(row: Row[Any]) -> Message:
    fields = {name: value for name in _FIELDS if (value := getattr(row, name)) is not None}
    return cast(Message, {"id": row.message_id} | fields)
