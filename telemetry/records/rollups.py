"""Roll-ups, the only aggregates: sums per hour and per day, to which each transaction adds the rows it stored.

A delta belongs to the hour (and day) of the execution's UUIDv7, so it does not matter when a signal arrives. `rebuild`
computes the same rows from the records. What retention has deleted of them is added up in `pruned_rollups`, so that
nothing is missing then.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, RowMapping, Table, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.resources import CostSource
from engine.result import ErrorClass
from engine.usage import TOKEN_FIELDS
from telemetry.signals.records import EPOCH
from telemetry.store.bulk import BulkInsert, Row
from telemetry.store.retention_tables import pruned_rollups
from telemetry.store.tables import (
    DURATION_BOUNDS_MS,
    DURATION_COLUMNS,
    ROLLUP_KEYS,
    ROLLUP_LATEST,
    ROLLUP_SUMS,
    execution_rollups,
    execution_rollups_daily,
    executions,
    spans,
)

_REBUILD_PAGE = 5_000

_COUNTED_COLUMNS = ("id", "owner_id", "workflow_name", "workflow_source", "template_id", "template_version")
"""The columns of a record for the fields of `CountedExecution`."""
RECORD_COLUMNS = (
    *_COUNTED_COLUMNS,
    "status",
    "duration_ms",
    "completed_at",
    "error_class",
    "cost_nano_usd",
    "unfinished_calls",
    "cost_upper_nano_usd",
)
CALL_COLUMNS = (
    "provider",
    "model",
    *TOKEN_FIELDS,
    "cost_nano_usd",
    "waste",
    "error_type",
    "cost_source",
    "provider_nano_usd",
)
"""The columns of records and of model-call spans that roll-ups are made of."""


@dataclass(frozen=True, slots=True)
class CountedExecution:
    """The execution that a delta belongs to, with everything that its roll-up row is keyed by."""

    execution_id: str
    owner: str
    workflow_name: str
    source: str
    template_id: str | None
    template_version: int | None


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A model call that was stored. Tokens in the order of `TOKEN_FIELDS`, null where not reported; nano-USD."""

    execution: CountedExecution
    provider: str | None
    model: str | None
    tokens: Sequence[int | None]
    cost_nano_usd: int | None
    wasted: bool
    failed: bool
    assumed: bool = False
    """Whether the cost is the catalogue's although the server is not the provider's."""
    provider_nano_usd: int | None = None
    """The cost as the provider reported it."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of an ended execution in nano-USD, and what a crash has left unknown of it."""

    nano_usd: int | None = 0
    unfinished_calls: int = 0
    upper_nano_usd: int | None = 0
    """The cost and the most that the unfinished calls may have cost; null if that is unknown."""


@dataclass(frozen=True, slots=True)
class EndDelta:
    """An execution that reached its terminal status."""

    execution: CountedExecution
    status: str
    duration_ms: int
    completed_at: datetime
    error_class: str | None = None
    cost: Cost = Cost()


class RollupKey(NamedTuple):
    """The key of a roll-up row: its bucket, then `ROLLUP_KEYS`. A key that does not apply is `''`, or version 0."""

    bucket: datetime
    owner_id: str
    workflow_name: str
    source: str
    template_id: str
    template_version: int
    provider: str
    model: str


_LATEST = {
    "completed": ("last_used_at", "last_success_at"),
    "failed": ("last_used_at", "last_failure_at"),
    "cancelled": ("last_used_at",),
}
"""Terminal status to the columns that its time may move."""


