"""The cost of executions per group, from the roll-ups; from records and spans where a dimension stands only there."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from telemetry.reads.cost_of_records import parts_of_records
from telemetry.reads.cost_of_rollups import parts_of_rollups
from telemetry.reads.cost_query import CostFilter, needs_records, total_of
from telemetry.reads.workflow_labels import OTHER

GroupValue = str | int | datetime | None

MAX_GROUPS = 1_000
"""The most rows of a report; the cheapest groups beyond it are one row."""

RECORD_DAYS = 30
"""The length of a report from records, unless it is asked for: they are far more than roll-ups."""

_BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)


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
    assumed_calls: int = 0
    """Calls at the catalogue's price, although the server is not the provider's; `assumed_nano_usd` is their cost."""
    assumed_nano_usd: int = 0
    provider_difference_nano_usd: int = 0
    """What providers reported minus what was booked, of calls that have both."""

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

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, item.name) - getattr(other, item.name) for item in fields(Sums)))


@dataclass(frozen=True, slots=True)
class CostRow:
    """One group: the value of each requested dimension, in order; null where it does not apply.

    Groups beyond the limit are one group, whose values are all `_other`.
    """

    group: tuple[GroupValue, ...]
    sums: Sums


@dataclass(frozen=True, slots=True)
class CostReport:
    """Cost per group, most expensive first, and the total."""

    since: datetime
    until: datetime
    group_by: tuple[str, ...]
    rows: list[CostRow]
    total: Sums
    as_of: datetime


async def cost(connection: AsyncConnection, wanted: CostFilter, group_by: Sequence[str] = ()) -> CostReport:
    """Sums per group over a time range. A template is grouped by its key, another workflow by its name.

    Groups by tag, outcome, error type or node count executions once they have ended; by default those of 30 days.
    """
    now, of_records = datetime.now(UTC), needs_records(group_by)
    since = _hour(wanted.since or (now - timedelta(days=RECORD_DAYS) if of_records else _BEGINNING))
    until = _hour((wanted.until or now + timedelta(hours=1)) + timedelta(minutes=59, seconds=59, microseconds=999_999))
    parts = (
        parts_of_records(connection.dialect, since, until, wanted, group_by)
        if of_records
        else parts_of_rollups(since, until, wanted)
    )
    found = (await connection.execute(total_of(parts, group_by).limit(MAX_GROUPS + 1))).all()
    rows = [_row(row, len(group_by)) for row in found]
    if len(rows) <= MAX_GROUPS:
        total = sum((row.sums for row in rows), Sums())
    else:
        total = _row((await connection.execute(total_of(parts, ()))).one(), 0).sums
        rows = _with_rest(rows[: MAX_GROUPS - 1], total, len(group_by))
    rows.sort(key=_place)
    return CostReport(since, until, tuple(group_by), rows, total, now)


def _place(row: CostRow) -> tuple[bool, int, int, str]:
    """Highest cost first; the row of all other groups is the last."""
    return (OTHER in row.group, -row.sums.priced_nano_usd, -row.sums.executions, str(row.group))


def _row(found: Row[Any], dimensions: int) -> CostRow:
    numbers: list[int] = list(found[dimensions:])
    return CostRow(tuple(value or None for value in found[:dimensions]), Sums(sum(numbers[:3]), *numbers))


def _with_rest(rows: list[CostRow], total: Sums, dimensions: int) -> list[CostRow]:
    """The rows and one more for all others."""
    return [*rows, CostRow((OTHER,) * dimensions, total - sum((row.sums for row in rows), Sums()))]


def _hour(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
