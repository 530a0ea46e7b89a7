"""The cost of executions per group, from the roll-ups: daily ones for whole days, hourly ones at both ends."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import BigInteger, ColumnElement, Row, Select, Table, cast, func, literal, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import UtcTime
from engine.errors import Refusal
from engine.store.tables import workflow_templates
from engine.usage import TOKEN_FIELDS
from telemetry.store.tables import execution_rollups, execution_rollups_daily

Dimension = Literal["template", "template_version", "workflow", "source", "provider", "model", "owner", "day"]
GroupValue = str | int | datetime | None

MAX_GROUPS = 1_000
_BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


class TooManyGroups(Refusal):
    """The report has more than 1,000 groups; ask for a shorter time, fewer dimensions, or one template."""

    code = "too_many_groups"


@dataclass(frozen=True, slots=True)
class CostFilter:
    """Selects executions; an empty field filters nothing. `since` and `until` are whole hours (half-open)."""

    owner: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    template: str | None = None
    """Id or key."""
    workflow: str | None = None
    source: str | None = None
    provider: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of a group; money in nano-USD. `executions` counts executions that have ended."""

    executions: int = 0
    executions_completed: int = 0
    executions_failed: int = 0
    executions_cancelled: int = 0
    failed_by_caller: int = 0
    """Failed executions whose document or input was at fault; `executions_failed` includes them."""
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    priced_nano_usd: int = 0
    waste_nano_usd: int = 0
    unpriced_calls: int = 0
    """Calls to models without a price."""
    unmetered_calls: int = 0
    """Calls of unknown cost, because the provider reported no usage."""
    failed_calls: int = 0
    """Calls that failed, whatever they cost."""
    unfinished_calls: int = 0
    """Calls cut off by a crash; they count in no other number of calls."""
    upper_nano_usd: int = 0
    """The priced calls, and the most that the unfinished ones may have cost as far as that is known."""
    unbounded_calls: int = 0
    """Unfinished calls of executions whose upper limit is unknown."""

    @property
    def cost_nano_usd(self) -> int | None:
        """The cost; null if there were model calls and none had a price."""
        unknown = self.unpriced_calls + self.unmetered_calls
        return None if self.model_calls and unknown == self.model_calls else self.priced_nano_usd

    @property
    def cost_upper_nano_usd(self) -> int | None:
        """The cost and the most that unfinished calls may have cost; null if that is unknown."""
        if not self.unfinished_calls:
            return self.cost_nano_usd
        return None if self.unbounded_calls else self.upper_nano_usd

    @property
    def counted_failures(self) -> int:
        """Failed executions, without failures that the caller caused."""
        return self.executions_failed - self.failed_by_caller

    @property
    def counted_executions(self) -> int:
        """Completed executions and counted failures."""
        return self.executions_completed + self.counted_failures

    @property
    def failure_rate(self) -> float | None:
        """Counted failures over counted executions; null if there are none."""
        return self.counted_failures / self.counted_executions if self.counted_executions else None

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(Sums)))


@dataclass(frozen=True, slots=True)
class CostRow:
    """One group: the value of each requested dimension, in order; null where it does not apply."""

    group: tuple[GroupValue, ...]
    sums: Sums


@dataclass(frozen=True, slots=True)
class CostReport:
    """Cost per group, most expensive first, and the total."""

    since: datetime
    until: datetime
    group_by: tuple[Dimension, ...]
    rows: list[CostRow]
    total: Sums
    as_of: datetime