class Deltas:
    """The sums of one transaction, by roll-up row and column."""

    def __init__(self) -> None:
        self._sums: dict[RollupKey, dict[str, int]] = {}
        self._latest: dict[RollupKey, dict[str, datetime]] = {}

    def add_call(self, call: CallDelta) -> None:
        """Add a model call that was stored."""
        sums = self._row(_key(call.execution, call.provider or "", call.model or ""))
        for column, count in zip(TOKEN_FIELDS, call.tokens, strict=True):
            sums[column] += count or 0
        sums["model_calls"] += 1
        sums["failed_calls"] += call.failed
        if call.cost_nano_usd is not None:
            sums["cost_nano_usd"] += call.cost_nano_usd
            sums["cost_upper_nano_usd"] += call.cost_nano_usd
            sums["waste_nano_usd"] += call.cost_nano_usd if call.wasted else 0
            sums["assumed_calls"] += call.assumed
            sums["assumed_nano_usd"] += call.cost_nano_usd if call.assumed else 0
            if call.provider_nano_usd is not None:
                sums["provider_difference_nano_usd"] += call.provider_nano_usd - call.cost_nano_usd
        elif None in (call.tokens[_INPUT], call.tokens[_OUTPUT]):
            sums["unmetered_calls"] += 1
        else:
            sums["unpriced_calls"] += 1

    def add_end(self, end: EndDelta) -> None:
        """Add an execution that became terminal."""
        key = _key(end.execution, "", "")
        sums = self._row(key)
        sums[f"executions_{end.status}"] += 1
        sums["executions_failed_by_caller"] += end.error_class == ErrorClass.CALLER
        sums["duration_sum_ms"] += end.duration_ms
        sums[DURATION_COLUMNS[bisect_left(DURATION_BOUNDS_MS, end.duration_ms)]] += 1
        self._move_latest(key, dict.fromkeys(_LATEST[end.status], end.completed_at))
        if end.cost.unfinished_calls:
            _add_unfinished(sums, end.cost)

    def add_record(
        self, record: Mapping[str, Any] | RowMapping, calls: Iterable[Mapping[str, Any] | RowMapping]
    ) -> None:
        """Add a stored record with the rows of its model calls: `RECORD_COLUMNS` and `CALL_COLUMNS`."""
        self.add_stored_end(record)
        self.add_stored_calls(record, calls)

    def add_stored_end(self, record: Mapping[str, Any] | RowMapping) -> None:
        """Add the end of a stored record, if it has ended."""
        execution = CountedExecution(*(record[name] for name in _COUNTED_COLUMNS))
        if record["completed_at"] is not None and record["status"] in _LATEST:
            duration_ms, completed_at = record["duration_ms"] or 0, record["completed_at"]
            cost = Cost(record["cost_nano_usd"], record["unfinished_calls"], record["cost_upper_nano_usd"])
            self.add_end(EndDelta(execution, record["status"], duration_ms, completed_at, record["error_class"], cost))

    def add_stored_calls(
        self, record: Mapping[str, Any] | RowMapping, calls: Iterable[Mapping[str, Any] | RowMapping]
    ) -> None:
        """Add model calls of a stored record."""
        execution = CountedExecution(*(record[name] for name in _COUNTED_COLUMNS))
        for call in calls:
            tokens = [call[name] for name in TOKEN_FIELDS]
            self.add_call(
                CallDelta(
                    execution,
                    call["provider"],
                    call["model"],
                    tokens,
                    call["cost_nano_usd"],
                    wasted=call["waste"] is not None,
                    failed=call["error_type"] is not None,
                    assumed=call["cost_source"] == CostSource.ASSUMED,
                    provider_nano_usd=call["provider_nano_usd"],
                )
            )

    async def write(self, connection: AsyncConnection) -> None:
        """Add everything to the hourly and the daily rows. Rows are locked in the order of their keys."""
        await _ADD_HOURS.run(connection, self.rows())
        await _ADD_DAYS.run(connection, self.by_day().rows())

    async def write_pruned(self, connection: AsyncConnection) -> None:
        """Add everything to the sums of what was deleted."""
        await _ADD_PRUNED.run(connection, self.rows())

    async def add_pruned(self, connection: AsyncConnection, *within: ColumnElement[bool]) -> None:
        """Add the sums of what was deleted, in some hours or in all."""
        for row in (await connection.execute(select(pruned_rollups).where(*within))).mappings():
            key = RollupKey(row["bucket_hour"], *(row[name] for name in ROLLUP_KEYS))
            sums = self._row(key)
            for column in ROLLUP_SUMS:
                sums[column] += row[column]
            self._move_latest(key, {name: row[name] for name in ROLLUP_LATEST if row[name] is not None})

    def rows(self) -> list[Row]:
        """The cells of each row in the order of the table's columns, sorted by key."""
        return [self._cells(key) for key in sorted(self._sums)]

    def by_day(self) -> "Deltas":
        """The same sums per day."""
        days = Deltas()
        for key, sums in self._sums.items():
            day = key._replace(bucket=key.bucket.replace(hour=0))
            total = days._row(day)
            for column, count in sums.items():
                total[column] += count
            days._move_latest(day, self._latest.get(key, {}))
        return days

    def _row(self, key: RollupKey) -> dict[str, int]:
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = dict.fromkeys(ROLLUP_SUMS, 0)
        return sums

    def _move_latest(self, key: RollupKey, times: Mapping[str, datetime]) -> None:
        latest = self._latest.setdefault(key, {})
        for column, time in times.items():
            latest[column] = max(time, latest.get(column, time))

    def _cells(self, key: RollupKey) -> Row:
        latest = self._latest.get(key, {})
        return (*key, *_sum_cells(self._sums[key]), *(latest.get(column) for column in ROLLUP_LATEST))


