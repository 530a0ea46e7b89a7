"""The sweeper finds executions whose process died, and ends them or makes them claimable; the books stay complete.

One transaction decides what becomes of an execution, writes the open spans of the lost attempt and, if the execution
ends, its closing event. Records, webhooks and metrics receive both as if the process itself had written them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.content.policy import Capture
from engine.database.base import database_time
from engine.database.database import Database
from engine.database.failures import DATABASE_ERRORS
from engine.result import Status
from engine.store import claims, control, endings, leases, unfinished
from engine.store.control import ControlRow
from telemetry.journal.sinks import Sink
from telemetry.pipeline.pipeline import ConsumerHung
from telemetry.recovery.grace_period import GracePeriod
from telemetry.recovery.lost_execution import (
    PROCESS_GONE,
    Ending,
    UnownedExecution,
    closing_event,
    finish,
    lost_part,
    lost_spans,
)
from telemetry.signals.records import Batch, SpanRecord

LEASE_SECONDS = 30.0
SWEEP_SECONDS = 5.0
PAGE = 100

_ERRORS = (*DATABASE_ERRORS, ConsumerHung)
_TOO_OFTEN = (
    f"{{}} processes in a row died within {claims.EARLY_SECONDS:g} s of their start,"
    " and a further wait would exceed the limit run_seconds"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    """Ids of the unowned executions of one sweep, by outcome."""

    failed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    """Another process can claim them."""

    def __len__(self) -> int:
        return len(self.failed) + len(self.cancelled) + len(self.retried)


@dataclass(frozen=True, slots=True)
class _Found:
    """An unowned execution, with its row locked."""

    row: ControlRow
    end: Ending | None
    """Null if another process is to continue it."""
    is_lost: bool = False
    """Whether its process died during an attempt."""


OnEnded = Callable[[str, int], Awaitable[None]]
Export = Callable[[Sequence[SpanRecord]], None]
_Find = Callable[[AsyncConnection], Awaitable[list[_Found]]]


class Sweeper:
    """Ends or reassigns executions that no process runs. Its sink is its own, of the same kind as the journal's."""

    def __init__(
        self,
        database: Database,
        sink: Sink,
        *,
        lease_seconds: float = LEASE_SECONDS,
        sweep_seconds: float = SWEEP_SECONDS,
        on_ended: OnEnded | None = None,
        export: Export | None = None,
        capture: Capture = Capture.NO_CONTENT,
    ) -> None:
        """`on_ended` receives the id and the attempt number of each execution that the sweeper ends.

        `export` receives the spans that it writes, so that the trace store has them too; null if the sink sends them.
        `capture` says whether they may show who the user was.
        """
        self._export = export
        self._capture = capture
        self._on_ended = on_ended
        self._database = database
        self._sink = sink
        self._lease_seconds = lease_seconds
        self._sweep_seconds = sweep_seconds
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """Sweep until cancelled, but not within a grace period: the same trouble may keep owners from renewing."""
        grace = GracePeriod(self._lease_seconds, self._sweep_seconds)
        while True:
            await asyncio.sleep(self._sweep_seconds)
            if grace.tick():
                log.warning(
                    "this process was frozen; expired leases are left alone until their owners had time to renew them"
                )
            try:
                await self._sweep_all(grace)
            except _ERRORS as error:
                grace.begin()
                log.warning(
                    "lost executions could not be searched for; the sweeper tries again", extra={"error": str(error)}
                )

    async def sweep(self) -> Swept:
        """End or reassign a page of executions whose process died, and end unowned ones that are to be cancelled."""
        return await self._settle(_find_lost)

    async def cancel(self, execution_id: str, owner: str, reason: str | None) -> bool:
        """Cancel an execution that no process runs (queued, paused or claimable); false if a process runs it.

        Also false if it has ended or this owner has no such execution. The first reason given is kept.
        """

        async def find(connection: AsyncConnection) -> list[_Found]:
            row = await leases.unowned(connection, execution_id, owner)
            return [] if row is None else [_Found(row, _cancelled(row, reason))]

        return bool(await self._settle(find))

    async def _sweep_all(self, grace: GracePeriod) -> None:
        """Sweep all pages. Within the grace period only test whether the database answers."""
        if not grace.is_over:
            async with self._database.read() as connection:
                await database_time(connection)
            return
        while len(await self.sweep()) >= PAGE:
            grace.tick()

    async def _settle(self, find: _Find) -> Swept:
        """Settle in one transaction; if a consumer hangs in it, repeat it without that consumer."""
        hung: frozenset[str] = frozenset()
        async with self._one_at_a_time:
            while True:
                try:
                    return await self._transact(find, hung)
                except ConsumerHung as error:
                    if error.consumer in hung:
                        raise
                    hung |= {error.consumer}

    async def _transact(self, find: _Find, hung: frozenset[str]) -> Swept:
        is_committed = False
        try:
            async with self._database.begin() as connection:
                executions = await _read(connection, await find(connection), self._capture)
                batch = await self._write(connection, executions, hung)
            is_committed = True
        finally:
            if not is_committed:
                self._sink.rolled_back()
        self._sink.committed(batch)
        if self._export is not None:
            self._export(batch.spans)
        if self._on_ended is not None:
            for one in executions:
                if one.end is not None:
                    await self._on_ended(one.row.execution_id, one.row.attempt)
        return self._count(executions)

    async def _write(
        self, connection: AsyncConnection, executions: list[UnownedExecution], hung: frozenset[str]
    ) -> Batch:
        """Write the signals and the decisions that belong to them."""
        lost = [(one, spans) for one in executions if (spans := lost_spans(one))]
        ended = [(one, one.end) for one in executions if one.end is not None]
        retried = [one for one in executions if one.end is None]
        batch = Batch([span for _, spans in lost for span in spans], [closing_event(one, end) for one, end in ended])
        if batch.spans or batch.events:
            await self._sink.apply(connection, batch, hung)
        await unfinished.keep(connection, [lost_part(one, spans) for one, spans in lost if one.end is None])
        await claims.lose(connection, [one.row for one in retried])
        await endings.conclude(connection, [finish(one, end) for one, end in ended])
        return batch

    def _count(self, executions: list[UnownedExecution]) -> Swept:
        swept = Swept()
        for one in executions:
            outcome = "retried" if one.end is None else one.end.status.value
            getattr(swept, outcome).append(one.row.execution_id)
            if one.is_lost:
                self._sink.health.leases.lost[outcome] += 1
                fields = {"execution_id": one.row.execution_id, "attempt": one.row.attempt, "outcome": outcome}
                log.warning("an execution lost its process", extra=fields)
        return swept


