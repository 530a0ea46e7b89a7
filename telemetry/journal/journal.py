"""The journal: makes signals durable together with the decision they belong to.

Spans and events are buffered per attempt; one writer commits many decisions in one transaction and gives their signals
to its sink within it. Callers wait for their commit. If the writer falls behind they wait longer; nothing is dropped.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Self
from uuid import uuid4

import anyio
from opentelemetry.sdk.trace import SpanProcessor
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from engine.database.failures import DATABASE_ERRORS
from engine.database.retry import RETRY_SECONDS, insist
from engine.errors import Fenced, Refusal, Unavailable
from engine.ledger import Acceptance, Checkpoint, Claim, Finish, Ledger, Pause, Release
from engine.result import Status
from engine.retention import call_content, erasure
from engine.store import unfinished
from engine.store.acceptance import Admission, accept_many
from engine.store.claims import begin_roots, claim_many, release_many
from engine.store.control import cancel_requests
from engine.store.endings import finish_many, pause_many
from engine.store.leases import Lease, owned
from engine.tracing import semconv
from telemetry.journal.buffers import Buffers, EventIntake, SpanIntake
from telemetry.journal.decisions import Decision, Item, already_made, ended_reservations, joined
from telemetry.journal.running import Running
from telemetry.journal.sinks import Sink
from telemetry.pipeline.pipeline import ConsumerHung
from telemetry.sdk.internals import LogRecordProcessor
from telemetry.signals.records import Attempt, Batch

FLUSH_SECONDS = 0.2
POLL_SECONDS = 1.0
MOST_WAITING = 1_000
"""Signals of an attempt that wait for its end; more than these become durable before it."""
STALE_SECONDS = 600.0
"""Signals of an execution that was never accepted, or has ended, are dropped after this time."""

_UNREADABLE = "the signal could not be read; its `problem` says why"
_SURE_SHARE = 0.5
"""The share of a lease for which an attempt is sure to have it, since it was last renewed."""
_GROUP = 256
_QUEUE = 1_024
_ERRORS = (*DATABASE_ERRORS, ConsumerHung, ValueError, TypeError)

log = logging.getLogger(__name__)

OnCancel = Callable[[str, str | None], bool]
"""Gets the execution's id and the reason; returns whether the request was passed on."""

OnFenced = Callable[[str, int], None]
"""Gets the execution's id and the attempt."""


