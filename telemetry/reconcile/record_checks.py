"""Compares a record with its spans: their sums, their digest, and the root span that closes the execution."""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from engine.events import LAST_SEQ
from engine.resources import CostSource
from engine.result import Status
from engine.tracing import semconv
from engine.usage import TOKEN_FIELDS
from telemetry.reconcile.findings import Check, Difference, shown
from telemetry.reconcile.pages import AT, ExecutionBooks
from telemetry.records.digest import NO_SPANS, Digest, digest_of_all, locate
from telemetry.records.rows import CLOSING_COLUMNS, DIVIDED_COLUMNS, EXECUTION_COLUMNS, RANKS, execution_row
from telemetry.signals.records import BadSignal, EventRecord, Identity
from telemetry.store.bulk import Cell, Row
from telemetry.store.tables import DIGEST_COLUMNS, TIME_LEDGER_COLUMNS

Record = Mapping[str, Any]

TERMINAL = frozenset(status.value for status in Status if status.is_terminal)

_CLOCKS_SECONDS = 60.0
"""How far the clock of a process may be set within an execution."""

_RECORD_CHANGED = "the record was changed after it was stored"
_SPANS_MISSING = "spans of the execution are not stored, look for its dead letters; or the record was changed"
_SPANS_CHANGED = "span rows of the execution were added, removed or changed, or the record was"
_ROW_CHANGED = "the span row was changed after it was stored"
_ROW_ADDED = "the span row was added after the execution was recorded"
_ROW_REMOVED = "a span row was removed"
_ROWS_CHANGED = "more than one cell of the span rows was changed after they were stored, or the record's digest was"
_NO_RECORD = "the record was removed, or the rows were added for an execution that never ran"


def check_record(books: ExecutionBooks) -> Iterator[Difference]:
    """Compare the record with the spans of all its attempts, unless they were deleted when they were due.

    Of an unfinished execution only what stands already is compared.
    """
    if books.record is None:
        if books.spans:
            ids = sorted(str(row[AT["span_id"]]) for row in books.spans)
            yield Difference(Check.SPAN, books.id, "execution_id", len(ids), 0, _NO_RECORD, ids[0])
        return
    if books.record["spans_pruned_at"] is not None:  # by retention, which has kept their sums
        yield from _check_times(books.id, books.record)
        return
    changes = list(_check_digest(books.id, books.record, books.spans))
    yield from changes
    is_intact = has_digest(books.record, len(books.spans)) and not changes
    yield from _check_sums(books, books.record, _cause(books.record, len(books.spans), is_intact=is_intact))
    if books.record["status"] in TERMINAL:
        yield from _check_root(books, books.record)


def _cause(record: Record, stored: int, *, is_intact: bool) -> str:
    if not is_intact:
        return _SPANS_CHANGED
    return _RECORD_CHANGED if record["spans_expected"] in (None, stored) else _SPANS_MISSING


def has_digest(record: Record, stored: int) -> bool:
    """Whether the digest covers all span rows, of which so many are stored: an older program adds rows to none."""
    if any(record[name] is None for name in DIGEST_COLUMNS):
        return False
    return not record[DIGEST_COLUMNS[0]] < record["spans_stored"] == stored


def _check_digest(id_: str, record: Record, rows: list[Row]) -> Iterator[Difference]:
    if not has_digest(record, len(rows)):
        return
    stored = Digest(*(record[name] for name in DIGEST_COLUMNS))
    found = digest_of_all(rows)
    if stored == found:
        return
    change = locate(stored, rows)
    column = change.column or DIGEST_COLUMNS[1]
    if change.column is None:
        cells: tuple[Cell, Cell] = stored.plain, found.plain
        cause = _ROWS_CHANGED
    elif stored.spans != found.spans:
        cells = found.spans, stored.spans
        cause = _ROW_ADDED if found.spans > stored.spans else _ROW_REMOVED
    else:
        cells, cause = (change.found, change.expected), _ROW_CHANGED
    yield Difference(Check.SPAN, id_, column, shown(cells[0]), shown(cells[1]), cause, change.span_id)


def _check_sums(books: ExecutionBooks, record: Record, cause: str) -> Iterator[Difference]:
    expected: dict[str, Cell] = {"spans_stored": len(books.spans)}
    if record["status"] in RANKS:
        expected["rank"] = RANKS[record["status"]]
    if record["status"] in TERMINAL:
        expected |= _sums(books.spans, has_nodes=record["record_level"] != "summary")
        if not record["unfinished_calls"]:
            expected["cost_upper_nano_usd"] = record["cost_nano_usd"]
    yield from differing(Check.RECORD, books.id, record, expected, cause)
    yield from _check_times(books.id, record)


