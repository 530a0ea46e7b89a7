"""What a caller sees while an execution runs: `ExecutionEvent`s, kept in a bounded ring that readers follow.

The execution waits for nobody: a reader that falls out of the ring is told so by a `gap` and goes on with the rest.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from engine.graph import JsonObject

RING_EVENTS = 1_000
_YIELD_EVERY = 64
"""A producer that never waits lets its readers run once per so many events."""


class EventType(StrEnum):
    """The types of `ExecutionEvent`; the grammar is in workflow.md section 9."""

    STARTED = "started"
    RESUMED = "resumed"
    NODE_STARTED = "node_started"
    NODE_COMPLETED = "node_completed"
    NODE_FAILED = "node_failed"
    NODE_RETRYING = "node_retrying"
    TOKEN = "token"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    APPROVAL_REQUESTED = "approval_requested"
    GAP = "gap"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"

    @property
    def is_closing(self) -> bool:
        """The last event of an attempt, sent after the commit that makes it true."""
        return self in _CLOSING


_CLOSING = frozenset({EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED, EventType.PAUSED})


@dataclass(slots=True)
class ExecutionEvent:
    """One thing that happened. `seq` rises by one within an attempt; node fields are null where there is no node."""

    type: EventType
    seq: int
    execution_id: str
    attempt: int
    at: float
    """Seconds since the epoch."""
    data: JsonObject
    node_id: str | None = None
    node_type: str | None = None
    path: str | None = None
    visit: int | None = None
    node_attempt: int | None = None

    def document(self) -> JsonObject:
        """The event as JSON, as it goes over the wire; node fields only where there is a node."""
        document: JsonObject = {
            "type": self.type,
            "seq": self.seq,
            "execution_id": self.execution_id,
            "attempt": self.attempt,
            "at": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        if self.node_id is not None:
            document |= {
                "node_id": self.node_id,
                "node_type": self.node_type,
                "path": self.path,
                "visit": self.visit,
                "node_attempt": self.node_attempt,
            }
        return document | {"data": self.data}


class EventRing:
    """The newest events of one execution, and the readers that wait for the next."""

    def __init__(self, size: int = RING_EVENTS) -> None:
        self._events: deque[ExecutionEvent] = deque(maxlen=size)
        self._last = 0
        self._news = asyncio.Event()
        self._appended_since_breath = 0
        self.closed = False

    def next_seq(self) -> int:
        """The number of the event that is appended next."""
        self._last += 1
        return self._last

    @property
    def last_seq(self) -> int:
        """The number that was given out last."""
        return self._last

    def append(self, event: ExecutionEvent) -> None:
        """Add an event; a closing one is the last."""
        self._events.append(event)
        self._appended_since_breath += 1
        if event.type.is_closing:
            self.closed = True
        self._news.set()

    def close(self) -> None:
        """No more events will come: the attempt breaks off without a closing one."""
        self.closed = True
        self._news.set()

    async def breathe(self) -> None:
        """Let others run now and then: a producer that never waits would outrun the ring, and could not be stopped."""
        if self._appended_since_breath >= _YIELD_EVERY:
            self._appended_since_breath = 0
            await asyncio.sleep(0)

    async def read(self, after: int = 0) -> AsyncIterator[ExecutionEvent]:
        """Every event behind `after`, to the closing one; a `gap` where the ring has lost some."""
        while True:
            for event in self._behind(after):
                yield event
                after = event.seq if event.type is not EventType.GAP else int(str(event.data["last"]))
            if self.closed and (not self._events or after >= self._events[-1].seq):
                return
            await self._wait_behind(after)

    def _behind(self, after: int) -> list[ExecutionEvent]:
        if not self._events or self._events[-1].seq <= after:
            return []
        first = self._events[0]
        if first.seq > after + 1:
            return [_gap(first, after), *self._events]
        return list(itertools.islice(self._events, after + 1 - first.seq, None))

    async def _wait_behind(self, after: int) -> None:
        while not self.closed and (not self._events or self._events[-1].seq <= after):
            self._news.clear()
            await self._news.wait()


def _gap(first: ExecutionEvent, after: int) -> ExecutionEvent:
    lost: JsonObject = {"first": after + 1, "last": first.seq - 1}
    return ExecutionEvent(EventType.GAP, first.seq - 1, first.execution_id, first.attempt, first.at, lost)
