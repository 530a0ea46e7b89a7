"""Builds the rows of executions and spans from signals; every cell is named by its column."""

from collections.abc import Callable, Mapping
from operator import attrgetter, itemgetter
from typing import cast

import orjson

from engine.graph import JsonObject
from engine.tracing import semconv
from engine.tracing.semconv import Event
from telemetry.records.rollups import accepted_at
from telemetry.signals.records import BadSignal, EventRecord, Identity, Kind, SpanRecord, time_of
from telemetry.store.bulk import Cell, Row
from telemetry.store.tables import DIGEST_COLUMNS, PRUNED_MARKS, TIME_LEDGER_COLUMNS, executions, spans

RANK_QUEUED, RANK_RUNNING, RANK_TERMINAL = 0, 1, 2

EXECUTION_COLUMNS = tuple(column.name for column in executions.c if column.name not in PRUNED_MARKS)

_STATES = {
    Event.QUEUED.value: ("queued", RANK_QUEUED),
    Event.STARTED.value: ("running", RANK_RUNNING),
    Event.PAUSED.value: ("paused", RANK_RUNNING),
    Event.RESUMED.value: ("running", RANK_RUNNING),
    Event.COMPLETED.value: ("completed", RANK_TERMINAL),
    Event.FAILED.value: ("failed", RANK_TERMINAL),
    Event.CANCELLED.value: ("cancelled", RANK_TERMINAL),
}
"""Event to the status and rank of its execution."""

RANKS = dict(_STATES.values())
"""Status to rank."""

_NODE_FIELDS = {
    "node_id": semconv.NODE_ID,
    "node_type": semconv.NODE_TYPE,
    "node_attempt": semconv.NODE_ATTEMPT,
    "path": semconv.NODE_PATH,
    "error_type": semconv.ERROR_TYPE,
}
"""Columns of every span that hold an attribute as it is."""

_CALL_FIELDS = {
    "provider": semconv.PROVIDER,
    "model": semconv.REQUEST_MODEL,
    **semconv.CALL_TOKENS,
    "cost_nano_usd": semconv.COST_NANO_USD,
    "cost_source": semconv.COST_SOURCE,
    "price_version": semconv.PRICE_VERSION,
    "unpriced_reason": semconv.UNPRICED_REASON,
    "service_tier": semconv.SERVICE_TIER,
    "provider_nano_usd": semconv.PROVIDER_COST_NANO_USD,
    "waste": semconv.CALL_WASTE,
}
"""The same, of model calls alone."""

_COMPUTED_COLUMNS = tuple(column.name for column in spans.c if column.name not in _NODE_FIELDS | _CALL_FIELDS)
CALL_COLUMNS = tuple(_CALL_FIELDS)
"""The columns that only model calls have a value in."""
SPAN_COLUMNS = (*_COMPUTED_COLUMNS, *_NODE_FIELDS, *CALL_COLUMNS)

_NODE_KEYS, _CALL_KEYS = tuple(_NODE_FIELDS.values()), tuple(_CALL_FIELDS.values())
_NO_CALL: Row = (None,) * len(_CALL_KEYS)

