"""A builder refuses counts that could overflow sums, and keeps our own attributes first."""

from typing import Any

import pytest
from opentelemetry.util.types import AnyValue

from engine.tracing import semconv
from telemetry.signals.builders import make_span
from telemetry.signals.records import BadSignal
from telemetry.signals.sanitize import LEFT_OUT, MAX_ATTRIBUTES, place_all

NAMED: dict[str, Any] = {
    "trace_id": "0" * 31 + "1",
    "span_id": "0" * 15 + "1",
    "parent_span_id": None,
    "name": "chat small",
    "start_ns": 1,
    "end_ns": 2,
    "failed": False,
    "description": None,
}
IDENTIFIED: dict[str, AnyValue] = {
    semconv.EXECUTION_ID: "01a21f4b-e7c4-75b2-b423-f815e23ebb2c",
    semconv.EXECUTION_ATTEMPT: 1,
    semconv.OWNER_ID: "default",
    semconv.WORKFLOW_NAME: "answer",
    semconv.WORKFLOW_SOURCE: "template",
    semconv.OPERATION: "chat",
}


@pytest.mark.parametrize("count", [-1, 2**53, 2**63])
def test_a_number_that_no_sum_has_room_for_is_no_count(count: int) -> None:
    with pytest.raises(BadSignal, match="is not a count"):
        make_span(**NAMED, placed=place_all(IDENTIFIED | {semconv.CALL_TOKENS["input_tokens"]: count}))


def test_of_too_many_attributes_ours_are_kept_and_the_loss_is_flagged() -> None:
    many = {f"own.{number}": number for number in range(10_000)}
    span = make_span(**NAMED, placed=place_all(many | IDENTIFIED | {semconv.CALL_TOKENS["input_tokens"]: 5}))
    assert len(span.fields) + len(span.attributes) <= MAX_ATTRIBUTES + 1
    assert (span.attributes["own.0"], span.integer(semconv.CALL_TOKENS["input_tokens"])) == (0, 5)
    assert span.attributes[semconv.SANITIZED] == [LEFT_OUT]
