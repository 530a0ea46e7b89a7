"""The journal: makes signals durable together with the decision they belong to.

Spans and events are buffered per execution; one writer commits many executions in one transaction, and gives their
signals to its sink in it. Callers wait for their commit; when the writer is behind they wait longer, and nothing is
dropped.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import anyio
import stamina
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import storable
from engine.database.database import Database
from engine.errors import Fenced, Refusal, SpanloomError, Unavailable
from engine.graph import JsonObject
from engine.ledger import Acceptance, Checkpoint, Claim, Finish, Ledger, Pause, Release
from engine.result import Status
from engine.store import unfinished
from engine.store.control import (
    Admission,
    Lease,
    accept_many,
    begin_roots,
    cancel_requests,
    claim_many,
    finish_many,
    owned,
    pause_many,
    release_many,
)
from engine.store.tables import execution_control
from telemetry.journal.buffers import Buffer, Buffers, EventIntake, SpanIntake
from telemetry.journal.sinks import Sink
from telemetry.pipeline.pipeline import ConsumerHung
from telemetry.records.totals import is_kept, totals_of
from telemetry.sdk.conversion import event_record, span_record
from telemetry.signals.records import Attempt, BadSignal, Batch, Kind

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

OnCancel = Callable[[str, str | None], bool]


OnFenced = Callable[[str, int], None]

Item = Acceptance | Checkpoint | Pause | Release | Finish


@dataclass(slots=True, eq=False)
class _Decision:
    """What one caller waits for, with what its attempt said since the last commit."""

    item: Item
    done: "asyncio.Future[bool]"
    repeated: bool = False
    """An earlier commit of this decision seemed to fail, so it may be there already."""
    taken: Buffer | None = None
    batch: Batch = field(default_factory=lambda: Batch([], []))
    unreadable: list[tuple[str | None, JsonObject]] = field(default_factory=list)

    @property
    def attempt(self) -> Attempt:
        """Whose decision it is."""
        item = self.item
        if isinstance(item, Acceptance):
            return item.identity.execution_id, item.identity.attempt
        return item.execution_id, item.attempt


@dataclass(slots=True)
class _Run:
    """An attempt that runs here."""

    attempt: int
    parts: int = 0
    """Commits with spans since it began."""
    leaves_traces: bool = False
    """It keeps something beside its control row, which its end has to drop."""


class Journal(Ledger):
    """The durable ledger of the executions that run in this process.

    `spans` and `events` are to be added to the providers that the engine's tracers and loggers come from. What this
    process accepts or claims is leased to it; whoever keeps the journal open renews the lease
    (`telemetry.recovery.lease_renewal`).
    """

    is_durable = True

    def __init__(
        self,
        database: Database,
        sink: Sink,
        *,
        lease: Lease | None = None,
        admission: Admission | None = None,
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
        self.lease = lease or Lease(str(uuid4()))
        self._admission = admission or Admission()
        self._running: dict[str, _Run] = {}
        self._asked: set[str] = set()
        self._ending: set[Attempt] = set()
        """Attempts that have said their last word: it is made durable with its decision, and not before."""
        self._on_cancel: OnCancel | None = None
        self._on_fenced: OnFenced | None = None
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
        await self._flush(self.running())
        self._send.close()
        await self._writer

    def listen_for_cancel(self, on_cancel: OnCancel) -> None:
        """Whom to tell, by id and reason, that an execution running here is asked to stop; until it was heard."""
        self._on_cancel = on_cancel

    def listen_for_fencing(self, on_fenced: OnFenced) -> None:
        """Whom to tell, by id and attempt, that an attempt running here owns its execution no more."""
        self._on_fenced = on_fenced

    def running(self) -> list[Attempt]:
        """The attempts that run here; may be asked from any thread."""
        return [(id_, run.attempt) for id_, run in list(self._running.items())]

    async def accept(self, acceptance: Acceptance) -> None:
        """Make the execution durable with its signals so far. Raises `Unavailable` or why it is refused."""
        try:
            await self._decide(_decision(acceptance))
        except (SQLAlchemyError, ConsumerHung, OSError) as error:
            raise Unavailable from error

    def abandon(self, execution_id: str, attempt: int = 1) -> None:
        """Forget what an attempt said that was not accepted, or is fenced off."""
        self._buffers.take((execution_id, attempt))
        self._ending.discard((execution_id, attempt))
        self._forget((execution_id, attempt))

    async def claim(self, limit: int) -> list[Claim]:
        """Take on executions that wait for a process. Raises `Unavailable`."""
        async with self._database.begin() as connection:
            claims = await claim_many(connection, self.lease, limit)
        for claim in claims:
            self._running[claim.identity.execution_id] = _Run(claim.identity.attempt, leaves_traces=True)
        return claims

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Make the signals since the last commit durable. Raises `Fenced`, or `Unavailable` after a bounded wait."""
        if not await self._insist(checkpoint):
            raise Fenced

    async def pause(self, pause: Pause) -> bool:
        """Let the execution wait. Raises `Unavailable` after a bounded wait; false if fenced off."""
        return await self._end(pause)

    async def release(self, release: Release) -> bool:
        """Give the lease back. Raises `Unavailable` after a bounded wait; false if fenced off."""
        return await self._end(release)

    async def finish(self, finish: Finish) -> bool:
        """Compare-and-set to a terminal status, with all remaining signals. Raises `Unavailable` after a bounded wait.

        False: another attempt owns the execution, and nothing more of this one is stored.
        """
        return await self._end(finish)

    async def check(self, attempts: Iterable[Attempt]) -> None:
        """Find out whether attempts that run here still own their executions; who does not is told so."""
        await self._flush(attempts)

    async def _end(self, item: Pause | Release | Finish) -> bool:
        """The attempt is over here, whatever becomes of the decision: where it cannot be made, the lease runs out."""
        attempt = item.execution_id, item.attempt
        self._ending.add(attempt)
        try:
            decided = await self._insist(item)
        except _TROUBLE:
            self.abandon(*attempt)
            raise
        self._ending.discard(attempt)
        return decided

    async def _insist(self, item: Item) -> bool:
        """Decide, again and again while the database has trouble, each time a little later."""
        try:
            async for attempt in stamina.retry_context(
                on=_PASSING, attempts=None, timeout=self._retry_seconds, wait_initial=0.1, wait_max=2.0
            ):
                with attempt:
                    return await self._decide(_decision(item, repeated=attempt.num > 1))
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
        """One transaction for all; if it fails, one for each, so that a bad one harms nobody else.

        Also for one alone that nobody repeats: who is refused an execution must not find it accepted.
        """
        for decision in group:
            self._load(decision)
        try:
            await self._transact(group, frozenset())
        except _TROUBLE as error:
            if len(group) == 1 and not isinstance(error, ConsumerHung) and not isinstance(group[0].item, Acceptance):
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
                refused = await accept_many(
                    connection,
                    [item.item for item in group if isinstance(item.item, Acceptance)],
                    self.lease,
                    self._admission,
                )
                fenced = await self._fenced(connection, group)
                kept = [item for item in group if item.attempt[0] not in refused and item not in fenced]
                batch = _joined(kept)
                await self._before_signals(connection, kept)
                if batch.spans or batch.events:
                    await self._sink.apply(connection, batch, hung)
                for item in kept:
                    await self._sink.keep_aside(connection, "journal", item.unreadable, _UNREADABLE)
                await self._after_signals(connection, kept)
        except _TROUBLE:
            self.health.failed_commits += 1
            self.health.is_writable = False
            self._sink.rolled_back()
            raise
        finally:
            self.health.commit_seconds += time.perf_counter() - began
        self._settle(group, refused, fenced)
        self._count(group, batch, len(fenced))
        self._sink.committed(batch)

    async def _fenced(self, connection: AsyncConnection, group: list[_Decision]) -> list[_Decision]:
        """The decisions of attempts that own their execution no more; one that was decided before is none of them."""
        asked = [item for item in group if not isinstance(item.item, Acceptance)]
        own = await owned(connection, {item.attempt[0] for item in asked}, self.lease.owner)
        fenced = [item for item in asked if own.get(item.attempt[0]) != item.attempt[1]]
        repeated = [item for item in fenced if item.repeated]
        decided = await _decided_by(connection, repeated) if repeated else []
        return [item for item in fenced if item not in decided]

    async def _before_signals(self, connection: AsyncConnection, kept: list[_Decision]) -> None:
        """What a signal of the same commit may refer to."""
        checkpoints = [item.item for item in kept if isinstance(item.item, Checkpoint)]
        await begin_roots(connection, [(c.identity, c.root) for c in checkpoints if c.identity and c.root])
        await unfinished.reserve(connection, [(c.execution_id, c.attempt, c.begins) for c in checkpoints if c.begins])

    async def _after_signals(self, connection: AsyncConnection, kept: list[_Decision]) -> None:
        """Keep what unfinished executions have said, then let executions pause, go elsewhere and end."""
        going_on = [item for item in kept if isinstance(item.item, Checkpoint | Pause | Release) and item.batch.spans]
        await unfinished.keep(connection, [self._part(item) for item in going_on])
        await unfinished.settle(connection, [call for item in going_on for call in _ended_calls(item.batch)])
        await pause_many(connection, [item.item for item in kept if isinstance(item.item, Pause)])
        await release_many(connection, [item.item for item in kept if isinstance(item.item, Release)])
        finishes = [item.item for item in kept if isinstance(item.item, Finish)]
        beside = {item.attempt[0] for item in kept if isinstance(item.item, Checkpoint)}
        await finish_many(connection, finishes, with_traces=self._with_traces(finishes, beside))

    def _part(self, decision: _Decision) -> unfinished.Part:
        execution_id, attempt = decision.attempt
        run = self._running.get(execution_id)
        kept = [span.span_id for span in decision.batch.spans if is_kept(span)]
        number = run.parts + 1 if run is not None and run.attempt == attempt else 1
        return unfinished.Part(execution_id, attempt, number, kept, totals_of(decision.batch.spans))

    def _with_traces(self, finishes: Iterable[Finish], beside: AbstractSet[str]) -> list[str]:
        """Those of which something is kept beside the control row; where that is not known, it is looked for.

        `beside`: executions with a checkpoint in the same commit, which a cancelled caller did not wait for.
        """
        return [
            item.execution_id
            for item in finishes
            if item.execution_id in beside or (run := self._running.get(item.execution_id)) is None or run.leaves_traces
        ]

    def _settle(self, group: list[_Decision], refused: dict[str, Refusal], fenced: list[_Decision]) -> None:
        """Tell the callers what was decided."""
        for decision in group:
            decision.taken = None
            execution_id, attempt = decision.attempt
            match decision.item:
                case Acceptance() as item:
                    if execution_id in refused:
                        _refuse(decision, refused[execution_id])
                    elif item.status is Status.RUNNING:
                        self._running.setdefault(execution_id, _Run(attempt))
                case Checkpoint() as item if decision not in fenced:
                    self._note(decision)
                case _:
                    self._forget(decision.attempt)
            if decision in fenced and self._on_fenced is not None:
                self._on_fenced(execution_id, attempt)
            if not decision.done.done():
                decision.done.set_result(decision not in fenced)

    def _note(self, decision: _Decision) -> None:
        """A checkpoint is durable: the next one is another part."""
        run = self._running.get(decision.attempt[0])
        if run is not None and run.attempt == decision.attempt[1]:
            run.parts += bool(decision.batch.spans)
            reserves = isinstance(decision.item, Checkpoint) and decision.item.begins is not None
            run.leaves_traces = run.leaves_traces or bool(decision.batch.spans) or reserves

    def _forget(self, attempt: Attempt) -> None:
        """The attempt does not run here any more."""
        run = self._running.get(attempt[0])
        if run is not None and run.attempt == attempt[1]:
            del self._running[attempt[0]]
            self._asked.discard(attempt[0])

    def _count(self, group: list[_Decision], batch: Batch, fenced: int) -> None:
        self.health.is_writable = True
        self.health.commits += 1
        self.health.decisions += len(group)
        self.health.signals += len(batch.spans) + len(batch.events)
        self.health.fenced += fenced
        self.health.running = len(self._running)

    def _load(self, decision: _Decision) -> None:
        """Take what the attempt said and read it."""
        if isinstance(decision.item, Checkpoint) and decision.attempt in self._ending:
            return
        decision.taken = self._buffers.take(decision.attempt)
        if decision.taken is None:
            return
        for span in decision.taken.spans:
            try:
                decision.batch.spans.append(span_record(span))
            except BadSignal as bad:
                decision.unreadable.append((decision.attempt[0], _bad_span(span, bad)))
        for event in decision.taken.events:
            try:
                decision.batch.events.append(event_record(event))
            except BadSignal as bad:
                decision.unreadable.append((decision.attempt[0], _bad_event(event, bad)))

    def _give_back(self, decision: _Decision, error: Exception) -> None:
        if decision.taken is not None:
            self._buffers.put_back(decision.attempt, decision.taken)
            decision.taken = None
        _refuse(decision, error)

    async def _flush_often(self) -> None:
        pause = self._flush_seconds
        while True:
            await asyncio.sleep(pause)
            written = await self._flush(self._buffers.older_than(self._flush_seconds))
            pause = self._flush_seconds if written else min(2 * pause, 5.0)
            self._forget_stale()

    async def _flush(self, attempts: Iterable[Attempt]) -> bool:
        """Make durable what these attempts said, if they run here. False if the database has trouble."""
        here = set(self.running()) - self._ending
        decisions = [_decision(Checkpoint(*attempt)) for attempt in attempts if attempt in here]
        outcomes = await asyncio.gather(*map(self._decide, decisions), return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if errors:
            log.warning("buffered signals wait for the database", extra={"error": str(errors[0])})
        return not errors

    def _forget_stale(self) -> None:
        here = set(self.running())
        for attempt in self._buffers.older_than(STALE_SECONDS):
            if attempt not in here and (stale := self._buffers.take(attempt)):
                self.health.late_signals += len(stale)
                log.warning(
                    "signals of no running execution", extra={"execution_id": attempt[0], "signals": len(stale)}
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
            requests = await cancel_requests(connection, sorted(self._running.keys() - self._asked))
        for execution_id, reason in requests.items():
            if on_cancel(execution_id, reason):
                self._asked.add(execution_id)


def _joined(group: Iterable[_Decision]) -> Batch:
    batch = Batch([], [])
    for item in group:
        batch.spans.extend(item.batch.spans)
        batch.events.extend(item.batch.events)
    return batch


async def _decided_by(connection: AsyncConnection, repeated: list[_Decision]) -> list[_Decision]:
    """Which of these decisions an earlier commit, whose answer was lost, has already made."""
    control = execution_control.c
    rows = await connection.execute(
        select(control.execution_id, control.attempt, control.status, control.result, control.claim_reason).where(
            control.execution_id.in_([item.attempt[0] for item in repeated])
        )
    )
    decided = {(row.execution_id, row.attempt): row for row in rows}
    return [item for item in repeated if _is_decided(item.item, decided.get(item.attempt))]


def _is_decided(item: Item, row: Any) -> bool:
    if row is None:
        return False
    match item:
        case Finish():
            return bool(row.status == item.status and row.result == storable(item.result))
        case Pause():
            return bool(row.status == Status.PAUSED and row.result == storable(item.result))
        case Release():
            return bool(row.claim_reason == "shutdown")
        case _:
            return False


def _decision(item: Item, *, repeated: bool = False) -> _Decision:
    return _Decision(item, asyncio.get_running_loop().create_future(), repeated)


def _ended_calls(batch: Batch) -> Iterator[tuple[str, str]]:
    return ((span.identity.execution_id, span.span_id) for span in batch.spans if span.kind is Kind.MODEL)


def _refuse(decision: _Decision, error: Exception) -> None:
    if not decision.done.done():
        decision.done.set_exception(error)


def _bad_span(span: ReadableSpan, bad: BadSignal) -> JsonObject:
    return {"type": "span", "name": span.name, "problem": str(bad)}


def _bad_event(event: ReadWriteLogRecord, bad: BadSignal) -> JsonObject:
    return {"type": "event", "name": event.log_record.event_name, "problem": str(bad)}
