"""Spans and records for the tests of drawings, and the lines that a view prints."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from io import StringIO

from rich.console import Console, RenderableType

from telemetry.reads.executions import ExecutionRecord
from telemetry.reads.traces import TraceSpan

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
    values |= {
        "unpriced_calls": 0,
        "unmetered_calls": 0,
        "failed_calls": 0,
        "unfinished_calls": 0,
        "waste_nano_usd": 0,
        "model_calls": 0,
        "tool_calls": 0,
        "tags": {},
        "params": {},
    }
    values |= {"id": "01a20b67-faf4-7719-bc23-b6fe37111acf", "status": "completed", "workflow_name": "qa"}
    values |= {"queued_at": START, "started_at": START, "duration_ms": 86, "root_span_id": "root", "trace_id": "abc"}
    return ExecutionRecord(**(values | changes))  # type: ignore[arg-type]  # every field has its value, by name


def drawn(view: RenderableType, width: int = 80) -> list[str]:
    """The view as lines, without colours."""
    console = Console(file=StringIO(), width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(view)
    return [line.rstrip() for line in captured.get().splitlines()]
