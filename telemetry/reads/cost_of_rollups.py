"""The parts of a cost report that roll-ups answer: daily ones for whole days, hourly ones at both ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Table, literal

from engine.database.base import UtcTime
from telemetry.reads.cost_query import SUMMED, CostFilter, Part
from telemetry.reads.workflow_labels import WorkflowColumns, has_label, label_of
from telemetry.store.tables import execution_rollups, execution_rollups_daily

_DAY = timedelta(days=1)


def parts_of_rollups(since: datetime, until: datetime, wanted: CostFilter) -> Sequence[Part]:
    """The roll-ups between two whole hours."""
    return [_part(piece, wanted) for piece in _pieces(since, until)]


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


def _part(piece: _Piece, wanted: CostFilter) -> Part:
    c, workflow = piece.table.c, WorkflowColumns.of(piece.table)
    conditions = [piece.bucket >= piece.start, piece.bucket < piece.end]
    equal = {
        c.owner_id: wanted.owner,
        c.workflow_name: wanted.workflow,
        c.source: wanted.source,
        c.provider: wanted.provider,
        c.model: wanted.model,
    }
    conditions += [column == value for column, value in equal.items() if value is not None]
    if wanted.template is not None:
        conditions.append(has_label(workflow, wanted.template))
    dimensions = {
        "template": label_of(workflow),
        "template_version": c.template_version,
        "workflow": c.workflow_name,
        "source": c.source,
        "provider": c.provider,
        "model": c.model,
        "owner": c.owner_id,
        "day": piece.bucket if piece.day is None else literal(piece.day, UtcTime),
    }
    return Part(piece.table, dimensions, {name: c[name] for name in SUMMED}, conditions)


def _day(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
