"""Collects the records of an execution in a form that is equal for two executions of the same request."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from sqlalchemy import select

from engine.execution.handle import Execution
from engine.graph import Json, JsonObject
from engine.store.tables import conversation_messages, execution_control
from engine.tracing import semconv
from telemetry.reads.executions import ExecutionRecord
from tests.conformance.cases import Case
from tests.workflow_runner import WorkflowRunner, drawing


@dataclass(frozen=True)
class Observed:
    """The records of an execution, without ids, times and other values that differ between executions."""

    record: dict[str, object]
    tree: str
    spans: list[tuple[int, dict[str, object]]]
    said: list[tuple[str, dict[str, object]]]
    events: list[JsonObject]
    tokens: str
    conversation: list[tuple[str, str]]


async def observe(runner: WorkflowRunner, case: Case, execution: Execution) -> Observed:
    """Collect the records of an execution, and assert the invariants of every execution."""
    record, trace = await runner.record(execution.id), await runner.trace(execution.id)
    events = [event async for event in execution.events()]
    said = runner.said(execution.id)
    result = await execution.result()

    assert record.status == result.status == await _decided(runner, execution.id)
    assert [event.type.is_closing for event in events] == [False] * (len(events) - 1) + [True]
    assert [one.event_name in semconv.TERMINAL_EVENTS for one in said] == [False] * (len(said) - 1) + [True]
    assert record.seal.complete
    assert record.spans_expected == len(trace.spans)
    assert (record.cost_nano_usd, record.unmetered_calls) == (result.cost_nano_usd, result.unmetered_calls)
    assert (record.time_to_first_token_ms is None) == (case.tokens == "")
    return Observed(
        record=_stable_record(record),
        tree=drawing(trace.spans),
        spans=[(span.depth, _stable({"name": span.name, **(span.attributes or {})})) for span in trace.spans],
        said=[(str(one.event_name), _stable(one.attributes or {})) for one in said],
        events=await said_to_readers(execution),
        tokens="".join(str(event.data["text"]) for event in events if event.type == "token"),
        conversation=await _conversation(runner, record.conversation_id),
    )


async def said_to_readers(execution: Execution) -> list[JsonObject]:
    """The events that its readers received; the last one has the result."""
    return [_stable_json(event.document()) async for event in execution.events()]


async def _decided(runner: WorkflowRunner, execution_id: str) -> str:
    control = execution_control.c
    async with runner.runtime.database.read() as connection:
        rows = await connection.execute(select(control.status).where(control.execution_id == execution_id))
        return str(rows.scalar_one())


async def _conversation(runner: WorkflowRunner, conversation_id: str | None) -> list[tuple[str, str]]:
    messages = conversation_messages.c
    query = select(messages.role, messages.content).where(messages.conversation_id == conversation_id)
    async with runner.runtime.database.read() as connection:
        rows = await connection.execute(query.order_by(messages.position))
        return [(row.role, str(row.content)) for row in rows]


OWN_TO_A_RECORD = {
    "id",
    "streaming",
    "conversation_id",
    "correlation_id",
    "trace_id",
    "root_span_id",
    "queued_at",
    "started_at",
    "completed_at",
    "duration_ms",
    "time_to_first_token_ms",
    *(f"time_{part}_ms" for part in ("queue", "model", "tool", "retry", "human", "engine")),
}
OWN_TO_A_SIGNAL = {
    semconv.EXECUTION_ID,
    semconv.STREAMING,
    semconv.CONVERSATION_ID,
    semconv.CORRELATION_ID,
    semconv.QUEUED_AT,
    semconv.STARTED_AT,
    semconv.DURATION_MS,
    semconv.TIME_TO_FIRST_TOKEN,
    semconv.TIME_TO_FIRST_CHUNK,
    semconv.SPANS_HASH,
    semconv.EVENT_ID,
    *(f"workflow.time.{part}" for part in ("queue", "model", "tool", "retry", "human", "engine")),
}
OWN_TO_AN_EVENT = {
    "id",
    "execution_id",
    "message_id",
    "conversation_id",
    "correlation_id",
    "trace_id",
    "at",
    "duration_ms",
}


def _stable_record(record: ExecutionRecord) -> dict[str, object]:
    return {name: value for name, value in asdict(record).items() if name not in OWN_TO_A_RECORD}


def _stable(attributes: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in attributes.items() if key not in OWN_TO_A_SIGNAL}


def _stable_json(document: JsonObject) -> JsonObject:
    return {key: _stable_value(value) for key, value in document.items() if key not in OWN_TO_AN_EVENT}


def _stable_value(value: Json) -> Json:
    if isinstance(value, dict):
        return _stable_json(value)
    return [_stable_value(each) for each in value] if isinstance(value, list) else value
