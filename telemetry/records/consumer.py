"""The consumer that keeps the records: execution rows, span rows and roll-ups, whatever order signals arrive in.

An execution row is what its highest event says, by (attempt, rank, seq), and a terminal one is final; span rows are
inserted or ignored. What was really stored is read from RETURNING, and only that is added to roll-ups and seals, so
that signals may come twice, late or early.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.graph import JsonObject
from engine.tracing import semconv
from engine.tracing.semconv import Event
from engine.usage import TOKEN_FIELDS
from telemetry.records.rollups import EPOCH, CallDelta, Deltas, EndDelta, Subject, accepted_at
from telemetry.records.totals import is_recorded
from telemetry.signals.records import BadSignal, Batch, EventRecord, Identity, Kind, SpanRecord
from telemetry.store.bulk import BulkInsert, Cell
from telemetry.store.tables import TIME_LEDGER_COLUMNS, executions, spans

_RANK_QUEUED, _RANK_RUNNING, _RANK_TERMINAL = 0, 1, 2


@dataclass(frozen=True, slots=True)
class _State:
    status: str
    rank: int


_STATES = {
    Event.QUEUED.value: _State("queued", _RANK_QUEUED),
    Event.STARTED.value: _State("running", _RANK_RUNNING),
    Event.PAUSED.value: _State("paused", _RANK_RUNNING),
    Event.RESUMED.value: _State("running", _RANK_RUNNING),
    Event.COMPLETED.value: _State("completed", _RANK_TERMINAL),
    Event.FAILED.value: _State("failed", _RANK_TERMINAL),
    Event.CANCELLED.value: _State("cancelled", _RANK_TERMINAL),
}
"""What an event makes of its execution; other events change no record."""


class Records:
    """Stores a batch of signals as rows."""

    name = "records"

    async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
        """Store everything that is not stored yet, and add it to the roll-ups. Raises `BadSignal`."""
        deltas = Deltas()
        kept = _kept(batch.spans)
        stored = await _store_spans(connection, kept, deltas)
        told = await _store_events(connection, _highest(batch.events), stored, deltas)
        await _count_spans(connection, kept, {id_: count for id_, count in stored.items() if id_ not in told})
        await deltas.write(connection)


def _kept(batch: Iterable[SpanRecord]) -> dict[tuple[str, str], SpanRecord]:
    """The spans that the record level keeps, each once."""
    return {(span.identity.execution_id, span.span_id): span for span in batch if is_recorded(span)}


async def _store_spans(
    connection: AsyncConnection, kept: dict[tuple[str, str], SpanRecord], deltas: Deltas
) -> Counter[str]:
    """How many spans of each execution were not stored before."""
    stored: Counter[str] = Counter()
    for execution_id, span_id in await _INSERT_SPANS.run_each(
        connection, [kept[key] for key in sorted(kept)], _span_row
    ):
        stored[execution_id] += 1
        span = kept[execution_id, span_id]
        if span.kind is Kind.MODEL:
            deltas.add_call(_call(span))
    return stored


async def _store_events(
    connection: AsyncConnection, highest: dict[str, EventRecord], stored: Counter[str], deltas: Deltas
) -> set[str]:
    """The executions whose row was written, with the number of their new spans."""
    rows = [_execution_row(highest[id_], stored[id_]) for id_ in sorted(highest)]
    told = {str(row[0]) for row in await _UPSERT_EXECUTIONS.run(connection, rows)}
    for execution_id in told:
        event = highest[execution_id]
        state = _STATES[event.name]
        if state.rank == _RANK_TERMINAL:
            duration_ms = event.integer(semconv.DURATION_MS) or 0
            deltas.add_end(EndDelta(_subject(event.identity), state.status, duration_ms, _time(event.at_ns)))
    return told


async def _count_spans(
    connection: AsyncConnection, kept: dict[tuple[str, str], SpanRecord], stored: dict[str, int]
) -> None:
    """Add to `spans_stored` where no event did; an execution nobody has told of yet gets a row from its spans."""
    identities = {execution_id: span.identity for (execution_id, _), span in kept.items() if execution_id in stored}
    rows = [_placeholder(identities[id_], count) for id_, count in sorted(stored.items())]
    await _COUNT_SPANS.run(connection, rows)


def _highest(events: Iterable[EventRecord]) -> dict[str, EventRecord]:
    highest: dict[str, EventRecord] = {}
    for event in events:
        if event.name in _STATES:
            known = highest.get(event.identity.execution_id)
            if known is None or _order(event) > _order(known):
                highest[event.identity.execution_id] = event
    return highest


def _order(event: EventRecord) -> tuple[bool, int, int, int]:
    rank = _STATES[event.name].rank
    return (rank == _RANK_TERMINAL, event.identity.attempt, rank, event.seq)


def _subject(identity: Identity) -> Subject:
    return Subject(
        identity.execution_id,
        identity.owner,
        identity.workflow_name,
        identity.workflow_source,
        identity.template_id,
        identity.template_version,
    )


def _call(span: SpanRecord) -> CallDelta:
    return CallDelta(
        _subject(span.identity),
        span.text(semconv.PROVIDER),
        span.text(semconv.REQUEST_MODEL),
        [span.integer(key) for key in semconv.CALL_TOKENS.values()],
        span.integer(semconv.COST_NANO_USD),
        span.text(semconv.CALL_WASTE) is not None,
    )


_SPAN_COLUMNS = (
    "execution_id",
    "span_id",
    "owner_id",
    "trace_id",
    "parent_span_id",
    "attempt",
    "kind",
    "name",
    "node_id",
    "node_type",
    "node_attempt",
    "path",
    "status",
    "started_at",
    "started_nanos",
    "duration_us",
    "error_type",
    "attributes",
    "provider",
    "model",
    *TOKEN_FIELDS,
    "cost_nano_usd",
    "cost_source",
    "price_version",
    "waste",
)


def _span_row(span: SpanRecord) -> tuple[Cell, ...]:
    identity = span.identity
    field = span.fields.get
    return (
        identity.execution_id,
        span.span_id,
        identity.owner,
        span.trace_id,
        span.parent_span_id,
        identity.attempt,
        span.kind,
        span.name,
        field(semconv.NODE_ID),
        field(semconv.NODE_TYPE),
        field(semconv.NODE_ATTEMPT),
        field(semconv.NODE_PATH),
        span.status,
        _time(span.start_ns),
        span.start_ns % 1000,
        (span.end_ns - span.start_ns) // 1000,
        field(semconv.ERROR_TYPE),
        span.attributes if identity.record_level == "full" else None,
        *(map(field, _CALL_KEYS) if span.kind is Kind.MODEL else _NO_CALL),
    )


_CALL_KEYS = (
    semconv.PROVIDER,
    semconv.REQUEST_MODEL,
    *semconv.CALL_TOKENS.values(),
    semconv.COST_NANO_USD,
    semconv.COST_SOURCE,
    semconv.PRICE_VERSION,
    semconv.CALL_WASTE,
)
_NO_CALL: tuple[Cell, ...] = (None,) * len(_CALL_KEYS)


_PLACEHOLDER_COLUMNS = (
    "id",
    "owner_id",
    "status",
    "attempt",
    "rank",
    "seq",
    "workflow_name",
    "workflow_source",
    "template_id",
    "template_version",
    "record_level",
    "queued_at",
    "tags",
    "params",
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


def _placeholder(identity: Identity, spans_stored: int) -> tuple[Cell, ...]:
    return (
        identity.execution_id,
        identity.owner,
        "queued",
        0,
        _RANK_QUEUED,
        0,
        identity.workflow_name,
        identity.workflow_source,
        identity.template_id,
        identity.template_version,
        identity.record_level,
        accepted_at(identity.execution_id),
        {},
        {},
        *(0,) * 8,
        spans_stored,
    )


_COUNTS = (
    semconv.UNPRICED_CALLS,
    semconv.WASTE_NANO_USD,
    semconv.MODEL_CALLS,
    semconv.TOOL_CALLS,
    semconv.NODES_TOTAL,
    semconv.NODES_FAILED,
    semconv.NODES_RETRIED,
)
_TEXTS = {
    "definition_id": semconv.DEFINITION_ID,
    "graph_hash": semconv.GRAPH_HASH,
    "conversation_id": semconv.CONVERSATION_ID,
    "correlation_id": semconv.CORRELATION_ID,
    "trigger": semconv.TRIGGER,
    "error_type": semconv.ERROR_TYPE,
    "error_message": semconv.ERROR_MESSAGE,
    "error_node_id": semconv.ERROR_NODE_ID,
    "cancel_reason": semconv.CANCEL_REASON,
    "retry_of": semconv.RETRY_OF,
    "seal": semconv.SPANS_HASH,
}
_EXECUTION_COLUMNS = (
    "id",
    "owner_id",
    "status",
    "attempt",
    "rank",
    "seq",
    "workflow_name",
    "workflow_source",
    "template_id",
    "template_version",
    "record_level",
    "trace_id",
    "root_span_id",
    "streaming",
    "queued_at",
    "started_at",
    "completed_at",
    "duration_ms",
    "time_to_first_token_ms",
    "cost_nano_usd",
    "cost_upper_nano_usd",
    "unfinished_calls",
    "spans_expected",
    "spans_stored",
    "tags",
    "params",
    *_TEXTS,
    *TIME_LEDGER_COLUMNS,
    *TOKEN_FIELDS,
    "unpriced_calls",
    "waste_nano_usd",
    "model_calls",
    "tool_calls",
    "nodes_total",
    "nodes_failed",
    "nodes_retried",
)


def _execution_row(event: EventRecord, spans_stored: int) -> tuple[Cell, ...]:
    identity = event.identity
    state = _STATES[event.name]
    ended = state.rank == _RANK_TERMINAL
    duration_ms = event.integer(semconv.DURATION_MS)
    cost = event.integer(semconv.COST_NANO_USD)
    unfinished = event.integer(semconv.UNFINISHED_CALLS) or 0
    return (
        identity.execution_id,
        identity.owner,
        state.status,
        identity.attempt,
        state.rank,
        event.seq,
        identity.workflow_name,
        identity.workflow_source,
        identity.template_id,
        identity.template_version,
        identity.record_level,
        event.trace_id,
        event.span_id,
        event.attributes.get(semconv.STREAMING),
        _time(event.integer(semconv.QUEUED_AT) or event.at_ns),
        _time(event.integer(semconv.STARTED_AT) or event.at_ns) if state.rank > _RANK_QUEUED else None,
        _time(event.at_ns) if ended else None,
        duration_ms,
        _ms(event.number(semconv.TIME_TO_FIRST_TOKEN)),
        cost,
        event.integer(semconv.COST_UPPER_NANO_USD) if unfinished else cost,
        unfinished,
        event.integer(semconv.SPANS),
        spans_stored,
        _document(event, semconv.TAGS),
        _document(event, semconv.PARAMS),
        *(event.text(key) for key in _TEXTS.values()),
        *_time_ledger(event, duration_ms),
        *(event.integer(key) for key in semconv.SUM_TOKENS.values()),
        *(event.integer(key) or 0 for key in _COUNTS),
    )


def _time_ledger(event: EventRecord, duration_ms: int | None) -> list[int | None]:
    """Whole ms in the order of the columns; the engine's share takes what rounding leaves, so that they sum up."""
    if duration_ms is None:
        return [None] * len(TIME_LEDGER_COLUMNS)
    left = duration_ms
    parts: list[int | None] = []
    for key in _TIMES:
        part = min(left, _ms(event.number(key)) or 0)
        parts.append(part)
        left -= part
    return [*parts, left]


