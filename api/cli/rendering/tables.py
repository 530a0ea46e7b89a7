"""Tables and reports of the terminal: executions, one execution, cost, validation, `doctor`, dead letters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.rendering.formatting import (
    ASSUMED,
    ASSUMED_MEANING,
    UNKNOWN,
    cost_mark,
    count,
    duration,
    legend,
    moment,
    percent,
    plural,
    tokens,
    unknown_calls,
    usd,
)
from api.cli.rendering.plain import plain
from api.cli.rendering.trace_tree import STATUS_STYLES
from engine.report import Issue, Severity, ValidationReport
from engine.result import Approval, Status
from engine.usage import TOKEN_KINDS
from telemetry.reads.cost import CostReport, GroupValue, Sums
from telemetry.reads.executions import ExecutionRecord

if TYPE_CHECKING:
    from telemetry.recovery.replay import DeadLetterGroup

Level = Literal["ok", "warn", "fail", "info"]
_GAP = 2
_MIN_STATUS = 9
_BOX = box.Box("    \n    \n ── \n    \n    \n ── \n    \n    \n")
"""One line below the header and one above the footer."""
_MARKS: dict[Level, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warn": ("!", "yellow"),
    "fail": ("✗", "bold red"),
    "info": (" ", ""),
}


def executions_table(records: Sequence[ExecutionRecord], *, width: int) -> RenderableType:
    """One line per execution, in the given order. Ids are whole; a narrow terminal gets fewer columns."""
    if not records:
        return Text("No executions. Start one: spanloom run universal_chat -m 'hi'")
    rows = [_execution_cells(record) for record in plain(records)]
    widths = {name: max(cell_len(str(cell)) for cell in (name, *(row[name] for row in rows))) for name in rows[0]}
    for name in _DROPPED_FIRST:
        if _total(widths) > width:
            del widths[name]
    table = plain_table(
        *(name for name in widths if name not in _NUMBERS), right=[name for name in widths if name in _NUMBERS]
    )
    if _total(widths) > width:
        table.columns[1].max_width = max(width - _total(widths) + widths["status"], _MIN_STATUS)
    for row in rows:
        table.add_row(*(row[name] for name in widths))
    unknown = [record for record in records if cost_mark(record)]
    return Group(table, Text(_EXECUTIONS_LEGEND, style="dim")) if unknown else table


_EXECUTIONS_LEGEND = "* not the whole cost; `spanloom executions show ID` says what is missing."


def _execution_cells(record: ExecutionRecord) -> dict[str, RenderableType]:
    return {
        "id": record.id,
        "status": _status(record.status, record.error_type),
        "workflow": record.workflow_name + (" (unsaved)" if record.is_unsaved else ""),
        "at (UTC)": moment(record.started_at or record.queued_at),
        "duration": duration(record.duration_ms),
        "tokens": tokens(record.input_tokens, record.output_tokens),
        "cost": _cost(record) + cost_mark(record),
    }


_DROPPED_FIRST = ("tokens", "duration", "at (UTC)")
_NUMBERS = frozenset({"duration", "tokens", "cost"})


def execution_details(record: ExecutionRecord, trace_url: str | None, *, is_answered: bool = False) -> RenderableType:
    """The fields of one record that have a value. `is_answered`: its question is answered, but unclaimed."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _details(plain(record), trace_url):
        grid.add_row(name, "answered, waiting for a worker" if is_answered and name == "status" else value)
    if is_answered:
        return Group(grid, Text(f"Answered. It continues {_WHEN_SERVED}"))
    if record.status == Status.QUEUED:
        return Group(grid, Text(f"Queued. It starts {_WHEN_SERVED}"))
    return grid


_WHEN_SERVED = "when a `spanloom serve` is running on this database."


def question_view(execution_id: str, question: Approval) -> RenderableType:
    """A question of a paused execution, and how to answer it."""
    question = plain(question)
    text = Text(f"Question: {question.prompt}", style="bold")
    until = f"until {moment(question.expires_at)} UTC"
    text.append(f"\n  {' or '.join(question.choices)}, {until} (approval {question.approval_id})", style="not bold")
    text.append(
        f"\n  To answer: spanloom executions resume {execution_id} --choice {question.choices[0]}", style="not bold dim"
    )
    return text


