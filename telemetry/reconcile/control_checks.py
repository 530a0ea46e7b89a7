"""Compares a record with the decisions about its execution: its control row, its identity and its result."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from engine.documents.json_text import to_json
from engine.graph import JsonObject
from engine.identity import ExecutionIdentity
from engine.result import ResultMetadata, Status
from engine.store.control_reads import DecidedExecution
from engine.tracing import semconv
from engine.tracing.attributes import content_hash, identity_attributes
from engine.usage import TOKEN_FIELDS
from telemetry.reconcile.findings import Check, Difference, shown
from telemetry.reconcile.pages import ExecutionBooks
from telemetry.reconcile.record_checks import TERMINAL, Record, differing
from telemetry.records.digest import NO_SPANS
from telemetry.records.rows import EXECUTION_COLUMNS, execution_row
from telemetry.signals.builders import make_event
from telemetry.signals.records import EPOCH, time_of
from telemetry.signals.sanitize import place_all
from telemetry.store.bulk import Cell

_RECORD_OR_CONTROL = "the record or the control row was changed after the decision"
_RECORD_OR_RESULT = "the record or the result was changed after the end"

_CONTROL_COLUMNS = {
    "owner_id": "owner_id",
    "workflow_name": "workflow_name",
    "workflow_source": "source",
    "graph_hash": "graph_hash",
    "conversation_id": "conversation_id",
}
"""Column of the record to that of the control row, for what never changes."""

_DECIDED_COLUMNS = {
    "status": "status",
    "attempt": "attempt",
    "trace_id": "trace_id",
    "root_span_id": "root_span_id",
}
"""The same for the state of the execution."""

_IDENTITY_FIELDS = {
    "owner_id": "owner",
    "workflow_name": "workflow_name",
    "workflow_source": "source",
    "trigger": "trigger",
    "streaming": "streaming",
    "correlation_id": "correlation_id",
    "template_id": "template_id",
    "template_version": "template_version",
    "definition_id": "definition_id",
    "graph_hash": "graph_hash",
    "conversation_id": "conversation_id",
    "retry_of": "retry_of",
    "record_level": "record_level",
    "tags": "tags",
    "params": "params",
}
"""Column of the record to the field of the identity that the control row keeps."""

_RESULT_COLUMNS = (
    "status",
    "error_type",
    "error_class",
    "duration_ms",
    "cost_nano_usd",
    "waste_nano_usd",
    "model_calls",
    "tool_calls",
    "unfinished_calls",
    "cost_upper_nano_usd",
)
"""Fields of the result that are columns of the record."""

_KINDS_OF_CALLS = ("unpriced_calls", "unmetered_calls", "failed_calls", "assumed_calls")
"""More of them. An older program told only the first, and counted other calls in it."""

_METADATA_COLUMNS = {
    "workflow_source": "source",
    **{name: name for name in ResultMetadata.model_fields if name not in ("source", "unsaved", "degraded", "offline")},
}
"""Column of the record to the field of the result's metadata."""


def check_control(books: ExecutionBooks) -> Iterator[Difference]:
    """Compare the record with the control row, unless that was deleted when it was due."""
    record, decided = books.record, books.decided
    if record is None and decided is not None:
        cause = "the record was removed, or never written"
        yield Difference(Check.CONTROL, books.id, "id", None, books.id, cause)
    elif record is not None and decided is None and record["control_pruned_at"] is None:
        cause = "the control row was removed, or the record was added for an execution that was never accepted"
        yield Difference(Check.CONTROL, books.id, "execution_id", None, books.id, cause)
    elif record is not None and decided is not None:
        yield from _check_state(record, decided)
        yield from _check_identity(record, decided)
        if decided.status in TERMINAL:
            yield from _check_end(record, decided)


def _check_state(record: Record, decided: DecidedExecution) -> Iterator[Difference]:
    expected: dict[str, Cell] = {name: getattr(decided, of) for name, of in _CONTROL_COLUMNS.items()}
    if decided.correlation_id != decided.execution_id:  # which stands for none
        expected["correlation_id"] = decided.correlation_id
    if not _is_beginning(record, decided):
        expected |= {name: getattr(decided, of) for name, of in _DECIDED_COLUMNS.items()}
    yield from differing(Check.CONTROL, decided.execution_id, record, expected, _RECORD_OR_CONTROL)


def _is_beginning(record: Record, decided: DecidedExecution) -> bool:
    """Whether a claim or an answer lets the execution go on, and no event of the new attempt is stored yet."""
    if decided.status != Status.RUNNING or record["status"] in TERMINAL:
        return False
    return bool(record["attempt"] == decided.attempt - 1 or record["status"] in (Status.QUEUED, Status.PAUSED))


def _check_identity(record: Record, decided: DecidedExecution) -> Iterator[Difference]:
    subject = decided.subject or {}
    expected: dict[str, Cell] = {name: subject[of] for name, of in _IDENTITY_FIELDS.items() if of in subject}
    if isinstance(queued_ns := subject.get("queued_ns"), int):
        expected["queued_at"] = _time(queued_ns)
    differs = [name for name, value in expected.items() if record[name] != value]
    if not differs:
        return
    stored = _sanitized(subject)  # long or secret texts are not stored as they are
    for name in differs:
        if record[name] != stored.get(name, expected[name]):
            show = _hashed if name == "params" else shown
            cells = show(record[name]), show(expected[name])
            yield Difference(Check.CONTROL, decided.execution_id, name, *cells, _RECORD_OR_CONTROL)


def _hashed(value: object) -> str:
    """Stands for parameters, which a finding does not repeat."""
    return content_hash(to_json(value))


def _time(ns: int) -> datetime | None:
    return time_of(ns) if 0 <= ns < 1 << 62 else EPOCH


def _sanitized(subject: JsonObject) -> Mapping[str, Any]:
    """The cells that an event about this identity gives its record; empty if it is no identity."""
    try:
        known: dict[str, Any] = {
            name: value for name, value in subject.items() if name in ExecutionIdentity.__dataclass_fields__
        }
        identity = ExecutionIdentity(**known)
        attributes = identity_attributes(identity) | {semconv.EVENT_ID: "", semconv.EVENT_SEQ: 0}
        event = make_event(
            name=semconv.Event.STARTED, at_ns=0, trace_id=None, span_id=None, placed=place_all(attributes)
        )
        return dict(zip(EXECUTION_COLUMNS, execution_row(event, NO_SPANS), strict=True))
    except (TypeError, ValueError):
        return {}


def _check_end(record: Record, decided: DecidedExecution) -> Iterator[Difference]:
    """Compare an ended record with the result, as far as that is still kept."""
    id_, outcome = decided.execution_id, decided.outcome
    if decided.lease_owner is not None:
        yield Difference(
            Check.LEFTOVER, id_, "lease_owner", decided.lease_owner, None, "the execution has ended and is still leased"
        )
    if "metadata" not in outcome:
        return
    metadata, usage = outcome["metadata"], outcome.get("usage")
    expected: dict[str, Cell] = {name: outcome.get(name) for name in _RESULT_COLUMNS}
    expected["nodes_total"] = outcome.get("node_executions")
    if outcome.get("unmetered_calls") is not None:
        expected |= {name: outcome.get(name) for name in _KINDS_OF_CALLS}
    if isinstance(usage, dict):
        expected |= {name: usage[name] for name in TOKEN_FIELDS if name in usage}
    if isinstance(metadata, dict):
        expected |= {name: metadata[of] for name, of in _METADATA_COLUMNS.items() if of in metadata}
    yield from differing(Check.CONTROL, id_, record, expected, _RECORD_OR_RESULT)