class Journal(Ledger):
    """The durable ledger of the executions that run in this process.

    Add `spans` and `events` to the providers that the engine's tracers and loggers come from. Executions that this
    process accepts or claims are leased to it; whatever opens the journal must also renew the lease
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
        self._running = Running()
        self._ending: set[Attempt] = set()
        """Attempts whose last decision is on its way; their signals become durable with it, not before."""
        self._on_cancel: OnCancel | None = None
        self._on_fenced: OnFenced | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.spans: SpanProcessor = SpanIntake(self._buffers)
        self.events: LogRecordProcessor = EventIntake(self._buffers)
        self.health = sink.health

    async def __aenter__(self) -> Self:
        self._send, self._receive = anyio.create_memory_object_stream[Decision](_QUEUE)
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
        """Call `on_cancel` when an execution running here is asked to stop, until it returns true."""
        self._on_cancel = on_cancel

    def listen_for_fencing(self, on_fenced: OnFenced) -> None:
        """Call `on_fenced` when an attempt running here no longer owns its execution."""
        self._on_fenced = on_fenced

    def running(self) -> list[Attempt]:
        """The attempts that run here; safe to call from any thread."""
        return self._running.attempts()

    async def accept(self, acceptance: Acceptance) -> None:
        """Make the execution durable with its signals so far. Raises `Unavailable` or the reason for a refusal."""
        try:
            await self._decide(Decision.of(acceptance))
        except (SQLAlchemyError, ConsumerHung, OSError) as error:
            raise Unavailable from error

    def abandon(self, execution_id: str, attempt: int = 1) -> None:
        """Drop the signals of an attempt that was not accepted, or is fenced off."""
        self._buffers.take((execution_id, attempt))
        self._ending.discard((execution_id, attempt))
        self._running.ended((execution_id, attempt))

    async def claim(self, limit: int) -> list[Claim]:
        """Claim up to `limit` queued jobs. Raises `Unavailable`."""
        async with self._database.begin() as connection:
            claims = await claim_many(connection, self.lease, limit)
        for claim in claims:
            self._running.claimed((claim.identity.execution_id, claim.identity.attempt))
        return claims

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Make the signals since the last commit durable. Raises `Fenced`, or `Unavailable` after a bounded wait.

        One that can wait commits nothing, unless the lease may be lost: then the attempt must not go on. Its signals
        come with the next decision, or within two of `flush_seconds`.
        """
        if checkpoint.can_wait and self._is_leased(checkpoint):
            return
        if not await self._insist(checkpoint):
            raise Fenced

    async def pause(self, pause: Pause) -> bool:
        """Pause the execution. Raises `Unavailable` after a bounded wait; false if fenced off."""
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
        """Find out which attempts still own their executions; those that do not are reported as fenced off."""
        await self._flush(attempts)

    def _is_leased(self, item: Checkpoint) -> bool:
        """Whether the attempt certainly has its lease, without asking the database."""
        known = self._running.leased_at((item.execution_id, item.attempt))
        if known is None:
            return False
        renewed = max(known, self.health.leases.renewed_at or known)
        return time.monotonic() - renewed < self.lease.seconds * _SURE_SHARE

    async def _end(self, item: Pause | Release | Finish) -> bool:
        """End the attempt here, even if the decision cannot be made: then its lease expires."""
        attempt = item.execution_id, item.attempt
        self._ending.add(attempt)
        try:
            decided = await self._insist(item)
        except _ERRORS:
            self.abandon(*attempt)
            raise
        self._ending.discard(attempt)
        return decided

    async def _insist(self, item: Item) -> bool:
        """Decide, with retries and growing waits while the database has trouble."""
        try:
            return await insist(
                lambda number: self._decide(Decision.of(item, repeated=number > 1)),
                ConsumerHung,
                seconds=self._retry_seconds,
            )
        except (ConsumerHung, OSError) as error:
            raise Unavailable from error

    async def _decide(self, decision: Decision) -> bool:
        self.health.waiting += 1
        try:
            await self._send.send(decision)
            return await decision.done
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            raise Unavailable("the journal is closed") from error
        finally:
            self.health.waiting -= 1

    async def _write(self) -> None:
        """Commit decisions in groups until no caller can send another."""
        group: list[Decision] = []
        try:
            async for first in self._receive:
                group = [first, *islice(self._waiting(), _GROUP - 1)]
                await self._commit(group)
        finally:
            for decision in [*group, *self._waiting()]:
                decision.refuse(Unavailable("the journal has stopped"))
            self._receive.close()

    def _waiting(self) -> Iterator[Decision]:
        while True:
            try:
                yield self._receive.receive_nowait()
            except (anyio.WouldBlock, anyio.EndOfStream):
                return

    async def _commit(self, group: list[Decision]) -> None:
        """Commit all in one transaction; if it fails, each in its own, so that one bad decision harms no other.

        A single acceptance is retried too, since no caller repeats it: an execution that was refused must not turn
        out to be accepted.
        """
        for decision in group:
            self._load(decision)
        try:
            await self._transact(group, frozenset())
        except _ERRORS as error:
            if len(group) == 1 and not isinstance(error, ConsumerHung) and not isinstance(group[0].item, Acceptance):
                self._give_back(group[0], error)
                return
            hung = frozenset({error.consumer}) if isinstance(error, ConsumerHung) else frozenset[str]()
            for decision in group:
                await self._commit_alone(decision, hung)

    async def _commit_alone(self, decision: Decision, hung: frozenset[str]) -> None:
        decision.repeated = True
        while True:
            try:
                await self._transact([decision], hung)
            except ConsumerHung as error:
                if error.consumer not in hung:
                    hung |= {error.consumer}
                    continue
                self._give_back(decision, error)
            except _ERRORS as error:
                self._give_back(decision, error)
            return

    async def _transact(self, group: list[Decision], hung: frozenset[str]) -> None:
        began = time.perf_counter()
        try:
            async with self._database.begin() as connection:
                refused = await accept_many(
                    connection,
                    [decision.item for decision in group if isinstance(decision.item, Acceptance)],
                    self.lease,
                    self._admission,
                )
                fenced = await self._fenced(connection, group)
                valid = [item for item in group if item.attempt[0] not in refused and item not in fenced]
                batch = joined(valid)
                await _before_signals(connection, valid)
                if batch.spans or batch.events:
                    await self._sink.apply(connection, batch, hung)
                for decision in valid:
                    await self._sink.keep_malformed(connection, "journal", decision.unreadable, _UNREADABLE)
                await _after_signals(connection, valid, self._running)
        except _ERRORS:
            self.health.failed_commits += 1
            self.health.is_writable = False
            self._sink.rolled_back()
            raise
        finally:
            self.health.commit_seconds += time.perf_counter() - began
        self._settle(group, refused, fenced)
        self._count(group, batch, len(fenced))
        self._sink.committed(batch)

    async def _fenced(self, connection: AsyncConnection, group: list[Decision]) -> list[Decision]:
        """The decisions of attempts that no longer own their execution, except those that were already made."""
        asked = [decision for decision in group if not isinstance(decision.item, Acceptance)]
        own = await owned(connection, {decision.attempt[0] for decision in asked}, self.lease.owner)
        fenced = [decision for decision in asked if own.get(decision.attempt[0]) != decision.attempt[1]]
        made = await already_made(connection, [decision for decision in fenced if decision.repeated])
        return [decision for decision in fenced if decision not in made]

    def _settle(self, group: list[Decision], refused: dict[str, Refusal], fenced: list[Decision]) -> None:
        """Tell the callers what was decided."""
        for decision in group:
            decision.taken = None
            execution_id, attempt = decision.attempt
            match decision.item:
                case Acceptance() as item:
                    if execution_id in refused:
                        decision.refuse(refused[execution_id])
                    elif item.status is Status.RUNNING:
                        self._running.accepted(decision.attempt, waits_for_end=item.begins is not None)
                case Checkpoint() if decision not in fenced:
                    self._running.checkpointed(decision)
                case _:
                    self._running.ended(decision.attempt)
            if decision in fenced and self._on_fenced is not None:
                self._on_fenced(execution_id, attempt)
            decision.settle(fenced=decision in fenced)

    def _count(self, group: list[Decision], batch: Batch, fenced: int) -> None:
        self.health.is_writable = True
        self.health.commits += 1
        self.health.decisions += len(group)
        self.health.signals += len(batch.spans) + len(batch.events)
        self.health.fenced += fenced
        self.health.running = len(self._running)
        self.health.usage_keys_unread.update(_unread_keys(batch))

    def _load(self, decision: Decision) -> None:
        """Take the attempt's signals out of its buffer and read them."""
        if isinstance(decision.item, Checkpoint) and decision.attempt in self._ending:
            return
        taken = self._buffers.take(decision.attempt)
        if taken is not None:
            decision.load(taken)

    def _give_back(self, decision: Decision, error: Exception) -> None:
        if decision.taken is not None:
            self._buffers.put_back(decision.attempt, decision.taken)
            decision.taken = None
        decision.refuse(error)

    async def _flush_often(self) -> None:
        pause = self._flush_seconds
        while True:
            await asyncio.sleep(pause)
            flushed = await self._flush(self._due())
            pause = self._flush_seconds if flushed else min(2 * pause, 5.0)
            self._drop_stale()

    def _due(self) -> list[Attempt]:
        """The attempts with signals to flush; those whose signals wait for their end have many of them."""
        waiting = self._buffers.older_than(self._flush_seconds)
        many = self._buffers.larger_than(MOST_WAITING)
        return [attempt for attempt in waiting if attempt in many or not self._running.waits_for_end(attempt)]

    async def _flush(self, attempts: Iterable[Attempt]) -> bool:
        """Make the buffered signals of those attempts that run here durable. False if the database has trouble."""
        here = set(self.running()) - self._ending
        decisions = [Decision.of(Checkpoint(*attempt)) for attempt in attempts if attempt in here]
        outcomes = await asyncio.gather(*map(self._decide, decisions), return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if errors:
            log.warning("buffered signals wait for the database", extra={"error": str(errors[0])})
        return not errors

    def _drop_stale(self) -> None:
        here = set(self.running())
        for attempt in self._buffers.older_than(STALE_SECONDS):
            if attempt not in here and (stale := self._buffers.take(attempt)):
                self.health.late_signals += len(stale)
                log.warning(
                    "dropped signals of an execution that does not run here",
                    extra={"execution_id": attempt[0], "signals": len(stale)},
                )

    async def _poll_often(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            if self._on_cancel is None or not self._running:
                continue
            try:
                await self._poll(self._on_cancel)
            except _ERRORS as error:
                log.warning("cancel requests could not be read", extra={"error": str(error)})

    async def _poll(self, on_cancel: OnCancel) -> None:
        async with self._database.read() as connection:
            requests = await cancel_requests(connection, self._running.not_cancelled())
        for execution_id, reason in requests.items():
            if on_cancel(execution_id, reason):
                self._running.cancelled(execution_id)


async def _before_signals(connection: AsyncConnection, decisions: Sequence[Decision]) -> None:
    """Write what a signal of the same commit may refer to: root spans and reservations."""
    checkpoints = [decision.item for decision in decisions if isinstance(decision.item, Checkpoint)]
    await begin_roots(connection, [(c.identity, c.root) for c in checkpoints if c.identity and c.root])
    begins = [
        (*decision.attempt, decision.item.begins)
        for decision in decisions
        if isinstance(decision.item, Acceptance | Checkpoint) and decision.item.begins
    ]
    await unfinished.reserve(connection, begins)


async def _after_signals(connection: AsyncConnection, decisions: Sequence[Decision], running: Running) -> None:
    """Keep the totals of unfinished executions, then pause, release and end executions."""
    unended = [each for each in decisions if isinstance(each.item, Checkpoint | Pause | Release) and each.batch.spans]
    await unfinished.keep(connection, [running.part(decision) for decision in unended])
    await unfinished.settle(connection, [one for decision in unended for one in ended_reservations(decision.batch)])
    await pause_many(connection, [decision.item for decision in decisions if isinstance(decision.item, Pause)])
    await release_many(connection, [decision.item for decision in decisions if isinstance(decision.item, Release)])
    items = [decision.item for decision in decisions if not isinstance(decision.item, Acceptance)]
    calls = [(item.execution_id, item.attempt, content) for item in items for content in item.contents]
    await call_content.keep(connection, calls)
    finishes = [item for item in items if isinstance(item, Finish)]
    checkpointed = {decision.attempt[0] for decision in decisions if isinstance(decision.item, Checkpoint)}
    await finish_many(connection, finishes, with_unfinished_rows=running.with_rows(finishes, checkpointed))
    not_kept = [item.execution_id for item in finishes if not item.keeps_content]
    await erasure.strip_control(connection, not_kept)
    await erasure.bury(connection, not_kept, "not_stored")


def _unread_keys(batch: Batch) -> Iterator[tuple[str, str]]:
    """Provider and key of each unread figure in the usage of model calls."""
    for span in batch.spans:
        keys = span.attributes.get(semconv.USAGE_UNREAD)
        if isinstance(keys, list):
            provider = span.text(semconv.PROVIDER) or ""
            yield from ((provider, str(key)) for key in keys)
