"""Reads of execution records, for the API and the command line.

Every query takes the owner; `None` means every owner and is meant for the operator of the service.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime

from sqlalchemy import ColumnElement, and_, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.graph import JsonObject
from engine.result import Status
from engine.store import control_reads
from engine.store.control_reads import ControlSummary
from engine.usage import TOKEN_FIELDS
from telemetry.reads.workflow_labels import WorkflowColumns, has_label
from telemetry.records.rollups import accepted_at
from telemetry.store.tables import executions


@dataclass(frozen=True, slots=True)
class Seal:
    """How many spans the execution reported and how many are stored. `expected` is null until it has ended."""

    expected: int | None
    stored: int
    pruned_at: datetime | None = None
    """When retention deleted the stored spans."""

    @property
    def complete(self) -> bool:
        """Whether all spans are stored."""
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
    unmetered_calls: int
    failed_calls: int
    assumed_calls: int
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
    error_class: str | None
    error_message: str | None
    error_node_id: str | None
    cancel_reason: str | None
    retry_of: str | None
    tags: JsonObject
    params: JsonObject
    spans_pruned_at: datetime | None = None

    @property
    def is_unsaved(self) -> bool:
        """Whether it ran a template that is stored nowhere."""
        return self.workflow_source == "template" and self.template_id is None

    @property
    def seal(self) -> Seal:
        """The seal of the execution."""
        return Seal(self.spans_expected, self.spans_stored, self.spans_pruned_at)


@dataclass(frozen=True, slots=True)
class ExecutionCursor:
    """The last row of a page, by its `queued_at` and id."""

    queued_at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Selects executions; an empty field filters nothing. `since` and `until` bound `queued_at`, half-open."""

    owner: str | None = None
    status: Sequence[str] = ()
    error_type: Sequence[str] = ()
    error_class: Sequence[str] = ()
    source: str | None = None
    template: str | None = None
    """Id or key; a workflow without a template by its name, as metrics and alerts call it."""
    workflow: str | None = None
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
    """A page of executions; `end` is the cursor of the next page, null on the last one."""

    items: list[ExecutionRecord]
    end: ExecutionCursor | None


async def list_executions(
    connection: AsyncConnection,
    wanted: ExecutionFilter,
    *,
    limit: int = 50,
    after: ExecutionCursor | None = None,
    oldest_first: bool = False,
) -> ExecutionPage:
    """Executions, newest first unless asked otherwise."""
    key = tuple_(executions.c.queued_at, executions.c.id)
    statement = select(*_RECORD_COLUMNS).where(*_conditions(wanted))
    if after is not None:
        # A typed tuple, so that the time is written in the form of the column.
        end = tuple_(after.queued_at, after.id, types=[executions.c.queued_at.type, executions.c.id.type])
        statement = statement.where(key > end if oldest_first else key < end)
    order = (executions.c.queued_at, executions.c.id)
    statement = statement.order_by(*(order if oldest_first else (column.desc() for column in order)))
    rows = (await connection.execute(statement.limit(limit + 1))).mappings().all()
    items = [ExecutionRecord(**row) for row in rows[:limit]]
    more = len(rows) > limit
    return ExecutionPage(items, ExecutionCursor(items[-1].queued_at, items[-1].id) if more else None)


async def get_execution(connection: AsyncConnection, execution_id: str, owner: str | None) -> ExecutionRecord | None:
    """The record, corrected by control where it is missing or lags behind; null if there is no such execution."""
    mine = [executions.c.id == execution_id, *([executions.c.owner_id == owner] if owner is not None else [])]
    row = (await connection.execute(select(*_RECORD_COLUMNS).where(*mine))).mappings().one_or_none()
    if row is not None and Status(row["status"]).is_terminal:
        return ExecutionRecord(**row)
    control = await control_reads.get_summary(connection, execution_id, owner)
    if row is None:
        return None if control is None else _from_control(control)
    record = ExecutionRecord(**row)
    return record if control is None or control.status == record.status else _decided(record, control)


