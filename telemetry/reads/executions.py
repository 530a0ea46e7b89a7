"""What the API and the command line read: executions, their traces, and cost per group.

Every query takes the owner; `None` is every owner and is for whoever runs the service.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from itertools import pairwise

from sqlalchemy import ColumnElement, Select, and_, or_, select, tuple_
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.graph import JsonObject
from engine.result import Status
from engine.store.tables import execution_control
from telemetry.records.rollups import accepted_at
from telemetry.store.tables import TOKEN_COLUMNS, executions, spans


@dataclass(frozen=True, slots=True)
class Seal:
    """How many spans the execution said it made, and how many are stored. `expected` is null until it has ended."""

    expected: int | None
    stored: int

    @property
    def complete(self) -> bool:
        """Nothing is missing."""
        return self.expected == self.stored


@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """The record of one execution, by the columns of `executions`."""

    id: str
    owner_id: str
    status: str
    attempt: int
    workflow_name: str
    workflow_source: str
    template_id: str | None
    template_version: int | None
    definition_id: str | None
    graph_hash: str | None
    conversation_id: str | None
    correlation_id: str | None
    trace_id: str | None
    root_span_id: str | None
    trigger: str | None
    streaming: bool | None
    record_level: str
    queued_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: int | None
    time_to_first_token_ms: int | None
    time_queue_ms: int | None
    time_model_ms: int | None
    time_tool_ms: int | None
    time_retry_ms: int | None
    time_human_ms: int | None
    time_engine_ms: int | None
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    cost_nano_usd: int | None
    unpriced_calls: int
    waste_nano_usd: int
    unfinished_calls: int
    cost_upper_nano_usd: int | None
    model_calls: int
    tool_calls: int
    nodes_total: int
    nodes_failed: int
    nodes_retried: int
    spans_expected: int | None
    spans_stored: int
    error_type: str | None
    error_message: str | None
    error_node_id: str | None
    cancel_reason: str | None
    retry_of: str | None
    tags: JsonObject
    params: JsonObject

    @property
    def seal(self) -> Seal:
        """Whether all spans are here."""
        return Seal(self.spans_expected, self.spans_stored)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: the row's `queued_at` and id."""

    queued_at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Which executions; an empty field filters nothing. `since` and `until` bound `queued_at`, half-open."""

    owner: str | None = None
    status: Sequence[str] = ()
    error_type: Sequence[str] = ()
    source: str | None = None
    template: str | None = None
    """Id or key."""
    template_version: int | None = None
    definition: str | None = None
    """Id or slug."""
    conversation_id: str | None = None
    correlation_id: str | None = None
    trace_id: str | None = None
    retry_of: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    duration_ms_min: int | None = None
    duration_ms_max: int | None = None
    cost_nano_usd_min: int | None = None
    cost_nano_usd_max: int | None = None
    unpriced: bool | None = None


@dataclass(frozen=True, slots=True)
class ExecutionPage:
    """A page of executions; `end` is null on the last one."""

    items: list[ExecutionRecord]
    end: Position | None


async def list_executions(
    connection: AsyncConnection,
    wanted: ExecutionFilter,
    *,
    limit: int = 50,
    after: Position | None = None,
    oldest_first: bool = False,
) -> ExecutionPage:
    """Executions, newest first unless asked otherwise."""
    key = tuple_(executions.c.queued_at, executions.c.id)
    statement = select(*_RECORD_COLUMNS).where(*_conditions(wanted))
    if after is not None:
        # A typed tuple, so that the time is written as the column writes it.
        end = tuple_(after.queued_at, after.id, types=[executions.c.queued_at.type, executions.c.id.type])
        statement = statement.where(key > end if oldest_first else key < end)
    order = (executions.c.queued_at, executions.c.id)
    statement = statement.order_by(*(order if oldest_first else (column.desc() for column in order)))
    rows = (await connection.execute(statement.limit(limit + 1))).mappings().all()
    items = [ExecutionRecord(**row) for row in rows[:limit]]
    more = len(rows) > limit
    return ExecutionPage(items, Position(items[-1].queued_at, items[-1].id) if more else None)


async def get_execution(connection: AsyncConnection, execution_id: str, owner: str | None) -> ExecutionRecord | None:
    """The record; where it is not there yet or lags behind, what control has decided. Null: no such execution."""
    mine = [executions.c.id == execution_id, *([executions.c.owner_id == owner] if owner is not None else [])]
    row = (await connection.execute(select(*_RECORD_COLUMNS).where(*mine))).mappings().one_or_none()
    if row is not None and Status(row["status"]).is_terminal:
        return ExecutionRecord(**row)
    control = await _control(connection, execution_id, owner)
    if row is None:
        return None if control is None else _from_control(control)
    record = ExecutionRecord(**row)
    return record if control is None or control["status"] == record.status else _decided(record, control)


def _decided(record: ExecutionRecord, control: RowMapping) -> ExecutionRecord:
    """The record lags behind: what it is now, and if it has ended what its caller was told."""
    decided: dict[str, object] = {"status": control["status"], "attempt": max(record.attempt, control["attempt"])}
    if Status(control["status"]).is_terminal:
        decided |= {"completed_at": control["finished_at"]} | _from_result(control["result"])
    return replace(record, **decided)  # type: ignore[arg-type]  # every column has its own type


async def find_ids(connection: AsyncConnection, beginning: str, owner: str | None, *, limit: int) -> list[str]:
    """Executions whose id begins like this, newest first; those the pipeline has not recorded yet count too."""
    found: set[str] = set()
    tables = (
        (executions.c.id, executions.c.owner_id),
        (execution_control.c.execution_id, execution_control.c.owner_id),
    )
    for id_column, owner_column in tables:
        mine = [owner_column == owner] if owner is not None else []
        statement = select(id_column).where(id_column.startswith(beginning, autoescape=True), *mine)
        found |= set((await connection.execute(statement.order_by(id_column.desc()).limit(limit))).scalars())
    return sorted(found, reverse=True)[:limit]


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """One span of a trace, `depth` below its root. `duration_us` is null while it runs."""

    depth: int
    span_id: str
    parent_span_id: str | None
    trace_id: str
    attempt: int
    kind: str
    name: str
    node_id: str | None
    node_type: str | None
    node_attempt: int | None
    path: str | None
    status: str
    started_at: datetime
    duration_us: int | None
    provider: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_nano_usd: int | None = None
    cost_source: str | None = None
    price_version: str | None = None
    waste: str | None = None
    error_type: str | None = None
    attributes: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of an execution and the root of its spans."""

    attempt: int
    trace_id: str
    root_span_id: str


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of an execution in depth-first order; `end` is the last span's id, null on the last page."""

    execution_id: str
    record_level: str
    attempts: list[Attempt]
    seal: Seal
    spans: list[TraceSpan]
    end: str | None


