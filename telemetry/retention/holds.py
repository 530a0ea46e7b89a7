"""Why rows are kept although their time is over: something else still needs them."""

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import among
from engine.retention import erasure
from engine.store import control_reads
from telemetry.records.rollups import first_id
from telemetry.store.tables import dead_letter, outbox, reconcile_runs, spans, webhook_deliveries, webhook_events


class Hold(StrEnum):
    """A reason to keep the rows of an execution."""

    OUTBOX = "signals are still on their way"
    """The outbox owes a signal to a consumer."""
    DEAD_LETTERS = "signals are dead letters"
    """A consumer could not store a signal."""
    NOT_COMPARED = "their books have not been compared, or differ"
    """No reconcile run has covered the hour in which the execution was accepted, or the last one found differences."""
    DELIVERIES = "a webhook is not delivered"
    """A delivery is pending."""
    CONVERSATION = "a turn of their conversation has not ended"
    """It is sent their messages."""
    CONTROL = "the answer is kept"
    """Its control row exists."""
    SPANS = "the spans are kept"
    """It has span rows."""


async def _in_outbox(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    """A row's id begins with that of its execution, then comes a slash; letters sort after all digits of an id."""
    between = outbox.c.id.between(ids[0], f"{ids[-1]}g")
    return {
        str(id_).partition("/")[0] for id_ in (await connection.execute(select(outbox.c.id).where(between))).scalars()
    }


async def _with_dead_letters(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    id_ = dead_letter.c.execution_id
    return set((await connection.execute(select(id_).where(among(connection.dialect, id_, ids)))).scalars())


async def _not_compared(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    """A run that found differences has not settled its window: what would explain them is kept as long as it looks."""
    c = reconcile_runs.c
    newest = select(c.since, c.until, c.differences).where(c.finished_at.is_not(None)).order_by(c.scheduled_for.desc())
    run = (await connection.execute(newest.limit(1))).one_or_none()
    if run is None:
        return set(ids)
    settled = first_id(run.since if run.differences else run.until)
    return {id_ for id_ in ids if id_ >= settled}


async def _with_deliveries(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    id_ = webhook_events.c.execution_id
    pending = (
        select(id_)
        .join(webhook_deliveries, webhook_deliveries.c.event_id == webhook_events.c.event_id)
        .where(among(connection.dialect, id_, ids), webhook_deliveries.c.state == "pending")
    )
    return set((await connection.execute(pending)).scalars())


async def _in_busy_conversations(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    return await erasure.in_busy_conversations(connection, ids)


async def _with_control(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    return set(await control_reads.get_owners(connection, ids))


async def _with_spans(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    id_ = spans.c.execution_id
    return set((await connection.execute(select(id_).where(among(connection.dialect, id_, ids)).distinct())).scalars())


FIND: dict[Hold, Callable[[AsyncConnection, Sequence[str]], Awaitable[set[str]]]] = {
    Hold.OUTBOX: _in_outbox,
    Hold.DEAD_LETTERS: _with_dead_letters,
    Hold.NOT_COMPARED: _not_compared,
    Hold.DELIVERIES: _with_deliveries,
    Hold.CONVERSATION: _in_busy_conversations,
    Hold.CONTROL: _with_control,
    Hold.SPANS: _with_spans,
}
"""Which of these executions, sorted by id, a reason applies to. The result may name others, too."""
