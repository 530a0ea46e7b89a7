"""Reads the books by execution number and without ids, times and durations, so that two runs compare equal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Table, select
from sqlalchemy.engine import RowMapping

from engine.database.database import Database
from engine.tracing import semconv
from telemetry.store.tables import (
    DIGEST_COLUMNS,
    DURATION_COLUMNS,
    ROLLUP_KEYS,
    ROLLUP_SUMS,
    TIME_LEDGER_COLUMNS,
    execution_rollups,
    execution_rollups_daily,
    executions,
    spans,
    webhook_deliveries,
    webhook_events,
)
from tests.conformance.observed import OWN_TO_A_SIGNAL

Row = dict[str, object]

OWN_TO_A_RECORD = {
    "id",
    "definition_id",
    "conversation_id",
    "correlation_id",
    "trace_id",
    "root_span_id",
    "seal",
    *DIGEST_COLUMNS[1:],
    "queued_at",
    "started_at",
    "completed_at",
    "duration_ms",
    *TIME_LEDGER_COLUMNS,
}
OWN_TO_A_SPAN = {
    "execution_id",
    "span_id",
    "parent_span_id",
    "trace_id",
    "started_at",
    "started_nanos",
    "duration_us",
    "attributes",
}
OWN_TO_AN_ATTRIBUTE = (OWN_TO_A_SIGNAL - {semconv.STREAMING}) | {semconv.RESPONSE_ID, semconv.DEFINITION_ID}
OWN_TO_A_WEBHOOK = {
    "timestamp",
    "execution_id",
    "definition_id",
    "conversation_id",
    "correlation_id",
    "trace_id",
    "trace_url",
    "started_at",
    "completed_at",
    "duration_ms",
    "hash",
}
DURATIONS = {"duration_sum_ms", *DURATION_COLUMNS}


@dataclass(frozen=True, slots=True)
class Books:
    """The rows by execution number, and the sums over all executions."""

    records: dict[int, Row]
    spans: dict[int, list[tuple[int | None, Row]]]
    """Every span with the index of its parent, ordered by start."""
    webhooks: dict[int, list[Row]]
    deliveries: dict[int, int]
    rollups: dict[str, dict[tuple[object, ...], tuple[int, ...]]]
    traces: dict[int, str]
    """Trace ids, which differ between runs."""


async def read_books(database: Database) -> Books:
    """Read all books."""
    async with database.read() as connection:
        records = (await connection.execute(select(executions))).mappings().all()
        span_rows = await connection.execute(select(spans).order_by(spans.c.started_at, spans.c.started_nanos))
        by_execution: dict[str, list[RowMapping]] = {}
        for row in span_rows.mappings():
            by_execution.setdefault(row["execution_id"], []).append(row)
        events = (await connection.execute(select(webhook_events))).mappings().all()
        delivered = (await connection.execute(select(webhook_deliveries.c.execution_id))).scalars().all()
        rollups = {}
        for table in (execution_rollups, execution_rollups_daily):
            rollups[table.name] = _summed(table, (await connection.execute(select(table))).mappings().all())
    numbers = {row["id"]: int(row["tags"]["number"]) for row in records}
    return Books(
        records={numbers[row["id"]]: _record(row) for row in records},
        spans={numbers[id_]: _tree(rows) for id_, rows in by_execution.items()},
        webhooks=_by_number(numbers, [(str(row["execution_id"]), _webhook(row)) for row in events]),
        deliveries={number: list(delivered).count(id_) for id_, number in numbers.items()},
        rollups=rollups,
        traces={numbers[row["id"]]: row["trace_id"] for row in records},
    )


def _record(row: RowMapping) -> Row:
    found = _without(row, OWN_TO_A_RECORD)
    return found | {"time_to_first_token_ms": found["time_to_first_token_ms"] is not None}


def _tree(rows: list[RowMapping]) -> list[tuple[int | None, Row]]:
    places = {row["span_id"]: place for place, row in enumerate(rows)}
    return [(places.get(row["parent_span_id"]), _span(row)) for row in rows]


def _span(row: RowMapping) -> Row:
    attributes = row["attributes"] or {}
    assert isinstance(attributes, dict)
    return _without(row, OWN_TO_A_SPAN) | {"attributes": _without(attributes, OWN_TO_AN_ATTRIBUTE)}


def _webhook(row: RowMapping) -> Row:
    body = json.loads(row["body"])
    data = body.pop("data")
    seal = _without(data.pop("seal"), OWN_TO_A_WEBHOOK)
    return _without(body, OWN_TO_A_WEBHOOK) | {"data": _without(data, OWN_TO_A_WEBHOOK), "seal": seal}


def _by_number(numbers: dict[str, int], rows: list[tuple[str, Row]]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for id_, row in rows:
        found.setdefault(numbers[id_], []).append(row)
    return found


def _summed(table: Table, rows: Sequence[RowMapping]) -> dict[tuple[object, ...], tuple[int, ...]]:
    """Sums over all buckets, since an hour may end between two runs."""
    names = [name for name in ROLLUP_SUMS if name not in DURATIONS]
    found: dict[tuple[object, ...], tuple[int, ...]] = {}
    for row in rows:
        key = tuple(row[name] for name in ROLLUP_KEYS)
        before = found.get(key, (0,) * len(names))
        found[key] = tuple(sum_ + row[name] for sum_, name in zip(before, names, strict=True))
    return found


def _without(row: object, own: set[str]) -> Row:
    assert isinstance(row, Mapping)
    return {str(key): value for key, value in row.items() if key not in own}
