"""Finds rows that no sum shows: dead letters, rows of ended executions, and executions of the future."""

from collections.abc import AsyncIterator
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.store import control_reads
from engine.store.tables import execution_control
from telemetry.reconcile.findings import Check, Difference
from telemetry.reconcile.window import HOUR, Window
from telemetry.records.rollups import first_id
from telemetry.store.tables import dead_letter, executions, spans

_LETTER = "a consumer could not store signals of the execution; `spanloom dead-letters` shows why and tries them again"
_LEFT = "rows of an unfinished execution were not removed at its end, or were added later"
_FUTURE = "the execution was accepted in the future: its rows were added, or the clock was wrong"
_FOREIGN = ("refused", "bytes")
"""Types of letters about what others sent: the books miss nothing with them."""
_MOST = 1_000


async def find_strays(connection: AsyncConnection, window: Window, now: datetime) -> AsyncIterator[Difference]:
    """Find the stray rows of a window, and those of the future."""
    letters = (
        select(dead_letter.c.execution_id, dead_letter.c.consumer, func.count())
        .where(window.holds(dead_letter.c.execution_id), dead_letter.c.signal["type"].as_string().not_in(_FOREIGN))
        .group_by(dead_letter.c.execution_id, dead_letter.c.consumer)
        .order_by(dead_letter.c.execution_id, dead_letter.c.consumer)
    )
    for id_, consumer, count in await connection.execute(letters):
        yield Difference(Check.DEAD_LETTER, id_, consumer, count, 0, _LETTER)
    for left in await control_reads.leftovers(connection, window.first_id, window.end_id):
        yield Difference(Check.LEFTOVER, left.execution_id, left.table, 1, 0, _LEFT)
    for check, column in (
        (Check.RECORD, executions.c.id),
        (Check.SPAN, spans.c.execution_id),
        (Check.CONTROL, execution_control.c.execution_id),
    ):
        future = select(column).where(column >= first_id(max(now + HOUR, window.until))).distinct().limit(_MOST)
        for id_ in (await connection.execute(future)).scalars():
            yield Difference(check, id_, column.name, id_, None, _FUTURE)
