"""Compares the books within a window: records with their spans, hourly roll-ups with records, days with hours.

Drift is reported with the ids of the rows that differ, and never repaired.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    RowMapping,
    Subquery,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    null,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.result import ErrorClass
from engine.usage import TOKEN_FIELDS
from telemetry.store.tables import (
    DURATION_BOUNDS_MS,
    ROLLUP_KEYS,
    ROLLUP_SUMS,
    execution_rollups,
    execution_rollups_daily,
    executions,
    spans,
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Check(StrEnum):
    """Which two books were compared."""

    RECORD = "record"
    """A record with the sums over its spans."""
    ROLLUP = "rollup"
    """An hour's roll-up row with the sums over its records."""
    DAILY_ROLLUP = "daily_rollup"
    """A day's roll-up row with the sums over its hours."""
    COUNTER = "counter"
    """The increase of a Prometheus counter with the records."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One number that differs between two books."""

    check: Check
    subject: str
    """The id of the execution, the key of the roll-up row, or the counter with its labels."""
    column: str
    found: int | None
    expected: int | None
    """The sum over the more detailed book."""

    @property
    def drift_nano_usd(self) -> int:
        """The difference in cost; 0 for other columns."""
        return abs((self.found or 0) - (self.expected or 0)) if self.column == "cost_nano_usd" else 0

    def __str__(self) -> str:
        return f"{self.check} {self.subject}: {self.column} is {self.found}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class CounterOutcome:
    """Whether a Prometheus counter could be compared; `note` says why not."""

    metric: str
    is_compared: bool
    note: str | None = None


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """The result of comparing the books over whole hours of executions, by the time in their ids."""

    since: datetime
    until: datetime
    as_of: datetime
    executions: int
    """How many records of ended executions were compared."""
    rollup_rows: int
    differences: Sequence[Difference] = ()
    counters: Sequence[CounterOutcome] = ()

    @property
    def drift_nano_usd(self) -> int:
        """The sum of all differences in cost."""
        return sum(difference.drift_nano_usd for difference in self.differences)


@dataclass(frozen=True, slots=True)
class Window:
    """Whole hours, half-open."""

    since: datetime
    until: datetime

    @classmethod
    def around(cls, since: datetime, until: datetime) -> "Window":
        """The whole hours that contain both times."""
        return cls(floor_hour(since), floor_hour(until + HOUR - timedelta(microseconds=1)))

    def hours(self) -> Iterator["Window"]:
        """Each hour of the window."""
        yield from self._parts(self.since, HOUR)

    def days(self) -> Iterator["Window"]:
        """Each whole day that overlaps the window."""
        yield from self._parts(self.since.replace(hour=0), DAY)

    def holds(self, execution_id: ColumnElement[str]) -> ColumnElement[bool]:
        """That an execution was accepted within the window: its id is a UUIDv7, which starts with the time."""
        return and_(execution_id >= first_id(self.since), execution_id < first_id(self.until))

    def _parts(self, start: datetime, length: timedelta) -> Iterator["Window"]:
        while start < self.until:
            yield Window(start, start + length)
            start += length


def first_id(at: datetime) -> str:
    """The prefix that sorts after the ids of all executions accepted before this time, to the millisecond."""
    digits = f"{round(at.timestamp() * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}"


