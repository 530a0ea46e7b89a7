"""The documents in responses about executions. Every field is always present; unknown values are null."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.settings import Settings
from engine.graph import JsonObject
from engine.result import Approval, ErrorClass, ExecutionResult, Status
from engine.retention.call_content import StoredCall
from engine.store.control import ControlRow
from engine.usage import TOKEN_FIELDS, Usage
from telemetry.reads.cost import CostReport, CostRow, Sums
from telemetry.reads.executions import ExecutionRecord, Seal
from telemetry.reads.traces import Trace, TraceSpan

Content = Literal["shown", "hidden", "not_stored", "expired", "forgotten"]


class Answer(BaseModel):
    """A part of a response. Times are UTC, durations are in milliseconds, money is in integer nano-USD."""

    model_config = ConfigDict(frozen=True, validate_by_name=True, serialize_by_alias=True)


class SourceAnswer(Answer):
    """The workflow of an execution: its kind of source, its name, and the ids that apply.

    `unsaved`: the template came with the request, as from a file, and is stored nowhere.
    """

    kind: str
    workflow_name: str
    unsaved: bool
    template_id: str | None
    template_version: int | None
    definition_id: str | None
    graph_hash: str | None


class TimeAnswer(Answer):
    """The duration by cause; the parts sum to `duration_ms`."""

    queue_ms: int | None
    model_ms: int | None
    tool_ms: int | None
    retry_ms: int | None
    human_ms: int | None
    engine_ms: int | None


class NodesAnswer(Answer):
    """Counts of nodes that ran, failed and were retried."""

    total: int
    failed: int
    retried: int


class SealAnswer(Answer):
    """The number of spans that the execution made (null until it has ended) and the number that were stored.

    `pruned_at` is null until retention deletes them.
    """

    expected: int | None
    stored: int
    complete: bool
    pruned_at: datetime | None


class ExecutionSummary(Answer):
    """The record of an execution, as lists show it.

    `cost_nano_usd` is null if there were model calls and none had a price. `unpriced_calls` went to models without a
    price; `unmetered_calls` have no known usage; `failed_calls` failed, whatever they cost. `unfinished_calls` were cut
    off by a crash; `cost_upper_nano_usd` is the cost with the most that they may have cost, null if that is unknown.
    `error_class` says who has to act on a failure.
    """

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
    unpriced_calls: int
    unmetered_calls: int
    failed_calls: int
    assumed_calls: int
    waste_nano_usd: int
    unfinished_calls: int
    cost_upper_nano_usd: int | None
    model_calls: int
    tool_calls: int
    nodes: NodesAnswer
    seal: SealAnswer
    error_type: str | None
    error_class: ErrorClass | None
    error_message: str | None
    error_node_id: str | None
    cancel_reason: str | None
    retry_of: str | None
    tags: JsonObject
    params: JsonObject


class Execution(ExecutionSummary):
    """An execution with its result, its open questions, and the time of a request to cancel it.

    `approvals` holds the questions of a paused execution. `result` is there once the execution has ended; a paused
    execution has its result so far. `content` says whether input and result are shown, were not stored (or are not
    there yet), have expired, were forgotten on request, or are hidden since the key lacks the scope content:read.
    """

    cancel_requested_at: datetime | None
    approvals: list[Approval]
    input: JsonObject | None
    result: ExecutionResult | None
    content: Content


class ExecutionPage(Answer):
    """A page of executions; `next_cursor` is null on the last page."""

    items: list[ExecutionSummary]
    next_cursor: str | None


class AttemptAnswer(Answer):
    """One attempt of an execution, with its trace and its root span."""

    attempt: int
    trace_id: str
    root_span_id: str
    trace_url: str | None


class TraceAnswer(Answer):
    """The spans of an execution in depth-first order; `depth` is the number of a span's ancestors."""

    execution_id: str
    record_level: str
    attempts: list[AttemptAnswer]
    seal: SealAnswer
    spans: list[TraceSpan]
    next_cursor: str | None


class CallAnswer(Answer):
    """What one call said and was told, by the keys of the GenAI conventions, such as `gen_ai.input.messages`.

    `call_id` is the id of its span; `operation` is chat, execute_tool or retrieval. `cut` names what was too large.
    """

    call_id: str
    attempt: int
    operation: str
    node_id: str
    at: datetime
    content: JsonObject
    cut: list[str]


class ContentAnswer(Answer):
    """What the calls of an execution said, in the order in which they ended; empty unless content is kept in full."""

    execution_id: str
    calls: list[CallAnswer]
    next_cursor: str | None


