"""What a dashboard is made of, as data, and how Grafana's library writes it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    VariableRefresh,
    VariableSort,
)

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
JAEGER_UID = "jaeger"
TAG = "spanloom"
HEIGHT = 8
STAT_HEIGHT = 4
_SPANS = "traces_span_metrics_calls_total"

_TRACE = (
    f"""{{"t":{{"datasource":"{JAEGER_UID}","queries":[{{"refId":"A","query":"${{__data.fields.trace_id}}"}}]}}}}"""
)


class Origin(StrEnum):
    """The source of a query's metrics."""

    SERVICE = "service"
    """`/metrics` of the service, in either mode."""
    RULES = "rules"
    """Recording rules in Prometheus."""
    COLLECTOR = "collector"
    """The Collector's own metrics; empty without a Collector."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query that draws one or several lines."""

    expr: str
    legend: str = ""
    exemplars: bool = False
    origin: Origin = Origin.SERVICE


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. Units are Grafana's; `width` is in columns of 24."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 8
    is_number: bool = False
    """One number per query instead of lines over time."""
    is_stacked: bool = False

    @property
    def leads_to_traces(self) -> bool:
        """Whether its points link to traces."""
        return any(query.exemplars for query in self.queries)


@dataclass(frozen=True, slots=True)
class Row:
    """A titled row of panels."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard."""

    slug: str
    title: str
    description: str
    rows: Sequence[Row]

    def panels(self) -> Iterator[Panel]:
        """All panels, in order."""
        for row in self.rows:
            yield from row.panels


def to_json(board: Board) -> str:
    """The dashboard as JSON for Grafana."""
    built = (
        grafana.Dashboard(f"spanloom: {board.title}")
        .uid(f"spanloom-{board.slug}")
        .description(board.description)
        .tags([TAG])
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(_to_other_boards())
        .with_variable(_variable("workflow_name", "Workflow", f"label_values({_SPANS}, workflow_name)"))
        .with_variable(_variable("source", "Source", f"label_values({_SPANS}, workflow_source)"))
        .with_variable(_variable("template", "Template (books)", "label_values(spanloom_executions_total, template)"))
    )
    numbers = iter(range(1, 1_000))
    for row in board.rows:
        built.with_row(grafana.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            built.with_panel(_panel(panel, next(numbers)))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _to_other_boards() -> grafana.DashboardLink:
    link = grafana.DashboardLink("spanloom").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.include_vars(True).keep_time(True)


def _variable(name: str, label: str, query: str) -> grafana.QueryVariable:
    return (
        grafana.QueryVariable(name)
        .label(label)
        .datasource(PROMETHEUS)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _panel(panel: Panel, id: int) -> stat.Panel | timeseries.Panel:
    built = _number(panel) if panel.is_number else _lines(panel)
    built = built.id(id).title(panel.title).description(panel.description).datasource(PROMETHEUS)
    built = built.unit(panel.unit).span(panel.width)
    for position, query in enumerate(panel.queries):
        built.with_target(_target(query, chr(ord("A") + position), instant=panel.is_number))
    return built


def _number(panel: Panel) -> stat.Panel:
    return stat.Panel().height(STAT_HEIGHT).reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))


def _lines(panel: Panel) -> timeseries.Panel:
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
    tooltip = VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    built = timeseries.Panel().height(HEIGHT).legend(legend).tooltip(tooltip).fill_opacity(10).min(0)
    if panel.is_stacked:
        built.stacking(StackingConfig().mode(StackingMode.NORMAL))
    if panel.leads_to_traces:
        built.data_links([_to_the_trace()])
    return built


def _to_the_trace() -> grafana.DashboardLink:
    """A link from an exemplar to its trace in Jaeger."""
    url = "/explore?schemaVersion=1&panes=" + quote(_TRACE, safe="${}_.")
    return grafana.DashboardLink("Trace in Jaeger").type(DashboardLinkType.LINK).url(url).target_blank(True)


def _target(query: Query, ref: str, *, instant: bool) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(ref).datasource(PROMETHEUS).expr(query.expr).legend_format(query.legend)
    return target.instant() if instant else target.range().exemplar(query.exemplars)
