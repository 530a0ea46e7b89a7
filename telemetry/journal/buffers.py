"""Buffers of ended spans and events that are not durable yet, one per attempt."""

import threading
import time
from dataclasses import dataclass, field

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from telemetry.sdk.conversion import attempt_of
from telemetry.sdk.internals import LogRecordProcessor, ReadWriteLogRecord
from telemetry.signals.records import Attempt, is_journalled, is_ours


@dataclass(slots=True)
class Buffer:
    """The signals of one attempt since `since` (monotonic seconds)."""

    since: float
    spans: list[ReadableSpan] = field(default_factory=list)
    events: list[ReadWriteLogRecord] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.spans) + len(self.events)


class Buffers:
    """One buffer per attempt, so that attempts never mix. Signals may come from any thread."""

    def __init__(self) -> None:
        self._buffers: dict[Attempt, Buffer] = {}
        self._lock = threading.Lock()

    def add_span(self, span: ReadableSpan) -> None:
        """Buffer an ended span of ours."""
        scope = span.instrumentation_scope
        if scope is None or not is_ours(scope.name):
            return
        attempt = attempt_of(span.attributes)
        if attempt is not None:
            with self._lock:
                self._of(attempt).spans.append(span)

    def add_event(self, event: ReadWriteLogRecord) -> None:
        """Buffer an event of ours."""
        scope, name = event.instrumentation_scope, event.log_record.event_name
        if scope is None or not is_ours(scope.name) or not is_journalled(name):
            return
        attempt = attempt_of(event.log_record.attributes)
        if attempt is not None:
            with self._lock:
                self._of(attempt).events.append(event)

    def take(self, attempt: Attempt) -> Buffer | None:
        """Take the attempt's buffer out; null if there is none."""
        with self._lock:
            return self._buffers.pop(attempt, None)

    def put_back(self, attempt: Attempt, taken: Buffer) -> None:
        """Put a buffer back that could not be made durable, in front of newer signals."""
        with self._lock:
            since = self._buffers.get(attempt)
            if since is not None:
                taken.spans.extend(since.spans)
                taken.events.extend(since.events)
            self._buffers[attempt] = taken

    def older_than(self, seconds: float) -> list[Attempt]:
        """Attempts whose oldest signal has waited at least that long."""
        before = time.monotonic() - seconds
        with self._lock:
            return [attempt for attempt, buffer in self._buffers.items() if buffer.since <= before]

    def larger_than(self, signals: int) -> set[Attempt]:
        """Attempts with more signals than that."""
        with self._lock:
            return {attempt for attempt, buffer in self._buffers.items() if len(buffer) > signals}

    def _of(self, attempt: Attempt) -> Buffer:
        buffer = self._buffers.get(attempt)
        if buffer is None:
            buffer = self._buffers[attempt] = Buffer(time.monotonic())
        return buffer


class SpanIntake(SpanProcessor):
    """A span processor that buffers ended spans."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: a span is buffered when it ends."""

    def on_end(self, span: ReadableSpan) -> None:
        """Buffer the span."""
        self._buffers.add_span(span)

    def shutdown(self) -> None:
        """Do nothing: the journal owns the buffers."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: the journal decides when to flush."""
        return True


class EventIntake(LogRecordProcessor):
    """A log record processor that buffers events."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Buffer the event."""
        self._buffers.add_event(log_record)

    def shutdown(self) -> None:
        """Do nothing: the journal owns the buffers."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: the journal decides when to flush."""
        return True
