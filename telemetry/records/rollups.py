"""The only aggregate: sums per hour and per day, kept by adding what each transaction stored anew.

The bucket of every delta is the hour (and day) in the execution's UUIDv7, so that it does not matter when a signal
arrives. `rebuild` makes the same rows from the records.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Table, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.usage import TOKEN_FIELDS
from telemetry.store.bulk import BulkInsert
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

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REBUILD_PAGE = 5_000


@dataclass(frozen=True, slots=True)
class Subject:
    """What a delta is about: whose execution of which workflow."""

    execution_id: str
    owner: str
    workflow_name: str
    source: str
    template_id: str | None
    template_version: int | None


@dataclass(frozen=True, slots=True)
class CallDelta:
    """One model call that was stored. Tokens in the order of `TOKEN_FIELDS`, null where not reported; nano-USD."""

    subject: Subject
    provider: str | None
    model: str | None
    tokens: Sequence[int | None]
    cost_nano_usd: int | None
    wasted: bool


@dataclass(frozen=True, slots=True)
class EndDelta:
    """One execution that reached its terminal status."""

    subject: Subject
    status: str
    duration_ms: int
    completed_at: datetime


Key = tuple[datetime, str, str, str, str, int, str, str]

_INDEX = {name: position for position, name in enumerate(ROLLUP_SUMS)}
_TOKENS = [_INDEX[name] for name in TOKEN_FIELDS]
_COST, _WASTE = _INDEX["cost_nano_usd"], _INDEX["waste_nano_usd"]
_UNPRICED, _CALLS = _INDEX["unpriced_calls"], _INDEX["model_calls"]
_DURATION_SUM, _DURATION_FIRST = _INDEX["duration_sum_ms"], _INDEX[DURATION_COLUMNS[0]]
_STATUS = {status: _INDEX[f"executions_{status}"] for status in ("completed", "failed", "cancelled")}
_LATEST_OF = {"completed": 1, "failed": 2}


class Deltas:
    """Sums of one transaction, by roll-up row."""

    def __init__(self) -> None:
        self._sums: dict[Key, list[int]] = {}
        self._latest: dict[Key, list[datetime | None]] = {}

    def add_call(self, call: CallDelta) -> None:
        """A model call was stored."""
        sums = self._row(_key(call.subject, call.provider or "", call.model or ""))
        for position, count in zip(_TOKENS, call.tokens, strict=True):
            sums[position] += count or 0
        sums[_CALLS] += 1
        if call.cost_nano_usd is None:
            sums[_UNPRICED] += 1
        else:
            sums[_COST] += call.cost_nano_usd
            sums[_WASTE] += call.cost_nano_usd if call.wasted else 0

    def add_end(self, end: EndDelta) -> None:
        """An execution became terminal."""
        key = _key(end.subject, "", "")
        sums = self._row(key)
        sums[_STATUS[end.status]] += 1
        sums[_DURATION_SUM] += end.duration_ms
        sums[_DURATION_FIRST + bisect_left(DURATION_BOUNDS_MS, end.duration_ms)] += 1
        latest = self._latest.setdefault(key, [None, None, None])
        for position in (0, _LATEST_OF.get(end.status, 0)):
            known = latest[position]
            if known is None or known < end.completed_at:
                latest[position] = end.completed_at

    async def write(self, connection: AsyncConnection) -> None:
        """Add everything to the hourly and the daily rows. Rows are locked in the order of their keys."""
        hourly = [self._cells(key) for key in sorted(self._sums)]
        await _ADD_HOURS.run(connection, hourly)
        await _ADD_DAYS.run(connection, self.by_day().rows())

    def rows(self) -> list[tuple[object, ...]]:
        """The rows as they are written, by key."""
        return [self._cells(key) for key in sorted(self._sums)]

    def _row(self, key: Key) -> list[int]:
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = [0] * len(ROLLUP_SUMS)
        return sums

    def _cells(self, key: Key) -> tuple[object, ...]:
        return (*key, *self._sums[key], *self._latest.get(key, (None, None, None)))

    def by_day(self) -> "Deltas":
        """The same sums per day."""
        days = Deltas()
        for key, sums in self._sums.items():
            day: Key = (key[0].replace(hour=0), *key[1:])
            days._sums[day] = [*map(int.__add__, days._row(day), sums)]
            if key in self._latest:
                known = days._latest.get(day, [None, None, None])
                days._latest[day] = [*map(_later, known, self._latest[key])]
        return days


@lru_cache(maxsize=4_096)
def bucket_hour(execution_id: str) -> datetime:
    """The hour in which the execution's id was made. Raises ValueError for what is no UUID."""
    return accepted_at(execution_id).replace(minute=0, second=0, microsecond=0)


def accepted_at(execution_id: str) -> datetime:
    """The time in a UUIDv7, to the millisecond."""
    return EPOCH + timedelta(milliseconds=int(execution_id[:8] + execution_id[9:13], 16))


async def rebuild(connection: AsyncConnection) -> None:
    """Make all roll-ups anew from the records; equal to what the deltas made."""
    deltas = await from_records(connection)
    await connection.execute(delete(execution_rollups))
    await connection.execute(delete(execution_rollups_daily))
    await deltas.write(connection)


async def from_records(connection: AsyncConnection) -> Deltas:
    """The sums over all records and model-call spans."""
    deltas = Deltas()
    last = ""
    while subjects := await _page_of_executions(connection, last, deltas):
        last = max(subjects)
        for row in await _calls_of(connection, subjects):
            tokens = [row[name] for name in TOKEN_FIELDS]
            subject = subjects[row["execution_id"]]
            deltas.add_call(
                CallDelta(
                    subject, row["provider"], row["model"], tokens, row["cost_nano_usd"], row["waste"] is not None
                )
            )
    return deltas


async def _page_of_executions(connection: AsyncConnection, after: str, deltas: Deltas) -> dict[str, Subject]:
    statement = (
        select(
            executions.c.id,
            executions.c.owner_id,
            executions.c.workflow_name,
            executions.c.workflow_source,
            executions.c.template_id,
            executions.c.template_version,
            executions.c.status,
            executions.c.duration_ms,
            executions.c.completed_at,
        )
        .where(executions.c.id > after)
        .order_by(executions.c.id)
        .limit(_REBUILD_PAGE)
    )
    subjects: dict[str, Subject] = {}
    for id_, owner, name, source, template_id, version, status, duration_ms, completed_at in await connection.execute(
        statement
    ):
        subject = subjects[id_] = Subject(id_, owner, name, source, template_id, version)
        if completed_at is not None:
            deltas.add_end(EndDelta(subject, status, duration_ms, completed_at))
    return subjects


async def _calls_of(connection: AsyncConnection, subjects: Iterable[str]) -> Iterable[Any]:
    ids = sorted(subjects)
    statement = select(
        spans.c.execution_id,
        spans.c.provider,
        spans.c.model,
        *(spans.c[name] for name in TOKEN_FIELDS),
        spans.c.cost_nano_usd,
        spans.c.waste,
    ).where(spans.c.kind == "model", spans.c.execution_id.between(ids[0], ids[-1]))
    rows = (await connection.execute(statement)).mappings()
    return [row for row in rows if row["execution_id"] in subjects]


def _key(subject: Subject, provider: str, model: str) -> Key:
    return (
        bucket_hour(subject.execution_id),
        subject.owner,
        subject.workflow_name,
        subject.source,
        subject.template_id or "",
        subject.template_version or 0,
        provider,
        model,
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((time for time in (one, other) if time is not None), default=None)


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
