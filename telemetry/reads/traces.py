"""Reads of an execution's trace: its spans as a tree, page by page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from itertools import pairwise

from sqlalchemy import select
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.graph import JsonObject
from telemetry.reads.executions import ExecutionRecord, Seal, get_execution
from telemetry.store.tables import spans


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """One span of a trace, `depth` levels below the root. `duration_us` is null while it runs."""

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
    unpriced_reason: str | None = None
    service_tier: str | None = None
    provider_nano_usd: int | None = None
    waste: str | None = None
    error_type: str | None = None
    attributes: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of an execution and its root span."""

    attempt: int
    trace_id: str
    root_span_id: str


@dataclass(frozen=True, slots=True)
class Trace:
    """A page of an execution's spans, depth first; `end` is the id of its last span, null on the last page."""

    execution_id: str
    record_level: str
    attempts: list[Attempt]
    seal: Seal
    spans: list[TraceSpan]
    end: str | None


class UnknownCursor(ValueError):
    """The cursor names no span of this trace."""


async def get_trace(
    connection: AsyncConnection,
    execution_id: str,
    owner: str | None,
    *,
    attempt: int | None = None,
    limit: int = 1_000,
    after: str | None = None,
) -> Trace | None:
    """A page of the execution's spans; null if there is no such execution. Raises `UnknownCursor`."""
    record = await get_execution(connection, execution_id, owner)
    if record is None:
        return None
    nodes = await _tree_nodes(connection, record, attempt)
    ordered = _depth_first(nodes)
    start = 0
    if after is not None:
        start = 1 + next((index for index, (node, _) in enumerate(ordered) if node.span_id == after), len(ordered))
        if start > len(ordered):
            raise UnknownCursor
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
    """The fields of a span that order a trace; nodes compare as siblings are sorted."""

    attempt: int
    started_at: datetime
    started_nanos: int
    span_id: str
    parent_span_id: str | None = field(compare=False)
    trace_id: str = field(compare=False)
    is_workflow: bool = field(compare=False)


async def _tree_nodes(connection: AsyncConnection, record: ExecutionRecord, attempt: int | None) -> list[_TreeNode]:
    """Every stored span, and the open root of a running attempt."""
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
        first = next((node.span_id for node in sorted(nodes) if node.is_workflow), None)
        nodes.append(_TreeNode(root.attempt, root.started_at, 0, root.span_id, first, root.trace_id, True))
    return [node for node in nodes if attempt is None or node.attempt == attempt]


def _open_root(record: ExecutionRecord) -> TraceSpan | None:
    """The root span as control knows it, since a span is stored only when it ends."""
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
    """Each span with its depth: parents before children, siblings by start time.

    A span whose parent is not stored (still running, or in the caller's trace) is placed under its attempt's root.
    """
    nodes = list(nodes)
    known = {node.span_id: node.attempt for node in nodes}
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


def _is_root(node: _TreeNode, known: Mapping[str, int]) -> bool:
    """Whether a span is the root of its attempt; a later one is a child of the first. `known`: span id to attempt."""
    return node.is_workflow and known.get(node.parent_span_id or "") != node.attempt


def _attempts(nodes: Iterable[_TreeNode]) -> list[Attempt]:
    nodes = sorted(nodes)
    known = {node.span_id: node.attempt for node in nodes}
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
            read.append(replace(root, depth=depth, parent_span_id=node.parent_span_id))
    return read


_IDS_PER_QUERY = 500
_SPAN_COLUMNS = [spans.c[item.name] for item in fields(TraceSpan) if item.name != "depth"]