def _sums(rows: list[Row], *, has_nodes: bool) -> dict[str, Cell]:
    """The columns of a record that are sums over its spans."""
    calls = [row for row in rows if row[AT["kind"]] == "model"]
    costs = [(row[AT["cost_nano_usd"]], row[AT["waste"]]) for row in calls]
    priced = [(cost, waste) for cost, waste in costs if isinstance(cost, int)]
    unmetered = sum(
        row[AT["cost_nano_usd"]] is None and None in (row[AT["input_tokens"]], row[AT["output_tokens"]])
        for row in calls
    )
    ids = "".join(sorted(str(row[AT["span_id"]]) for row in rows)).encode()
    sums: dict[str, Cell] = {
        **{name: _sum_of(row[AT[name]] for row in calls) for name in TOKEN_FIELDS},
        "model_calls": len(calls),
        "unpriced_calls": len(calls) - len(priced) - unmetered,
        "unmetered_calls": unmetered,
        "failed_calls": sum(row[AT["error_type"]] is not None for row in calls),
        "assumed_calls": sum(row[AT["cost_source"]] == CostSource.ASSUMED for row in calls),
        "waste_nano_usd": sum(cost for cost, waste in priced if waste is not None),
        "cost_nano_usd": None if calls and not priced else sum(cost for cost, _ in priced),
        "spans_expected": len(rows),
        "seal": hashlib.sha256(ids).hexdigest(),
    }
    return sums | _counts(rows) if has_nodes else sums


def _counts(rows: list[Row]) -> dict[str, Cell]:
    nodes = [(row[AT["status"]], row[AT["node_attempt"]]) for row in rows if row[AT["kind"]] == "node"]
    return {
        "tool_calls": sum(row[AT["kind"]] == "tool" for row in rows),
        "nodes_total": sum(attempt == 1 for _, attempt in nodes),
        "nodes_failed": sum(status == "failed" for status, _ in nodes),
        "nodes_retried": sum(status == "retrying" for status, _ in nodes),
    }


def _sum_of(counts: Iterator[Cell]) -> int | None:
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known else None


def _check_times(id_: str, record: Record) -> Iterator[Difference]:
    parts = [record[name] or 0 for name in TIME_LEDGER_COLUMNS]
    if sum(parts) != (record["duration_ms"] or 0):
        cause = "the parts of the time ledger do not add up: the duration or one of them was changed"
        yield Difference(Check.RECORD, id_, "duration_ms", record["duration_ms"], sum(parts), cause)


def _check_root(books: ExecutionBooks, record: Record) -> Iterator[Difference]:
    """Compare an ended execution with the root span of its last attempt, which says all that its last event said."""
    root = next((row for row in books.spans if row[AT["span_id"]] == record["root_span_id"]), None)
    if root is None:
        if books.spans and record["root_span_id"] is not None:
            cause = "the root span's row was removed, or the record names another"
            yield Difference(Check.RECORD, books.id, "root_span_id", record["root_span_id"], None, cause)
        return
    expected: dict[str, Cell] = {name: root[AT[name]] for name in ("trace_id", "owner_id")}
    attributes = root[AT["attributes"]]
    said = attributes.get(semconv.EXECUTION_STATUS) if isinstance(attributes, dict) else root[AT["status"]]
    if said in TERMINAL:
        expected |= {"status": said, "attempt": root[AT["attempt"]], "error_type": root[AT["error_type"]]}
    if said in TERMINAL and isinstance(attributes, dict):
        expected |= _closing_cells(record, attributes, said)
    if said == Status.CANCELLED:  # the root of a lost attempt is an error, even if its execution was cancelled
        expected |= dict.fromkeys((name for name in expected if name.startswith("error_")), None)
    yield from differing(Check.RECORD, books.id, record, expected, _RECORD_CHANGED)
    yield from _check_end(books.id, record, root)


def _closing_cells(record: Record, attributes: dict[str, Any], status: str) -> dict[str, Cell]:
    """The cells of the record as its closing event made them, from the attributes that the root span shares with it."""
    identity = Identity(record["id"], record["attempt"], "", "", "", None, None, record["record_level"])
    event = EventRecord(identity, "", semconv.Event[status.upper()], 0, 0, None, None, attributes)
    try:
        cells = dict(zip(EXECUTION_COLUMNS, execution_row(event, NO_SPANS), strict=True))
    except BadSignal:  # the attributes were changed, which the digest shows
        return {}
    upper = {"cost_upper_nano_usd": cells["cost_upper_nano_usd"]} if cells["unfinished_calls"] else {}
    untold = () if semconv.UNMETERED_CALLS in attributes else DIVIDED_COLUMNS
    return {name: cells[name] for name in CLOSING_COLUMNS if name not in untold} | upper


def _check_end(id_: str, record: Record, root: Row) -> Iterator[Difference]:
    """An execution ends with its root span; one that another process closed ends after its duration."""
    ends, start, duration_us = record["completed_at"], root[AT["started_at"]], root[AT["duration_us"]]
    assert isinstance(start, datetime)
    assert isinstance(duration_us, int)
    if ends is None:
        yield Difference(Check.RECORD, id_, "completed_at", None, None, "the end was removed from the record")
        return
    seconds = duration_us / 1e6
    if record["seq"] == LAST_SEQ:
        start, seconds = record["queued_at"], (record["duration_ms"] or 0) / 1e3
    if abs((ends - start).total_seconds() - seconds) > _CLOCKS_SECONDS:
        cause = "the record's end is not that of its root span: one of them was changed"
        yield Difference(Check.RECORD, id_, "completed_at", shown(ends), f"{seconds:.3f} s after {shown(start)}", cause)


def differing(
    check: Check,
    id_: str,
    found: Mapping[str, Any],
    expected: Mapping[str, Cell],
    cause: str,
    row: str | None = None,
) -> Iterator[Difference]:
    """A difference for each column that is not as expected."""
    for name, should_be in expected.items():
        if found[name] != should_be:
            yield Difference(check, id_, name, shown(found[name]), shown(should_be), cause, row)
