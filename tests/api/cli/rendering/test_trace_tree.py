"""Span trees: order, bars, numbers, errors and the seal."""

import pytest

from api.cli.rendering.trace_tree import span_tree, trace_view
from telemetry.reads.executions import Seal
from telemetry.reads.traces import Attempt, Trace, TraceSpan
from tests.api.cli.rendering.samples import drawn, record, span


def test_a_span_tree_has_one_line_per_span_and_names_what_did_not_complete() -> None:
    spans = [
        span("invoke_workflow qa", id="root", status="failed", error="auth"),
        span("execute_node start", "root", 0),
        span("execute_node answer", "root", 20, id="answer", status="failed", error="auth"),
        span("chat gpt", "answer", 21, 5, status="failed", error="auth"),
    ]
    assert (
        span_tree(spans)
        == """
invoke_workflow qa  failed  auth
  execute_node start
  execute_node answer  failed  auth
    chat gpt  failed  auth
"""
    )


def test_children_are_drawn_by_their_start_whatever_the_order_of_the_rows() -> None:
    spans = [span("b", "root", 10), span("root"), span("a", "root", 20), span("c", "root", 0)]
    assert span_tree(spans) == "\nroot  completed\n  c\n  b\n  a\n"


@pytest.mark.parametrize("starts", [(0, 1), (1, 0)])
def test_spans_that_ran_side_by_side_are_drawn_by_name(starts: tuple[int, int]) -> None:
    spans = [span("root"), span("left", "root", starts[0]), span("right", "root", starts[1]), span("after", "root", 30)]
    assert span_tree(spans) == "\nroot  completed\n  left\n  right\n  after\n"


def test_a_span_whose_parent_is_not_there_is_drawn_as_a_root() -> None:
    assert span_tree([span("lost", "absent")]) == "\nlost  completed\n"


def _trace(spans: list[TraceSpan], *, expected: int | None) -> Trace:
    return Trace("id", "full", [Attempt(1, "t", "root")], Seal(expected, len(spans)), spans, None)


def test_the_trace_view_has_bars_tokens_cost_errors_and_the_seal_in_80_columns() -> None:
    spans = [
        span("invoke_workflow qa", id="root", kind="workflow", lasts=100_000),
        span("execute_node retrieval", "root", 0, 50_000, id="retrieval", depth=1),
        span("retrieval files", "retrieval", 0, 50_000, depth=2, kind="retrieval"),
        span("execute_node answer", "root", 50_000, 50_000, id="answer", depth=1, status="failed", error="auth"),
        span("chat gpt", "answer", 75_000, 25_000, depth=2, kind="model", tokens=(1200, 34), cost=5_500_000),
    ]
    of_root = record(model_calls=1, input_tokens=1200, output_tokens=34, cost_nano_usd=5_500_000)
    assert drawn(trace_view(_trace(spans, expected=6), of_root, width=80)) == [
        "qa                   ██████████████████████████████  100 ms  1,200 → 34  $0.0055",
        "├ retrieval          ███████████████                  50 ms",
        "│ └ retrieval files  ███████████████                  50 ms",
        "└ answer                            ███████████████   50 ms",
        "  ✗ failed: auth",
        "  └ chat gpt                               ███████▌   25 ms  1,200 → 34  $0.0055",
        "seal 5/6 spans (1 missing)  ·  trace abc",
    ]


def test_a_running_execution_has_an_open_root_and_no_seal_yet() -> None:
    spans = [span("invoke_workflow qa", id="root", kind="workflow", lasts=None, status="running")]
    first, last = drawn(trace_view(_trace(spans, expected=None), record(status="running"), width=80))
    assert first.endswith("…")
    assert "░" in first
    assert last == "seal 1/? spans (not finished)  ·  trace abc"


def test_a_model_call_without_a_price_is_unpriced_and_not_free() -> None:
    spans = [span("chat own", id="root", kind="model", tokens=(3, 4))]
    whole = record(model_calls=1, input_tokens=3, output_tokens=4, unpriced_calls=1)
    lines = drawn(trace_view(_trace(spans, expected=1), whole, width=80))
    assert "unpriced*" in lines[0]
    assert lines[-1] == "* not the whole cost: 1 call without a price."


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_line_of_a_trace_is_wider_than_the_terminal(width: int) -> None:
    name = "execute_node a_node_with_a_name_that_is_longer_than_any_terminal_is_wide_so_it_must_be_cut"
    spans = [span("invoke_workflow qa", id="root", kind="workflow"), span(name, "root", depth=1)]
    lines = drawn(trace_view(_trace(spans, expected=2), record(), width=width), width=width)
    assert len(lines) == 3
    assert ("…" in lines[1]) == (width < 140)
    assert max(map(len, lines)) <= width
