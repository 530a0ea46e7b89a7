"""The names under which workflows are summed up and listed: a template by its key, every other workflow by its name.

A workflow that came with its request may have the name of a stored one. Such a name gets a mark, so that its sums are
not taken for those of the stored workflow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, FromClause, and_, case, func, literal, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.store.tables import workflow_definitions, workflow_templates
from telemetry.signals.records import AD_HOC_SOURCES

OTHER = "_other"
"""Stands for all groups, or values of a label, that are beyond their limit."""

RESERVED = ("chat", OTHER)
"""Names that are ours, though no template or definition has them."""

MARKS = {"graph": " (graph)", "template": " (unsaved)"}
"""Source of a workflow that is stored nowhere to the mark of its name, if a stored one has that name."""

_templates, _definitions = workflow_templates.c, workflow_definitions.c


@dataclass(frozen=True, slots=True)
class WorkflowColumns:
    """The columns of a table that tell the workflow of a row; `template_id` is null or `''` if there is none."""

    template_id: ColumnElement[Any]
    name: ColumnElement[Any]
    source: ColumnElement[Any]

    @classmethod
    def of(cls, table: FromClause, *, source: str = "source") -> "WorkflowColumns":
        """The columns of roll-ups or records."""
        return cls(table.c.template_id, table.c.workflow_name, table.c[source])

    @property
    def is_ad_hoc(self) -> ColumnElement[bool]:
        """Whether the workflow came with the request: nothing bounds how many names there are."""
        return and_(self.has_no_template, self.source.in_(AD_HOC_SOURCES))

    @property
    def has_no_template(self) -> ColumnElement[bool]:
        """Whether the row names no template."""
        return func.coalesce(self.template_id, "") == ""


def label_of(workflow: WorkflowColumns) -> ColumnElement[str]:
    """The label of each row."""
    key = select(func.max(_templates.key)).where(_templates.template_id == workflow.template_id).scalar_subquery()
    taken = or_(
        workflow.name.in_(select(_templates.key)),
        workflow.name.in_(select(_definitions.slug)),
        workflow.name.in_(RESERVED),
    )
    mark = case(*((workflow.source == source, mark) for source, mark in MARKS.items()), else_="")
    marked = case((and_(workflow.is_ad_hoc, taken), workflow.name.concat(mark)), else_=workflow.name)
    return func.coalesce(key, marked)


def has_label(workflow: WorkflowColumns, label: str) -> ColumnElement[bool]:
    """Whether `label_of` gives this label; the id of a template selects its rows, too."""
    no_template = workflow.has_no_template
    of_key = select(_templates.template_id).where(_templates.key == label)
    deleted = and_(not_(no_template), workflow.template_id.not_in(select(_templates.template_id)))
    named = [
        and_(deleted, workflow.name == label),
        and_(no_template, workflow.name == label, or_(workflow.source.not_in(AD_HOC_SOURCES), not_(_is_taken(label)))),
    ]
    for source, mark in MARKS.items():
        if label.endswith(mark):
            name = label.removesuffix(mark)
            named.append(and_(no_template, workflow.source == source, workflow.name == name, _is_taken(name)))
    return or_(workflow.template_id == label, workflow.template_id.in_(of_key), *named)


async def stored_labels(connection: AsyncConnection) -> tuple[Sequence[str], Sequence[str]]:
    """The keys of all templates and the slugs of all definitions, sorted."""
    keys = select(_templates.key).distinct().order_by(_templates.key)
    slugs = select(_definitions.slug).distinct().order_by(_definitions.slug)
    return (await connection.execute(keys)).scalars().all(), (await connection.execute(slugs)).scalars().all()


def _is_taken(name: str) -> ColumnElement[bool]:
    if name in RESERVED:
        return literal(True)  # a value of SQL
    of_template = select(_templates.key).where(_templates.key == name).exists()
    return or_(of_template, select(_definitions.slug).where(_definitions.slug == name).exists())
