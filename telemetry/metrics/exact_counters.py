"""Counters that equal the roll-ups: each scrape reads them from there, so they survive restarts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import BigInteger, ColumnElement, and_, case, cast, func, not_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import among
from engine.result import ErrorClass
from engine.usage import TOKEN_FIELDS, TOKEN_KINDS
from telemetry.metrics.labels import MAX_LABEL_VALUES, LabelCap
from telemetry.reads.workflow_labels import OTHER, WorkflowColumns, label_of, stored_labels
from telemetry.store.tables import execution_rollups_daily

Counts = dict[tuple[str, ...], int]

_STATUSES = ("completed", "failed", "cancelled")

_BY_MODEL = {
    "cost_nano_usd": "Cost of model calls in nano-USD",
    "waste_nano_usd": "Cost of model calls whose answer was not used, in nano-USD",
    "model_calls": "Model calls that ended",
    "unpriced_calls": "Model calls to models without a price",
    "unmetered_calls": "Model calls of unknown cost, because the provider reported no usage",
    "failed_calls": "Model calls that failed, whatever they cost",
    "assumed_calls": "Model calls at the catalogue's price although the server is not the provider's",
    "assumed_nano_usd": "Cost at the catalogue's price although the server is not the provider's, in nano-USD",
}
"""Columns of the roll-ups that are counters by template and model, with their meanings."""
_NAMES = {"assumed_nano_usd": "assumed_cost_nano_usd"}
"""Names of counters that are not those of their columns, without the prefix."""

_UPPER_MEANING = "Cost and the most that unfinished model calls may have cost, in nano-USD"
_UNFINISHED_MEANING = "Model calls cut off by a crash; bounded if the most that they may have cost is known"

_SUMMED = (
    *(f"executions_{status}" for status in _STATUSES),
    "executions_failed_by_caller",
    *TOKEN_FIELDS,
    *_BY_MODEL,
    "provider_difference_nano_usd",
    "cost_upper_nano_usd",
    "unfinished_calls",
    "unbounded_calls",
)


@dataclass(frozen=True, slots=True)
class _Total:
    """The sums of the roll-ups for one workflow and model; the model is `''` for the executions themselves."""

    workflow: str
    model: str
    first_used: datetime
    sums: Mapping[str, int]
    """By the column of the roll-ups."""


@dataclass(slots=True)
class _Families:
    """The samples of each counter, by its labels."""

    executions: Counts = field(default_factory=dict)
    failed_by_caller: Counts = field(default_factory=dict)
    tokens: Counts = field(default_factory=dict)
    unfinished: Counts = field(default_factory=dict)
    upper: Counts = field(default_factory=dict)
    beyond: Counts = field(default_factory=dict)
    """What providers reported minus what was booked."""
    by_model: dict[str, Counts] = field(default_factory=lambda: {column: {} for column in _BY_MODEL})

    def add(self, workflow: str, model: str, sums: Mapping[str, int]) -> None:
        by_caller = sums["executions_failed_by_caller"]
        for status in _STATUSES:
            count = sums[f"executions_{status}"] - (by_caller if status == "failed" else 0)
            _add(self.executions, (workflow, status), count)
        _add(self.failed_by_caller, (workflow,), by_caller)
        _add(self.unfinished, (workflow, "true"), sums["unfinished_calls"] - sums["unbounded_calls"])
        _add(self.unfinished, (workflow, "false"), sums["unbounded_calls"])
        _add(self.upper, (workflow,), sums["cost_upper_nano_usd"])
        _add(self.beyond, (workflow, model), sums["provider_difference_nano_usd"])
        for column, counts in self.by_model.items():
            _add(counts, (workflow, model), sums[column])
        for kind in TOKEN_KINDS:
            _add(self.tokens, (workflow, model, kind.label), sums[kind.field])

    def written(self) -> Iterable[Metric]:
        yield _executions_family(self.executions, self.failed_by_caller)
        for column, meaning in _BY_MODEL.items():
            yield family(
                f"spanloom_{_NAMES.get(column, column)}", meaning, ("template", "model"), self.by_model[column]
            )
        yield _difference_family(self.beyond)
        yield family("spanloom_cost_upper_nano_usd", _UPPER_MEANING, ("template",), self.upper)
        yield family("spanloom_unfinished_calls", _UNFINISHED_MEANING, ("template", "bounded"), self.unfinished)
        yield family("spanloom_tokens", "Tokens of model calls", ("template", "model", "type"), self.tokens)


class ExactCounters(Collector):
    """Executions, cost, calls and tokens by workflow; the label `template` holds the workflow's name without one."""

    def __init__(self) -> None:
        self.stored: Sequence[str] = ()
        """The names of all stored templates and definitions."""
        self._templates: Sequence[str] = ()
        self._totals: Sequence[_Total] = ()

    async def read(self, connection: AsyncConnection) -> None:
        """Read the values that the next `collect` shows."""
        self._templates, definitions = await stored_labels(connection)
        self.stored = (*self._templates, *definitions)
        self._totals = await _read_totals(connection)

    def collect(self) -> Iterable[Metric]:
        families, workflows, models = _Families(), self._places(), LabelCap()
        # A counter that started at 1 would hide the first failure of a template.
        for template in self._templates:
            families.add(workflows(template), models(""), dict.fromkeys(_SUMMED, 0))
        for total in sorted(self._totals, key=lambda total: (total.workflow, total.model)):
            families.add(workflows(total.workflow), models(total.model), total.sums)
        yield from families.written()

    def _places(self) -> LabelCap:
        """The values of the label: stored workflows first, then the others in the order of their first use.

        So a new name takes no place from a name that has one, whose series would end.
        """
        cap, used = LabelCap(), {total.workflow for total in self._totals}
        cap.reserve([*self._templates, *(name for name in self.stored if name in used)])
        cap.reserve(total.workflow for total in sorted(self._totals, key=lambda total: total.first_used))
        return cap