_TIMES = (
    semconv.TIME_QUEUE,
    semconv.TIME_MODEL,
    semconv.TIME_TOOL,
    semconv.TIME_RETRY,
    semconv.TIME_HUMAN,
)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _document(event: EventRecord, key: str) -> JsonObject:
    """A JSON object that travelled as text; one that had to be cut is not JSON any more and says so."""
    text = event.text(key)
    if text is None:
        return {}
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {semconv.SANITIZED: True}
    if not isinstance(document, dict):
        raise BadSignal(f"{key} is no JSON object")
    return document


def _time(ns: int) -> datetime:
    return EPOCH + timedelta(microseconds=ns // 1000)


_INSERT_SPANS = BulkInsert(
    spans,
    _SPAN_COLUMNS,
    "ON CONFLICT (execution_id, span_id) DO NOTHING",
    ("execution_id", "span_id"),
    mostly_new=True,
)
_UPSERT_EXECUTIONS = BulkInsert(
    executions,
    _EXECUTION_COLUMNS,
    "ON CONFLICT (id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _EXECUTION_COLUMNS if name not in ("id", "spans_stored"))
    + ", spans_stored = executions.spans_stored + excluded.spans_stored"
    + f" WHERE executions.rank < {_RANK_TERMINAL} AND (excluded.attempt, excluded.rank, excluded.seq)"
    + " > (executions.attempt, executions.rank, executions.seq)",
    ("id",),
)
_COUNT_SPANS = BulkInsert(
    executions,
    _PLACEHOLDER_COLUMNS,
    "ON CONFLICT (id) DO UPDATE SET spans_stored = executions.spans_stored + excluded.spans_stored",
)
