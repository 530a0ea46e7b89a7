"""Stores the totals and spans that unfinished executions have committed, and their model calls in flight.

Works in the caller's transaction. A later attempt continues from these rows; if the process died, they are all that is
known of its run. They are deleted when the execution ends.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import insert, now_sql
from engine.ledger import CallReservation
from engine.store.tables import call_reservations, journalled
from engine.usage import Carried, Totals

_ID_DIGITS = 16


@dataclass(frozen=True, slots=True)
class OpenNode:
    """A node whose span has not ended, though spans below it are durable, as far as those tell."""

    span_id: str
    node_id: str
    node_type: str
    node_attempt: int
    start_ns: int
    """When the first of the spans below it started, ns since the epoch; its own start is not known."""


@dataclass(frozen=True, slots=True)
class Part:
    """The spans and totals that one commit of an attempt added; `number` increases within the attempt."""

    execution_id: str
    attempt: int
    number: int
    span_ids: Sequence[str]
    """Hex ids of spans that the record level keeps."""
    totals: Totals
    open_nodes: Sequence[OpenNode] = ()
    """The open nodes of the attempt after the commit."""


async def keep(connection: AsyncConnection, parts: Sequence[Part]) -> None:
    """Store parts. A part that is already stored (after a commit that seemed to fail) is replaced by the larger one."""
    if not parts:
        return
    statement = insert(connection.dialect, journalled)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["execution_id", "attempt", "number"],
            set_={name: statement.excluded[name] for name in ("span_ids", "totals", "open_nodes")},
        ),
        [
            {
                "execution_id": part.execution_id,
                "attempt": part.attempt,
                "number": part.number,
                "span_ids": "".join(part.span_ids),
                "totals": part.totals.as_json(),
                "open_nodes": [asdict(node) for node in part.open_nodes],
            }
            for part in parts
        ],
    )


async def reserve(connection: AsyncConnection, calls: Sequence[tuple[str, int, CallReservation]]) -> None:
    """Store the upper bounds of model calls that are about to start, each with its execution id and attempt."""
    if calls:
        await connection.execute(
            insert(connection.dialect, call_reservations).values(at=now_sql()).on_conflict_do_nothing(),
            [
                {
                    "execution_id": execution_id,
                    "attempt": attempt,
                    "call_id": call.call_id,
                    "provider": call.provider,
                    "model": call.model,
                    "upper_tokens": call.upper_tokens,
                    "upper_nano_usd": call.upper_nano_usd,
                }
                for execution_id, attempt, call in calls
            ],
        )


async def settle(connection: AsyncConnection, calls: Collection[tuple[str, str]]) -> None:
    """Delete the reservations of calls, given as execution and call id, whose spans are now durable."""
    if calls:
        await connection.execute(
            delete(call_reservations).where(
                call_reservations.c.execution_id == bindparam("of_execution"),
                call_reservations.c.call_id == bindparam("of_call"),
            ),
            [{"of_execution": execution_id, "of_call": call_id} for execution_id, call_id in sorted(calls)],
        )


async def carried(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, Carried]:
    """Return the committed totals and spans of all attempts of each execution, and their calls that did not end."""
    found = {execution_id: Carried() for execution_id in execution_ids}
    rows = await connection.execute(
        select(journalled)
        .where(journalled.c.execution_id.in_(found))
        .order_by(journalled.c.execution_id, journalled.c.attempt, journalled.c.number)
    )
    for row in rows:
        one = found[row.execution_id]
        one.totals = one.totals + Totals.from_json(row.totals)
        one.span_ids += _ids(row.span_ids)
    calls = await connection.execute(
        select(
            call_reservations.c.execution_id, call_reservations.c.upper_nano_usd, call_reservations.c.upper_tokens
        ).where(call_reservations.c.execution_id.in_(found))
    )
    for row in calls:
        one = found[row.execution_id]
        one.unfinished = one.unfinished.plus(row.upper_nano_usd, row.upper_tokens)
    return found


async def open_nodes(connection: AsyncConnection, attempts: Mapping[str, int]) -> dict[str, list[OpenNode]]:
    """Return the open nodes after the last commit of an attempt of each execution."""
    found: dict[str, list[OpenNode]] = {execution_id: [] for execution_id in attempts}
    rows = await connection.execute(
        select(journalled.c.execution_id, journalled.c.attempt, journalled.c.open_nodes)
        .where(journalled.c.execution_id.in_(attempts))
        .order_by(journalled.c.execution_id, journalled.c.attempt, journalled.c.number)
    )
    for row in rows:
        if row.attempt == attempts[row.execution_id]:
            found[row.execution_id] = [OpenNode(**node) for node in row.open_nodes or ()]
    return found


async def forget(connection: AsyncConnection, execution_ids: Collection[str]) -> None:
    """Delete the parts and reservations of ended executions."""
    for table in (journalled, call_reservations):
        await connection.execute(delete(table).where(table.c.execution_id.in_(execution_ids)))


def _ids(span_ids: str) -> list[int]:
    return [int(span_ids[at : at + _ID_DIGITS], 16) for at in range(0, len(span_ids), _ID_DIGITS)]