async def _read_totals(connection: AsyncConnection) -> list[_Total]:
    """The sums per workflow and model. Names that callers choose are bounded in the statement already."""
    c = execution_rollups_daily.c
    label = await _bounded_label(connection)
    sums = [cast(func.sum(c[name]), BigInteger).label(name) for name in _SUMMED]
    statement = select(label.label("workflow"), c.model, func.min(c.bucket_day).label("first_used"), *sums)
    rows = (await connection.execute(statement.group_by(text("1"), text("2")))).mappings()
    return [
        _Total(row["workflow"], row["model"], row["first_used"], {name: row[name] for name in _SUMMED}) for row in rows
    ]


async def _bounded_label(connection: AsyncConnection) -> ColumnElement[str]:
    """The label of each roll-up; of workflows that are stored nowhere only the 200 that were used first have one."""
    c = execution_rollups_daily.c
    workflow = WorkflowColumns.of(execution_rollups_daily)
    first = (
        select(c.workflow_name)
        .where(workflow.is_ad_hoc)
        .group_by(c.workflow_name)
        .order_by(func.min(c.bucket_day), c.workflow_name)
        .limit(MAX_LABEL_VALUES)
    )
    names = (await connection.execute(first)).scalars().all()
    is_one_of_many = and_(workflow.is_ad_hoc, not_(among(connection.dialect, c.workflow_name, names)))
    return case((is_one_of_many, OTHER), else_=label_of(workflow))


def _add(sums: Counts, key: tuple[str, ...], value: int) -> None:
    sums[key] = sums.get(key, 0) + value


def _executions_family(ended: Counts, failed_by_caller: Counts) -> Metric:
    """Ended executions by template and status. Failures caused by callers have their own series."""
    ends = family("spanloom_executions", "Ended executions", ("template", "status"), ended)
    for (template,), count in failed_by_caller.items():
        labels = {"template": template, "status": "failed", "error_class": ErrorClass.CALLER.value}
        ends.add_sample("spanloom_executions_total", labels, count)
    return ends


def _difference_family(beyond: Counts) -> Metric:
    """It may be below 0, so it is no counter."""
    difference = GaugeMetricFamily(
        "spanloom_provider_cost_difference_nano_usd",
        "Cost that providers reported minus what was booked, in nano-USD, since the first execution",
        labels=("template", "model"),
    )
    for key, value in beyond.items():
        difference.add_metric(key, value)
    return difference


def family(name: str, meaning: str, labels: Sequence[str], values: Counts) -> CounterMetricFamily:
    """A counter with a sample per entry."""
    made = CounterMetricFamily(name, meaning, labels=labels)
    for key, value in values.items():
        made.add_metric(key, value)
    return made