class UnknownPosition(ValueError):
    """The trace has no such span to go on from."""


async def get_trace(
    connection: AsyncConnection,
    execution_id: str,
    owner: str | None,
    *,
    attempt: int | None = None,
    limit: int = 1_000,
    after: str | None = None,
) -> Trace | None:
    """A page of the execution's spans; null if there is no such execution. Raises `UnknownPosition`."""
    record = await get_execution(connection, execution_id, owner)
    if record is None:
        return None
    nodes = await _tree_nodes(connection, record, attempt)
    ordered = _depth_first(nodes)
    start = 0
    if after is not None:
        start = 1 + next((index for index, (node, _) in enumerate(ordered) if node.span_id == after), len(ordered))
        if start > len(ordered):
            raise UnknownPosition
    page = ordered[start : start + limit]
    return Trace(
        execution_id=record.id,
        record_level=record.record_level,
        attempts=_attempts(nodes),
        seal=record.seal,
        spans=await _read_spans(connection, record, page),
        end=page[-1][0].span_id if start + limit < len(ordered) else None,
    )


@dataclass(frozen=True, slots=True, order=True)
class _TreeNode:
    """What the order of a trace needs of a span; sorts as siblings do."""

    attempt: int
    started_at: datetime
    started_nanos: int
    span_id: str
    parent_span_id: str | None = field(compare=False)
    trace_id: str = field(compare=False)
    is_workflow: bool = field(compare=False)