_TEXTS = {
    "definition_id": semconv.DEFINITION_ID,
    "graph_hash": semconv.GRAPH_HASH,
    "conversation_id": semconv.CONVERSATION_ID,
    "correlation_id": semconv.CORRELATION_ID,
    "trigger": semconv.TRIGGER,
    "error_type": semconv.ERROR_TYPE,
    "error_class": semconv.ERROR_CLASS,
    "error_message": semconv.ERROR_MESSAGE,
    "error_node_id": semconv.ERROR_NODE_ID,
    "cancel_reason": semconv.CANCEL_REASON,
    "retry_of": semconv.RETRY_OF,
    "seal": semconv.SPANS_HASH,
}
_COUNTS = {
    "unpriced_calls": semconv.UNPRICED_CALLS,
    "unmetered_calls": semconv.UNMETERED_CALLS,
    "failed_calls": semconv.FAILED_CALLS,
    "assumed_calls": semconv.ASSUMED_CALLS,
    "waste_nano_usd": semconv.WASTE_NANO_USD,
    "model_calls": semconv.MODEL_CALLS,
    "tool_calls": semconv.TOOL_CALLS,
    "nodes_total": semconv.NODES_TOTAL,
    "nodes_failed": semconv.NODES_FAILED,
    "nodes_retried": semconv.NODES_RETRIED,
}
_TIMES = {
    "time_queue_ms": semconv.TIME_QUEUE,
    "time_model_ms": semconv.TIME_MODEL,
    "time_tool_ms": semconv.TIME_TOOL,
    "time_retry_ms": semconv.TIME_RETRY,
    "time_human_ms": semconv.TIME_HUMAN,
}

CLOSING_COLUMNS = (
    *(name for name in _TEXTS if name != "error_type"),
    *semconv.SUM_TOKENS,
    *_COUNTS,
    *TIME_LEDGER_COLUMNS,
    "duration_ms",
    "time_to_first_token_ms",
    "unfinished_calls",
    "spans_expected",
    "streaming",
    "queued_at",
    "started_at",
    "tags",
)
"""The columns of an ended execution that follow from attributes which its root span keeps, too."""

DIVIDED_COLUMNS = ("unpriced_calls", "unmetered_calls", "failed_calls")
"""Columns that an older program told as one, `unpriced_calls`: what it told knows no `unmetered_calls`."""

_IDENTITY = {
    "id": "execution_id",
    "owner_id": "owner",
    "workflow_name": "workflow_name",
    "workflow_source": "workflow_source",
    "template_id": "template_id",
    "template_version": "template_version",
    "record_level": "record_level",
}
"""Column to the field of `Identity`."""

_NO_EVENT: dict[str, Cell] = {
    "status": "queued",
    "attempt": 0,
    "rank": RANK_QUEUED,
    "seq": 0,
    "tags": {},
    "params": {},
    "unfinished_calls": 0,
    **dict.fromkeys(_COUNTS, 0),
}
"""The state of an execution before its first event arrives; every event replaces it."""

PLACEHOLDER_COLUMNS = (*_IDENTITY, *_NO_EVENT, "queued_at", "spans_stored", *DIGEST_COLUMNS)


def changes_record(event: EventRecord) -> bool:
    """Whether the event says what state its execution is in; other events change no record."""
    return event.name in _STATES


def status_of(event: EventRecord) -> str:
    """The status that the event gives its execution."""
    return _STATES[event.name][0]


def rank_of(event: EventRecord) -> int:
    """The rank that the event gives its execution."""
    return _STATES[event.name][1]


def span_row(span: SpanRecord) -> Row:
    """The cells of a span, in the order of `SPAN_COLUMNS`. Runs for every span: it must stay cheap."""
    identity = span.identity
    field = span.fields.get
    computed: dict[str, Cell] = {
        "execution_id": identity.execution_id,
        "span_id": span.span_id,
        "owner_id": identity.owner,
        "trace_id": span.trace_id,
        "parent_span_id": span.parent_span_id,
        "attempt": identity.attempt,
        "kind": span.kind,
        "name": span.name,
        "status": span.status,
        "started_at": time_of(span.start_ns),
        "started_nanos": span.start_ns % 1000,
        "duration_us": (span.end_ns - span.start_ns) // 1000,
        "attributes": span.attributes if identity.record_level == "full" else None,
    }
    call = map(field, _CALL_KEYS) if span.kind is Kind.MODEL else _NO_CALL
    return (*_computed_cells(computed), *map(field, _NODE_KEYS), *call)


