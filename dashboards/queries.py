"""Queries and panel shapes that the dashboards share.

Counters read from the roll-ups are equal in all processes, hence `max` over them. What has no label to name a line
by stands under a name all the same: a line called "Value" says nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

from dashboards.alerts import ENDED, EXECUTIONS, FAILED, ROOT
from dashboards.options import Options
from dashboards.panels import PLAIN, Origin, Panel, Query, Shape, Step

RATE = "$__rate_interval"
RANGE = "$__range"
TEMPLATE = 'template=~"$workflow"'
CHOSEN = 'workflow_name=~"$workflow"'
ROOTS = f"{ROOT},{CHOSEN}"
COMPLETED = f'{ROOTS},workflow_execution_status="completed"'
NODES = f'gen_ai_operation_name=~"|none",workflow_node_type!~"|none",{CHOSEN}'
TOOLS = f'gen_ai_operation_name="execute_tool",{CHOSEN}'
RETRIEVALS = f'gen_ai_operation_name="retrieval",{CHOSEN}'
CHATS = f'gen_ai_operation_name="chat",{CHOSEN}'
FAILED_SPAN = ',status_code="STATUS_CODE_ERROR"'
CALLS = "traces_span_metrics_calls_total"
DURATION = "traces_span_metrics_duration_seconds"
TOKENS_OF_CALL = "gen_ai_client_inference_operation"
"""Histograms of input and output tokens; `_input_tokens` or `_output_tokens` completes the name."""
TIME_TO_FIRST_TOKEN = "workflow_time_to_first_token_seconds"
EXECUTED = "spanloom_executions_total"
NANO = "spanloom_cost_nano_usd_total"
WASTE = "spanloom_waste_nano_usd_total"
ASSUMED = "spanloom_assumed_cost_nano_usd_total"
UPPER_NANO = "spanloom_cost_upper_nano_usd_total"
BY_TYPE, BY_TOOL, BY_MODEL, BY_WORKFLOW = (
    "workflow_node_type",
    "gen_ai_tool_name",
    "gen_ai_request_model",
    "workflow_name",
)
INPUT = 'type="input"'
BOTH = 'type=~"input|output"'
"""The other types are parts of these two: summed up with them they would count twice."""
OBJECTIVE = Options().objective
ANY = 'status!=""'
OF_MODELS = f'{TEMPLATE},model!=""'
"""The series without a model are those of the executions themselves."""


def executed(which: str, window: str, by: str = "template") -> str:
    """How many executions ended with a status within a window."""
    grown = f"increase({EXECUTED}{{{TEMPLATE},{which}}}[{window}])"
    return f"sum by ({by}) (max by (template, status, error_class) ({grown}))"


def failure_rate(window: str, by: str = "") -> str:
    """Failed of completed and failed executions; nothing where none ended."""
    failed, ended = executed(FAILED, window), executed(ENDED, window)
    if by:
        return f"{failed} / ({ended} > 0)"
    return f"sum({failed}) / (sum({ended}) > 0)"


def budget_left() -> str:
    """The share of the failures allowed within 30 days that is left; below 0 it is overspent."""
    failed, ended = (
        f"sum by (template) (increase({EXECUTIONS}{{{TEMPLATE},{which}}}[30d]))" for which in (FAILED, ENDED)
    )
    return f"1 - {failed} / ({ended} > 0) / {Options().budget:g}"


def executed_a_minute(which: str, by: str) -> str:
    """Executions that ended with a status, per minute."""
    grown = f"rate({EXECUTED}{{{TEMPLATE},{which}}}[{RATE}])"
    return f"sum by ({by}) (max by (template, status, error_class) ({grown})) * 60"


def spent(window: str, by: str = "template", metric: str = NANO, offset: str = "") -> str:
    """USD within a window, which ended the time `offset` ago."""
    grown = f"increase({metric}{{{TEMPLATE}}}[{window}]{f' offset {offset}' if offset else ''})"
    return f"sum by ({by}) (max by (template, model) ({grown})) / 1e9"


def of_spenders(expr: str) -> str:
    """Only the workflows that cost something in the selected time: a stored one that never ran is a line too many."""
    return f"{expr}\nand on (template) ({spent(RANGE)} > 0)"


def at_most(window: str, by: str) -> str:
    """USD within a window, with the most that calls cut off by a crash may have cost."""
    return f"sum by ({by}) (max by (template) (increase({UPPER_NANO}{{{TEMPLATE}}}[{window}]))) / 1e9"


def calls(kind: str, window: str, by: str) -> str:
    """Model calls within a window: `model`, `failed`, `unpriced` or `unmetered` ones."""
    grown = f"increase(spanloom_{kind}_calls_total{{{OF_MODELS}}}[{window}])"
    return f"sum by ({by}) (max by (template, model) ({grown}))"


def calls_a_minute(kind: str, by: str) -> str:
    """The same per minute."""
    grown = f"rate(spanloom_{kind}_calls_total{{{OF_MODELS}}}[{RATE}])"
    return f"sum by ({by}) (max by (template, model) ({grown})) * 60"


def cut_off(window: str) -> str:
    """Model calls cut off by a crash within a window."""
    return f"sum(max by (template, bounded) (increase(spanloom_unfinished_calls_total{{{TEMPLATE}}}[{window}])))"


def hourly(by: str) -> str:
    """USD per hour at the current rate."""
    chosen = OF_MODELS if by == "model" else TEMPLATE
    return f"sum by ({by}) (max by (template, model) (rate({NANO}{{{chosen}}}[{RATE}]))) * 3600 / 1e9"


def tokens(window: str, by: str, types: str = BOTH) -> str:
    """Tokens within a window."""
    return f"sum by ({by}) (max by (template, model, type) ({_tokens('increase', window, types)}))"


def tokens_a_minute(by: str, types: str = BOTH) -> str:
    """Tokens per minute at the current rate."""
    return f"{f'sum by ({by})' if by else 'sum'} (max by (template, model, type) ({_tokens('rate', RATE, types)})) * 60"


def _tokens(function: str, window: str, types: str) -> str:
    return f"{function}(spanloom_tokens_total{{{OF_MODELS},{types}}}[{window}])"


def parts_of_input() -> list[Query]:
    """Tokens per minute that were read from a provider's cache, written into it, or neither."""
    read, written = (tokens_a_minute("", f'type="cache_{what}"') for what in ("read", "write"))
    rest = f"{tokens_a_minute('', INPUT)}\n- ({read} or vector(0))\n- ({written} or vector(0))"
    return [
        Query(or_zero(rest), "neither"),
        Query(or_zero(read), "read from the cache"),
        Query(or_zero(written), "written to the cache"),
    ]


