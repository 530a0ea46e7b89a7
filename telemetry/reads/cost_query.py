"""What a cost report asks for, and the statement that sums up its parts: filters, dimensions, grouping."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    Subquery,
    cast,
    func,
    literal,
    select,
    text,
    union_all,
)

from engine.usage import TOKEN_FIELDS

OF_ROLLUPS = ("template", "template_version", "workflow", "source", "provider", "model", "owner", "day")
OF_RECORDS = ("outcome", "error_type", "node")
TAG = "tag:"
DIMENSIONS = (*OF_ROLLUPS, *OF_RECORDS, "tag:KEY")
"""All dimensions, as texts name them."""

MAX_TAG_KEY = 64

SUMMED = (
    "executions_completed",
    "executions_failed",
    "executions_cancelled",
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
    "assumed_calls",
    "assumed_nano_usd",
    "provider_difference_nano_usd",
)
"""The sums of a report, by their columns in the roll-ups."""


@dataclass(frozen=True, slots=True)
class CostFilter:
    """Selects executions; an empty field filters nothing. `since` and `until` are whole hours (half-open)."""

    owner: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    template: str | None = None
    """Id or key; a workflow without a template by its name."""
    workflow: str | None = None
    source: str | None = None
    provider: str | None = None
    model: str | None = None


def is_dimension(name: str) -> bool:
    """Whether a report can be grouped by it."""
    return name in OF_ROLLUPS or name in OF_RECORDS or tag_of(name) is not None


def tag_of(dimension: str) -> str | None:
    """The key of the tag that a dimension names; null for other dimensions."""
    key = dimension.removeprefix(TAG)
    return key if dimension.startswith(TAG) and 0 < len(key) <= MAX_TAG_KEY else None


def needs_records(group_by: Sequence[str]) -> bool:
    """Whether a dimension stands on records and spans only, so that roll-ups cannot answer."""
    return any(dimension not in OF_ROLLUPS for dimension in group_by)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that a report sums up, of one table or join."""

    source: FromClause
    dimensions: Mapping[str, ColumnElement[Any]]
    sums: Mapping[str, ColumnElement[Any]]
    """What is added up, by the name in `SUMMED`; the others are 0."""
    conditions: Sequence[ColumnElement[bool]]

    def grouped(self, group_by: Sequence[str]) -> Select[Any]:
        """The sums of this part per group."""
        keys = [self.dimensions[dimension].label(f"key_{index}") for index, dimension in enumerate(group_by)]
        sums = [_total(self.sums.get(name, literal(0, BigInteger))).label(name) for name in SUMMED]
        statement = select(*keys, *sums).select_from(self.source).where(*self.conditions)
        return statement.group_by(*(text(str(place)) for place in range(1, len(keys) + 1)))


def total_of(parts: Sequence[Part], group_by: Sequence[str]) -> Select[Any]:
    """The sums of all parts per group, highest cost first."""
    found = [part.grouped(group_by) for part in parts]
    names = [f"key_{index}" for index in range(len(group_by))]
    rows = found[0].subquery() if len(found) == 1 else _added(union_all(*found).subquery(), names)
    keys = [rows.c[name] for name in names]
    return select(*rows.c).order_by(rows.c.cost_nano_usd.desc(), rows.c.model_calls.desc(), *keys)


def _added(rows: Subquery, keys: Sequence[str]) -> Subquery:
    """The sums of groups that several parts have."""
    groups = [rows.c[name] for name in keys]
    return select(*groups, *(_total(rows.c[name]).label(name) for name in SUMMED)).group_by(*groups).subquery()


def _total(value: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(func.coalesce(func.sum(value), 0), BigInteger)
