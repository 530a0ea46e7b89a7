"""Spans and events of the SDK become records; content and signals of no execution do not."""

import re

import pytest

from engine.tracing import semconv
from telemetry.sdk.conversion import span_record
from telemetry.signals.records import BadSignal, EventRecord, Kind, SpanRecord
from tests.telemetry.bookkeeper import Listener


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


def test_spans_keep_their_parents() -> None:
    spans, events = told()
    model, node, _, _, _, root = spans
    assert model.parent_span_id == node.span_id
    assert node.parent_span_id == root.span_id
    assert root.parent_span_id is None
    assert {span.trace_id for span in spans} | {event.trace_id for event in events} == {root.trace_id}
    assert {event.span_id for event in events} == {root.span_id}


def test_attributes_of_the_execution_row_are_not_repeated_in_each_span() -> None:
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
