"""The dashboard that is looked at first: how the workflows are doing, and what they cost."""

from dashboards.alerts import FAILED, FAST_BURN, SLOW_BURN, failure_ratio
from dashboards.options import Options
from dashboards.panels import PLAIN, Board, Column, Origin, Panel, Query, Row, Shape, Step, good_below, good_from
from dashboards.queries import (
    ANY,
    CHOSEN,
    COMPLETED,
    OBJECTIVE,
    RANGE,
    ROOTS,
    TEMPLATE,
    TIME_TO_FIRST_TOKEN,
    WASTE,
    a_minute,
    budget_left,
    calls,
    count,
    executed,
    executed_a_minute,
    failed_spans,
    failure_rate,
    lines,
    number,
    or_none,
    or_zero,
    quantile,
    spent,
    tokens,
)

FAILURE_RATE = good_below(warning=0.01, bad=0.05)
BUDGET = good_from(0.25, warning=0)
SLOW = (Step(None, "text"), Step(Options().slow_seconds, "orange"))
STATUS_COLORS = {"completed": "green", "failed": "red", "cancelled": "#8e8e8e"}

WORKFLOWS = Panel(
    "Workflows",
    "What each workflow did and cost in the selected time, the most expensive first. Trend compares the cost with the "
    "same time before. Waste is the cost of calls whose answer was not used. A name leads to its executions.",
    [
        Query(executed(ANY, RANGE)),
        Query(failure_rate(RANGE, "template")),
        Query(
            f"max by (template) (label_replace({quantile(0.95, COMPLETED, 'workflow_name', window=RANGE)}, "
            '"template", "$1", "workflow_name", "(.*)"))'
        ),
        Query(tokens(RANGE, "template")),
        Query(spent(RANGE)),
        Query(f"{spent(RANGE)} / ({executed(ANY, RANGE)} > 0)"),
        Query(f"{spent(RANGE)} / on() group_left() (sum({spent(RANGE)}) > 0)"),
        Query(spent(RANGE, metric=WASTE)),
        Query(f"{spent(RANGE)} / ({spent(RANGE, offset=RANGE)} > 0) - 1"),
        Query(calls("unpriced", RANGE, "template")),
    ],
    width=24,
    shape=Shape.TABLE,
    steps=PLAIN,
    columns=[
        Column("Executions", decimals=0),
        Column("Failure rate", "percentunit", 1, FAILURE_RATE),
        Column("Duration, 95 %", "s", steps=SLOW),
        Column("Tokens", decimals=1),
        Column("Cost", "currencyUSD", 4),
        Column("Per execution", "currencyUSD", 6),
        Column("Share of cost", "percentunit", 0, is_bar=True),
        Column("Waste", "currencyUSD", 4),
        Column("Trend", "percentunit", 0),
        Column("Unpriced calls", decimals=0, steps=good_below(warning=0.5, bad=0.5)),
    ],
)

NOW = Row(
    "In the selected time",
    [
        count("Executions", "Executions that ended.", f"sum({executed(ANY, RANGE)})"),
        count("Failed", "Failures, without those that callers caused.", f"sum({executed(FAILED, RANGE)})"),
        number(
            "Failure rate",
            "Failed of completed and failed executions, without callers' errors and cancelled executions.",
            failure_rate(RANGE),
            "percentunit",
            FAILURE_RATE,
        ),
        Panel(
            "Budget left",
            "Of the workflow that has least: the share of the failures allowed within 30 days. Below 0 it is spent.",
            [Query(f"min({budget_left()})", origin=Origin.RULES)],
            "percentunit",
            4,
            Shape.NUMBER,
            steps=BUDGET,
        ),
        number(
            "Duration, 95 %",
            "95th percentile of completed executions.",
            quantile(0.95, COMPLETED, window=RANGE),
            "s",
            SLOW,
        ),
        number("Cost", "Cost of all model calls.", or_zero(f"sum({spent(RANGE)})"), "currencyUSD"),
    ],
)
FAILURES = Row(
    "Failures",
    [
        Panel(
            "Executions by status",
            "Executions that ended, per minute.",
            [Query(or_none(executed_a_minute(ANY, "status"), "status"), "{{status}}")],
            axis="executions per minute",
            is_stacked=True,
            colors=STATUS_COLORS,
        ),
        lines(
            "Failure rate",
            "Failed of those that completed or failed. Faults of callers are left out.",
            failure_rate("$__rate_interval", "template"),
            "template",
            "percentunit",
        ),
        lines(
            "Failed executions, with their traces",
            "Per minute. The points above are executions; each leads to its trace in Jaeger.",
            or_none(failed_spans(f'{ROOTS},workflow_execution_status="failed"', "workflow_name"), "workflow_name"),
            "workflow_name",
            axis="failures per minute",
            exemplars=True,
        ),
        lines(
            "Why executions fail",
            "Failures per minute by error type.",
            or_none(a_minute(f'{ROOTS},workflow_execution_status="failed"', "error_type"), "error_type"),
            "error_type",
            axis="failures per minute",
            stacked=True,
        ),
    ],
)
BUDGETS = Row(
    f"Objective: {OBJECTIVE:.0%} complete",
    [
        Panel(
            "Burn rate",
            "How many times faster than allowed a workflow fails, over the window chosen above. It pages over the "
            f"dashed lines: at {FAST_BURN:g} over an hour, at {SLOW_BURN:g} over six hours.",
            [
                Query(
                    f"{failure_ratio('$window')}{{{TEMPLATE}}} / {Options().budget:g} >= 0",
                    "{{template}}",
                    origin=Origin.RULES,
                )
            ],
            axis="times the rate allowed",
            steps=(Step(None, "transparent"), Step(SLOW_BURN, "orange"), Step(FAST_BURN, "red")),
        ),
        Panel(
            "Budget left",
            "The share of the failures allowed within 30 days that is left. Below 0 it is overspent.",
            [Query(budget_left(), "{{template}}", origin=Origin.RULES)],
            "percentunit",
            steps=(Step(None, "red"), Step(0, "transparent")),
            is_zoned=True,
        ),
    ],
)
TIME = Row(
    "Time",
    [
        Panel(
            "Duration of executions",
            "Of completed executions; the points lead to their traces.",
            [Query(quantile(share, COMPLETED), f"{share:.0%}", exemplars=True) for share in (0.5, 0.95, 0.99)],
            "s",
        ),
        Panel(
            "Time to the first token",
            "Measured from the start of a streamed execution.",
            [Query(quantile(share, CHOSEN, metric=TIME_TO_FIRST_TOKEN), f"{share:.0%}") for share in (0.5, 0.95)],
            "s",
        ),
    ],
)
OVERVIEW = Board(
    "overview",
    "overview",
    "Workflows: volume, failures against the objective, duration, cost. Points in panels lead to traces.",
    [NOW, Row("By workflow", [WORKFLOWS]), FAILURES, BUDGETS, TIME],
    has_window=True,
)
