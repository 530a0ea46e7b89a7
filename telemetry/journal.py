"""The journal: makes signals durable together with the decision they belong to.

Spans and events are buffered per execution; one writer commits many executions in one transaction, and gives their
signals to its sink in it. Callers wait for their commit; when the writer is behind they wait longer, and nothing is
dropped.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Self

import anyio
import stamina
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import ConversationBusy, SpanloomError, Unavailable
from engine.graph import JsonObject
from engine.ledger import Acceptance, Finish, Ledger
from engine.store.base import storable
from engine.store.control import accept_many, cancel_requests, finish_many
from engine.store.database import Database
from engine.store.tables import execution_control
from telemetry.buffers import Buffer, Buffers, EventIntake, SpanIntake
from telemetry.pipeline import ConsumerHung
from telemetry.signals import BadSignal, Batch, event_record, span_record
from telemetry.sinks import Sink

FLUSH_SECONDS = 0.2
POLL_SECONDS = 1.0
RETRY_SECONDS = 30.0
STALE_SECONDS = 600.0
"""Signals of an execution that was never accepted, or has ended, are forgotten after this time."""

_UNREADABLE = "the signal could not be read; its `problem` says why"
_GROUP = 256
_QUEUE = 1_024
_TROUBLE = (SpanloomError, SQLAlchemyError, ConsumerHung, OSError, ValueError, TypeError)
_PASSING = (Unavailable, ConsumerHung, OSError)
"""Trouble that may be over the next time; anything else would fail again."""

log = logging.getLogger(__name__)

OnCancel = Callable[[str, str | None], None]


@dataclass(slots=True, eq=False)
class _Decision:
    """What one caller waits for: an acceptance, a finish, or neither (a checkpoint)."""

    execution_id: str
    done: "asyncio.Future[bool]"
    acceptance: Acceptance | None = None
    finish: Finish | None = None
    repeated: bool = False
    """An earlier commit of this decision seemed to fail, so it may be there already."""
    taken: Buffer | None = None
    batch: Batch = field(default_factory=lambda: Batch([], []))
    unreadable: list[tuple[str | None, JsonObject]] = field(default_factory=list)


class Journal(Ledger):
    """The durable ledger of the executions that run in this process.

    `spans` and `events` are to be added to the providers that the engine's tracers and loggers come from.
    """

    def __init__(
        self,
        database: Database,
        sink: Sink,
        *,
        flush_seconds: float = FLUSH_SECONDS,
        poll_seconds: float = POLL_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._database = database
        self._sink = sink
        self._flush_seconds = flush_seconds
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._buffers = Buffers()
        self._running: set[str] = set()
        self._asked: set[str] = set()
        self._on_cancel: OnCancel | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.spans: SpanProcessor = SpanIntake(self._buffers)
        self.events: LogRecordProcessor = EventIntake(self._buffers)
        self.health = sink.health

    async def __aenter__(self) -> Self:
        self._send, self._receive = anyio.create_memory_object_stream[_Decision](_QUEUE)
        self._writer = asyncio.create_task(self._write(), name="journal-writer")
        self._tasks = [
            asyncio.create_task(self._flush_often(), name="journal-flush"),
            asyncio.create_task(self._poll_often(), name="journal-cancel-poll"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write everything that is buffered, then stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._flush(self._running)
        self._send.close()
        await self._writer

    def listen_for_cancel(self, on_cancel: OnCancel) -> None:
        """Whom to tell, by id and reason, that an execution running here is asked to stop; each once."""
        self._on_cancel = on_cancel

    async def accept(self, acceptance: Acceptance) -> None:
        """Make the execution durable with its signals so far. Raises `Unavailable` or `ConversationBusy`."""
        decision = self._decision(acceptance.execution_id)
        decision.acceptance = acceptance
        try:
            await self._decide(decision)
        except (SQLAlchemyError, ConsumerHung, OSError) as error:
            raise Unavailable from error

    def abandon(self, execution_id: str) -> None:
        """Forget the buffered signals of an execution whose acceptance was refused."""
        self._buffers.take(execution_id)
        self._running.discard(execution_id)

    async def checkpoint(self, execution_id: str) -> None:
        """Make the signals since the last commit durable. Raises `Unavailable` after a bounded wait."""
        await self._insist(lambda: self._decision(execution_id))

    async def finish(self, finish: Finish) -> bool:
        """Compare-and-set to a terminal status, with all remaining signals. Raises `Unavailable` after a bounded wait.

        False: another attempt owns the execution, and nothing more of this one is stored.
        """
        return await self._insist(lambda: self._decision(finish.execution_id), finish)

    def _decision(self, execution_id: str) -> _Decision:
        return _Decision(execution_id, asyncio.get_running_loop().create_future())

    async def _insist(self, make: Callable[[], _Decision], finish: Finish | None = None) -> bool:
        """Decide, again and again while the database has trouble, each time a little later."""
        try:
            async for attempt in stamina.retry_context(
                on=_PASSING, attempts=None, timeout=self._retry_seconds, wait_initial=0.1, wait_max=2.0
            ):
                with attempt:
                    decision = make()
                    decision.finish = finish
                    decision.repeated = attempt.num > 1
                    return await self._decide(decision)
        except (ConsumerHung, OSError) as error:
            raise Unavailable from error
        raise Unavailable

    async def _decide(self, decision: _Decision) -> bool:
        self.health.waiting += 1
        try:
            await self._send.send(decision)
            return await decision.done
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            raise Unavailable("the journal is closed") from error
        finally:
            self.health.waiting -= 1

    async def _write(self) -> None:
        """Commit what is waiting, as long as there is somebody who may ask."""
        group: list[_Decision] = []
        try:
            async for first in self._receive:
                group = [first, *islice(self._waiting(), _GROUP - 1)]
                await self._commit(group)
        finally:
            for decision in [*group, *self._waiting()]:
                _refuse(decision, Unavailable("the journal has stopped"))
            self._receive.close()

    def _waiting(self) -> Iterator[_Decision]:
        while True:
            try:
                yield self._receive.receive_nowait()
            except (anyio.WouldBlock, anyio.EndOfStream):
                return

    async def _commit(self, group: list[_Decision]) -> None:
        """One transaction for all; if it fails, one for each, so that a bad one harms nobody else."""
        for decision in group:
            self._load(decision)
        try:
            await self._transact(group, frozenset())
        except _TROUBLE as error:
            if len(group) == 1 and not isinstance(error, ConsumerHung):
                self._give_back(group[0], error)
                return
            hung = frozenset({error.consumer}) if isinstance(error, ConsumerHung) else frozenset[str]()
            for decision in group:
                await self._commit_alone(decision, hung)

    async def _commit_alone(self, decision: _Decision, hung: frozenset[str]) -> None:
        decision.repeated = True
        while True:
            try:
                await self._transact([decision], hung)
            except ConsumerHung as error:
                if error.consumer not in hung:
                    hung |= {error.consumer}
                    continue
                self._give_back(decision, error)
            except _TROUBLE as error:
                self._give_back(decision, error)
            return

    async def _transact(self, group: list[_Decision], hung: frozenset[str]) -> None:
        began = time.perf_counter()
        try:
            async with self._database.begin() as connection:
                busy = await accept_many(connection, [item.acceptance for item in group if item.acceptance])
                fenced = await self._finish(connection, group)
                kept = [item for item in group if item.execution_id not in busy | fenced]
                batch = _joined(kept)
                if batch.spans or batch.events:
                    await self._sink.apply(connection, batch, hung)
                for item in kept:
                    await self._sink.keep_aside(connection, "journal", item.unreadable, _UNREADABLE)
        except _TROUBLE:
            self.health.failed_commits += 1
            self.health.is_writable = False
            self._sink.rolled_back()
            raise
        finally:
            self.health.commit_seconds += time.perf_counter() - began
        self._settle(group, busy, fenced)
        self._count(group, batch, fenced)
        self._sink.committed(batch)

    async def _finish(self, connection: AsyncConnection, group: list[_Decision]) -> frozenset[str]:
        """Decide the finishes; the executions that were fenced off."""
        fenced = await finish_many(connection, [item.finish for item in group if item.finish])
        repeated = [item.finish for item in group if item.finish and item.repeated and item.execution_id in fenced]
        return fenced - await _decided_by(connection, repeated) if repeated else fenced

    def _settle(self, group: list[_Decision], busy: frozenset[str], fenced: frozenset[str]) -> None:
        """Tell the callers what was decided."""
        for item in group:
            item.taken = None
            if item.acceptance and item.execution_id in busy:
                _refuse(item, ConversationBusy())
                continue
            if item.acceptance:
                self._running.add(item.execution_id)
            if item.finish:
                self._running.discard(item.execution_id)
                self._asked.discard(item.execution_id)
            if not item.done.done():
                item.done.set_result(item.execution_id not in fenced)

    def _count(self, group: list[_Decision], batch: Batch, fenced: frozenset[str]) -> None:
        self.health.is_writable = True
        self.health.commits += 1
        self.health.decisions += len(group)
        self.health.signals += len(batch.spans) + len(batch.events)
        self.health.fenced += len(fenced)
        self.health.running = len(self._running)

    def _load(self, decision: _Decision) -> None:
        """Take what the execution said and read it."""
        decision.taken = self._buffers.take(decision.execution_id)
        if decision.taken is None:
            return
        for span in decision.taken.spans:
            try:
                decision.batch.spans.append(span_record(span))
            except BadSignal as bad:
                decision.unreadable.append((decision.execution_id, _bad_span(span, bad)))
        for event in decision.taken.events:
            try:
                decision.batch.events.append(event_record(event))
            except BadSignal as bad:
                decision.unreadable.append((decision.execution_id, _bad_event(event, bad)))

    def _give_back(self, decision: _Decision, error: Exception) -> None:
        if decision.taken is not None:
            self._buffers.put_back(decision.execution_id, decision.taken)
            decision.taken = None
        _refuse(decision, error)

    async def _flush_often(self) -> None:
        pause = self._flush_seconds
        while True:
            await asyncio.sleep(pause)
            written = await self._flush(self._buffers.older_than(self._flush_seconds))
            pause = self._flush_seconds if written else min(2 * pause, 5.0)
            self._forget_stale()

    async def _flush(self, execution_ids: Iterable[str]) -> bool:
        """Make durable what these executions said, if they run here. False if the database has trouble."""
        decisions = [self._decision(id_) for id_ in execution_ids if id_ in self._running]
        outcomes = await asyncio.gather(*map(self._decide, decisions), return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if errors:
            log.warning("buffered signals wait for the database", extra={"error": str(errors[0])})
        return not errors

    def _forget_stale(self) -> None:
        for execution_id in self._buffers.older_than(STALE_SECONDS):
            if execution_id not in self._running and (stale := self._buffers.take(execution_id)):
                self.health.late_signals += len(stale)
                log.warning(
                    "signals of no running execution", extra={"execution_id": execution_id, "signals": len(stale)}
                )

    async def _poll_often(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            if self._on_cancel is None or not self._running:
                continue
            try:
                await self._poll(self._on_cancel)
            except _TROUBLE as error:
                log.warning("cancel requests could not be read", extra={"error": str(error)})

    async def _poll(self, on_cancel: OnCancel) -> None:
        async with self._database.read() as connection:
            requests = await cancel_requests(connection, sorted(self._running - self._asked))
        for execution_id, reason in requests.items():
            self._asked.add(execution_id)
            on_cancel(execution_id, reason)


def _joined(group: Iterable[_Decision]) -> Batch:
    batch = Batch([], [])
    for item in group:
        batch.spans.extend(item.batch.spans)
        batch.events.extend(item.batch.events)
    return batch


async def _decided_by(connection: AsyncConnection, finishes: list[Finish]) -> frozenset[str]:
    """Which of these finishes an earlier commit, whose answer was lost, has already decided."""
    control = execution_control.c
    rows = await connection.execute(
        select(control.execution_id, control.attempt, control.status, control.result).where(
            control.execution_id.in_([item.execution_id for item in finishes])
        )
    )
    decided = {row.execution_id: (row.attempt, row.status, row.result) for row in rows}
    return frozenset(
        item.execution_id
        for item in finishes
        if decided.get(item.execution_id) == (item.attempt, item.status, storable(item.result))
    )


def _refuse(decision: _Decision, error: Exception) -> None:
    if not decision.done.done():
        decision.done.set_exception(error)


def _bad_span(span: ReadableSpan, bad: BadSignal) -> JsonObject:
    return {"type": "span", "name": span.name, "problem": str(bad)}


def _bad_event(event: ReadWriteLogRecord, bad: BadSignal) -> JsonObject:
    return {"type": "event", "name": event.log_record.event_name, "problem": str(bad)}