async def compare_books(connection: AsyncConnection, window: Window) -> ReconcileReport:
    """Compare records, spans and roll-ups of a window, in one snapshot; `prometheus.py` compares counters."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    findings = _Findings()
    await _compare_records(connection, window, findings)
    for hour in window.hours():
        await _compare_hour(connection, hour, findings)
    for day in window.days():
        await _compare_day(connection, day, findings)
    return ReconcileReport(
        window.since, window.until, datetime.now(UTC), findings.executions, findings.rollup_rows, findings.differences
    )


@dataclass(slots=True)
class _Findings:
    """Counts and differences so far."""

    executions: int = 0
    rollup_rows: int = 0
    differences: list[Difference] = field(default_factory=list)


async def _compare_records(connection: AsyncConnection, window: Window, findings: _Findings) -> None:
    """Compare ended executions with the spans of all their attempts."""
    ended = and_(window.holds(executions.c.id), executions.c.completed_at.is_not(None))
    counted = await connection.execute(select(func.count()).select_from(executions).where(ended))
    findings.executions = counted.scalar_one()
    sums = _sums_of_spans(window)
    expected = _expected_of(sums)
    shown = [value.label(f"{name}_expected") for name, value in expected.items()]
    differs = or_(false(), *(executions.c[name].is_distinct_from(value) for name, value in expected.items()))
    statement = (
        select(executions.c.id, *(executions.c[name] for name in expected), *shown)
        .select_from(executions.outerjoin(sums, sums.c.execution_id == executions.c.id))
        .where(ended, differs)
        .order_by(executions.c.id)
    )
    for row in (await connection.execute(statement)).mappings():
        findings.differences += [
            Difference(Check.RECORD, row["id"], name, row[name], row[f"{name}_expected"])
            for name in expected
            if row[name] != row[f"{name}_expected"]
        ]


def _sums_of_spans(window: Window) -> Subquery:
    is_call = spans.c.kind == "model"
    paid = and_(is_call, spans.c.cost_nano_usd.is_not(None))
    return (
        select(
            spans.c.execution_id,
            func.count().label("stored"),
            func.count().filter(is_call).label("calls"),
            func.count().filter(paid).label("paid"),
            _sum(case((is_call, spans.c.cost_nano_usd))).label("cost"),
            _sum(case((and_(is_call, spans.c.waste.is_not(None)), spans.c.cost_nano_usd))).label("waste"),
            *(_sum(case((is_call, spans.c[name]))).label(name) for name in TOKEN_FIELDS),
        )
        .where(window.holds(spans.c.execution_id))
        .group_by(spans.c.execution_id)
        .subquery()
    )


def _expected_of(sums: Subquery) -> dict[str, ColumnElement[Any]]:
    """The expected columns of a record, from the sums over its spans."""
    calls, paid = func.coalesce(sums.c.calls, 0), func.coalesce(sums.c.paid, 0)
    stored = func.coalesce(sums.c.stored, 0)
    return {
        "model_calls": calls,
        "unpriced_calls": calls - paid,
        "cost_nano_usd": case((and_(calls > 0, paid == 0), null()), else_=func.coalesce(sums.c.cost, 0)),
        "waste_nano_usd": func.coalesce(sums.c.waste, 0),
        **{name: sums.c[name] for name in TOKEN_FIELDS},
        "spans_stored": stored,
        "spans_expected": stored,
    }


Key = tuple[object, ...]
Sums = Mapping[str, int]


async def _compare_hour(connection: AsyncConnection, hour: Window, findings: _Findings) -> None:
    expected: dict[Key, dict[str, int]] = {}
    for statement in (_ends_of(hour), _calls_of(hour)):
        for row in (await connection.execute(statement)).mappings():
            expected.setdefault(_key(row), {}).update(_numbers(row))
    table = execution_rollups.c
    stored = await _read(connection, select(execution_rollups).where(table.bucket_hour == hour.since))
    findings.rollup_rows += len(stored)
    findings.differences += _differences(Check.ROLLUP, f"{hour.since:%Y-%m-%dT%HZ}", stored, expected)


async def _compare_day(connection: AsyncConnection, day: Window, findings: _Findings) -> None:
    hourly, daily = execution_rollups.c, execution_rollups_daily.c
    keys = [hourly[name] for name in ROLLUP_KEYS]
    of_hours = (
        select(*keys, *(_sum(hourly[name]).label(name) for name in ROLLUP_SUMS))
        .where(hourly.bucket_hour >= day.since, hourly.bucket_hour < day.until)
        .group_by(*keys)
    )
    expected = await _read(connection, of_hours)
    stored = await _read(connection, select(execution_rollups_daily).where(daily.bucket_day == day.since))
    findings.rollup_rows += len(stored)
    findings.differences += _differences(Check.DAILY_ROLLUP, f"{day.since:%Y-%m-%d}", stored, expected)


def _ends_of(hour: Window) -> Any:
    """Sums over the ended executions of an hour, by the key of their roll-up row."""
    duration = executions.c.duration_ms
    sums: dict[str, ColumnElement[int]] = {
        f"executions_{status}": func.count().filter(executions.c.status == status)
        for status in ("completed", "failed", "cancelled")
    }
    by_caller = executions.c.error_class == ErrorClass.CALLER.value
    sums["executions_failed_by_caller"] = func.count().filter(by_caller)
    sums["duration_sum_ms"] = _sum(duration)
    lower: ColumnElement[bool] = true()
    for bound in DURATION_BOUNDS_MS:
        sums[f"duration_le_{bound}"] = func.count().filter(and_(lower, duration <= bound))
        lower = duration > bound
    sums["duration_le_inf"] = func.count().filter(lower)
    keys = _keys(literal(""), literal(""))
    return (
        select(*keys, *(value.label(name) for name, value in sums.items()))
        .where(hour.holds(executions.c.id), executions.c.completed_at.is_not(None))
        .group_by(*(text(str(position)) for position in range(1, len(keys) + 1)))
    )


def _calls_of(hour: Window) -> Any:
    """Sums over the model calls of an hour's executions, by the key of their roll-up row."""
    cost, waste = spans.c.cost_nano_usd, case((spans.c.waste.is_not(None), spans.c.cost_nano_usd))
    sums = {
        **{name: _sum(spans.c[name]) for name in TOKEN_FIELDS},
        "cost_nano_usd": _sum(cost),
        "waste_nano_usd": _sum(waste),
        "unpriced_calls": func.count().filter(cost.is_(None)),
        "model_calls": func.count(),
    }
    keys = _keys(func.coalesce(spans.c.provider, ""), func.coalesce(spans.c.model, ""))
    return (
        select(*keys, *(value.label(name) for name, value in sums.items()))
        .select_from(spans.join(executions, executions.c.id == spans.c.execution_id))
        .where(spans.c.kind == "model", hour.holds(spans.c.execution_id))
        .group_by(*(text(str(position)) for position in range(1, len(keys) + 1)))
    )


