"""The parts of a cost report that only records and spans answer: groups by tag, outcome, error type and node.

Callers choose tags, so a roll-up per tag could have as many rows as there are executions. Records are read instead,
within a window.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Dialect, and_, case, func, literal, not_, or_, select, type_coerce

from engine.database.base import UtcTime
from engine.resources import CostSource
from engine.result import ErrorClass
from engine.usage import TOKEN_FIELDS
from telemetry.reads.cost_query import CostFilter, Part, tag_of
from telemetry.reads.workflow_labels import WorkflowColumns, has_label, label_of
from telemetry.records.rollups import first_id
from telemetry.store.tables import executions, spans

_OF_CALLS = frozenset({"provider", "model", "node"})
"""Dimensions of single calls; they stand on spans."""

_SAME = (
    "model_calls",
    *TOKEN_FIELDS,
    "cost_nano_usd",
    "waste_nano_usd",
    "unpriced_calls",
    "unmetered_calls",
    "failed_calls",
    "unfinished_calls",
    "assumed_calls",
)
"""Columns of records that are summed up as they are."""


def parts_of_records(
    dialect: Dialect, since: datetime, until: datetime, wanted: CostFilter, group_by: Sequence[str]
) -> Sequence[Part]:
    """The executions accepted between two whole hours that have ended, with their calls if groups or filters ask.

    As in roll-ups, executions are counted without provider, model and node, and calls with them.
    """
    conditions = _conditions(since, until, wanted)
    dimensions = _dimensions(dialect, group_by)
    of_one_model = wanted.provider is not None or wanted.model is not None
    if not of_one_model and not _OF_CALLS & {*group_by}:
        sums = _ends() | {name: executions.c[name] for name in _SAME}
        is_billed = or_(spans.c.cost_source == CostSource.ASSUMED.value, spans.c.provider_nano_usd.is_not(None))
        bills = Part(_CALLS, dimensions, _bills(), [*conditions, spans.c.kind == "model", is_billed])
        return [Part(executions, dimensions, sums, conditions), bills]
    made = [*conditions, spans.c.kind == "model", *_of_model(wanted)]
    calls = Part(_CALLS, dimensions | _call_dimensions(), _calls(), made)
    if of_one_model:
        return [calls]
    ends = _ends() | {"unfinished_calls": executions.c.unfinished_calls, "cost_upper_nano_usd": _cut_off_nano_usd()}
    return [Part(executions, dimensions, ends, conditions), calls]


def _conditions(since: datetime, until: datetime, wanted: CostFilter) -> list[ColumnElement[bool]]:
    c = executions.c
    conditions = [c.id >= first_id(since), c.id < first_id(until), c.completed_at.is_not(None)]
    equal = {c.owner_id: wanted.owner, c.workflow_name: wanted.workflow, c.workflow_source: wanted.source}
    conditions += [column == value for column, value in equal.items() if value is not None]
    if wanted.template is not None:
        conditions.append(has_label(_WORKFLOW, wanted.template))
    return conditions


_CALLS = spans.join(executions, executions.c.id == spans.c.execution_id)
_WORKFLOW = WorkflowColumns.of(executions, source="workflow_source")


def _of_model(wanted: CostFilter) -> list[ColumnElement[bool]]:
    equal = {spans.c.provider: wanted.provider, spans.c.model: wanted.model}
    return [column == value for column, value in equal.items() if value is not None]


def _dimensions(dialect: Dialect, group_by: Sequence[str]) -> dict[str, ColumnElement[Any]]:
    c = executions.c
    tags = {dimension: _tag(dialect, key) for dimension in group_by if (key := tag_of(dimension)) is not None}
    return {
        "template": label_of(_WORKFLOW),
        "template_version": func.coalesce(c.template_version, 0),
        "workflow": c.workflow_name,
        "source": c.workflow_source,
        "provider": literal(""),
        "model": literal(""),
        "node": literal(""),
        "owner": c.owner_id,
        "day": _day(dialect),
        "outcome": c.status,
        "error_type": func.coalesce(c.error_type, ""),
        **tags,
    }


def _call_dimensions() -> dict[str, ColumnElement[Any]]:
    return {name: func.coalesce(spans.c[column], "") for name, column in _CALL_COLUMNS.items()}


_CALL_COLUMNS = {"provider": "provider", "model": "model", "node": "node_id"}


def _tag(dialect: Dialect, key: str) -> ColumnElement[Any]:
    """The value of a tag. SQLite's paths cannot name a key with a quotation mark, so its keys are compared."""
    if dialect.name == "postgresql":
        return func.coalesce(executions.c.tags.op("->>")(key), "")
    entry = func.json_each(executions.c.tags).table_valued("key", "value")
    return func.coalesce(select(entry.c.value).where(entry.c.key == key).scalar_subquery(), "")


def _day(dialect: Dialect) -> ColumnElement[Any]:
    queued_at = executions.c.queued_at
    if dialect.name == "postgresql":
        return type_coerce(func.date_trunc("day", queued_at, "UTC"), UtcTime)
    return type_coerce(func.strftime("%Y-%m-%d 00:00:00.000000", queued_at), UtcTime)


def _ends() -> dict[str, ColumnElement[Any]]:
    """Sums over the executions themselves, without their calls."""
    c = executions.c
    counts: Mapping[str, ColumnElement[bool]] = {
        **{f"executions_{status}": c.status == status for status in ("completed", "failed", "cancelled")},
        "executions_failed_by_caller": c.error_class == ErrorClass.CALLER.value,
    }
    is_unbounded = and_(c.unfinished_calls > 0, c.cost_upper_nano_usd.is_(None))
    return {
        **{name: case((condition, 1), else_=0) for name, condition in counts.items()},
        "unbounded_calls": case((is_unbounded, c.unfinished_calls), else_=0),
        "cost_upper_nano_usd": func.coalesce(c.cost_nano_usd, 0) + _cut_off_nano_usd(),
    }


def _cut_off_nano_usd() -> ColumnElement[Any]:
    """The most that the unfinished calls of an execution may have cost, as far as that is known."""
    c = executions.c
    known = func.coalesce(c.cost_upper_nano_usd - func.coalesce(c.cost_nano_usd, 0), 0)
    return case((c.unfinished_calls > 0, known), else_=0)


def _calls() -> dict[str, ColumnElement[Any]]:
    c = spans.c
    is_unknown = c.cost_nano_usd.is_(None)
    is_mute = or_(c.input_tokens.is_(None), c.output_tokens.is_(None))
    counts: Mapping[str, ColumnElement[bool]] = {
        "unpriced_calls": and_(is_unknown, not_(is_mute)),
        "unmetered_calls": and_(is_unknown, is_mute),
        "failed_calls": c.error_type.is_not(None),
        "assumed_calls": c.cost_source == CostSource.ASSUMED.value,
    }
    return {
        "model_calls": literal(1),
        **{name: c[name] for name in TOKEN_FIELDS},
        "cost_nano_usd": c.cost_nano_usd,
        "cost_upper_nano_usd": c.cost_nano_usd,
        "waste_nano_usd": case((c.waste.is_not(None), c.cost_nano_usd)),
        **{name: case((condition, 1), else_=0) for name, condition in counts.items()},
        **_bills(),
    }


def _bills() -> dict[str, ColumnElement[Any]]:
    """Costs that are assumed, and what providers reported beyond what was booked; records have no sums of these."""
    c = spans.c
    return {
        "assumed_nano_usd": case((c.cost_source == CostSource.ASSUMED.value, c.cost_nano_usd)),
        "provider_difference_nano_usd": c.provider_nano_usd - c.cost_nano_usd,
    }