async def _tree_nodes(connection: AsyncConnection, record: ExecutionRecord, attempt: int | None) -> list[_TreeNode]:
    """Every stored span, and the root of what still runs."""
    statement = select(
        spans.c.attempt,
        spans.c.started_at,
        spans.c.started_nanos,
        spans.c.span_id,
        spans.c.parent_span_id,
        spans.c.trace_id,
        spans.c.kind == "workflow",
    ).where(spans.c.execution_id == record.id)
    nodes = [_TreeNode(*row) for row in await connection.execute(statement)]
    root = _open_root(record)
    if root is not None and all(node.span_id != root.span_id for node in nodes):
        nodes.append(_TreeNode(root.attempt, root.started_at, 0, root.span_id, None, root.trace_id, True))
    return [node for node in nodes if attempt is None or node.attempt == attempt]


def _open_root(record: ExecutionRecord) -> TraceSpan | None:
    """The root span as control knows it; it is not stored before it ends."""
    if record.root_span_id is None or record.trace_id is None or record.started_at is None:
        return None
    return TraceSpan(
        depth=0,
        span_id=record.root_span_id,
        parent_span_id=None,
        trace_id=record.trace_id,
        attempt=record.attempt,
        kind="workflow",
        name=f"invoke_workflow {record.workflow_name}",
        node_id=None,
        node_type=None,
        node_attempt=None,
        path=None,
        status=record.status,
        started_at=record.started_at,
        duration_us=None,
    )


def _depth_first(nodes: Iterable[_TreeNode]) -> list[tuple[_TreeNode, int]]:
    """Each span with its depth, a parent before its children, siblings by their start.

    A span whose parent is not stored (it still runs, or belongs to the caller) stands under its attempt's root.
    """
    nodes = list(nodes)
    known = {node.span_id for node in nodes}
    roots = {node.attempt: node.span_id for node in sorted(nodes, reverse=True) if _is_root(node, known)}
    children: dict[str | None, list[_TreeNode]] = {}
    for node in nodes:
        parent = node.parent_span_id if node.parent_span_id in known else roots.get(node.attempt)
        children.setdefault(None if parent == node.span_id else parent, []).append(node)
    ordered: list[tuple[_TreeNode, int]] = []
    open_nodes = [(node, 0) for node in sorted(children.get(None, ()), reverse=True)]
    while open_nodes:
        node, depth = open_nodes.pop()
        ordered.append((node, depth))
        open_nodes += [(child, depth + 1) for child in sorted(children.get(node.span_id, ()), reverse=True)]
    return ordered


def _is_root(node: _TreeNode, known: set[str]) -> bool:
    return node.is_workflow and node.parent_span_id not in known


def _attempts(nodes: Iterable[_TreeNode]) -> list[Attempt]:
    nodes = sorted(nodes)
    known = {node.span_id for node in nodes}
    return [Attempt(node.attempt, node.trace_id, node.span_id) for node in nodes if _is_root(node, known)]


async def _read_spans(
    connection: AsyncConnection, record: ExecutionRecord, page: Sequence[tuple[_TreeNode, int]]
) -> list[TraceSpan]:
    ids = [node.span_id for node, _ in page]
    found: dict[str, RowMapping] = {}
    for start, end in pairwise([*range(0, len(ids), _IDS_PER_QUERY), len(ids)]):
        statement = select(*_SPAN_COLUMNS).where(spans.c.execution_id == record.id, spans.c.span_id.in_(ids[start:end]))
        found |= {row["span_id"]: row for row in (await connection.execute(statement)).mappings()}
    root = _open_root(record)
    read: list[TraceSpan] = []
    for node, depth in page:
        if node.span_id in found:
            read.append(TraceSpan(depth=depth, **found[node.span_id]))
        elif root is not None:
            read.append(root)
    return read


_IDS_PER_QUERY = 500
_RECORD_COLUMNS = [executions.c[item.name] for item in fields(ExecutionRecord)]
_SPAN_COLUMNS = [spans.c[item.name] for item in fields(TraceSpan) if item.name != "depth"]


def _conditions(wanted: ExecutionFilter) -> list[ColumnElement[bool]]:
    c = executions.c
    equal = {
        c.owner_id: wanted.owner,
        c.workflow_source: wanted.source,
        c.template_version: wanted.template_version,
        c.conversation_id: wanted.conversation_id,
        c.correlation_id: wanted.correlation_id,
        c.trace_id: wanted.trace_id,
        c.retry_of: wanted.retry_of,
    }
    conditions: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value is not None]
    if wanted.status:
        conditions.append(c.status.in_(wanted.status))
    if wanted.error_type:
        conditions.append(c.error_type.in_(wanted.error_type))
    if wanted.template is not None:
        by_key = and_(c.workflow_source == "template", c.workflow_name == wanted.template)
        conditions.append(or_(c.template_id == wanted.template, by_key))
    if wanted.definition is not None:
        by_slug = and_(c.workflow_source == "definition", c.workflow_name == wanted.definition)
        conditions.append(or_(c.definition_id == wanted.definition, by_slug))
    if wanted.unpriced is not None:
        conditions.append(c.unpriced_calls > 0 if wanted.unpriced else c.unpriced_calls == 0)
    return [*conditions, *_ranges(wanted)]