def _keys(provider: ColumnElement[str], model: ColumnElement[str]) -> list[ColumnElement[Any]]:
    """The key of a roll-up row; parts that do not apply are `''`, or version 0."""
    c = executions.c
    values = (
        c.owner_id,
        c.workflow_name,
        c.workflow_source,
        func.coalesce(c.template_id, ""),
        func.coalesce(c.template_version, 0),
        provider,
        model,
    )
    return [value.label(name) for value, name in zip(values, ROLLUP_KEYS, strict=True)]


def _sum(value: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(func.sum(value), BigInteger)


async def _read(connection: AsyncConnection, statement: Any) -> dict[Key, dict[str, int]]:
    return {_key(row): _numbers(row) for row in (await connection.execute(statement)).mappings()}


def _key(row: RowMapping) -> Key:
    return tuple(row[name] for name in ROLLUP_KEYS)


def _numbers(row: RowMapping) -> dict[str, int]:
    return {name: row[name] or 0 for name in ROLLUP_SUMS if name in row}


def _differences(
    check: Check, bucket: str, stored: Mapping[Key, Sums], expected: Mapping[Key, Sums]
) -> Iterable[Difference]:
    for key in sorted(stored.keys() | expected.keys(), key=str):
        is_, should_be = stored.get(key, {}), expected.get(key, {})
        for name in ROLLUP_SUMS:
            if is_.get(name, 0) != should_be.get(name, 0):
                named = " ".join(f"{part}={value}" for part, value in zip(ROLLUP_KEYS, key, strict=True) if value)
                yield Difference(check, f"{bucket} {named}", name, is_.get(name, 0), should_be.get(name, 0))


def floor_hour(time: datetime) -> datetime:
    """The start of the hour, in UTC."""
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
