"""What the exporters deliver is counted, and a backend without logs is asked once."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from telemetry.sdk.exporting import Answer, CountedExports, CountedSpans, Deliveries, FailingAttempts, LogsIfTaken
from tests.telemetry.bookkeeper import Listener


@dataclass(frozen=True, slots=True)
class Answered:
    """How one request ended."""

    status_code: int | None = None
    error: Exception | None = None
    reason: str | None = None

    def headers(self) -> Mapping[str, str]:
        """None."""
        return {}


@dataclass
class Scripted:
    """A transport whose requests end as scripted."""

    script: list[Answered]
    asked: list[str] = field(default_factory=list)

    def request(self, method: str, url: str, **options: Any) -> Answer:
        """The next answer of the script."""
        self.asked.append(f"{method} {url} {options}")
        return self.script.pop(0)

    def close(self) -> None:
        """Nothing is open."""
        self.asked.append("close")

    def is_connection_error(self, exception: Exception | None) -> bool:
        """Whether it is one."""
        return isinstance(exception, ConnectionError)


@dataclass
class Moody(SpanExporter):
    """An exporter whose exports end as scripted."""

    script: list[SpanExportResult]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """The next result of the script."""
        return self.script.pop(0)


def spans() -> tuple[ReadableSpan, ...]:
    """Three spans that have ended."""
    listener = Listener()
    listener.complete(1)
    return tuple(listener.spans.get_finished_spans())


def test_spans_are_left_until_the_backend_has_taken_them() -> None:
    deliveries, listener = Deliveries(), Listener()
    listener.telemetry.tracer_provider.add_span_processor(CountedSpans(_Nothing(), deliveries))
    listener.complete(1)
    assert (deliveries.handed, deliveries.left, deliveries.is_failing) == (3, 3, False)
    exports = CountedExports(Moody([SpanExportResult.FAILURE, SpanExportResult.SUCCESS]), deliveries)
    exports.export(spans())
    assert (deliveries.left, deliveries.is_failing) == (3, True)
    exports.export(spans())
    assert (deliveries.left, deliveries.is_failing) == (0, False)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [(Answered(503), "it answers 503"), (Answered(error=ConnectionRefusedError("no")), "ConnectionRefusedError")],
)
def test_an_attempt_that_the_exporter_repeats_by_itself_is_known_to_fail(answer: Answered, problem: str) -> None:
    deliveries = Deliveries()
    transport = FailingAttempts(Scripted([answer]), deliveries)
    assert transport.request("POST", "http://traces", data=b"1") is answer
    assert (deliveries.is_failing, deliveries.problem) == (True, problem)
    assert transport.is_connection_error(answer.error) is (answer.error is not None)


@pytest.mark.parametrize("status", [404, 405])
def test_a_backend_that_takes_no_logs_is_warned_of_once_and_asked_no_more(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    inner = Scripted([Answered(200), Answered(status)])
    transport = LogsIfTaken(inner)
    with caplog.at_level(logging.WARNING):
        answers = [transport.request("POST", "http://traces/v1/logs") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5, "the exporter has nothing to report"
    assert len(inner.asked) == 2
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"http://traces/v1/logs takes no log records (it answers {status})")
    assert "OTEL_LOGS_EXPORTER=none" in warning


@pytest.mark.parametrize("answer", [Answered(500), Answered(401), Answered(error=TimeoutError())])
def test_other_troubles_of_a_log_backend_are_left_to_the_exporter(answer: Answered) -> None:
    inner = Scripted([answer, Answered(200)])
    transport = LogsIfTaken(inner)
    assert [transport.request("POST", "http://logs") for _ in range(2)] == [answer, Answered(200)]


class _Nothing(CountedSpans):
    """A processor that does nothing."""

    def __init__(self) -> None:
        super().__init__(self, Deliveries())

    def on_end(self, span: ReadableSpan) -> None:
        """Do nothing."""

    def shutdown(self) -> None:
        """Do nothing."""