def a_minute(selector: str, by: str, metric: str = CALLS) -> str:
    """Events per minute."""
    return f"sum by ({by}) (rate({metric}{{{selector}}}[{RATE}])) * 60"


def quantile(share: float, selector: str, by: str = "", metric: str = DURATION, window: str = RATE) -> str:
    """A quantile of a histogram, per label."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}[{window}])))"


def failure_share(selector: str, by: str) -> str:
    """Failed spans as a share of all."""
    all_spans = a_minute(selector, by)
    return f"({a_minute(selector + FAILED_SPAN, by)} or {all_spans} * 0) / ({all_spans} > 0)"


def failed_spans(selector: str, by: str) -> str:
    """Spans per minute, from the histogram, because it has the exemplars."""
    return f"sum by ({by}) (max without (le) (rate({DURATION}_bucket{{{selector}}}[{RATE}]))) * 60"


def or_zero(expr: str) -> str:
    """0 where there is no series: then nothing happened."""
    return f"{expr} or vector(0)"


def or_none(expr: str, label: str) -> str:
    """A line of 0 that is called "none" where there is no series."""
    return f'{expr}\nor on() label_replace(vector(0), "{label}", "none", "", "")'


def number(title: str, description: str, expr: str, unit: str = "short", steps: Sequence[Step] = PLAIN) -> Panel:
    """A number panel; six fit into a row."""
    return Panel(title, description, [Query(expr)], unit, 4, Shape.NUMBER, steps=steps)


def count(title: str, description: str, expr: str, steps: Sequence[Step] = PLAIN) -> Panel:
    """The panel of a whole number, 0 where there is no series: `increase` guesses fractions."""
    return replace(number(title, description, or_zero(expr), steps=steps), decimals=0)


def lines(
    title: str,
    description: str,
    expr: str,
    label: str,
    unit: str = "short",
    *,
    axis: str = "",
    stacked: bool = False,
    exemplars: bool = False,
    origin: Origin = Origin.SERVICE,
    width: int = 12,
) -> Panel:
    """A panel of lines over time, one per value of the label; without a label one line with the panel's title."""
    legend = f"{{{{{label}}}}}" if label else title
    query = Query(expr, legend, exemplars, origin)
    return Panel(title, description, [query], unit, width, axis=axis, is_stacked=stacked)
