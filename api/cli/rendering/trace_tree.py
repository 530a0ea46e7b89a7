"""Span trees: a plain one for tests and documents, and one with duration bars for the terminal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from api.cli.rendering.formatting import (
    ASSUMED,
    ASSUMED_MEANING,
    UNKNOWN,
    cost_mark,
    duration,
    legend,
    moment,
    tokens,
    usd,
)
from api.cli.rendering.plain import plain
from engine.resources import STANDARD_TIERS, UNPRICED_MEANING, CostSource, Unpriced
from telemetry.reads.executions import ExecutionRecord, Seal
from telemetry.reads.traces import Trace, TraceSpan

MIN_WIDTH = 60
_BAR_ENDS = "▏▎▍▌▋▊▉█"
_MIN_BAR = 12
_MAX_BAR = 48
_STYLES = {
    "workflow": "bold",
    "node": "",
    "model": "magenta",
    "tool": "yellow",
    "retrieval": "cyan",
}
STATUS_STYLES = {
    "completed": "green",
    "failed": "bold red",
    "cancelled": "yellow",
    "retrying": "yellow",
    "running": "cyan",
    "queued": "cyan",
}
_SHORT_NAMES = {"workflow": "invoke_workflow ", "node": "execute_node ", "tool": "execute_"}


def span_tree(spans: Iterable[TraceSpan]) -> str:
    """One line per span: its name, its status unless it is a completed child, and its error type.

    Children are indented by two columns and ordered by start; overlapping siblings are ordered by name, so that the
    tree does not depend on timing.
    """
    spans = list(spans)
    ids = {span.span_id for span in spans}
    children: dict[str | None, list[TraceSpan]] = {}
    for span in spans:
        children.setdefault(span.parent_span_id if span.parent_span_id in ids else None, []).append(span)
    return "\n" + "".join(f"{line}\n" for line in _tree_lines(children, None, 0))


def _tree_lines(children: dict[str | None, list[TraceSpan]], parent: str | None, depth: int) -> Iterator[str]:
    for span in _by_start(children.get(parent, [])):
        status = span.status if depth == 0 or span.status != "completed" else None
        yield "  ".join(["  " * depth + span.name, *(note for note in (status, span.error_type) if note)])
        yield from _tree_lines(children, span.span_id, depth + 1)


def _by_start(siblings: list[TraceSpan]) -> Iterator[TraceSpan]:
    """Siblings ordered by start; overlapping ones by name."""
    ordered = sorted(siblings, key=lambda span: (span.started_at, _end(span, span.started_at), span.span_id))
    group: list[TraceSpan] = []
    last_end: datetime | None = None
    for span in ordered:
        if last_end is not None and span.started_at >= last_end:
            yield from sorted(group, key=lambda each: each.name)
            group, last_end = [], None
        group.append(span)
        end = _end(span, span.started_at)
        last_end = end if last_end is None else max(last_end, end)
    yield from sorted(group, key=lambda each: each.name)


def _end(span: TraceSpan, otherwise: datetime) -> datetime:
    return otherwise if span.duration_us is None else span.started_at + timedelta(microseconds=span.duration_us)


def trace_header(record: ExecutionRecord) -> Text:
    """The workflow, its status, duration, id and start, and the error if it failed."""
    record = plain(record)
    text = Text(f"{record.workflow_name}  ", style="bold")
    text.append(record.status, style=STATUS_STYLES.get(record.status, ""))
    text.append(f"  {duration(record.duration_ms)}", style="not bold")
    text.append(f"\n{record.id}  ·  {_start(record)}", style="not bold dim")
    if record.error_type is not None:
        place = f" at node {record.error_node_id}" if record.error_node_id else ""
        text.append(f"\n{record.error_type}{place}: {record.error_message or ''}", style="not bold red")
    return text


def trace_view(trace: Trace, record: ExecutionRecord, *, width: int) -> Text:
    """The span tree with duration bars, duration, tokens, cost and errors, and the seal below."""
    trace, view = plain(trace), Text(no_wrap=True, overflow="ellipsis")
    for attempt, spans in groupby(trace.spans, key=lambda span: span.attempt):
        if len(trace.attempts) > 1:
            view.append(f"attempt {attempt}\n", style="bold")
        view.append_text(_attempt_view(list(spans), record, max(width, MIN_WIDTH)))
    view.append_text(_seal(trace.seal, len(trace.spans), is_cut=trace.end is not None))
    view.append(f"  ·  trace {record.trace_id or UNKNOWN}", style="dim")
    if note := legend(record):
        view.append(f"\n{note}", style="yellow")
    return view


def _start(record: ExecutionRecord) -> str:
    return "not started" if record.started_at is None else f"{moment(record.started_at)} UTC"


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the tree, as text per column."""

    span: TraceSpan
    guides: str
    name: str
    duration: str
    tokens: str
    cost: str

    @property
    def label(self) -> str:
        """The first column."""
        return self.guides + self.name


def _attempt_view(spans: Sequence[TraceSpan], record: ExecutionRecord, width: int) -> Text:
    spans = [replace(span, depth=span.depth - spans[0].depth) for span in spans]
    rows = [_row(span, guides, record) for span, guides in zip(spans, _guides(spans), strict=True)]
    start = min(span.started_at for span in spans)
    end = max(_end(span, span.started_at) for span in spans)
    fixed = [max(cell_len(text(row)) for row in rows) for text in _NUMBERS]
    room = width - sum(fixed) - 2 * (len(fixed) + 1)
    longest = max(cell_len(row.label) for row in rows)
    label_width = min(longest, max(room - _MIN_BAR, 16))
    bar_width = max(min(room - label_width, _MAX_BAR), 1)
    view = Text()
    for row in rows:
        view.append(row.guides, style="dim")
        view.append(_fit(row.name, label_width - cell_len(row.guides)), style=_style(row.span))
        view.append("  ")
        view.append(_bar(row.span, start, end, bar_width), style=_style(row.span) or "blue")
        numbers = "".join("  " + text(row).rjust(size) for text, size in zip(_NUMBERS, fixed, strict=True))
        view.append(f"{numbers.rstrip()}\n")
        view.append_text(_problem(row))
        view.append_text(_bill(row))
    return view


