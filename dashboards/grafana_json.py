"""Writes a dashboard as Grafana's JSON, with Grafana's own library."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    StackingConfig,
    TableSortByFieldState,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
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
    DataTransformerConfig,
    DynamicConfigValue,
    MatcherConfig,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.alerts import RATIO_WINDOWS
from dashboards.panels import Board, Column, Panel, Query, Shape, Step

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
SCHEMA_VERSION = 41
"""The newest one that Grafana 12.1 reads; the library knows newer ones."""
TAG = "spanloom"
WORKFLOW = "Workflow"
"""The first column of a table."""
UNKNOWN = "–"
"""Shown where there is no number: a rate of nothing is not 0."""
_HEIGHTS = {Shape.NUMBER: 4, Shape.LINES: 8, Shape.TABLE: 8}
_EXECUTIONS_OF_WORKFLOW = "${service}/v1/executions?template=${__data.fields.Workflow}"


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
    )
    if board.has_workflow:
        built.with_variable(_workflows()).with_variable(_service())
    if board.has_window:
        built.with_variable(_windows())
    numbers = iter(range(1, 1_000))
    for row in board.rows:
        built.with_row(grafana.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            built.with_panel(_panel(panel, next(numbers)))
    document = built.build()
    document.schema_version = SCHEMA_VERSION
    return JSONEncoder(sort_keys=True, indent=2).encode(document) + "\n"


def _to_other_boards() -> grafana.DashboardLink:
    link = grafana.DashboardLink("spanloom").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.include_vars(True).keep_time(True)


def _workflows() -> grafana.QueryVariable:
    """Counters of the books call it `template`, metrics of spans `workflow_name`; the names are the same."""
    return (
        _labels("workflow", "label_values(spanloom_executions_total, template)")
        .label("Workflow")
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _service() -> grafana.QueryVariable:
    """The address of the service, for links."""
    return _labels("service", "label_values(spanloom_service_info, public_url)").hide(VariableHide.HIDE_VARIABLE)


def _labels(name: str, query: str) -> grafana.QueryVariable:
    refreshed = grafana.QueryVariable(name).refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    return refreshed.datasource(PROMETHEUS).query(query)


def _windows() -> grafana.CustomVariable:
    chosen = VariableOption(selected=True, text="1h", value="1h")
    windows = grafana.CustomVariable("window").label("Window of the burn rate").values(",".join(RATIO_WINDOWS))
    return windows.current(chosen)


def _panel(panel: Panel, id: int) -> stat.Panel | table.Panel | timeseries.Panel:
    built: stat.Panel | table.Panel | timeseries.Panel
    match panel.shape:
        case Shape.NUMBER:
            built = _number(panel)
        case Shape.LINES:
            built = _lines(panel)
        case Shape.TABLE:
            built = _table(panel)
    built = built.id(id).title(panel.title).description(panel.description).datasource(PROMETHEUS)
    built = built.unit(panel.unit).span(panel.width).height(_HEIGHTS[panel.shape])
    for position, query in enumerate(panel.queries):
        built.with_target(_target(query, _ref(position), panel.shape))
    return built


def _number(panel: Panel) -> stat.Panel:
    built = stat.Panel().reduce_options(ReduceDataOptions().calcs(["lastNotNull"])).thresholds(_thresholds(panel.steps))
    if panel.decimals is not None:
        built.decimals(panel.decimals)
    texts = {value: ValueMappingResult(text=text) for value, text in panel.texts.items()}
    if texts:
        built.mappings([ValueMap(options=texts)])
    return built.color_mode(BigValueColorMode.VALUE).graph_mode(BigValueGraphMode.NONE).no_value(UNKNOWN)


def _lines(panel: Panel) -> timeseries.Panel:
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
    tooltip = VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    # A soft limit: the axis begins at 0 and goes on below it where there are values.
    built = timeseries.Panel().legend(legend).tooltip(tooltip).fill_opacity(10).axis_soft_min(0).axis_label(panel.axis)
    if panel.is_stacked:
        built.stacking(StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)
    if panel.steps:
        # Lines are seen from the first failure on, not only when the values reach them.
        built.axis_soft_max(max(step.value or 0 for step in panel.steps) * 1.1)
        mode = GraphThresholdsStyleMode.AREA if panel.is_zoned else GraphThresholdsStyleMode.DASHED
        built.thresholds(_thresholds(panel.steps)).thresholds_style(GraphThresholdsStyleConfig().mode(mode))
    for name, color in panel.colors.items():
        fixed = DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})
        built.with_override(_named(name), [fixed])
    return built


def _table(panel: Panel) -> table.Panel:
    """One row per workflow that ran, the most expensive first."""
    built = table.Panel().min_width(90).no_value(UNKNOWN).thresholds(_thresholds(panel.steps))
    built.sort_by([TableSortByFieldState().display_name("Cost").desc(True)])
    titles = {f"Value #{_ref(position)}": column.title for position, column in enumerate(panel.columns)}
    for transformation in _one_table(titles):
        built.with_transformation(transformation)
    link = {"title": "Executions of ${__data.fields.Workflow}", "url": _EXECUTIONS_OF_WORKFLOW, "targetBlank": True}
    first = [DynamicConfigValue("links", [link]), DynamicConfigValue("custom.width", 200)]
    built.with_override(_named(WORKFLOW), first)
    for column in panel.columns:
        built.with_override(_named(column.title), _cells(column))
    return built


def _one_table(titles: dict[str, str]) -> list[DataTransformerConfig]:
    order = {name: position for position, name in enumerate(["template", *titles])}
    names = {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": {"template": WORKFLOW} | titles}
    some = {"fieldName": "Executions", "config": {"id": "greater", "options": {"value": 0}}}
    return [
        DataTransformerConfig("merge", options={}),
        DataTransformerConfig("organize", options=names),
        DataTransformerConfig("filterByValue", options={"type": "include", "match": "all", "filters": [some]}),
    ]


def _cells(column: Column) -> list[DynamicConfigValue]:
    steps = [{"value": step.value, "color": step.color} for step in column.steps]
    looks: dict[str, object] = {
        "unit": column.unit,
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom.cellOptions": {"type": "color-text"},
    }
    if column.decimals is not None:
        looks["decimals"] = column.decimals
    if column.is_bar:
        looks["custom.cellOptions"] = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
        looks |= {"min": 0, "max": 1, "color": {"mode": "fixed", "fixedColor": "blue"}}
    return [DynamicConfigValue(name, value) for name, value in looks.items()]


def _named(name: str) -> MatcherConfig:
    return MatcherConfig("byName", name)


def _thresholds(steps: Sequence[Step]) -> grafana.ThresholdsConfig:
    marks = [Threshold(step.value, step.color) for step in steps]
    return grafana.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(marks)


def _ref(position: int) -> str:
    return chr(ord("A") + position)


def _target(query: Query, ref: str, shape: Shape) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(ref).datasource(PROMETHEUS).expr(query.expr).legend_format(query.legend)
    if shape is Shape.TABLE:
        target.format(PromQueryFormat.TABLE)
    return target.range().exemplar(query.exemplars) if shape is Shape.LINES else target.instant()
