"""Drawings and numbers of the terminal: pure functions over rows."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console, RenderableType

from api.cli.rendering.formatting import duration, percent, tokens, usd
from api.cli.rendering.progress import Progress
from api.cli.rendering.tables import DemoShare, cost_table, executions_table
from api.cli.rendering.trace_tree import span_tree, trace_view
from engine.events import EventType, ExecutionEvent
from engine.graph import JsonObject
from telemetry.reads.cost import CostReport, CostRow, Dimension, Sums
from telemetry.reads.executions import ExecutionRecord, Seal
from telemetry.reads.traces import Attempt, Trace, TraceSpan

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def span(
    name: str,
    parent: str | None = None,
    at: int = 0,
    lasts: int | None = 10,
    *,
    id: str = "",
    depth: int = 0,
    kind: str = "node",
    status: str = "completed",
    error: str | None = None,
    tokens: tuple[int, int] | None = None,
    cost: int | None = None,
) -> TraceSpan:
    """A span `at` microseconds after the start."""
    return TraceSpan(
        depth=depth,
        span_id=id or name,
        parent_span_id=parent,
        trace_id="t",
        attempt=1,
        kind=kind,
        name=name,
        node_id=None,
        node_type=None,
        node_attempt=1,
        path=None,
        status=status,
        started_at=START + timedelta(microseconds=at),
        duration_us=lasts,
        input_tokens=tokens[0] if tokens else None,
        output_tokens=tokens[1] if tokens else None,
        cost_nano_usd=cost,
        error_type=error,
    )


def record(**changes: object) -> ExecutionRecord:
    """A completed execution."""
    values: dict[str, object] = dict.fromkeys(field.name for field in fields(ExecutionRecord))
    values |= {"unpriced_calls": 0, "waste_nano_usd": 0, "model_calls": 0, "tool_calls": 0, "tags": {}, "params": {}}
    values |= {"id": "01a20b67-faf4-7719-bc23-b6fe37111acf", "status": "completed", "workflow_name": "qa"}
    values |= {"queued_at": START, "started_at": START, "duration_ms": 86, "root_span_id": "root", "trace_id": "abc"}
    return ExecutionRecord(**(values | changes))  # type: ignore[arg-type]  # every field has its value, by name


def drawn(view: RenderableType, width: int = 80) -> list[str]:
    """The view as lines, without colours."""
    console = Console(file=StringIO(), width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(view)
    return [line.rstrip() for line in captured.get().splitlines()]


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
    assert "unpriced" in drawn(trace_view(_trace(spans, expected=1), record(model_calls=1), width=80))[0]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_line_of_a_trace_is_wider_than_the_terminal(width: int) -> None:
    name = "execute_node a_node_with_a_name_that_is_longer_than_any_terminal_is_wide_so_it_must_be_cut"
    spans = [span("invoke_workflow qa", id="root", kind="workflow"), span(name, "root", depth=1)]
    lines = drawn(trace_view(_trace(spans, expected=2), record(), width=width), width=width)
    assert len(lines) == 3
    assert ("…" in lines[1]) == (width < 140)
    assert max(map(len, lines)) <= width


def test_executions_fit_into_80_columns_with_whole_ids_and_costs() -> None:
    rows = [record(), record(status="failed", error_type="budget_exceeded", workflow_name="universal_chat")]
    rows[1:] = [record(id="01a20b67-faf5-7719-bc23-b6fe37111acf", cost_nano_usd=276_800, model_calls=1), *rows[1:]]
    lines = drawn(executions_table(rows, width=80))
    assert max(map(len, lines)) <= 80
    assert "01a20b67-faf5-7719-bc23-b6fe37111acf" in lines[3]
    assert lines[3].endswith("$0.0002768")


def _report(by: Sequence[Dimension], *rows: CostRow) -> CostReport:
    total = sum((row.sums for row in rows), Sums())
    return CostReport(START, START, tuple(by), list(rows), total, START)


NO_DEMO = DemoShare(0, frozenset())


def test_the_cost_table_is_exact_to_the_nano_dollar_and_totals() -> None:
    rows = [
        CostRow(
            ("rag_chat",),
            Sums(3, 2, 1, model_calls=4, input_tokens=1_000, output_tokens=50, priced_nano_usd=1_234_567_891),
        ),
        CostRow(("document_qa",), Sums(1, 1, model_calls=1, input_tokens=10, output_tokens=5, priced_nano_usd=1)),
    ]
    lines = drawn(cost_table(_report(["template"], *rows), NO_DEMO))
    assert lines[3].split() == ["rag_chat", "3", "1", "(33.3", "%)", "1,000", "50", "$1.234567891", "0"]
    assert lines[4].split() == ["document_qa", "1", "0", "10", "5", "$0.000000001", "0"]
    assert lines[6].split() == ["total", "4", "1", "(25", "%)", "1,010", "55", "$1.234567892", "0"]


def test_cost_by_model_counts_calls_and_leaves_rows_without_any_out() -> None:
    rows = [CostRow(("gpt",), Sums(model_calls=2, priced_nano_usd=7)), CostRow((None,), Sums(1, 1))]
    lines = drawn(cost_table(_report(["model"], *rows), NO_DEMO))
    assert [line.split()[:2] for line in lines[3:]] == [["gpt", "2"], [lines[4]], ["total", "2"]]


def test_demo_money_is_marked_and_said_to_be_no_real_money() -> None:
    rows = [CostRow(("rag_chat",), Sums(1, 1, model_calls=1, priced_nano_usd=66_400))]
    lines = drawn(cost_table(_report(["template"], *rows), DemoShare(66_400, frozenset({("rag_chat",)}))))
    assert "$0.000066400*" in lines[3]
    assert lines[-1] == "* $0.0000664 of it is the offline model's demo price: no real money."


def test_failures_that_callers_caused_are_left_out_of_the_rate_and_have_a_column_where_there_are_any() -> None:
    rows = [
        CostRow(("rag_chat",), Sums(6, 3, 3, failed_by_caller=2)),
        CostRow(("document_qa",), Sums(1, 0, 1, failed_by_caller=1)),
    ]
    lines = drawn(cost_table(_report(["template"], *rows), NO_DEMO))
    assert lines[1].split()[:4] == ["template", "tions", "failed", "errors"]
    assert lines[3].split()[:6] == ["rag_chat", "6", "1", "(25", "%)", "2"]
    assert lines[4].split()[:4] == ["document_qa", "1", "0", "1"]
    assert lines[6].split()[:6] == ["total", "7", "1", "(25", "%)", "3"]


def test_waste_has_a_column_where_there_is_any() -> None:
    rows = [CostRow(("rag_chat",), Sums(1, 1, model_calls=2, priced_nano_usd=9, waste_nano_usd=4))]
    assert drawn(cost_table(_report(["template"], *rows), NO_DEMO))[3].endswith("$0.000000004")


def test_numbers_in_words() -> None:
    assert usd(None) == "–"
    assert usd(0) == "$0.00"
    assert usd(1_500_000_000_001) == "$1,500.000000001"
    assert usd(5_500_000, every_digit=True) == "$0.005500000"
    assert [duration(each) for each in (None, 0.42, 86, 1_500, 61_000, 3_720_000)] == [
        "–",
        "0.4 ms",
        "86 ms",
        "1.50 s",
        "1 min 01 s",
        "1 h 02 min",
    ]
    assert (tokens(None, None), tokens(1_200, None)) == ("–", "1,200 → –")
    assert (percent(0, 0), percent(1, 3), percent(1, 1)) == ("–", "33.3 %", "100 %")


def _event(
    type: EventType, data: JsonObject, node: str = "answer", kind: str = "model", at: float = 0
) -> ExecutionEvent:
    return ExecutionEvent(type, 1, "id", 1, at, data, node, kind, node, 1, 1)


def test_the_live_tree_shows_nodes_and_tools_and_hides_start_and_end() -> None:
    progress = Progress()
    for event in (
        _event(EventType.NODE_STARTED, {}, "start", "start"),
        _event(EventType.NODE_COMPLETED, {"duration_ms": 0, "label": None, "degraded": False}, "start", "start"),
        _event(EventType.NODE_STARTED, {}, "tools", "tools"),
        _event(EventType.TOOL_CALL, {"call_id": "c", "tool": "calculate"}, "tools", "tools"),
        _event(
            EventType.TOOL_RESULT, {"call_id": "c", "ok": False, "error_type": "timeout", "duration_ms": 30}, "tools"
        ),
        _event(EventType.NODE_COMPLETED, {"duration_ms": 31, "label": "done", "degraded": False}, "tools", "tools"),
        _event(EventType.NODE_STARTED, {}),
    ):
        progress.apply(event)
    assert drawn(progress.view(1.5)) == [
        "  ✓ tools                         31 ms  → done",
        "    ✗ calculate                   30 ms  timeout",
        "  • answer                       1.50 s",
    ]


def test_a_failed_start_node_is_shown_all_the_same() -> None:
    progress = Progress()
    progress.apply(_event(EventType.NODE_STARTED, {}, "end", "end"))
    failed: JsonObject = {"error_type": "template_error", "message": "m", "attempts": 1, "handled": False}
    line = progress.apply(_event(EventType.NODE_FAILED, failed, "end", "end", at=0.002))
    assert line is not None
    assert line.plain.split() == ["✗", "end", "2.0", "ms", "template_error"]