def _details(record: ExecutionRecord, trace_url: str | None) -> list[tuple[str, RenderableType]]:
    version = ", unsaved" if record.is_unsaved else ""
    version = f", version {record.template_version}" if record.template_version else version
    rows: list[tuple[str, RenderableType | None]] = [
        ("id", record.id),
        ("status", _status(record.status)),
        ("error", _error(record)),
        ("cancelled", record.cancel_reason),
        ("workflow", f"{record.workflow_name} ({record.workflow_source}{version})"),
        ("started", UNKNOWN if record.started_at is None else f"{moment(record.started_at)} UTC"),
        ("duration", duration(record.duration_ms)),
        ("  of which", _time_ledger(record)),
        ("first token", duration(record.time_to_first_token_ms) if record.time_to_first_token_ms is not None else None),
        ("tokens", _all_tokens(record)),
        ("cost", _whole_cost(record)),
        ("calls", _calls(record)),
        ("nodes", f"{record.nodes_total} run, {record.nodes_failed} failed, {record.nodes_retried} retried"),
        ("seal", f"{record.spans_stored}/{record.spans_expected or '?'} spans{_pruned(record)}"),
        ("trigger", f"{record.trigger or UNKNOWN}{', streaming' if record.streaming else ''}"),
        ("conversation", record.conversation_id),
        ("correlation", record.correlation_id),
        ("trace", record.trace_id or UNKNOWN),
        ("", trace_url),
        ("graph", record.graph_hash),
        ("tags", ", ".join(f"{name}={value}" for name, value in record.tags.items()) or None),
        ("params", ", ".join(f"{name}={value}" for name, value in record.params.items()) or None),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _pruned(record: ExecutionRecord) -> str:
    return "" if record.spans_pruned_at is None else f", deleted {moment(record.spans_pruned_at)} UTC"


def _error(record: ExecutionRecord) -> Text | None:
    if record.error_type is None:
        return None
    place = f" at node {record.error_node_id}" if record.error_node_id else ""
    return Text(f"{record.error_type}{place}: {record.error_message or ''}", style="red")


def _time_ledger(record: ExecutionRecord) -> str | None:
    parts = {
        "queue": record.time_queue_ms,
        "model": record.time_model_ms,
        "tools": record.time_tool_ms,
        "retries": record.time_retry_ms,
        "people": record.time_human_ms,
        "engine": record.time_engine_ms,
    }
    return ", ".join(f"{name} {duration(value)}" for name, value in parts.items() if value) or None


def _all_tokens(record: ExecutionRecord) -> str:
    parts = [(kind.part, getattr(record, kind.field)) for kind in TOKEN_KINDS if kind.part]
    extra = ", ".join(f"{count(number)} {part}" for part, number in parts if number)
    return tokens(record.input_tokens, record.output_tokens) + (f" ({extra})" if extra else "")


def _whole_cost(record: ExecutionRecord) -> str:
    unknown = unknown_calls(record)
    notes = [f"not the whole cost: {unknown}"] if unknown else []
    if record.assumed_calls:
        notes.append(f"{plural(record.assumed_calls, 'call')} {ASSUMED_MEANING}")
    if record.waste_nano_usd:
        notes.append(f"{usd(record.waste_nano_usd)} wasted")
    return _cost(record) + cost_mark(record) + (f" ({'; '.join(notes)})" if notes else "")


def _cost(record: ExecutionRecord) -> str:
    if record.cost_nano_usd is not None or not record.model_calls:
        return (ASSUMED if record.assumed_calls else "") + usd(record.cost_nano_usd)
    return "unpriced" if record.unpriced_calls else "unknown"


def _calls(record: ExecutionRecord) -> str:
    failed = f" ({record.failed_calls:,} failed)" if record.failed_calls else ""
    return f"{plural(record.model_calls, 'model call')}{failed}, {plural(record.tool_calls, 'tool call')}"


@dataclass(frozen=True, slots=True)
class DemoShare:
    """The part of a cost report that is the offline model's demo price."""

    total_nano_usd: int
    groups: frozenset[tuple[GroupValue, ...]]


def cost_table(report: CostReport, demo: DemoShare) -> RenderableType:
    """One line per group, highest cost first, and the total; exact to the nano-dollar.

    An execution can use several providers and models, so groups by these count model calls instead of executions.
    """
    by_call = bool({"provider", "model", "node"} & {*report.group_by})
    rows = [row for row in report.rows if row.sums.model_calls or row.sums.unfinished_calls or not by_call]
    if not rows:
        return Text("No model calls in this period." if by_call else "No executions in this period.")
    names = [dimension.replace("_", "\n") for dimension in report.group_by]
    columns = _cost_columns(report.total, by_call=by_call)
    table = plain_table(*names, right=list(columns))
    width = len(_marks(report.total, is_demo=bool(demo.groups)))
    for row in rows:
        table.add_row(
            *(_group_value(plain(value)) for value in row.group),
            *_cells(columns, row.sums, _marks(row.sums, is_demo=row.group in demo.groups).ljust(width)),
        )
    marks = _marks(report.total, is_demo=bool(demo.groups))
    total = ["total", *[""] * (len(names) - 1), *_cells(columns, report.total, marks)]
    table.show_footer = True
    for column, cell in zip(table.columns, total, strict=True):
        column.footer = cell
    notes = [note for note in (legend(report.total), _demo_note(demo), _assumed_note(report.total)) if note]
    return Group(table, *(Text(note, style="dim") for note in notes)) if notes else table


def _marks(sums: Sums, *, is_demo: bool) -> str:
    return cost_mark(sums) + (_DEMO if is_demo else "") + (ASSUMED if sums.assumed_calls else "")


def _demo_note(demo: DemoShare) -> str | None:
    amount = usd(demo.total_nano_usd)
    return f"{_DEMO} {amount} of it is the offline model's demo price: no real money." if demo.groups else None


def _assumed_note(total: Sums) -> str | None:
    amount = usd(total.assumed_nano_usd)
    return f"{ASSUMED} {amount} of it is {ASSUMED_MEANING} (SPANLOOM_PRICES)." if total.assumed_calls else None


_COST = "cost\nUSD"
_DEMO = "†"


def _cost_columns(total: Sums, *, by_call: bool) -> dict[str, Callable[[Sums], str]]:
    """Column heading to cell. Failures that callers caused and waste have a column only if there are any."""
    columns: dict[str, Callable[[Sums], str]]
    if by_call:
        columns = {"model\ncalls": lambda sums: count(sums.model_calls)}
    elif total.failed_by_caller:
        columns = {
            "execu-\ntions": lambda sums: count(sums.executions),
            "failed": _failed,
            "caller\nerrors": lambda sums: count(sums.failed_by_caller),
        }
    else:
        columns = {"executions": lambda sums: count(sums.executions), "failed": _failed}
    columns |= {
        "tokens\nin": lambda sums: count(sums.input_tokens),
        "tokens\nout": lambda sums: count(sums.output_tokens),
        _COST: lambda sums: usd(sums.cost_nano_usd, every_digit=True),
        "un-\npriced": lambda sums: count(sums.unpriced_calls),
    }
    if total.unfinished_calls:
        columns["at most\nUSD"] = lambda sums: usd(sums.cost_upper_nano_usd, every_digit=True)
    if total.failed_calls:
        columns["failed\ncalls"] = lambda sums: count(sums.failed_calls)
    if total.waste_nano_usd:
        columns["waste\nUSD"] = lambda sums: usd(sums.waste_nano_usd, every_digit=True)
    return columns


def _cells(columns: dict[str, Callable[[Sums], str]], sums: Sums, marks: str) -> list[str]:
    return [cell(sums) + (marks if heading == _COST else "") for heading, cell in columns.items()]


def _failed(sums: Sums) -> str:
    """Failures and their rate, without failures that the caller caused."""
    failed = sums.counted_failures
    return f"{count(failed)} ({percent(failed, sums.counted_executions)})" if failed else "0"


def _group_value(value: GroupValue) -> str:
    if isinstance(value, datetime):
        return value.date().isoformat()
    return UNKNOWN if value is None else str(value)


def validation_view(name: str, report: ValidationReport) -> Text:
    """Every issue of one document: its place, what is wrong, and how to fix it."""
    name, report = plain(name), plain(report)
    text = Text()
    mark, style = _MARKS["ok" if report.valid else "fail"]
    text.append(f"{mark} {name}", style=style)
    text.append(f"  {_found(report)}\n")
    for issue in report.issues:
        text.append_text(_issue(issue))
    if report.truncated:
        text.append(f"  only the first {len(report.issues)} are shown\n", style="dim")
    return text


def _found(report: ValidationReport) -> str:
    counts = report.counts
    parts = [(counts.error, "error"), (counts.warning, "warning"), (counts.info, "info")]
    found = ", ".join(plural(number, name) for number, name in parts if number)
    return found or f"valid, {report.content_hash}"


def _issue(issue: Issue) -> Text:
    level: dict[Severity, Level] = {Severity.ERROR: "fail", Severity.WARNING: "warn", Severity.INFO: "info"}
    mark, style = _MARKS[level[issue.severity]]
    text = Text(f"  {mark} {issue.code}", style=style)
    text.append(f"  {issue.pointer or '/'}\n", style="dim")
    text.append(f"      {issue.message} {issue.hint}\n")
    return text


@dataclass(frozen=True, slots=True)
class Check:
    """One finding of `doctor`, with advice if something is to be done."""

    name: str
    level: Level
    finding: str
    advice: str = ""


def checks_view(checks: Sequence[Check]) -> Table:
    """One line per check."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for check in checks:
        mark, style = _MARKS[check.level]
        text = Text(check.finding)
        if check.advice:
            text.append(f"\n{check.advice}", style="dim")
        grid.add_row(Text(mark, style=style), check.name, text)
    return grid


def dead_letters_table(found: Sequence["DeadLetterGroup"]) -> RenderableType:
    """One line for all dead letters of a consumer with the same reason."""
    if not found:
        return Text("No dead letters.")
    table = plain_table("consumer", "since (UTC)", "next try (UTC)", right=["signals"])
    table.add_column("reason", overflow="fold")
    for group in plain(found):
        cells = (group.consumer, moment(group.since), moment(group.next_try_at), count(group.letters), group.reason)
        table.add_row(*cells)
    return table


def plain_table(*names: str, right: Sequence[str]) -> Table:
    """An empty table with these columns; those in `right` are for numbers."""
    table = Table(
        box=_BOX, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", footer_style="bold"
    )
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _status(status: str, error_type: str | None = None) -> Text:
    return Text(f"{status}: {error_type}" if error_type else status, style=STATUS_STYLES.get(status, ""))