def execution_row(event: EventRecord, new_spans: Row) -> Row:
    """The cells of an execution as its event describes it, in the order of `EXECUTION_COLUMNS`.

    `new_spans` is the digest of the spans that are stored with it.
    """
    status, rank = _STATES[event.name]
    duration_ms = event.integer(semconv.DURATION_MS)
    cost = event.integer(semconv.COST_NANO_USD)
    unfinished = event.integer(semconv.UNFINISHED_CALLS) or 0
    queued_ns = event.integer(semconv.QUEUED_AT) or event.at_ns
    started_ns = event.integer(semconv.STARTED_AT) or event.at_ns
    row = _identity_cells(event.identity) | {
        "status": status,
        "attempt": event.identity.attempt,
        "rank": rank,
        "seq": event.seq,
        "trace_id": event.trace_id,
        "root_span_id": event.span_id,
        "streaming": event.attributes.get(semconv.STREAMING),
        "queued_at": time_of(queued_ns),
        "started_at": time_of(started_ns) if rank > RANK_QUEUED else None,
        "completed_at": time_of(event.at_ns) if rank == RANK_TERMINAL else None,
        "duration_ms": duration_ms,
        "time_to_first_token_ms": _milliseconds(event.number(semconv.TIME_TO_FIRST_TOKEN)),
        "cost_nano_usd": cost,
        "cost_upper_nano_usd": event.integer(semconv.COST_UPPER_NANO_USD) if unfinished else cost,
        "unfinished_calls": unfinished,
        "spans_expected": event.integer(semconv.SPANS),
        **_stored(new_spans),
        "tags": _document(event, semconv.TAGS),
        "params": _document(event, semconv.PARAMS),
    }
    row |= {column: event.text(key) for column, key in _TEXTS.items()}
    row |= {column: event.integer(key) for column, key in semconv.SUM_TOKENS.items()}
    row |= {column: event.integer(key) or 0 for column, key in _COUNTS.items()}
    row |= _time_ledger(event, duration_ms)
    return _execution_cells(row)


def placeholder_row(identity: Identity, new_spans: Row) -> Row:
    """The cells of an execution of which only spans have arrived, in the order of `PLACEHOLDER_COLUMNS`."""
    queued_at = accepted_at(identity.execution_id)
    row = _identity_cells(identity) | _NO_EVENT | {"queued_at": queued_at, **_stored(new_spans)}
    return _placeholder_cells(row)


def _stored(new_spans: Row) -> dict[str, Cell]:
    return {"spans_stored": new_spans[0], **dict(zip(DIGEST_COLUMNS, new_spans, strict=True))}


def _identity_cells(identity: Identity) -> dict[str, Cell]:
    return dict(zip(_IDENTITY, _identity_values(identity), strict=True))


def _time_ledger(event: EventRecord, duration_ms: int | None) -> dict[str, Cell]:
    """Whole ms; the engine's share takes the remainder of rounding, so that the parts add up to the duration."""
    if duration_ms is None:
        return dict.fromkeys(TIME_LEDGER_COLUMNS)
    left = duration_ms
    parts: dict[str, Cell] = {}
    for column, key in _TIMES.items():
        part = min(left, _milliseconds(event.number(key)) or 0)
        parts[column] = part
        left -= part
    return parts | {"time_engine_ms": left}


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _document(event: EventRecord, key: str) -> JsonObject:
    """Parse a JSON object that was sent as text. If the text was cut, the returned object says so."""
    text = event.text(key)
    if text is None:
        return {}
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {semconv.SANITIZED: True}
    if not isinstance(document, dict):
        raise BadSignal(f"{key} is not a JSON object")
    return document


_Cells = Callable[[Mapping[str, Cell]], Row]

_computed_cells = cast(_Cells, itemgetter(*_COMPUTED_COLUMNS))
_execution_cells = cast(_Cells, itemgetter(*EXECUTION_COLUMNS))
_placeholder_cells = cast(_Cells, itemgetter(*PLACEHOLDER_COLUMNS))
_identity_values = attrgetter(*_IDENTITY.values())