def _add_unfinished(sums: dict[str, int], cost: Cost) -> None:
    """The calls are counted with the execution: the record does not tell to which model they were made."""
    sums["unfinished_calls"] += cost.unfinished_calls
    if cost.upper_nano_usd is None:
        sums["unbounded_calls"] += cost.unfinished_calls
    else:
        sums["cost_upper_nano_usd"] += cost.upper_nano_usd - (cost.nano_usd or 0)


_INPUT, _OUTPUT = TOKEN_FIELDS.index("input_tokens"), TOKEN_FIELDS.index("output_tokens")
_sum_cells = itemgetter(*ROLLUP_SUMS)


@lru_cache(maxsize=256)
def bucket_hour(execution_id: str) -> datetime:
    """The hour in which the execution's id was made. Raises ValueError if it is no UUID."""
    return accepted_at(execution_id).replace(minute=0, second=0, microsecond=0)


def accepted_at(execution_id: str) -> datetime:
    """The time in a UUIDv7, to the millisecond."""
    return EPOCH + timedelta(milliseconds=int(execution_id[:8] + execution_id[9:13], 16))


def first_id(at: datetime) -> str:
    """The prefix that sorts after the ids of all executions accepted before this time, to the millisecond."""
    digits = f"{round(at.timestamp() * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}"


async def rebuild(connection: AsyncConnection) -> None:
    """Compute all roll-ups again from the records; they equal those that the deltas made."""
    deltas = await from_records(connection)
    await connection.execute(delete(execution_rollups))
    await connection.execute(delete(execution_rollups_daily))
    await deltas.write(connection)


async def from_records(connection: AsyncConnection) -> Deltas:
    """The sums over all records and model-call spans, and over those that were deleted."""
    deltas = Deltas()
    await deltas.add_pruned(connection)
    last = ""
    while page := await _page_of_executions(connection, last):
        last = max(page)
        calls = await _calls_of(connection, page)
        for id_, record in page.items():
            deltas.add_record(record, calls.get(id_, ()))
    return deltas


async def _page_of_executions(connection: AsyncConnection, after: str) -> dict[str, RowMapping]:
    """The next records by id."""
    columns = (executions.c[name] for name in RECORD_COLUMNS)
    statement = select(*columns).where(executions.c.id > after).order_by(executions.c.id).limit(_REBUILD_PAGE)
    return {row["id"]: row for row in (await connection.execute(statement)).mappings()}


async def _calls_of(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, list[RowMapping]]:
    first, last = min(execution_ids), max(execution_ids)
    statement = select(spans.c.execution_id, *(spans.c[name] for name in CALL_COLUMNS)).where(
        spans.c.kind == "model", spans.c.execution_id.between(first, last)
    )
    calls: dict[str, list[RowMapping]] = {}
    for row in (await connection.execute(statement)).mappings():
        calls.setdefault(row["execution_id"], []).append(row)
    return calls


def _key(execution: CountedExecution, provider: str, model: str) -> RollupKey:
    return RollupKey(
        bucket=bucket_hour(execution.execution_id),
        owner_id=execution.owner,
        workflow_name=execution.workflow_name,
        source=execution.source,
        template_id=execution.template_id or "",
        template_version=execution.template_version or 0,
        provider=provider,
        model=model,
    )


def _adding(table: Table, bucket: str) -> BulkInsert:
    name = table.name
    keys = (bucket, *ROLLUP_KEYS)
    sums = [f"{column} = {name}.{column} + excluded.{column}" for column in ROLLUP_SUMS]
    latest = [
        f"{column} = CASE WHEN {name}.{column} IS NULL OR excluded.{column} > {name}.{column} "
        f"THEN excluded.{column} ELSE {name}.{column} END"
        for column in ROLLUP_LATEST
    ]
    conflict = f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {', '.join(sums + latest)}"
    return BulkInsert(table, (*keys, *ROLLUP_SUMS, *ROLLUP_LATEST), conflict)


_ADD_HOURS = _adding(execution_rollups, "bucket_hour")
_ADD_DAYS = _adding(execution_rollups_daily, "bucket_day")
_ADD_PRUNED = _adding(pruned_rollups, "bucket_hour")
