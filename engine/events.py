"""Events of a running execution, kept in a bounded ring that readers follow.

The execution never waits for a reader: a reader that falls behind the ring gets a `gap` event and continues after it.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from engine.documents.json_text import to_json
from engine.graph import JsonObject
from engine.result import Status

RING_EVENTS = 1_000
RING_BYTES = 1_048_576
LAGGING_EVENTS = 128
"""A reader this many events behind gets the tokens of a message joined into one event."""

_YIELD_EVERY = 64
"""A producer that never awaits yields to its readers once per this many events."""
_FRAME_BYTES = 200
"""Approximate size of an event on the wire without its data."""


class EventType(StrEnum):
    """Event types. An attempt emits `started` or `resumed`, the events of its nodes, and one closing event."""

    STARTED = "started"
    """The execution began: source, versions, graph hash, conversation, correlation and trace id."""
    RESUMED = "resumed"
    """A later attempt began: its number and the reason (answer, timer, crash, shutdown)."""
    NODE_STARTED = "node_started"
    """A visit of a node began: the node's name."""
    NODE_COMPLETED = "node_completed"
    """A visit ended: `duration_ms`, label, degraded, usage and cost."""
    NODE_FAILED = "node_failed"
    """A visit failed: `error_type`, message, attempts, and whether the failure was handled."""
    NODE_RETRYING = "node_retrying"
    """An attempt failed and is repeated: `error_type`, `delay_ms`; `discard_tokens` voids the tokens of the attempt."""
    TOKEN = "token"
    """A piece of a message: `message_id` and text. Only model nodes with `stream` send it."""
    TOOL_CALL = "tool_call"
    """A tool was called: `call_id` and tool; with `stream` on the tools node also its `arguments`."""
    TOOL_RESULT = "tool_result"
    """A tool call ended: `call_id`, `ok`, `error_type`, `duration_ms`; with `stream` also the `result` as a text."""
    APPROVAL_REQUESTED = "approval_requested"
    """An approval node asks a question: `approval_id`, prompt, payload, choices, `response_schema`, `expires_at`."""
    GAP = "gap"
    """A slow reader missed events: the first and the last `seq`."""
    COMPLETED = "completed"
    """The execution completed; the data is its result."""
    FAILED = "failed"
    """The execution failed; the data is its result."""
    CANCELLED = "cancelled"
    """The execution was cancelled; the data is its result."""
    PAUSED = "paused"
    """The execution paused; the data is its result so far."""

    @property
    def is_closing(self) -> bool:
        """Whether this is the last event of an attempt; it is sent after the end has been committed."""
        return self in _CLOSING_TYPES


_CLOSING = {
    Status.COMPLETED: EventType.COMPLETED,
    Status.FAILED: EventType.FAILED,
    Status.CANCELLED: EventType.CANCELLED,
    Status.PAUSED: EventType.PAUSED,
}
_CLOSING_TYPES = frozenset(_CLOSING.values())
LAST_SEQ = 2**31 - 1
"""Number of a closing event that the attempt's own process did not emit: it comes after all events of the attempt."""


def closing_event(status: Status) -> EventType | None:
    """The event that closes an attempt with this status; null while the execution is queued or runs."""
    return _CLOSING.get(status)


@dataclass(slots=True)
class ExecutionEvent:
    """One event. `seq` rises by one within an attempt; the node fields are null unless the event belongs to a node."""

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
        """The event as JSON for the wire; without the node fields if it belongs to no node."""
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
    """A bounded buffer of the newest events of one attempt, which any number of readers can follow."""

    def __init__(self, attempt: int = 1, *, size: int = RING_EVENTS, size_bytes: int = RING_BYTES) -> None:
        self.attempt = attempt
        self._events: deque[ExecutionEvent] = deque()
        self._bytes: deque[int] = deque()
        self._size, self._size_bytes, self._held_bytes = size, size_bytes, 0
        self._last = 0
        self._news = asyncio.Event()
        self._since_breath = 0
        self.closed = False

    def next_seq(self) -> int:
        """Assign the number of the next event."""
        self._last += 1
        return self._last

    @property
    def last_seq(self) -> int:
        """The number that was assigned last."""
        return self._last

    def append(self, event: ExecutionEvent) -> None:
        """Add an event; a closing event must be the last."""
        self._keep(event)
        if event.type.is_closing:
            self.closed = True
        self._news.set()

    def close(self) -> None:
        """End the ring without a closing event, because the attempt broke off."""
        self.closed = True
        self._news.set()

    async def breathe(self) -> None:
        """Yield to the event loop now and then, so that a producer that never awaits can be read and cancelled."""
        self._since_breath += 1
        if self._since_breath >= _YIELD_EVERY:
            self._since_breath = 0
            await asyncio.sleep(0)

    async def read(self, after: int = 0) -> AsyncGenerator[ExecutionEvent, None]:
        """Yield the events after number `after` up to the closing one, and a `gap` for events that the ring has lost.

        A reader that lags gets the tokens of a message joined, under the number of the last token.
        """
        while True:
            behind = self._behind(after)
            for event in behind if len(behind) < LAGGING_EVENTS else joined(behind):
                yield event
                after = event.seq if event.type is not EventType.GAP else int(str(event.data["last"]))
            if self.closed and (not self._events or after >= self._events[-1].seq):
                return
            await self._wait_behind(after)

    def _keep(self, event: ExecutionEvent) -> None:
        """Drop old events while the ring is over its size; the newest event stays, however large."""
        size = _size(event)
        self._events.append(event)
        self._bytes.append(size)
        self._held_bytes += size
        while len(self._events) > self._size or (self._held_bytes > self._size_bytes and len(self._events) > 1):
            self._events.popleft()
            self._held_bytes -= self._bytes.popleft()

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


def joined(events: Iterable[ExecutionEvent]) -> Iterator[ExecutionEvent]:
    """Join neighbouring tokens of one message into one event with the number of the last."""
    waiting: list[ExecutionEvent] = []
    for event in events:
        if waiting and not _continues(waiting[0], event):
            yield _as_one(waiting)
            waiting = []
        if event.type is EventType.TOKEN:
            waiting.append(event)
        else:
            yield event
    if waiting:
        yield _as_one(waiting)


def _continues(first: ExecutionEvent, event: ExecutionEvent) -> bool:
    return event.type is EventType.TOKEN and event.data["message_id"] == first.data["message_id"]


def _as_one(tokens: list[ExecutionEvent]) -> ExecutionEvent:
    text = "".join(str(token.data["text"]) for token in tokens)
    return replace(tokens[-1], data={**tokens[-1].data, "text": text})


def _size(event: ExecutionEvent) -> int:
    """Approximate bytes on the wire."""
    if event.type is EventType.TOKEN:
        return _FRAME_BYTES + len(str(event.data["text"]))
    try:
        return _FRAME_BYTES + len(to_json(event.data))
    except TypeError:  # a lone surrogate is not JSON
        return _FRAME_BYTES + len(repr(event.data))


def _gap(first: ExecutionEvent, after: int) -> ExecutionEvent:
    lost: JsonObject = {"first": after + 1, "last": first.seq - 1}
    return ExecutionEvent(EventType.GAP, first.seq - 1, first.execution_id, first.attempt, first.at, lost)
