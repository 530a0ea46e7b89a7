"""Reads of scores: those of an execution, and their means per template and version."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from telemetry.reads.workflow_labels import WorkflowColumns, has_label, label_of
from telemetry.store.score_tables import execution_scores, score_comments

MAX_GROUPS = 1_000

_s = execution_scores.c
_WORKFLOW = WorkflowColumns.of(execution_scores, source="workflow_source")


@dataclass(frozen=True, slots=True)
class Score:
    """One score of an execution: a number or a label."""

    name: str
    source: str
    value: float | str
    comment: str | None
    """Null if there is none, or it was deleted with the content of the execution."""
    scored_at: datetime


@dataclass(frozen=True, slots=True)
class GivenScore:
    """A score as it was given: a number or a label."""

    name: str
    source: str
    value: float | str
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class ScoreFilter:
    """Selects scores; null filters nothing. `since` and `until` bound `scored_at`, half-open."""

    owner: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    template: str | None = None
    """Id or key, or the label of another workflow."""
    workflow: str | None = None
    name: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class ScoreMean:
    """The scores of one name, for one workflow and one version of its template."""

    name: str
    workflow: str
    """The key of the template, or the name of the workflow, as in reports of cost."""
    template_version: int | None
    label: str | None
    """Null for the scores that are numbers; else those with this label were counted."""
    scores: int
    mean: float | None
    """Null for labels, as are the smallest and the largest value."""
    least: float | None
    most: float | None


async def list_scores(connection: AsyncConnection, execution_id: str) -> list[Score]:
    """The scores of an execution, by name and source."""
    c = score_comments.c
    same = and_(c.execution_id == _s.execution_id, c.name == _s.name, c.source == _s.source)
    statement = (
        select(_s.name, _s.source, _s.value, _s.label, c.comment, _s.scored_at)
        .join_from(execution_scores, score_comments, same, isouter=True)
        .where(_s.execution_id == execution_id)
        .order_by(_s.name, _s.source)
    )
    return [
        Score(row.name, row.source, row.label if row.value is None else row.value, row.comment, row.scored_at)
        for row in await connection.execute(statement)
    ]


async def mean_scores(connection: AsyncConnection, wanted: ScoreFilter) -> list[ScoreMean]:
    """Means per name, workflow and version, and counts of labels; of very many groups those with the most scores."""
    label = label_of(_WORKFLOW).label("workflow")
    keys = (_s.name, label, _s.template_version, _s.label)
    scores = func.count().label("scores")
    statement = (
        select(*keys, scores, func.avg(_s.value), func.min(_s.value), func.max(_s.value))
        .where(*_conditions(wanted))
        .group_by(*keys)
        .order_by(scores.desc())
        .limit(MAX_GROUPS)
    )
    found = [ScoreMean(*row) for row in await connection.execute(statement)]
    return sorted(found, key=lambda one: (one.name, one.workflow, one.template_version or 0, one.label or ""))


def _conditions(wanted: ScoreFilter) -> Sequence[ColumnElement[bool]]:
    equal = {
        _s.owner_id: wanted.owner,
        _s.workflow_name: wanted.workflow,
        _s.name: wanted.name,
        _s.source: wanted.source,
    }
    conditions: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value is not None]
    if wanted.template is not None:
        conditions.append(has_label(_WORKFLOW, wanted.template))
    if wanted.since is not None:
        conditions.append(_s.scored_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(_s.scored_at < wanted.until)
    return conditions
