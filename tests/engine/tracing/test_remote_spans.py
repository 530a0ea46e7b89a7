"""Spans of other processes, by their ids."""

from opentelemetry.context import Context
from opentelemetry.trace import get_current_span

from engine.tracing.remote_spans import (
    below,
    fixed_ids,
    read_traceparent,
    remote_span,
    with_fixed_ids,
    write_traceparent,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7"


def test_a_traceparent_is_read_as_it_was_written() -> None:
    context = below(remote_span(TRACE, SPAN))
    written = write_traceparent(context)
    assert written == f"00-{TRACE}-{SPAN}-01"
    assert read_traceparent(written) == get_current_span(context).get_span_context()


def test_a_context_without_a_span_has_no_traceparent() -> None:
    assert write_traceparent(None) is None
    assert write_traceparent(Context()) is None


def test_fixed_ids_are_no_parent() -> None:
    span = remote_span(TRACE, SPAN)
    context = with_fixed_ids(span)
    assert fixed_ids(context) == span
    assert not get_current_span(context).get_span_context().is_valid
    assert fixed_ids(below(span)) is None
    assert fixed_ids(None) is None