async def _find_lost(connection: AsyncConnection) -> list[_Found]:
    lost = await leases.expired(connection, PAGE)
    stopped = await leases.unowned_with_cancel_request(connection, PAGE - len(lost)) if len(lost) < PAGE else []
    return [
        *[_Found(row, await _fate(connection, row), is_lost=True) for row in lost],
        *(_Found(row, _cancelled(row)) for row in stopped),
    ]


async def _fate(connection: AsyncConnection, row: ControlRow) -> Ending | None:
    """How an execution ends whose process died; null if another process is to continue it."""
    if row.cancel_requested_at is not None:
        return _cancelled(row)
    if row.on_lost == "fail":
        return Ending(Status.FAILED, error_message=PROCESS_GONE)
    if claims.was_lost_early(row):
        if claims.may_be_held_back(row, await control.get_run_seconds(connection, row)):
            return None
        return Ending(Status.FAILED, error_message=f"{PROCESS_GONE}; {_TOO_OFTEN.format(row.early_losses + 1)}")
    if row.crashes + 1 >= claims.MAX_CRASHES:
        return Ending(
            Status.FAILED, error_message=f"{PROCESS_GONE}; it crashed {claims.MAX_CRASHES} times, the most allowed"
        )
    return None


def _cancelled(row: ControlRow, reason: str | None = None) -> Ending:
    """The first reason given is kept."""
    return Ending(Status.CANCELLED, cancel_reason=row.cancel_reason or reason)


async def _read(connection: AsyncConnection, found: list[_Found], capture: Capture) -> list[UnownedExecution]:
    if not found:
        return []
    carried = await unfinished.carried(connection, [one.row.execution_id for one in found])
    open_nodes = await unfinished.open_nodes(connection, {one.row.execution_id: one.row.attempt for one in found})
    now = await database_time(connection)
    return [
        UnownedExecution(one.row, carried[one.row.execution_id], now, one.is_lost, one.end, capture).with_nodes(
            open_nodes[one.row.execution_id]
        )
        for one in found
    ]
