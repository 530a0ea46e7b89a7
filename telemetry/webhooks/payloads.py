"""The bodies of webhooks: one per event, with the same bytes for every endpoint and every attempt; never any content.

`{type, timestamp, data}`; every field of `data` is always present, null when unknown. Times are UTC, durations whole
ms, money integer nano-USD. Delivery is at least once and unordered: receivers sort by (attempt, seq).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.documents.json_text import to_json
from engine.graph import Json
from engine.tracing import semconv
from engine.tracing.semconv import Event
from engine.usage import Usage
from telemetry.signals.records import EventRecord, time_of

TEST = "webhook.test"
MAX_BODY_BYTES = 20 * 1024

TraceLink = Callable[[str | None], str | None]
"""The URL of a trace, by its id; null if no URL template is configured."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True)


class WebhookTestData(_Data):
    """The data of `webhook.test`."""

    endpoint_id: str


class ExecutionData(_Data):
    """The data of every event of an execution."""

    execution_id: str
    owner: str
    attempt: int
    seq: int
    status: Literal["queued", "running", "paused", "completed", "failed", "cancelled"]
    """Of the execution, as of this event."""
    workflow_name: str
    source: str
    template_id: str | None
    template_version: int | None
    definition_id: str | None
    graph_hash: str | None
    correlation_id: str | None
    conversation_id: str | None
    trace_id: str | None
    """Null while the execution has no trace, as when it is queued."""
    trace_url: str | None
    retry_of: str | None


class QueuedData(ExecutionData):
    """The execution was accepted and waits for a process."""

    queued_at: datetime


class PausedData(ExecutionData):
    """The execution is paused until `expires_at`, or until its approval is answered if it has one."""

    approval_id: str | None
    node_id: str | None
    expires_at: datetime | None


class ResumedData(ExecutionData):
    """The execution continues after an answer, or (without a choice) after a delay, a crash or a restart."""

    approval_id: str | None
    choice: str | None


class StartedData(ExecutionData):
    """The execution was accepted and runs."""

    started_at: datetime
    streaming: bool | None


class NodeCounts(_Data):
    """The number of node visits, and how many of them failed and were retried."""

    total: int
    failed: int
    retried: int


class SealData(_Data):
    """The number of spans of the execution, and the SHA-256 over their sorted ids."""

    expected: int | None
    hash: str | None


class EndedData(ExecutionData):
    """The data of every closing event."""

    started_at: datetime
    completed_at: datetime
    duration_ms: int | None
    usage: Usage
    cost_nano_usd: int | None
    """Null if there were model calls and none had a price."""
    unpriced_calls: int
    """Calls to models without a price."""
    unmetered_calls: int
    """Calls of unknown cost, because the provider reported no usage."""
    failed_calls: int
    """Calls that failed, whatever they cost."""
    unfinished_calls: int
    """Calls cut off by a crash; `cost_nano_usd` holds nothing of them."""
    cost_upper_nano_usd: int | None
    """The cost and the most that the unfinished calls may have cost; null if that is unknown."""
    assumed_calls: int
    """Calls at the catalogue's price, although the server is not the provider's."""
    waste_nano_usd: int
    model_calls: int
    tool_calls: int
    nodes: NodeCounts
    seal: SealData


class CompletedData(EndedData):
    """The execution completed."""


class FailedData(EndedData):
    """The execution failed."""

    error_type: str | None
    error_message: str | None
    error_node_id: str | None


class CancelledData(EndedData):
    """The execution was cancelled; this does not count as a failure."""

    reason: str | None


class BudgetData(ExecutionData):
    """A budget is nearly or fully used: of money or of tokens; the fields of the other one are null."""

    scope: Literal["execution"]
    limit_nano_usd: int | None
    spent_nano_usd: int | None
    limit_tokens: int | None
    spent_tokens: int | None
    percent: int
    """Spent of the limit, rounded down."""


class RetryingData(ExecutionData):
    """An attempt of a node failed and will be retried."""

    node_id: str | None
    node_type: str | None
    node_attempt: int | None
    error_type: str | None
    delay_ms: int | None


