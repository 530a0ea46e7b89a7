"""Queries and panel shapes that the dashboards share.

Counters read from the roll-ups are equal in all processes, hence `max` over them.
"""

from dashboards.alerts import ROOT
from dashboards.options import Options
from dashboards.panels import Origin, Panel, Query

RATE = "$__rate_interval"
RANGE = "$__range"
TEMPLATE = 'template=~"$template"'
OF_WORKFLOW = 'workflow_name=~"$workflow_name"'
CHOSEN = OF_WORKFLOW + ',workflow_source=~"$source"'
ROOTS = f"{ROOT},{CHOSEN}"
NODES = f'gen_ai_operation_name=~"|none",workflow_node_type!~"|none",{CHOSEN}'
TOOLS = f'gen_ai_operation_name="execute_tool",{CHOSEN}'
RETRIEVALS = f'gen_ai_operation_name="retrieval",{CHOSEN}'
CHATS = f'gen_ai_operation_name="chat",{CHOSEN}'
CALLS = "traces_span_metrics_calls_total"
DURATION = "traces_span_metrics_duration_seconds"
EXECUTED = "spanloom_executions_total"
NANO = "spanloom_cost_nano_usd_total"
BY_TYPE, BY_TOOL, BY_MODEL, BY_WORKFLOW = (
    "workflow_node_type",
    "gen_ai_tool_name",
    "gen_ai_request_model",
    "workflow_name",
)
INPUT, OUTPUT = ',type="input"', ',type="output"'
OBJECTIVE = Options().objective
ANY = 'status!=""'


def executed(which: str, window: str, by: str = "template") -> str:
    """How many executions ended with a status within a window."""
    grown = f"increase({EXECUTED}{{{TEMPLATE},{which}}}[{window}])"
    return f"sum by ({by}) (max by (template, status, error_class) ({grown}))"


def spent(window: str, by: str) -> str:
    """USD within a window."""
    return f"sum by ({by}) (max by (template, model) (increase({NANO}{{{TEMPLATE}}}[{window}]))) / 1e9"


def hourly(by: str) -> str:
    """USD per hour at the current rate."""
    return f"sum by ({by}) (max by (template, model) (rate({NANO}{{{TEMPLATE}}}[{RATE}]))) * 3600 / 1e9"


def tokens(window: str, which: str = "") -> str:
    """Tokens within a window, per template, model and type."""
    return f"max by (template, model, type) (increase(spanloom_tokens_total{{{TEMPLATE}{which}}}[{window}]))"


def rate(selector: str, by: str, metric: str = CALLS) -> str:
    """Events per second."""
    return f"sum by ({by}) (rate({metric}{{{selector}}}[{RATE}]))"


def quantile(share: float, selector: str, by: str = "", metric: str = DURATION) -> str:
    """A quantile of a histogram, per label."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}[{RATE}])))"


def failures(selector: str, by: str) -> str:
    """Failed spans per second, from the histogram, because it has the exemplars."""
    failed = f'{DURATION}_bucket{{{selector},status_code="STATUS_CODE_ERROR"}}'
    return f"sum by ({by}) (max without (le) (rate({failed}[{RATE}])))"


def number(title: str, description: str, expr: str, unit: str = "short") -> Panel:
    """A number panel; six fit into a row."""
    return Panel(title, description, [Query(expr)], unit, width=4, is_number=True)


def lines(
    title: str,
    description: str,
    expr: str,
    label: str,
    unit: str = "short",
    *,
    stacked: bool = False,
    exemplars: bool = False,
    origin: Origin = Origin.SERVICE,
) -> Panel:
    """A panel of lines over time, one per value of the label."""
    legend = f"{{{{{label}}}}}" if label else title
    return Panel(title, description, [Query(expr, legend, exemplars, origin)], unit, 12, is_stacked=stacked)
