"""Follows an execution over all its attempts, in whichever process they run.

An attempt in this process yields every event as it happens, and for a short time after its end. For other attempts the
control row is read once a second: it tells that the attempt started, paused or ended. A `gap` event stands for the
events in between, which are not known here.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from api.wiring.runtime import Runtime
from engine.errors import Draining, NotFound
from engine.events import LAST_SEQ, EventRing, EventType, ExecutionEvent, closing_event
from engine.graph import JsonObject
from engine.result import Status
from engine.retention import erasure
from engine.store import control
from engine.store.control import ControlRow

STORED_SECONDS = 1.0
"""Seconds between reads of the control row."""

_LOOKS = 10
"""Between two reads, this many checks whether the execution now runs in this process."""


@dataclass(frozen=True, slots=True, order=True)
class StreamPosition:
    """The last event that a reader has received; (0, 0) before the first one."""

    attempt: int = 0
    seq: int = 0

    @classmethod
    def of(cls, event: ExecutionEvent) -> "StreamPosition":
        """The position of this event."""
        return cls(event.attempt, event.seq)


async def follow(
    runtime: Runtime, execution_id: str, owner: str, position: StreamPosition
) -> AsyncGenerator[ExecutionEvent, None]:
    """The events after the position, up to the next closing event. Raises `NotFound`, `Draining`, `Unavailable`."""
    while True:
        if await _is_forgotten(runtime, execution_id):
            runtime.engine.forget_events(execution_id)
        while (ring := _ring(runtime, execution_id, position)) is not None:
            async with aclosing(ring.read(position.seq if ring.attempt == position.attempt else 0)) as events:
                async for event in events:
                    yield event
                    position = StreamPosition.of(event)
                    if event.type.is_closing:
                        return
        for event in stored_events(await read_row(runtime, execution_id, owner), position):
            yield event
            position = StreamPosition.of(event)
            if event.type.is_closing:
                return
        if runtime.is_draining:
            raise Draining("the service is stopping; the execution continues in another process")
        await _rest(runtime, execution_id, position)


async def _is_forgotten(runtime: Runtime, execution_id: str) -> bool:
    """Whether the content of an ended execution was deleted, maybe by another process, though this one has it yet."""
    ring = runtime.engine.events_of(execution_id)
    if ring is None or not ring.closed:
        return False
    async with runtime.database.read() as connection:
        return bool(await erasure.buried(connection, [execution_id]))


async def read_row(runtime: Runtime, execution_id: str, owner: str) -> ControlRow:
    """The control row of an execution. Raises `NotFound`."""
    async with runtime.database.read() as connection:
        row = await control.get(connection, execution_id, owner)
    if row is None:
        raise NotFound.of("execution", execution_id)
    return row


def has_received_all(row: ControlRow, position: StreamPosition) -> bool:
    """Whether the execution has ended and the reader has its closing event."""
    return row.status.is_terminal and position >= _end(row)


def stored_events(row: ControlRow, position: StreamPosition) -> Iterator[ExecutionEvent]:
    """The events after the position that the control row implies."""
    if (closing := closing_event(row.status)) is not None:
        if position < _end(row):
            yield from _closing(row, closing, position)
    elif row.status is Status.RUNNING and row.root is not None and position.attempt < row.attempt:
        is_first = row.attempt == 1
        data = row.identity.started_data(row.trace_id)
        if not is_first:
            data |= {"attempt": row.attempt, "reason": None}
        type_ = EventType.STARTED if is_first else EventType.RESUMED
        yield _event(row, type_, 1, row.root.started_at, data)


def _closing(row: ControlRow, type_: EventType, position: StreamPosition) -> Iterator[ExecutionEvent]:
    seq = _end(row).seq
    at = row.finished_at or row.paused_at or row.accepted_at
    if position.attempt == row.attempt and position.seq + 1 < seq < LAST_SEQ:
        yield _event(row, EventType.GAP, seq - 1, at, {"first": position.seq + 1, "last": seq - 1})
    yield _event(row, type_, seq, at, row.result or {})


def _end(row: ControlRow) -> StreamPosition:
    """The position of the closing event."""
    return StreamPosition(row.attempt, row.last_seq or LAST_SEQ)


def _event(row: ControlRow, type_: EventType, seq: int, at: datetime, data: JsonObject) -> ExecutionEvent:
    return ExecutionEvent(type_, seq, row.execution_id, row.attempt, at.timestamp(), data)


def _ring(runtime: Runtime, execution_id: str, position: StreamPosition) -> EventRing | None:
    """The events of an attempt in this process, if any exist after the position or are still to come."""
    ring = runtime.engine.events_of(execution_id)
    if ring is None or ring.attempt < position.attempt:
        return None
    has_more = not ring.closed or ring.attempt > position.attempt or ring.last_seq > position.seq
    return ring if has_more and not (ring.closed and ring.last_seq == 0) else None


async def _rest(runtime: Runtime, execution_id: str, position: StreamPosition) -> None:
    for _ in range(_LOOKS):
        await asyncio.sleep(STORED_SECONDS / _LOOKS)
        if runtime.is_draining or _ring(runtime, execution_id, position) is not None:
            return