def body_of(event: EventRecord, trace_link: TraceLink) -> bytes:
    """The body of an event whose name is in `TYPES`. Raises `BadSignal`."""
    make = _DATA[event.name][1]
    data = make(event, _common(event, trace_link))
    return _write(event.name, time_of(event.at_ns), data)


def body_of_test(endpoint_id: str, at: datetime) -> bytes:
    """The body of a `webhook.test`."""
    return _write(TEST, at, WebhookTestData(endpoint_id=endpoint_id))


def _write(type_: str, at: datetime, data: BaseModel) -> bytes:
    """JSON of at most `MAX_BODY_BYTES`; long texts are cut if necessary."""
    document: Json = {"type": type_, "timestamp": _text(at), "data": data.model_dump(mode="json")}
    body = to_json(document)
    for limit in (1_024, 256, 64):
        if len(body) <= MAX_BODY_BYTES:
            break
        body = to_json(_cut(document, limit))
    return body


def _cut(value: Json, limit: int) -> Json:
    if isinstance(value, str):
        return value if len(value) <= limit else value[: limit - 1] + "…"
    if isinstance(value, dict):
        return {key: _cut(item, limit) for key, item in value.items()}
    return value


Common = dict[str, str | int | None]
"""The fields of `ExecutionData` by name."""


def _common(event: EventRecord, trace_link: TraceLink) -> Common:
    identity = event.identity
    return {
        "execution_id": identity.execution_id,
        "owner": identity.owner,
        "attempt": identity.attempt,
        "seq": event.seq,
        "status": _STATUS.get(event.name, "running"),
        "workflow_name": identity.workflow_name,
        "source": identity.workflow_source,
        "template_id": identity.template_id,
        "template_version": identity.template_version,
        "definition_id": event.text(semconv.DEFINITION_ID),
        "graph_hash": event.text(semconv.GRAPH_HASH),
        "correlation_id": event.text(semconv.CORRELATION_ID),
        "conversation_id": event.text(semconv.CONVERSATION_ID),
        "trace_id": event.trace_id,
        "trace_url": trace_link(event.trace_id),
        "retry_of": event.text(semconv.RETRY_OF),
    }


_STATUS = {
    Event.QUEUED.value: "queued",
    Event.PAUSED.value: "paused",
    Event.COMPLETED.value: "completed",
    Event.FAILED.value: "failed",
    Event.CANCELLED.value: "cancelled",
}


def _queued(event: EventRecord, common: Common) -> QueuedData:
    return QueuedData.model_validate(common | {"queued_at": time_of(event.integer(semconv.QUEUED_AT) or event.at_ns)})


def _paused(event: EventRecord, common: Common) -> PausedData:
    due = event.integer(semconv.DUE_AT)
    return PausedData.model_validate(
        common
        | {
            "approval_id": event.text(semconv.APPROVAL_ID),
            "node_id": event.text(semconv.NODE_ID),
            "expires_at": None if due is None else time_of(due),
        }
    )


def _resumed(event: EventRecord, common: Common) -> ResumedData:
    return ResumedData.model_validate(
        common | {"approval_id": event.text(semconv.APPROVAL_ID), "choice": event.text(semconv.APPROVAL_CHOICE)}
    )


def _started(event: EventRecord, common: Common) -> StartedData:
    streaming = event.attributes.get(semconv.STREAMING)
    return StartedData.model_validate(
        common
        | {
            "started_at": _started_at(event),
            "streaming": streaming if isinstance(streaming, bool) else None,
        }
    )


def _completed(event: EventRecord, common: Common) -> CompletedData:
    return CompletedData.model_validate(_end(event, common))


def _failed(event: EventRecord, common: Common) -> FailedData:
    return FailedData.model_validate(
        _end(event, common)
        | {
            "error_type": event.text(semconv.ERROR_TYPE),
            "error_message": event.text(semconv.ERROR_MESSAGE),
            "error_node_id": event.text(semconv.ERROR_NODE_ID),
        }
    )


def _cancelled(event: EventRecord, common: Common) -> CancelledData:
    return CancelledData.model_validate(_end(event, common) | {"reason": event.text(semconv.CANCEL_REASON)})