def _ranges(wanted: ExecutionFilter) -> list[ColumnElement[bool]]:
    c = executions.c
    ranges: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        ranges.append(c.queued_at >= wanted.since)
    if wanted.until is not None:
        ranges.append(c.queued_at < wanted.until)
    for column, least, most in (
        (c.duration_ms, wanted.duration_ms_min, wanted.duration_ms_max),
        (c.cost_nano_usd, wanted.cost_nano_usd_min, wanted.cost_nano_usd_max),
    ):
        if least is not None:
            ranges.append(column >= least)
        if most is not None:
            ranges.append(column <= most)
    return ranges


async def _control(connection: AsyncConnection, execution_id: str, owner: str | None) -> RowMapping | None:
    statement: Select[tuple[object, ...]] = select(*(execution_control.c[name] for name in _CONTROL_COLUMNS)).where(
        execution_control.c.execution_id == execution_id
    )
    if owner is not None:
        statement = statement.where(execution_control.c.owner_id == owner)
    return (await connection.execute(statement)).mappings().one_or_none()


_CONTROL_COLUMNS = (
    "execution_id",
    "owner_id",
    "status",
    "attempt",
    "workflow_name",
    "source",
    "graph_hash",
    "conversation_id",
    "correlation_id",
    "trace_id",
    "root_span_id",
    "root_started_at",
    "cancel_reason",
    "finished_at",
    "result",
    "subject",
)
_SUBJECT_COLUMNS = (
    "template_id",
    "template_version",
    "definition_id",
    "trigger",
    "streaming",
    "record_level",
    "retry_of",
    "tags",
    "params",
)


def _from_control(control: RowMapping) -> ExecutionRecord:
    """A record with what was decided; what the signals would say is not known yet."""
    known: dict[str, object] = dict.fromkeys(item.name for item in fields(ExecutionRecord))
    known |= dict.fromkeys(_COUNT_NAMES, 0)
    known |= {"record_level": "full", "tags": {}, "params": {}}
    known |= {name: control[name] for name in _CONTROL_COLUMNS if name in known}
    known |= {name: value for name, value in (control["subject"] or {}).items() if name in _SUBJECT_COLUMNS}
    return ExecutionRecord(
        **known
        | (_from_result(control["result"]) if control["finished_at"] is not None else {})
        | {
            "id": control["execution_id"],
            "workflow_source": control["source"],
            "queued_at": accepted_at(str(control["execution_id"])),
            "started_at": None if control["status"] == Status.QUEUED else control["root_started_at"],
            "completed_at": control["finished_at"],
        }  # type: ignore[arg-type]  # every field of the record has its value here, by name
    )


def _from_result(result: JsonObject | None) -> dict[str, object]:
    """What the caller was told at the end, by the columns of a record; nothing before."""
    if result is None:
        return {}
    usage = result.get("usage")
    tokens: dict[str, object] = {name: usage.get(name) for name in TOKEN_COLUMNS} if isinstance(usage, dict) else {}
    return {column: result[name] for column, name in _TOLD.items() if name in result} | tokens


_TOLD = {
    "error_type": "error_type",
    "error_message": "error_message",
    "duration_ms": "duration_ms",
    "cost_nano_usd": "cost_nano_usd",
    "unpriced_calls": "unpriced_calls",
    "waste_nano_usd": "waste_nano_usd",
    "model_calls": "model_calls",
    "tool_calls": "tool_calls",
    "nodes_total": "node_executions",
}
"""Column of a record to the field of a result that says the same."""

_COUNT_NAMES = (
    "unpriced_calls",
    "waste_nano_usd",
    "unfinished_calls",
    "model_calls",
    "tool_calls",
    "nodes_total",
    "nodes_failed",
    "nodes_retried",
    "spans_stored",
)
