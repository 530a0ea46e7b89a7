"""The documents that the service answers with, made from records. Every field is always there, null when unknown."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.settings import Settings
from engine.graph import JsonObject
from engine.result import Approval, ErrorClass, ExecutionResult, Status
from engine.store.control import ControlRow
from engine.usage import TOKEN_FIELDS, Usage
from telemetry.reads.cost import CostReport, CostRow, Sums
from telemetry.reads.executions import ExecutionRecord, Seal
from telemetry.reads.traces import Trace, TraceSpan

Content = Literal["shown", "not_stored", "expired"]


class Answer(BaseModel):
    """A piece of an answer. Times are UTC, durations milliseconds, money integer nano-USD."""

    model_config = ConfigDict(frozen=True, validate_by_name=True, serialize_by_alias=True)


class SourceAnswer(Answer):
    """What was run."""

    kind: str
    workflow_name: str
    template_id: str | None
    template_version: int | None
    definition_id: str | None
    graph_hash: str | None


class TimeAnswer(Answer):
    """Where the time went; the parts sum to `duration_ms`."""

    queue_ms: int | None
    model_ms: int | None
    tool_ms: int | None
    retry_ms: int | None
    human_ms: int | None
    engine_ms: int | None


class NodesAnswer(Answer):
    """How many nodes ran, failed, were retried."""

    total: int
    failed: int
    retried: int


class SealAnswer(Answer):
    """How many spans the execution said it made (null until it has ended), and how many are stored."""

    expected: int | None
    stored: int
    complete: bool


class ExecutionSummary(Answer):
    """The record of an execution, as lists show it."""

    id: str
    owner: str
    status: Status
    attempt: int
    source: SourceAnswer
    conversation_id: str | None
    correlation_id: str | None
    trace_id: str | None
    root_span_id: str | None
    trace_url: str | None
    trigger: str | None
    streaming: bool | None
    record_level: str
    queued_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: int | None
    time_to_first_token_ms: int | None
    time: TimeAnswer
    usage: Usage
    cost_nano_usd: int | None
    """Null if there were model calls and none had a price."""
    unpriced_calls: int
    waste_nano_usd: int
    unfinished_calls: int
    cost_upper_nano_usd: int | None
    model_calls: int
    tool_calls: int
    nodes: NodesAnswer
    seal: SealAnswer
    error_type: str | None
    error_class: ErrorClass | None
    """Who has to act on the failure; null unless the execution failed."""
    error_message: str | None
    error_node_id: str | None
    cancel_reason: str | None
    retry_of: str | None
    tags: JsonObject
    params: JsonObject


class Execution(ExecutionSummary):
    """An execution with what control knows of it: its result, what it asks, and whether it was asked to stop."""

    cancel_requested_at: datetime | None
    approvals: list[Approval]
    """What it asks while it is paused."""
    result: ExecutionResult | None
    """Once it has ended; of a paused one, how far it is."""
    content: Content


class ExecutionPage(Answer):
    """A page of executions; `next_cursor` is null on the last one."""

    items: list[ExecutionSummary]
    next_cursor: str | None


class AttemptAnswer(Answer):
    """One attempt and the root of its spans."""

    attempt: int
    trace_id: str
    root_span_id: str
    trace_url: str | None


class TraceAnswer(Answer):
    """The spans of an execution, depth first; `depth` is the number of spans above one."""

    execution_id: str
    record_level: str
    attempts: list[AttemptAnswer]
    seal: SealAnswer
    spans: list[TraceSpan]
    next_cursor: str | None


class SumsAnswer(Answer):
    """Sums over executions that have ended.

    `failed_by_caller` counts failed executions whose document or input was at fault; `executions_failed` includes them.
    `failure_rate` is (failed - failed by caller) / (completed + failed - failed by caller), null if the divisor is 0.
    """

    executions: int
    executions_completed: int
    executions_failed: int
    executions_cancelled: int
    failed_by_caller: int
    failure_rate: float | None
    model_calls: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_nano_usd: int | None
    waste_nano_usd: int
    unpriced_calls: int


class CostRowAnswer(SumsAnswer):
    """One group: the value of each dimension that was asked for; null where it does not apply."""

    group: dict[str, str | int | datetime | None]


class CostAnswer(Answer):
    """Cost per group, dearest first, and their total. Hours are the grain."""

    since: datetime = Field(alias="from")
    until: datetime = Field(alias="to")
    rows: list[CostRowAnswer]
    total: SumsAnswer
    as_of: datetime


def summary(record: ExecutionRecord, settings: Settings) -> ExecutionSummary:
    """The record as lists show it."""
    return ExecutionSummary.model_validate(_of_record(record, settings))


def execution(
    record: ExecutionRecord, control: ControlRow | None, approvals: Sequence[Approval], settings: Settings
) -> Execution:
    """The record with what control knows; the result is there as long as control keeps it."""
    result = _result(control)
    of_control: dict[str, object] = {
        "cancel_requested_at": control.cancel_requested_at if control else None,
        "approvals": list(approvals),
        "result": result,
        "content": "expired" if control is None else "not_stored" if result is None else "shown",
    }
    return Execution.model_validate(_of_record(record, settings) | of_control)


def trace(found: Trace, next_cursor: str | None, settings: Settings) -> TraceAnswer:
    """A page of spans."""
    attempts = [
        AttemptAnswer(
            attempt=one.attempt,
            trace_id=one.trace_id,
            root_span_id=one.root_span_id,
            trace_url=settings.trace_link(one.trace_id),
        )
        for one in found.attempts
    ]
    return TraceAnswer(
        execution_id=found.execution_id,
        record_level=found.record_level,
        attempts=attempts,
        seal=_seal(found.seal),
        spans=found.spans,
        next_cursor=next_cursor,
    )


def cost(report: CostReport) -> CostAnswer:
    """The report with its rows by name."""
    return CostAnswer(
        since=report.since,
        until=report.until,
        rows=[_cost_row(row, report.group_by) for row in report.rows],
        total=SumsAnswer.model_validate(_of_sums(report.total)),
        as_of=report.as_of,
    )


def _of_record(record: ExecutionRecord, settings: Settings) -> dict[str, object]:
    same = {name: getattr(record, name) for name in _SAME}
    return same | {
        "owner": record.owner_id,
        "status": Status(record.status),
        "source": SourceAnswer(kind=record.workflow_source, **{name: getattr(record, name) for name in _OF_SOURCE}),
        "trace_url": settings.trace_link(record.trace_id),
        "time": TimeAnswer(**{name: getattr(record, f"time_{name}") for name in TimeAnswer.model_fields}),
        "usage": _usage(record),
        "nodes": NodesAnswer(total=record.nodes_total, failed=record.nodes_failed, retried=record.nodes_retried),
        "seal": _seal(record.seal),
    }


def _usage(record: ExecutionRecord) -> Usage:
    return Usage.of_counts({name: getattr(record, name) for name in TOKEN_FIELDS})


def _result(control: ControlRow | None) -> ExecutionResult | None:
    """That of an earlier pause is none while it runs again."""
    if control is None or control.result is None:
        return None
    is_told = control.status.is_terminal or control.status is Status.PAUSED
    return ExecutionResult.model_validate(control.result, strict=False) if is_told else None


def _seal(seal: Seal) -> SealAnswer:
    return SealAnswer(expected=seal.expected, stored=seal.stored, complete=seal.complete)


def _cost_row(row: CostRow, group_by: tuple[str, ...]) -> CostRowAnswer:
    group = dict(zip(group_by, row.group, strict=True))
    return CostRowAnswer.model_validate(_of_sums(row.sums) | {"group": group})


def _of_sums(sums: Sums) -> dict[str, object]:
    return {name: getattr(sums, name) for name in SumsAnswer.model_fields}


_OF_SOURCE = ("workflow_name", "template_id", "template_version", "definition_id", "graph_hash")
_SAME = [
    name
    for name in ExecutionSummary.model_fields
    if name not in ("owner", "status", "source", "trace_url", "time", "usage", "nodes", "seal")
]
