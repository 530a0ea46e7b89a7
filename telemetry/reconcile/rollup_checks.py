"""Compares roll-ups: an hour's rows with the sums over its records, a day's rows with the sums over its hours."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, RowMapping, Select, Table, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from telemetry.reconcile.findings import Check, Difference, Findings, shown
from telemetry.reconcile.pages import AT, ExecutionBooks, read_pages
from telemetry.reconcile.window import HOUR, Window
from telemetry.records.rollups import Deltas, accepted_at
from telemetry.records.rows import SPAN_COLUMNS
from telemetry.store.bulk import Cell
from telemetry.store.retention_tables import pruned_rollups
from telemetry.store.tables import (
    ROLLUP_KEYS,
    ROLLUP_LATEST,
    ROLLUP_SUMS,
    execution_rollups,
    execution_rollups_daily,
    executions,
)

Key = tuple[Cell, ...]
"""The bucket, then `ROLLUP_KEYS`."""
Rows = dict[Key, Mapping[str, Cell]]

_VALUES = (*ROLLUP_SUMS, *ROLLUP_LATEST)
_NOTHING: Mapping[str, Cell] = {**dict.fromkeys(ROLLUP_SUMS, 0), **dict.fromkeys(ROLLUP_LATEST)}

_CHANGED = "the roll-up was changed, or it missed an execution or counted one twice"
_MISSED = "the roll-up missed the execution {}, or the execution was added to the records later"
_COUNTED = "the roll-up counted the execution {} twice, or the execution was counted under another key"
_NO_RECORD = "no record belongs to the roll-up row: it was added, or its records were removed"
_NO_HOUR = "the hours of the day add up to another sum: the day or one of its hours was changed"
_NEVER = "there are no executions so early or so late: the roll-up row was added, or its bucket was changed"


def add_to(deltas: Deltas, books: ExecutionBooks) -> None:
    """Add an execution to the sums that its hour should have."""
    if books.record is not None:
        calls = (row for row in books.spans if row[AT["kind"]] == "model")
        deltas.add_record(books.record, [dict(zip(SPAN_COLUMNS, row, strict=True)) for row in calls])


async def check_hour(connection: AsyncConnection, hour: Window, deltas: Deltas, findings: Findings) -> None:
    """Compare the roll-ups of an hour with the sums over its records."""
    stored = await _read_stored(connection, _within(execution_rollups, hour))
    findings.rollup_rows += len(stored)
    expected = _rows_of(deltas)
    if stored != expected:
        causes = await _causes(connection, hour, stored, expected)
        findings.differences += _differences(Check.ROLLUP, stored, expected, causes)


async def check_day(connection: AsyncConnection, day: Window, findings: Findings) -> None:
    """Compare the roll-ups of a day with the sums over its hours."""
    stored = await _read_stored(connection, _within(execution_rollups_daily, day))
    findings.rollup_rows += len(stored)
    hourly = execution_rollups.c
    keys = [hourly[name] for name in ROLLUP_KEYS]
    sums = [cast(func.sum(hourly[name]), BigInteger).label(name) for name in ROLLUP_SUMS]
    latest = [func.max(hourly[name]).label(name) for name in ROLLUP_LATEST]
    within = (hourly.bucket_hour >= day.since, hourly.bucket_hour < day.until)
    rows = (await connection.execute(select(*keys, *sums, *latest).where(*within).group_by(*keys))).mappings()
    expected = {(day.since, *(row[name] for name in ROLLUP_KEYS)): _values(row) for row in rows}
    if stored != expected:
        causes = dict.fromkeys(stored.keys() | expected.keys(), _NO_HOUR)
        findings.differences += _differences(Check.DAILY_ROLLUP, stored, expected, causes)


async def check_outside(connection: AsyncConnection, findings: Findings) -> None:
    """Find roll-ups from before the first record or after the last one; deleted records count, too."""
    ids = (await connection.execute(select(func.min(executions.c.id), func.max(executions.c.id)))).one()
    pruned = pruned_rollups.c.bucket_hour
    hours = (await connection.execute(select(func.min(pruned), func.max(pruned)))).one()
    known = [*(accepted_at(id_) for id_ in ids if id_ is not None), *(hour for hour in hours if hour is not None)]
    for table, check, length in (
        (execution_rollups, Check.ROLLUP, HOUR),
        (execution_rollups_daily, Check.DAILY_ROLLUP, timedelta(days=1)),
    ):
        bucket = _bucket(table)
        outside = select(table)
        if known:
            outside = outside.where((bucket <= min(known) - length) | (bucket > max(known)))
        stored = await _read_stored(connection, outside.limit(_MOST_OUTSIDE))
        findings.differences += _differences(check, stored, {}, dict.fromkeys(stored, _NEVER))


_MOST_OUTSIDE = 1_000


def _bucket(table: Table) -> Any:
    return next(iter(table.primary_key.columns))


def _within(table: Table, window: Window) -> Select[Any]:
    bucket = _bucket(table)
    return select(table).where(bucket >= window.since, bucket < window.until)


async def _read_stored(connection: AsyncConnection, statement: Select[Any]) -> Rows:
    """The rows of a table of roll-ups; their bucket is the first column."""
    rows = (await connection.execute(statement)).mappings()
    return {(next(iter(row.values())), *(row[name] for name in ROLLUP_KEYS)): _values(row) for row in rows}


def _values(row: RowMapping) -> Mapping[str, Cell]:
    return {name: row[name] for name in _VALUES}


def _rows_of(deltas: Deltas) -> Rows:
    keys = 1 + len(ROLLUP_KEYS)
    return {row[:keys]: dict(zip(_VALUES, row[keys:], strict=True)) for row in deltas.rows()}


async def _causes(connection: AsyncConnection, hour: Window, stored: Rows, expected: Rows) -> Mapping[Key, str]:
    """The likely cause for each row that differs: one execution too few or too many, if that explains the row."""
    lost = {key: _minus(expected.get(key, _NOTHING), stored.get(key, _NOTHING)) for key in stored.keys() | expected}
    lost = {key: sums for key, sums in lost.items() if any(sums)}
    causes = {key: _CHANGED if key in expected else _NO_RECORD for key in stored.keys() | expected}
    async for page in read_pages(connection, hour):
        for books in page:
            one = Deltas()
            add_to(one, books)
            for key, values in _rows_of(one).items():
                sums = _minus(values, _NOTHING)
                if lost.get(key) == sums:
                    causes[key] = _MISSED.format(books.id)
                elif lost.get(key) == [-count for count in sums]:
                    causes[key] = _COUNTED.format(books.id)
    return causes


def _minus(values: Mapping[str, Any], others: Mapping[str, Any]) -> list[int]:
    return [values[name] - others[name] for name in ROLLUP_SUMS]


def _differences(check: Check, stored: Rows, expected: Rows, causes: Mapping[Key, str]) -> Iterator[Difference]:
    for key in sorted(stored.keys() | expected.keys(), key=str):
        is_, should_be = stored.get(key, _NOTHING), expected.get(key, _NOTHING)
        for name in _VALUES:
            if is_[name] != should_be[name]:
                found, wanted = shown(is_[name]), shown(should_be[name])
                yield Difference(check, _subject(check, key), name, found, wanted, causes[key])


def _subject(check: Check, key: Key) -> str:
    bucket, *parts = key
    named = " ".join(f"{name}={value}" for name, value in zip(ROLLUP_KEYS, parts, strict=True) if value)
    return f"{bucket:{_FORMATS[check]}} {named}"


_FORMATS = {Check.ROLLUP: "%Y-%m-%dT%HZ", Check.DAILY_ROLLUP: "%Y-%m-%d"}