_NUMBERS: tuple[Callable[[_Row], str], ...] = (lambda row: row.duration, lambda row: row.tokens, lambda row: row.cost)


def _row(span: TraceSpan, guides: str, record: ExecutionRecord) -> _Row:
    is_root = span.span_id == record.root_span_id
    used = record if is_root else span
    has_call = span.kind == "model" or (is_root and record.model_calls + record.unfinished_calls > 0)
    return _Row(
        span=span,
        guides=guides,
        name=_short_name(span),
        duration="…" if span.duration_us is None else duration(span.duration_us / 1_000),
        tokens=tokens(used.input_tokens, used.output_tokens) if has_call else "",
        cost=_cost(used) + (cost_mark(record) if is_root else "") if has_call else "",
    )


def _cost(used: ExecutionRecord | TraceSpan) -> str:
    if used.cost_nano_usd is None:
        return "unknown" if used.input_tokens is None or used.output_tokens is None else "unpriced"
    if isinstance(used, ExecutionRecord):
        is_assumed = bool(used.assumed_calls)
    else:
        is_assumed = used.cost_source == CostSource.ASSUMED
    return (ASSUMED if is_assumed else "") + usd(used.cost_nano_usd)


def _short_name(span: TraceSpan) -> str:
    name = span.name.removeprefix(_SHORT_NAMES.get(span.kind, ""))
    return f"{name} #{span.node_attempt}" if span.kind == "node" and (span.node_attempt or 1) > 1 else name


def _guides(spans: Sequence[TraceSpan]) -> list[str]:
    """The branch lines before each span; the spans are in depth-first order."""
    drawn: list[str] = []
    open_depths: set[int] = set()
    for span in reversed(spans):
        depth = span.depth
        open_depths = {each for each in open_depths if each <= depth}
        above = "".join("│ " if level in open_depths else "  " for level in range(1, depth))
        corner = "" if depth == 0 else "├ " if depth in open_depths else "└ "
        drawn.append(above + corner)
        open_depths.add(depth)
    return drawn[::-1]


def _bar(span: TraceSpan, start: datetime, end: datetime, width: int) -> str:
    """The position of the span within its attempt, to an eighth of a column."""
    whole = max((end - start) / timedelta(microseconds=1), 1.0)
    first = min(int((span.started_at - start) / timedelta(microseconds=1) / whole * width), width - 1)
    if span.duration_us is None:
        return (" " * first + "░" * (width - first)).ljust(width)
    eighths = max(round(span.duration_us / whole * width * 8), 1)
    eighths = min(eighths, (width - first) * 8)
    full, part = divmod(eighths, 8)
    return (" " * first + "█" * full + (_BAR_ENDS[part - 1] if part else "")).ljust(width)


def _problem(row: _Row) -> Text:
    """A line below a span that did not complete, with its status and error type."""
    span = row.span
    if span.status == "completed" or (span.status == "running" and span.error_type is None):
        return Text()
    guides = row.guides.replace("├", "│").replace("└", " ")
    sentence = f"{span.status}: {span.error_type}" if span.error_type else span.status
    mark = "‖" if span.status == "paused" else "✗"
    return Text.assemble((guides, "dim"), (f"{mark} {sentence}\n", STATUS_STYLES.get(span.status, "red")))


def _bill(row: _Row) -> Text:
    """A line below a model call about its price, where it is not simply the provider's list price."""
    span, notes = row.span, []
    if span.service_tier is not None and span.service_tier not in STANDARD_TIERS:
        notes.append(f"service tier {span.service_tier}")
    if span.cost_source == CostSource.ASSUMED:
        notes.append(ASSUMED_MEANING)
    if span.cost_source == CostSource.PROVIDER:
        notes.append("cost as the provider reported it")
    elif span.provider_nano_usd not in (None, span.cost_nano_usd):
        notes.append(f"the provider reported {usd(span.provider_nano_usd)}")
    if span.unpriced_reason in UNPRICED_MEANING:
        notes.append(f"unpriced: {UNPRICED_MEANING[Unpriced(span.unpriced_reason)]}")
    guides = row.guides.replace("├", "│").replace("└", " ")
    return Text.assemble((f"{guides}  {' · '.join(notes)}\n", "dim")) if notes else Text()


def _style(span: TraceSpan) -> str:
    return "red" if span.status == "failed" else _STYLES.get(span.kind, "")


def _seal(seal: Seal, shown: int, *, is_cut: bool) -> Text:
    expected = "?" if seal.expected is None else f"{seal.expected}"
    text = Text("seal ", style="dim")
    text.append(f"{seal.stored}/{expected} spans", style="green" if seal.complete else "yellow")
    if seal.expected is None:
        text.append(" (not finished)", style="dim")
    elif not seal.complete:
        text.append(f" ({seal.expected - seal.stored} missing)", style="yellow")
    if seal.pruned_at is not None:
        text.append(f"  ·  the spans were deleted {moment(seal.pruned_at)} UTC, when they were due", style="dim")
    if is_cut:
        text.append(f"  ·  only the first {shown} are shown", style="dim")
    return text


def _fit(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, max(width - 1, 0)) + "…"