class SumsAnswer(Answer):
    """Sums over executions that have ended.

    `failed_by_caller` counts failed executions whose document or input was at fault; `executions_failed` includes them.
    `assumed_nano_usd` is the cost of the `assumed_calls`: at the catalogue's price, although the server is not the
    provider's. `provider_difference_nano_usd` is what providers reported minus what was booked for the same calls.
    `failure_rate` is (failed - failed by caller) / (completed + failed - failed by caller), null if the divisor is 0.
    `cost_nano_usd` is exact unless `unpriced_calls` (models without a price), `unmetered_calls` (usage unknown) or
    `unfinished_calls` (cut off by a crash) are above 0: these add nothing to it. `cost_upper_nano_usd` is the cost with
    the most that unfinished calls may have cost, null if that is unknown. `failed_calls` failed, whatever they cost.
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
    cost_upper_nano_usd: int | None
    waste_nano_usd: int
    unpriced_calls: int
    unmetered_calls: int
    failed_calls: int
    unfinished_calls: int
    assumed_calls: int
    assumed_nano_usd: int
    provider_difference_nano_usd: int


class CostRowAnswer(SumsAnswer):
    """The sums of one group.

    `group` holds the value of each requested dimension, null where it does not apply. Beyond 1,000 rows the cheapest
    groups are one row, whose values are `_other`.
    """

    group: dict[str, str | int | datetime | None]


class CostAnswer(Answer):
    """Cost per group, highest cost first, and the total. `from` and `to` are whole hours."""

    since: datetime = Field(alias="from")
    until: datetime = Field(alias="to")
    rows: list[CostRowAnswer]
    total: SumsAnswer
    as_of: datetime


def summary(record: ExecutionRecord, settings: Settings) -> ExecutionSummary:
    """The summary of an execution, from its record."""
    return ExecutionSummary.model_validate(_of_record(record, settings))


def execution(
    record: ExecutionRecord,
    control: ControlRow | None,
    approvals: Sequence[Approval],
    settings: Settings,
    gone: Content | None = None,
) -> Execution:
    """The execution, from its record and its control row. Its content is there as long as the control row is kept.

    `gone` says why its content was deleted.
    """
    result = None if gone else _result(control)
    state: Content = "expired" if control is None else "not_stored" if result is None else "shown"
    of_control: dict[str, object] = {
        "cancel_requested_at": control.cancel_requested_at if control else None,
        "approvals": list(approvals),
        "input": control.request.get("input") if control and not gone else None,
        "result": result,
        "content": gone or state,
    }
    return Execution.model_validate(_of_record(record, settings) | of_control)


def without_content(shown: Execution, *, with_questions: bool) -> Execution:
    """The execution for a reader who may not see content; with its questions if the reader may answer them."""
    hidden = [each.model_copy(update={"prompt": "", "payload": None}) for each in shown.approvals]
    questions = shown.approvals if with_questions else hidden
    changed: dict[str, object] = {"input": None, "result": None, "approvals": questions}
    is_there = shown.input is not None or shown.result is not None or shown.approvals
    return shown.model_copy(update=changed | ({"content": "hidden"} if is_there else {}))


def content(execution_id: str, calls: Sequence[StoredCall], next_cursor: str | None) -> ContentAnswer:
    """A page of what the calls of an execution said."""
    items = [CallAnswer(**{name: getattr(call, name) for name in CallAnswer.model_fields}) for call in calls]
    return ContentAnswer(execution_id=execution_id, calls=items, next_cursor=next_cursor)


def trace(found: Trace, next_cursor: str | None, settings: Settings) -> TraceAnswer:
    """A page of spans as a document."""
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
    """The cost report as a document, with the group of each row by dimension."""
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
        "source": SourceAnswer(
            kind=record.workflow_source,
            unsaved=record.is_unsaved,
            **{name: getattr(record, name) for name in _OF_SOURCE},
        ),
        "trace_url": settings.trace_link(record.trace_id),
        "time": TimeAnswer(**{name: getattr(record, f"time_{name}") for name in TimeAnswer.model_fields}),
        "usage": _usage(record),
        "nodes": NodesAnswer(total=record.nodes_total, failed=record.nodes_failed, retried=record.nodes_retried),
        "seal": _seal(record.seal),
    }


def _usage(record: ExecutionRecord) -> Usage:
    return Usage.of_counts({name: getattr(record, name) for name in TOKEN_FIELDS})


def _result(control: ControlRow | None) -> ExecutionResult | None:
    """The result, unless the execution is running: then the row holds at most the result of an earlier pause."""
    if control is None or control.result is None:
        return None
    is_current = control.status.is_terminal or control.status is Status.PAUSED
    return ExecutionResult.model_validate(control.result, strict=False) if is_current else None


def _seal(seal: Seal) -> SealAnswer:
    return SealAnswer(expected=seal.expected, stored=seal.stored, complete=seal.complete, pruned_at=seal.pruned_at)


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
