"""What is stored is bounded, repaired and redacted; content and other people's spans never get that far."""

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.util.types import AnyValue

from engine.tracing import semconv
from telemetry.signals.records import (
    LEFT_OUT,
    MAX_ATTRIBUTES,
    MAX_VALUE_BYTES,
    BadSignal,
    EventRecord,
    Kind,
    SpanRecord,
    make_span,
    place_all,
    sanitize,
    span_record,
)
from tests.telemetry.bookkeeper import Listener

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


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("a\0b", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        ("key sk-abcdefghijklmnop1234", "key [redacted]"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (2**63, 2**63 - 1),
        (-(2**70), -(2**63)),
        (["a", "b\0"], ["a", "b\ufffd"]),
        ({"a": 1}, "{'a': 1}"),
        (b"x", "b'x'"),
    ],
)
def test_a_bad_value_is_repaired_and_flagged(value: object, stored: object) -> None:
    assert sanitize(value) == (stored, True)  # type: ignore[arg-type]  # what OpenTelemetry would let through


@pytest.mark.parametrize("value", ["plain", "ümlaut 🎉", 0, -5, 2**63 - 1, 1.5, True, ["a", 1], ""])
def test_a_good_value_stays_as_it_is(value: str) -> None:
    assert sanitize(value) == (value, False)


def test_a_long_text_is_cut_at_whole_characters() -> None:
    stored, changed = sanitize("ü" * 100_000)
    assert isinstance(stored, str)
    assert changed
    assert len(stored.encode()) <= MAX_VALUE_BYTES
    assert stored.endswith("ü…")


@pytest.mark.parametrize("count", [-1, 2**53, 2**63])
def test_a_number_that_no_sum_has_room_for_is_no_count(count: int) -> None:
    with pytest.raises(BadSignal, match="is no count"):
        make_span(**NAMED, placed=place_all(IDENTIFIED | {semconv.GENAI_INPUT: count}))


def test_of_too_many_attributes_ours_are_kept_and_it_is_said() -> None:
    many = {f"own.{number}": number for number in range(10_000)}
    span = make_span(**NAMED, placed=place_all(many | IDENTIFIED | {semconv.GENAI_INPUT: 5}))
    assert len(span.fields) + len(span.attributes) <= MAX_ATTRIBUTES + 1
    assert (span.attributes["own.0"], span.integer(semconv.GENAI_INPUT)) == (0, 5)
    assert span.attributes[semconv.SANITIZED] == [LEFT_OUT]


def test_a_long_list_is_cut() -> None:
    stored, changed = sanitize(["x" * 100] * 1_000)
    assert isinstance(stored, list)
    assert changed
    assert len(stored) < 100


@given(st.text() | st.integers() | st.floats() | st.lists(st.text()))
def test_what_is_stored_can_be_written_as_json_and_stays_the_same(value: str) -> None:
    stored, _ = sanitize(value)
    again, changed = sanitize(stored)
    assert (again, changed) == (stored, False)
    str(stored).encode()


def told() -> tuple[list[SpanRecord], list[EventRecord]]:
    """The signals of one execution."""
    listener = Listener()
    story = listener.begin()
    story.answer()
    story.tool()
    story.tracker.fail("timeout", "too late")
    signals = listener.signals()
    return (
        [signal for signal in signals if isinstance(signal, SpanRecord)],
        [signal for signal in signals if isinstance(signal, EventRecord)],
    )


def test_every_kind_of_span_is_recognised() -> None:
    spans, _ = told()
    assert [span.kind for span in spans] == [
        Kind.MODEL,
        Kind.NODE,
        Kind.TOOL,
        Kind.RETRIEVAL,
        Kind.NODE,
        Kind.WORKFLOW,
    ]
    assert [span.status for span in spans] == ["completed"] * 5 + ["failed"]


def test_the_tree_is_kept() -> None:
    spans, events = told()
    model, node, _, _, _, root = spans
    assert model.parent_span_id == node.span_id
    assert node.parent_span_id == root.span_id
    assert root.parent_span_id is None
    assert {span.trace_id for span in spans} | {event.trace_id for event in events} == {root.trace_id}
    assert {event.span_id for event in events} == {root.span_id}


def test_what_the_execution_row_says_is_not_said_again_by_each_span() -> None:
    spans, _ = told()
    for span in spans:
        assert not {semconv.OWNER_ID, semconv.WORKFLOW_NAME, semconv.EXECUTION_ID} & span.attributes.keys()


def test_content_does_not_reach_a_record() -> None:
    listener = Listener()
    story = listener.begin()
    node = story.node("model")
    node[semconv.INPUT_MESSAGES] = "what the user said"
    node["workflow.variable.name"] = "x"
    node.complete(label=None, edges=None, degraded=False)
    (record,) = listener.signals()[1:]
    assert "what the user said" not in str(record)
    assert record.attributes["workflow.variable.name"] == "x"


def test_a_repaired_attribute_is_named() -> None:
    listener = Listener()
    node = listener.begin().node("model")
    node[semconv.EDGE_TAKEN] = "a\0"
    node.complete(label=None, edges=None, degraded=False)
    (record,) = listener.signals()[1:]
    assert record.attributes[semconv.SANITIZED] == [semconv.EDGE_TAKEN]


def test_a_field_of_the_wrong_type_is_refused() -> None:
    listener = Listener()
    node = listener.begin().node("model")
    node[semconv.COST_NANO_USD] = "much"
    node.complete(label=None, edges=None, degraded=False)
    (span,) = listener.spans.get_finished_spans()
    with pytest.raises(BadSignal, match=re.escape(semconv.COST_NANO_USD)):
        span_record(span)


def test_a_span_of_no_execution_is_refused() -> None:
    listener = Listener()
    listener.telemetry.tracer_provider.get_tracer(semconv.SCOPE_ENGINE).start_span("lost").end()
    (span,) = listener.spans.get_finished_spans()
    with pytest.raises(BadSignal):
        span_record(span)
