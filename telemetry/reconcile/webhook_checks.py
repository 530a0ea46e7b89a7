"""Compares webhook events and deliveries with the record: what was told to others is what is recorded."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import RowMapping, select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.tracing import semconv
from engine.tracing.attributes import event_id
from engine.usage import TOKEN_FIELDS
from telemetry.reconcile.findings import Check, Difference, shown
from telemetry.reconcile.pages import ExecutionBooks
from telemetry.reconcile.record_checks import TERMINAL, Record, differing
from telemetry.records.rows import DIVIDED_COLUMNS
from telemetry.store.bulk import Cell
from telemetry.store.tables import webhook_endpoints
from telemetry.webhooks.consumer import NewDelivery, Subscription

Endpoints = Sequence[tuple[Subscription, datetime]]
"""The endpoints, and when each was last changed."""

_BODY = "the body of the webhook event was changed after it was stored, or the record was"
_EVENT = "the webhook event was changed after it was stored"
_DELIVERY = "the delivery was changed after it was stored"
_MISSING_EVENT = "the webhook event of the end was removed, or never stored"
_MISSING_DELIVERY = "the delivery to an endpoint that subscribes to the event was removed, or never stored"
_DOUBLED = "an execution ends once: one of the events was added"
_NEVER_SENT = "the delivery counts as delivered, and no receiver has taken it"
_NO_RECORD = "the record was removed, or the event was added for an execution that never ran"

_RECORD_NAMES = {"execution_id": "id", "owner": "owner_id", "source": "workflow_source", "reason": "cancel_reason"}
"""Fields of a body that the record names otherwise."""

_OF_ANY_EVENT = ("execution_id", "owner", "workflow_name", "source", "template_id", "template_version", "retry_of")
"""Fields that every event of an execution has in common."""

_BODY_PREFIX = "body."
_CUT = "…"


async def read_endpoints(connection: AsyncConnection) -> Endpoints:
    """All endpoints."""
    rows = (await connection.execute(select(webhook_endpoints))).mappings()
    return [(Subscription.of(row), row["updated_at"]) for row in rows]


def check_webhooks(books: ExecutionBooks, endpoints: Endpoints) -> Iterator[Difference]:
    """Compare the events of an execution and their deliveries with its record; those that were due may be gone."""
    record = books.record
    if record is None:
        for event in books.events:
            yield _difference(books.id, "execution_id", books.id, None, _NO_RECORD, event["event_id"])
        return
    for event in books.events:
        yield from _check_event(record, event)
    for delivery in books.deliveries:
        yield from _check_delivery(books, delivery)
    if record["status"] in TERMINAL and record["webhooks_pruned_at"] is None:
        yield from _check_told(books, record, endpoints)


def column_told_by(difference: Difference) -> str:
    """The column of the record that the difference is about: a body may have another name for it."""
    name = difference.column.removeprefix(_BODY_PREFIX)
    return _RECORD_NAMES.get(name, name) if difference.check is Check.WEBHOOK else name


def _check_event(record: Record, event: RowMapping) -> Iterator[Difference]:
    id_, row = record["id"], event["event_id"]
    document = _document(event["body"])
    if document is None:
        yield _difference(id_, "body", shown(bytes(event["body"])), None, _BODY, row)
        return
    data = document["data"]
    is_end = event["event_type"] in semconv.TERMINAL_EVENTS
    columns: dict[str, Cell] = {
        "owner_id": record["owner_id"],
        "event_type": document.get("type"),
        "at": _time(document.get("timestamp")),
        "event_id": event_id(
            str(data.get("execution_id")), data.get("attempt", 0), event["event_type"], data.get("seq", 0)
        ),
    }
    yield from differing(Check.WEBHOOK, id_, dict(event), columns, _EVENT, row)
    told = dict(_flat(data)) if is_end else {name: data[name] for name in _OF_ANY_EVENT if name in data}
    if "unmetered_calls" not in told:
        told = {name: value for name, value in told.items() if name not in DIVIDED_COLUMNS}
    for name, value in told.items():
        column = _RECORD_NAMES.get(name, name)
        if column in record and not _agrees(record[column], value):
            yield _difference(id_, _BODY_PREFIX + name, shown(value), shown(record[column]), _BODY, row)


def _document(body: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(bytes(body))
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) and isinstance(document.get("data"), dict) else None


def _flat(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a closing event's body, by the columns of the record where they are grouped."""
    groups = {
        "usage": {name: name for name in TOKEN_FIELDS},
        "nodes": {"total": "nodes_total", "failed": "nodes_failed", "retried": "nodes_retried"},
        "seal": {"expected": "spans_expected", "hash": "seal"},
    }
    for name, value in data.items():
        group = groups.get(name)
        if group is None:
            yield name, value
        elif isinstance(value, dict):
            yield from ((column, value[part]) for part, column in group.items() if part in value)


def _agrees(cell: Cell, told: Any) -> bool:
    if isinstance(cell, datetime):
        return cell == _time(told)
    if isinstance(told, str) and told.endswith(_CUT) and isinstance(cell, str):
        return cell.startswith(told[:-1])
    return bool(cell == told)


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None


def _check_delivery(books: ExecutionBooks, delivery: RowMapping) -> Iterator[Difference]:
    event = next(event for event in books.events if event["event_id"] == delivery["event_id"])
    made = NewDelivery(event["event_id"], delivery["endpoint_id"], "", None, "", event["at"])
    expected = {"id": made.id, **{name: event[name] for name in ("owner_id", "execution_id", "event_type")}}
    yield from differing(Check.WEBHOOK, books.id, dict(delivery), expected, _DELIVERY, delivery["id"])
    if delivery["state"] == "delivered" and not 200 <= (delivery["last_status"] or 0) < 300:
        yield _difference(books.id, "state", "delivered", "pending", _NEVER_SENT, delivery["id"])


def _check_told(books: ExecutionBooks, record: Record, endpoints: Endpoints) -> Iterator[Difference]:
    """The end is one event, with a delivery to each endpoint that has not changed since the execution was accepted."""
    type_ = semconv.Event[record["status"].upper()].value
    ends = [event for event in books.events if event["event_type"] in semconv.TERMINAL_EVENTS]
    due = event_id(record["id"], record["attempt"], type_, record["seq"])
    for event in ends:
        if event["event_id"] != due:
            yield _difference(books.id, "event_id", event["event_id"], due, _DOUBLED, event["event_id"])
    wanting = [one.endpoint_id for one, changed_at in endpoints if _wants(one, changed_at, record, type_)]
    if not wanting:
        return
    if due not in {event["event_id"] for event in ends}:
        yield _difference(books.id, "event_id", None, due, _MISSING_EVENT, due)
        return
    told = {each["endpoint_id"] for each in books.deliveries if each["event_id"] == due}
    for endpoint_id in wanting:
        if endpoint_id not in told:
            yield _difference(books.id, "endpoint_id", None, endpoint_id, _MISSING_DELIVERY, due)


def _wants(one: Subscription, changed_at: datetime, record: Record, type_: str) -> bool:
    is_known = one.is_active and one.owner == record["owner_id"] and changed_at <= record["queued_at"]
    return is_known and one.wants(type_, record["workflow_source"], record["workflow_name"], record["template_id"])


def _difference(id_: str, column: str, found: Any, expected: Any, cause: str, row: str) -> Difference:
    return Difference(Check.WEBHOOK, id_, column, found, expected, cause, row)
