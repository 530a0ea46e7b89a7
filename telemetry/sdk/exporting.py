"""Watches the exporters: how many spans were taken, whether attempts fail, and a backend that takes no log records.

The SDK's exporters tell nobody how an export ended, but at the end of a command it decides whether waiting is of use.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

TAKES_NO_LOGS = frozenset({404, 405})
"""The answers of a backend that has traces alone, such as Jaeger, to a post of log records."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Deliveries:
    """Counts the spans on their way to a backend; the exporters' threads write it."""

    handed: int = 0
    taken: int = 0
    is_failing: bool = False
    """Whether the last attempt to export failed; a backend that is only slow is not failing."""
    problem: str = ""
    """The error of the last attempt that failed."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def left(self) -> int:
        """Spans that no backend has taken."""
        return self.handed - self.taken

    def add_handed(self) -> None:
        """One more span is to be exported."""
        with self._lock:
            self.handed += 1

    def add_taken(self, spans: int) -> None:
        """The backend has taken these."""
        with self._lock:
            self.taken += spans
            self.is_failing = False

    def fail(self, problem: str = "") -> None:
        """An attempt failed; the exporter may try again."""
        with self._lock:
            self.is_failing = True
            self.problem = problem or self.problem


class CountedSpans(SpanProcessor):
    """Counts the spans that it passes on to an exporter's processor."""

    def __init__(self, inner: SpanProcessor, deliveries: Deliveries) -> None:
        self._inner = inner
        self._deliveries = deliveries

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: a span is exported when it ends."""

    def on_end(self, span: ReadableSpan) -> None:
        """Count the span and pass it on."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._deliveries.add_handed()
        self._inner.on_end(span)

    def shutdown(self) -> None:
        """Export the rest."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what is buffered."""
        return self._inner.force_flush(timeout_millis)


class CountedExports(SpanExporter):
    """Counts what a backend has taken of the batches."""

    def __init__(self, inner: SpanExporter, deliveries: Deliveries) -> None:
        self._inner = inner
        self._deliveries = deliveries

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch and count it."""
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._deliveries.add_taken(len(spans))
        else:
            self._deliveries.fail()
        return result

    def shutdown(self) -> None:
        """Stop; attempts that wait to be repeated are given up."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Pass it on: nothing is buffered here."""
        return self._inner.force_flush(timeout_millis)


class Answer(Protocol):
    """How one HTTP request of an exporter ended: with a status, or with an error."""

    @property
    def status_code(self) -> int | None:
        """Null if there was no answer."""

    @property
    def reason(self) -> str | None:
        """The text behind the status."""

    @property
    def error(self) -> Exception | None:
        """Why there was no answer."""

    def headers(self) -> Mapping[str, str]:
        """The response headers."""


class Transport(Protocol):
    """The part of the HTTP exporters that sends one request."""

    def request(self, method: str, url: str, **options: Any) -> Answer:
        """Send one request."""

    def close(self) -> None:
        """Close the connections."""

    def is_connection_error(self, exception: Exception | None) -> bool:
        """Whether the request may be repeated at once."""


Wrap = Callable[[Transport], Transport]


class _Watching:
    """A transport that watches another one."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    def close(self) -> None:
        self._inner.close()

    def is_connection_error(self, exception: Exception | None) -> bool:
        return self._inner.is_connection_error(exception)


class FailingAttempts(_Watching):
    """Notes the attempts that failed, which the exporter repeats by itself."""

    def __init__(self, inner: Transport, deliveries: Deliveries) -> None:
        super().__init__(inner)
        self._deliveries = deliveries

    def request(self, method: str, url: str, **options: Any) -> Answer:
        """Send one request."""
        answer = self._inner.request(method, url, **options)
        if answer.error is not None:
            self._deliveries.fail(type(answer.error).__name__)
        elif answer.status_code is not None and answer.status_code >= 400:
            self._deliveries.fail(f"it answers {answer.status_code}")
        return answer


@dataclass(frozen=True, slots=True)
class _NotSent:
    """Stands for the answer to a request that is not sent, which the exporter takes for a success."""

    status_code: int = 200
    reason: None = None
    error: None = None

    def headers(self) -> Mapping[str, str]:
        return {}


class LogsIfTaken(_Watching):
    """Sends log records until the backend says that it takes none; that is told once, with the settings for it."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner)
        self._is_off = False

    def request(self, method: str, url: str, **options: Any) -> Answer:
        """Send one request, or none."""
        if self._is_off:
            return _NotSent()
        answer = self._inner.request(method, url, **options)
        if answer.status_code not in TAKES_NO_LOGS:
            return answer
        self._is_off = True
        log.warning(
            "%s takes no log records (it answers %d); none are sent from now on. Set OTEL_LOGS_EXPORTER=none to send"
            " none at all, or OTEL_EXPORTER_OTLP_LOGS_ENDPOINT to send them to another backend",
            url,
            answer.status_code,
        )
        return _NotSent()