async def cost(connection: AsyncConnection, wanted: CostFilter, group_by: Sequence[Dimension] = ()) -> CostReport:
    """Sums per group over a time range. A template is grouped by its key. Raises `TooManyGroups`."""
    now = datetime.now(UTC)
    since = _hour(wanted.since or _BEGINNING)
    until = _hour((wanted.until or now + timedelta(hours=1)) + timedelta(minutes=59, seconds=59, microseconds=999_999))
    parts = union_all(*(_part(piece, wanted) for piece in _pieces(since, until))).subquery()
    keys = [parts.c[_COLUMN_OF[dimension]] for dimension in group_by]
    sums = [cast(func.coalesce(func.sum(parts.c[name]), 0), BigInteger) for name in _SUMMED]
    statement = select(*keys, *sums).group_by(*keys).limit(MAX_GROUPS + 1)
    found = (await connection.execute(statement)).all()
    if len(found) > MAX_GROUPS:
        raise TooManyGroups
    names = await template_keys(connection) if "template" in group_by else {}
    rows = [_row(found_row, group_by, names) for found_row in found]
    rows.sort(key=lambda row: (-row.sums.priced_nano_usd, -row.sums.executions, str(row.group)))
    total = sum((row.sums for row in rows), Sums())
    return CostReport(since, until, tuple(group_by), rows, total, now)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the time range, read from one table; `day` is set if it lies within one day."""

    table: Table
    bucket: ColumnElement[datetime]
    start: datetime
    end: datetime
    day: datetime | None


def _pieces(since: datetime, until: datetime) -> list[_Piece]:
    first, last = _day(since + _DAY - timedelta(microseconds=1)), _day(until)
    if first > last:
        return [_hours(since, until)]
    pieces = [_hours(since, first)] if since < first else []
    if first < last:
        table = execution_rollups_daily
        pieces.append(_Piece(table, table.c.bucket_day, first, last, None))
    if last < until:
        pieces.append(_hours(last, until))
    return pieces or [_hours(since, until)]


def _hours(start: datetime, end: datetime) -> _Piece:
    return _Piece(execution_rollups, execution_rollups.c.bucket_hour, start, end, _day(start))


_ENDED = ("executions_completed", "executions_failed", "executions_cancelled")
_SUMMED = (
    *_ENDED,
    "executions_failed_by_caller",
    "model_calls",
    *TOKEN_FIELDS,
    "cost_nano_usd",
    "waste_nano_usd",
    "unpriced_calls",
    "unmetered_calls",
    "failed_calls",
    "unfinished_calls",
    "cost_upper_nano_usd",
    "unbounded_calls",
)
_COLUMN_OF: dict[Dimension, str] = {
    "template": "template_id",
    "template_version": "template_version",
    "workflow": "workflow_name",
    "source": "source",
    "provider": "provider",
    "model": "model",
    "owner": "owner_id",
    "day": "day",
}


def _part(piece: _Piece, wanted: CostFilter) -> Select[tuple[object, ...]]:
    c = piece.table.c
    day = piece.bucket if piece.day is None else literal(piece.day, UtcTime)
    statement = select(
        day.label("day"), *(c[name] for name in _COLUMN_OF.values() if name != "day"), *(c[name] for name in _SUMMED)
    ).where(piece.bucket >= piece.start, piece.bucket < piece.end)
    equal = {
        c.owner_id: wanted.owner,
        c.workflow_name: wanted.workflow,
        c.source: wanted.source,
        c.provider: wanted.provider,
        c.model: wanted.model,
    }
    statement = statement.where(*(column == value for column, value in equal.items() if value is not None))
    if wanted.template is None:
        return statement
    of_key = select(workflow_templates.c.template_id).where(workflow_templates.c.key == wanted.template)
    return statement.where(or_(c.template_id == wanted.template, c.template_id.in_(of_key)))


def _row(found: Row[Any], group_by: Sequence[Dimension], names: dict[str, str]) -> CostRow:
    group: list[GroupValue] = []
    for dimension, value in zip(group_by, found, strict=False):
        shown: GroupValue = names.get(value, value) if dimension == "template" else value
        group.append(shown or None)
    numbers: list[int] = list(found[len(group_by) :])
    return CostRow(tuple(group), Sums(sum(numbers[: len(_ENDED)]), *numbers))


async def template_keys(connection: AsyncConnection) -> dict[str, str]:
    """The key of every template, by id."""
    template = workflow_templates.c
    rows = await connection.execute(select(template.template_id, template.key).where(template.is_latest))
    return {row.template_id: row.key for row in rows}


def _hour(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _day(time: datetime) -> datetime:
    return _hour(time).replace(hour=0)