def _end(event: EventRecord, common: Common) -> dict[str, object]:
    cost, unfinished = event.integer(semconv.COST_NANO_USD), event.integer(semconv.UNFINISHED_CALLS) or 0
    return {
        **common,
        "started_at": _started_at(event),
        "completed_at": time_of(event.at_ns),
        "duration_ms": event.integer(semconv.DURATION_MS),
        "usage": _usage(event),
        "cost_nano_usd": cost,
        "cost_upper_nano_usd": event.integer(semconv.COST_UPPER_NANO_USD) if unfinished else cost,
        "unfinished_calls": unfinished,
        "unpriced_calls": event.integer(semconv.UNPRICED_CALLS) or 0,
        "unmetered_calls": event.integer(semconv.UNMETERED_CALLS) or 0,
        "failed_calls": event.integer(semconv.FAILED_CALLS) or 0,
        "assumed_calls": event.integer(semconv.ASSUMED_CALLS) or 0,
        "waste_nano_usd": event.integer(semconv.WASTE_NANO_USD) or 0,
        "model_calls": event.integer(semconv.MODEL_CALLS) or 0,
        "tool_calls": event.integer(semconv.TOOL_CALLS) or 0,
        "nodes": NodeCounts(
            total=event.integer(semconv.NODES_TOTAL) or 0,
            failed=event.integer(semconv.NODES_FAILED) or 0,
            retried=event.integer(semconv.NODES_RETRIED) or 0,
        ),
        "seal": SealData(expected=event.integer(semconv.SPANS), hash=event.text(semconv.SPANS_HASH)),
    }


def _usage(event: EventRecord) -> Usage:
    return Usage.of_counts({name: event.integer(key) for name, key in semconv.SUM_TOKENS.items()})


def _budget(event: EventRecord, common: Common) -> BudgetData:
    limit, spent = event.integer(semconv.BUDGET_LIMIT) or 0, event.integer(semconv.BUDGET_SPENT) or 0
    is_money = event.text(semconv.BUDGET_UNIT) == "nano_usd"
    return BudgetData.model_validate(
        common
        | {
            "scope": "execution",
            "limit_nano_usd": limit if is_money else None,
            "spent_nano_usd": spent if is_money else None,
            "limit_tokens": None if is_money else limit,
            "spent_tokens": None if is_money else spent,
            "percent": 100 * spent // limit if limit else 100,
        }
    )


def _retrying(event: EventRecord, common: Common) -> RetryingData:
    return RetryingData.model_validate(
        common
        | {
            "node_id": event.text(semconv.NODE_ID),
            "node_type": event.text(semconv.NODE_TYPE),
            "node_attempt": event.integer(semconv.NODE_ATTEMPT),
            "error_type": event.text(semconv.ERROR_TYPE),
            "delay_ms": event.integer(semconv.RETRY_DELAY_MS),
        }
    )


_DATA: dict[str, tuple[type[ExecutionData], Callable[[EventRecord, Common], ExecutionData]]] = {
    Event.QUEUED.value: (QueuedData, _queued),
    Event.STARTED.value: (StartedData, _started),
    Event.PAUSED.value: (PausedData, _paused),
    Event.RESUMED.value: (ResumedData, _resumed),
    Event.COMPLETED.value: (CompletedData, _completed),
    Event.FAILED.value: (FailedData, _failed),
    Event.CANCELLED.value: (CancelledData, _cancelled),
    Event.BUDGET_WARNING.value: (BudgetData, _budget),
    Event.BUDGET_EXCEEDED.value: (BudgetData, _budget),
    Event.NODE_RETRYING.value: (RetryingData, _retrying),
}
TYPES = tuple(_DATA)
"""The types that endpoints can subscribe to, which are the names of events."""

DATA_MODELS: dict[str, type[BaseModel]] = {name: model for name, (model, _) in _DATA.items()} | {TEST: WebhookTestData}
"""What `data` holds, by type."""


def _started_at(event: EventRecord) -> datetime:
    return time_of(event.integer(semconv.STARTED_AT) or event.at_ns)


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
