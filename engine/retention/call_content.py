"""Stores what each call said and was told, compressed. Works in the caller's transaction."""

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
from sqlalchemy import and_, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import insert
from engine.graph import Json
from engine.ledger import CallContent
from engine.store.tables import call_content

TABLE = call_content.name

_c = call_content.c


@dataclass(frozen=True, slots=True)
class StoredCall:
    """The content of one call; `content` is by the key of the GenAI conventions."""

    call_id: str
    attempt: int
    operation: str
    node_id: str
    at: datetime
    content: dict[str, Json]
    cut: list[str]
    """The keys whose value was cut."""


async def keep(connection: AsyncConnection, calls: Sequence[tuple[str, int, CallContent]]) -> None:
    """Store the content of calls, each with its execution and attempt. Content that is stored stays as it is."""
    if not calls:
        return
    values = [
        {
            "execution_id": execution_id,
            "attempt": attempt,
            "call_id": call.call_id,
            "operation": call.operation,
            "node_id": call.node_id,
            "document": zlib.compress(call.document.encode()),
            "cut": list(call.cut),
            "at": call.at,
        }
        for execution_id, attempt, call in calls
    ]
    await connection.execute(insert(connection.dialect, call_content).on_conflict_do_nothing(), values)


async def read(
    connection: AsyncConnection, execution_id: str, *, limit: int, after: tuple[datetime, str] | None = None
) -> list[StoredCall]:
    """The calls of an execution in the order in which they ended, behind the end and id of the last one shown."""
    statement = select(call_content).where(_c.execution_id == execution_id).order_by(_c.at, _c.call_id).limit(limit)
    if after is not None:
        at, call_id = after
        statement = statement.where(or_(_c.at > at, and_(_c.at == at, _c.call_id > call_id)))
    return [
        StoredCall(
            row.call_id,
            row.attempt,
            row.operation,
            row.node_id,
            row.at,
            orjson.loads(zlib.decompress(row.document)),
            row.cut,
        )
        for row in await connection.execute(statement)
    ]


async def forget(connection: AsyncConnection, execution_ids: Collection[str]) -> int:
    """Delete the content of all calls of these executions; returns how many calls that were."""
    gone = await connection.execute(delete(call_content).where(_c.execution_id.in_(execution_ids)))
    return gone.rowcount
