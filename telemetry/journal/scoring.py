"""Gives an execution a score: an event through the sink of the journal, in a transaction of its own.

The comment is content, which no event carries: it is stored beside it, so that both modes have the same rows.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from engine.database.base import database_time, insert
from engine.database.database import Database
from engine.errors import NotFound
from engine.retention import erasure
from engine.store import control_reads
from engine.tracing import semconv
from engine.tracing.semconv import Event
from telemetry.journal.sinks import Sink
from telemetry.pipeline.pipeline import ConsumerHung
from telemetry.reads.executions import ExecutionRecord, get_execution
from telemetry.reads.scores import GivenScore, Score, list_scores
from telemetry.signals.builders import make_event
from telemetry.signals.records import EPOCH, Batch, EventRecord
from telemetry.signals.sanitize import clean_text, place_all
from telemetry.store.score_tables import score_comments
from telemetry.store.tables import executions, outbox

_NO_SEQ = 0
"""A score belongs to no attempt's order of events."""


class Scoring:
    """Gives scores. Its sink is its own, of the same kind as the journal's; `export` passes events to trace stores."""

    def __init__(
        self, database: Database, sink: Sink, export: Callable[[EventRecord], None] = lambda event: None
    ) -> None:
        self._database = database
        self._sink = sink
        self._export = export

    async def give(self, execution_id: str, owner: str, given: GivenScore) -> Score:
        """Store a score; it replaces the one of the same name and source. One that is stored already is not said again.

        Raises `NotFound` or `Unavailable`.
        """
        given = _as_told(given)
        try:
            return await self._transact(execution_id, owner, given, frozenset())
        except ConsumerHung as error:
            return await self._transact(execution_id, owner, given, frozenset({error.consumer}))

    async def _transact(self, execution_id: str, owner: str, given: GivenScore, hung: frozenset[str]) -> Score:
        is_committed = False
        try:
            async with self._database.begin() as connection:
                score, event = await self._store(connection, execution_id, owner, given, hung)
            is_committed = True
        finally:
            if not is_committed:
                self._sink.rolled_back()
        if event is not None:
            self._sink.committed(Batch([], [event]))
            self._export(event)
        return score

    async def _store(
        self, connection: AsyncConnection, execution_id: str, owner: str, given: GivenScore, hung: frozenset[str]
    ) -> tuple[Score, EventRecord | None]:
        """The score, and the event that says it; null if the same is stored already. Raises `NotFound`."""
        await _lock(connection, execution_id)
        record = await get_execution(connection, execution_id, owner)
        if record is None:
            raise NotFound.of("execution", execution_id)
        given = await _without_late_comment(connection, execution_id, given)
        stored = await _find_same(connection, execution_id, given)
        if stored is not None:
            return stored, None
        now = await database_time(connection)
        event = _event(record, given, now)
        await self._sink.apply(connection, Batch([], [event]), hung)
        await _keep_comment(connection, execution_id, given, now)
        return Score(given.name, given.source, given.value, given.comment, now), event


def _as_told(given: GivenScore) -> GivenScore:
    """Name and label as the event has them: without secrets."""
    value = clean_text(given.value)[0] if isinstance(given.value, str) else given.value
    return replace(given, name=clean_text(given.name)[0], value=value)


async def _lock(connection: AsyncConnection, execution_id: str) -> None:
    """Let one score be given at a time, and nothing be deleted meanwhile: what came later would stay for ever.

    The record goes after the control row, so its own lock is needed only once that is gone.
    """
    if not await control_reads.lock(connection, [execution_id]):
        await connection.execute(select(executions.c.id).where(executions.c.id == execution_id).with_for_update())


async def _find_same(connection: AsyncConnection, execution_id: str, given: GivenScore) -> Score | None:
    """The stored score that is the same; null while signals of the execution are on their way, which may change it."""
    on_their_way = select(outbox.c.id).where(outbox.c.id.between(execution_id, f"{execution_id}g")).limit(1)
    if (await connection.execute(on_their_way)).first() is not None:
        return None
    said = (given.name, given.source, given.value, given.comment)
    stored = await list_scores(connection, execution_id)
    return next((one for one in stored if (one.name, one.source, one.value, one.comment) == said), None)


def _event(record: ExecutionRecord, given: GivenScore, now: datetime) -> EventRecord:
    """The event, in the context of the execution's root span."""
    is_label = isinstance(given.value, str)
    said: dict[str, str | int | float | None] = {
        semconv.EXECUTION_ID: record.id,
        semconv.EXECUTION_ATTEMPT: record.attempt,
        semconv.OWNER_ID: record.owner_id,
        semconv.WORKFLOW_NAME: record.workflow_name,
        semconv.WORKFLOW_SOURCE: record.workflow_source,
        semconv.TEMPLATE_ID: record.template_id,
        semconv.TEMPLATE_VERSION: record.template_version,
        semconv.RECORD_LEVEL: None if record.record_level == "full" else record.record_level,
        semconv.EVALUATION_NAME: given.name,
        semconv.EVALUATION_SCORE_LABEL if is_label else semconv.EVALUATION_SCORE_VALUE: given.value,
        semconv.SCORE_SOURCE: given.source,
        semconv.EVENT_ID: str(uuid7()),
        semconv.EVENT_SEQ: _NO_SEQ,
    }
    return make_event(
        name=Event.EVALUATION_RESULT.value,
        at_ns=(now - EPOCH) // timedelta(microseconds=1) * 1_000,
        trace_id=record.trace_id,
        span_id=record.root_span_id,
        placed=place_all({key: value for key, value in said.items() if value is not None}),
    )


async def _without_late_comment(connection: AsyncConnection, execution_id: str, given: GivenScore) -> GivenScore:
    """The score; without its comment where the content of the execution is gone: due, forgotten, or not kept."""
    has_control = await control_reads.get_owners(connection, [execution_id])
    is_kept = has_control and await erasure.why_gone(connection, execution_id) is None
    return given if is_kept else replace(given, comment=None)


async def _keep_comment(connection: AsyncConnection, execution_id: str, given: GivenScore, now: datetime) -> None:
    """Store the comment, unless that of a later score is there; without one, an earlier comment goes."""
    c = score_comments.c
    values = {"comment": given.comment, "scored_at": now}
    if given.comment is None:
        mine = (c.execution_id == execution_id, c.name == given.name, c.source == given.source, c.scored_at <= now)
        await connection.execute(update(score_comments).where(*mine).values(values))
        return
    statement = insert(connection.dialect, score_comments).values(
        execution_id=execution_id, name=given.name, source=given.source, **values
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["execution_id", "name", "source"], set_=values, where=c.scored_at <= now
        )
    )