def _decided(record: ExecutionRecord, control: ControlSummary) -> ExecutionRecord:
    """A lagging record with the status of control and, if the execution has ended, the values of its result."""
    decided: dict[str, object] = {"status": control.status, "attempt": max(record.attempt, control.attempt)}
    if Status(control.status).is_terminal:
        decided |= {"completed_at": control.finished_at} | _from_result(control.result)
    return replace(record, **decided)  # type: ignore[arg-type]  # every column has its own type


async def find_ids(connection: AsyncConnection, beginning: str, owner: str | None, *, limit: int) -> list[str]:
    """Ids of executions that start with a prefix, newest first, including executions without a record yet."""
    mine = [executions.c.owner_id == owner] if owner is not None else []
    statement = select(executions.c.id).where(executions.c.id.startswith(beginning, autoescape=True), *mine)
    recorded = (await connection.execute(statement.order_by(executions.c.id.desc()).limit(limit))).scalars()
    accepted = await control_reads.find_ids(connection, beginning, owner, limit=limit)
    return sorted({*recorded, *accepted}, reverse=True)[:limit]


_RECORD_COLUMNS = [executions.c[item.name] for item in fields(ExecutionRecord)]


def _conditions(wanted: ExecutionFilter) -> list[ColumnElement[bool]]:
    c = executions.c
    equal = {
        c.owner_id: wanted.owner,
        c.workflow_source: wanted.source,
        c.workflow_name: wanted.workflow,
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
    if wanted.error_class:
        conditions.append(c.error_class.in_(wanted.error_class))
    if wanted.template is not None:
        conditions.append(has_label(WorkflowColumns.of(executions, source="workflow_source"), wanted.template))
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


_IDENTITY_COLUMNS = (
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


def _from_control(control: ControlSummary) -> ExecutionRecord:
    """A record made from control alone; values that only signals carry are unknown."""
    known: dict[str, object] = dict.fromkeys(item.name for item in fields(ExecutionRecord))
    known |= dict.fromkeys(_COUNT_NAMES, 0)
    known |= {"record_level": "full", "tags": {}, "params": {}}
    known |= {item.name: getattr(control, item.name) for item in fields(control) if item.name in known}
    known |= {name: value for name, value in (control.subject or {}).items() if name in _IDENTITY_COLUMNS}
    return ExecutionRecord(
        **known
        | (_from_result(control.result) if control.finished_at is not None else {})
        | {
            "id": control.execution_id,
            "workflow_source": control.source,
            "queued_at": accepted_at(control.execution_id),
            "started_at": None if control.status == Status.QUEUED else control.root_started_at,
            "completed_at": control.finished_at,
        }  # type: ignore[arg-type]  # every field of the record has its value here, by name
    )


def _from_result(result: JsonObject | None) -> dict[str, object]:
    """The values of a result, by the columns of a record; empty without a result."""
    if result is None:
        return {}
    usage = result.get("usage")
    tokens: dict[str, object] = {name: usage.get(name) for name in TOKEN_FIELDS} if isinstance(usage, dict) else {}
    return {column: result[name] for column, name in _RESULT_FIELDS.items() if name in result} | tokens


_RESULT_FIELDS = {
    "error_type": "error_type",
    "error_class": "error_class",
    "error_message": "error_message",
    "duration_ms": "duration_ms",
    "cost_nano_usd": "cost_nano_usd",
    "unpriced_calls": "unpriced_calls",
    "unmetered_calls": "unmetered_calls",
    "failed_calls": "failed_calls",
    "assumed_calls": "assumed_calls",
    "waste_nano_usd": "waste_nano_usd",
    "unfinished_calls": "unfinished_calls",
    "cost_upper_nano_usd": "cost_upper_nano_usd",
    "model_calls": "model_calls",
    "tool_calls": "tool_calls",
    "nodes_total": "node_executions",
}
"""Columns of a record and the result fields with the same value."""

_COUNT_NAMES = (
    "unpriced_calls",
    "unmetered_calls",
    "failed_calls",
    "assumed_calls",
    "waste_nano_usd",
    "unfinished_calls",
    "model_calls",
    "tool_calls",
    "nodes_total",
    "nodes_failed",
    "nodes_retried",
    "spans_stored",
)
