"""Spans and events that have been said and are not durable yet, by attempt of an execution."""

import threading
import time
from dataclasses import dataclass, field

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from telemetry.sdk.conversion import attempt_of
from telemetry.sdk.internals import LogRecordProcessor, ReadWriteLogRecord
from telemetry.signals.records import Attempt, is_ours


@dataclass(slots=True)
class Buffer:
    """What one attempt said since `since` (monotonic seconds)."""

    since: float
    spans: list[ReadableSpan] = field(default_factory=list)
    events: list[ReadWriteLogRecord] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.spans) + len(self.events)


class Buffers:
    """One buffer per attempt: what one says is never written down for another. Signals may come from any thread."""

    def __init__(self) -> None:
        self._buffers: dict[Attempt, Buffer] = {}
        self._lock = threading.Lock()

    def add_span(self, span: ReadableSpan) -> None:
        """Keep an ended span of ours."""
        scope = span.instrumentation_scope
        if scope is None or not is_ours(scope.name):
            return
        attempt = attempt_of(span.attributes)
        if attempt is not None:
            with self._lock:
                self._of(attempt).spans.append(span)

    def add_event(self, event: ReadWriteLogRecord) -> None:
        """Keep an event of ours."""
        scope = event.instrumentation_scope
        if scope is None or not is_ours(scope.name) or event.log_record.event_name is None:
            return
        attempt = attempt_of(event.log_record.attributes)
        if attempt is not None:
            with self._lock:
                self._of(attempt).events.append(event)

    def take(self, attempt: Attempt) -> Buffer | None:
        """Everything the attempt said since the last time; null if nothing."""
        with self._lock:
            return self._buffers.pop(attempt, None)

    def put_back(self, attempt: Attempt, taken: Buffer) -> None:
        """What could not be made durable, in front of what came since."""
        with self._lock:
            since = self._buffers.get(attempt)
            if since is not None:
                taken.spans.extend(since.spans)
                taken.events.extend(since.events)
            self._buffers[attempt] = taken

    def older_than(self, seconds: float) -> list[Attempt]:
        """Attempts whose first signal waits for that long."""
        before = time.monotonic() - seconds
        with self._lock:
            return [attempt for attempt, buffer in self._buffers.items() if buffer.since <= before]

    def _of(self, attempt: Attempt) -> Buffer:
        buffer = self._buffers.get(attempt)
        if buffer is None:
            buffer = self._buffers[attempt] = Buffer(time.monotonic())
        return buffer


class SpanIntake(SpanProcessor):
    """Puts ended spans into the buffers."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is kept of a span before it ends."""

    def on_end(self, span: ReadableSpan) -> None:
        """Keep the span."""
        self._buffers.add_span(span)

    def shutdown(self) -> None:
        """The journal owns what is buffered."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """The journal decides when."""
        return True


class EventIntake(LogRecordProcessor):
    """Puts events into the buffers."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Keep the event."""
        self._buffers.add_event(log_record)

    def shutdown(self) -> None:
        """The journal owns what is buffered."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """The journal decides when."""
        return True
