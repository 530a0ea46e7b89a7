"""Finds executions without a process, and ends them or lets another process go on; the books miss nothing of them.

In one transaction the fate is decided, the lost attempt's root span is written, and an end is told as the process
itself would have told it: record, webhooks and metrics are fed the same way.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import database_time
from engine.database.database import Database
from engine.errors import SpanloomError
from engine.result import Status
from engine.store import claims, endings, leases, unfinished
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
    root_part,
    root_span,
)
from telemetry.signals.records import Batch

LEASE_SECONDS = 30.0
SWEEP_SECONDS = 5.0
PAGE = 100

_TROUBLE = (SpanloomError, SQLAlchemyError, ConsumerHung, OSError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    """The executions that were found without a process, by id and what became of them."""

    failed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    """Claimable again."""

    def __len__(self) -> int:
        return len(self.failed) + len(self.cancelled) + len(self.retried)


@dataclass(frozen=True, slots=True)
class _Found:
    """An execution without a process, its row locked."""

    row: ControlRow
    end: Ending | None
    """Null: another process is to go on."""
    is_lost: bool = False
    """Its process died in the midst of an attempt."""


OnEnded = Callable[[str, int], Awaitable[None]]
_Find = Callable[[AsyncConnection], Awaitable[list[_Found]]]


class Sweeper:
    """Speaks for executions that no process runs. `sink` is its own, of the same kind as the journal's."""

    def __init__(
        self,
        database: Database,
        sink: Sink,
        *,
        lease_seconds: float = LEASE_SECONDS,
        sweep_seconds: float = SWEEP_SECONDS,
        on_ended: OnEnded | None = None,
    ) -> None:
        """`on_ended` is told the id of each execution that is ended here, and the number of its attempts."""
        self._on_ended = on_ended
        self._database = database
        self._sink = sink
        self._lease_seconds = lease_seconds
        self._sweep_seconds = sweep_seconds
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """Sweep until cancelled, but not on the heels of trouble that kept the owners from renewing, too."""
        grace = GracePeriod(self._lease_seconds, self._sweep_seconds)
        while True:
            await asyncio.sleep(self._sweep_seconds)
            if grace.tick():
                log.warning("this process stood still; executions are not looked for before their owners had a turn")
            try:
                await self._sweep_all(grace)
            except _TROUBLE as error:
                grace.begin()
                log.warning("executions without a process could not be looked for", extra={"error": str(error)})

    async def sweep(self) -> Swept:
        """Ending or give on at most a page of executions whose process is gone, and end unowned ones asked to stop."""
        return await self._settle(_find_lost)

    async def cancel(self, execution_id: str, owner: str, reason: str | None) -> bool:
        """Ending an execution that no process runs (queued, paused, or to be claimed) as cancelled; false if one does.

        Also false where it has ended, or this owner has none of that id. An earlier reason stays.
        """

        async def find(connection: AsyncConnection) -> list[_Found]:
            row = await leases.unowned(connection, execution_id, owner)
            return [] if row is None else [_Found(row, _cancelled(row, reason))]

        return bool(await self._settle(find))

    async def _sweep_all(self, grace: GracePeriod) -> None:
        """Page after page. During the grace period, only whether the database answers is found out."""
        if not grace.is_over:
            async with self._database.read() as connection:
                await database_time(connection)
            return
        while len(await self.sweep()) >= PAGE:
            grace.tick()

    async def _settle(self, find: _Find) -> Swept:
        """One transaction; a consumer that hangs in it gets nothing the next time."""
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
                executions = await _read(connection, await find(connection))
                batch = await self._write(connection, executions, hung)
            is_committed = True
        finally:
            if not is_committed:
                self._sink.rolled_back()
        self._sink.committed(batch)
        if self._on_ended is not None:
            for one in executions:
                if one.end is not None:
                    await self._on_ended(one.row.execution_id, one.row.attempt)
        return self._count(executions)

    async def _write(
        self, connection: AsyncConnection, executions: list[UnownedExecution], hung: frozenset[str]
    ) -> Batch:
        """The signals, and the decisions that go with them."""
        roots = {id(one): span for one in executions if (span := root_span(one)) is not None}
        ended = [(one, one.end) for one in executions if one.end is not None]
        retried = [one for one in executions if one.end is None]
        batch = Batch(list(roots.values()), [closing_event(one, end) for one, end in ended])
        if batch.spans or batch.events:
            await self._sink.apply(connection, batch, hung)
        await unfinished.keep(connection, [root_part(one, roots[id(one)]) for one in retried if id(one) in roots])
        if retried:
            await claims.lose(connection, [one.row.execution_id for one in retried])
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
                log.warning("the process of an execution is gone", extra=fields)
        return swept


async def _find_lost(connection: AsyncConnection) -> list[_Found]:
    lost = await leases.expired(connection, PAGE)
    stopped = await leases.unowned_asked_to_stop(connection, PAGE - len(lost)) if len(lost) < PAGE else []
    return [
        *(_Found(row, _fate(row), is_lost=True) for row in lost),
        *(_Found(row, _cancelled(row)) for row in stopped),
    ]


def _fate(row: ControlRow) -> Ending | None:
    """What becomes of an execution whose process is gone: it ends, or (null) another process goes on."""
    if row.cancel_requested_at is not None:
        return _cancelled(row)
    if row.on_lost == "fail":
        return Ending(Status.FAILED, error_message=PROCESS_GONE)
    if row.crashes + 1 >= claims.MAX_CRASHES:
        return Ending(Status.FAILED, error_message=f"{PROCESS_GONE}, {claims.MAX_CRASHES} times by now")
    return None


def _cancelled(row: ControlRow, reason: str | None = None) -> Ending:
    """The first reason stays."""
    return Ending(Status.CANCELLED, cancel_reason=row.cancel_reason or reason)


async def _read(connection: AsyncConnection, found: list[_Found]) -> list[UnownedExecution]:
    if not found:
        return []
    carried = await unfinished.carried(connection, [one.row.execution_id for one in found])
    now = await database_time(connection)
    return [UnownedExecution(one.row, carried[one.row.execution_id], now, one.is_lost, one.end) for one in found]
