"""The dashboards, and all their queries."""

from collections.abc import Iterator
from dataclasses import dataclass

from dashboards.alerts import ENDED, EXECUTIONS, FAILED, HOURLY_COST, failure_ratio
from dashboards.options import Options
from dashboards.panels import Board, Origin, Panel, Query, Row, to_json
from dashboards.queries import (
    ANY,
    BY_MODEL,
    BY_TOOL,
    BY_TYPE,
    BY_WORKFLOW,
    CHATS,
    CHOSEN,
    DURATION,
    INPUT,
    NODES,
    OBJECTIVE,
    OF_WORKFLOW,
    OUTPUT,
    RANGE,
    RATE,
    RETRIEVALS,
    ROOTS,
    TEMPLATE,
    TOOLS,
    executed,
    failures,
    hourly,
    lines,
    number,
    quantile,
    rate,
    spent,
    tokens,
)
from dashboards.telemetry_board import TELEMETRY

OVERVIEW = Board(
    "overview",
    "overview",
    "Executions: volume, failures against the objective, duration. Points in the failure panel link to traces.",
    [
        Row(
            "In the selected time",
            [
                number("Executions", "Executions that ended.", f"sum({executed(ANY, RANGE)})"),
                number(
                    "Failure rate",
                    "Failed of completed and failed executions, without callers' errors and cancelled executions.",
                    f"sum({executed(FAILED, RANGE)}) / sum({executed(ENDED, RANGE)})",
                    "percentunit",
                ),
                number("Cost", "Cost of all model calls.", f"sum({spent(RANGE, 'template')})", "currencyUSD"),
                number(
                    "Duration, 95 %",
                    "95th percentile over completed executions.",
                    quantile(0.95, ROOTS + ',workflow_execution_status="completed"').replace(RATE, RANGE),
                    "s",
                ),
                number(
                    "Unfinished",
                    "Executions that are queued or running.",
                    "sum(max by (status) (spanloom_executions_unfinished))",
                ),
                number(
                    "Oldest unfinished",
                    "An alert fires after one hour.",
                    "max(spanloom_executions_oldest_seconds)",
                    "s",
                ),
            ],
        ),
        Row(
            "Failures",
            [
                Panel(
                    "Failed executions, with their traces",
                    "Points that have a trace link to it in Jaeger.",
                    [
                        Query(
                            f"sum by (workflow_name) (max without (le) (rate({DURATION}_bucket"
                            f'{{{ROOTS},workflow_execution_status="failed"}}[{RATE}])))',
                            "{{workflow_name}}",
                            exemplars=True,
                        )
                    ],
                    "ops",
                    width=12,
                ),
                Panel(
                    "Failure rate",
                    "Failed of those that completed or failed. Faults of callers are left out.",
                    [Query(f"{executed(FAILED, RATE)} / {executed(ENDED, RATE)}", "{{template}}")],
                    "percentunit",
                    width=12,
                ),
                Panel(
                    "Why executions fail",
                    "By error type.",
                    [Query(rate(ROOTS + ',workflow_execution_status="failed"', "error_type"), "{{error_type}}")],
                    "ops",
                    width=12,
                    is_stacked=True,
                ),
                Panel(
                    "Executions by status",
                    "That ended.",
                    [Query(executed(ANY, RATE, "status"), "{{status}}")],
                    width=12,
                    is_stacked=True,
                ),
            ],
        ),
        Row(
            f"Objective: {OBJECTIVE:.0%} complete",
            [
                Panel(
                    "Burn rate",
                    "Failure rate as a multiple of the rate allowed; it pages at 14.4 over 1 hour or 6 over 6 hours.",
                    [
                        Query(
                            f"{failure_ratio(window)}{{{TEMPLATE}}} / {Options().budget:g}",
                            f"{{{{template}}}} {window}",
                            origin=Origin.RULES,
                        )
                        for window in ("1h", "6h", "3d")
                    ],
                    width=12,
                ),
                Panel(
                    "Budget left",
                    "The share of the failures allowed within 30 days that is left.",
                    [
                        Query(
                            f"1 - sum by (template) (increase({EXECUTIONS}{{{TEMPLATE},{FAILED}}}[30d]))\n"
                            f"/ sum by (template) (increase({EXECUTIONS}{{{TEMPLATE},{ENDED}}}[30d]))"
                            f" / {Options().budget:g}",
                            "{{template}}",
                            origin=Origin.RULES,
                        )
                    ],
                    "percentunit",
                    width=12,
                ),
            ],
        ),
        Row(
            "Time",
            [
                Panel(
                    "Duration of executions",
                    "Completed executions; points link to traces.",
                    [
                        Query(
                            quantile(share, ROOTS + ',workflow_execution_status="completed"'),
                            f"{share:.0%}",
                            exemplars=True,
                        )
                        for share in (0.5, 0.95, 0.99)
                    ],
                    "s",
                    width=12,
                ),
                Panel(
                    "Time to the first token",
                    "Measured from the start of a streamed execution.",
                    [
                        Query(
                            quantile(share, OF_WORKFLOW, metric="workflow_time_to_first_token_seconds"), f"{share:.0%}"
                        )
                        for share in (0.5, 0.95)
                    ],
                    "s",
                    width=12,
                ),
            ],
        ),
    ],
)

COSTS = Board(
    "cost",
    "cost",
    "The cost of executions, exact to the nano-dollar, since the counters are read from the books. Calls without a "
    "known price are counted separately.",
    [
        Row(
            "In the selected time",
            [
                number("Cost", "Cost of all model calls.", f"sum({spent(RANGE, 'template')})", "currencyUSD"),
                number(
                    "Cost of an execution",
                    "Average over executions that ended.",
                    f"sum({spent(RANGE, 'template')}) / sum({executed(ANY, RANGE)})",
                    "currencyUSD",
                ),
                number(
                    "A month at this rate",
                    "The cost of the last hour over 30 days.",
                    f"sum({spent('1h', 'template')}) * 24 * 30",
                    "currencyUSD",
                ),
                number(
                    "Calls without a price",
                    "Model calls whose cost is missing in the other panels.",
                    f"sum(max by (template, model) (increase(spanloom_unpriced_calls_total{{{TEMPLATE}}}[{RANGE}])))",
                ),
                number("Input tokens", "Including cached tokens.", f"sum({tokens(RANGE, INPUT)})"),
                number("Output tokens", "Including reasoning tokens.", f"sum({tokens(RANGE, OUTPUT)})"),
            ],
        ),
        Row(
            "Where it goes",
            [
                lines(
                    "Cost per hour by workflow",
                    "Exact, from the books.",
                    hourly("template"),
                    "template",
                    "currencyUSD",
                    stacked=True,
                ),
                lines(
                    "Cost per hour by model",
                    "Exact, from the books.",
                    hourly("model"),
                    "model",
                    "currencyUSD",
                    stacked=True,
                ),
                lines(
                    "Cost per hour by provider",
                    "From spans; starts at 0 when the process or the Collector restarts.",
                    f"sum by (gen_ai_provider_name) (rate(workflow_cost_usd_total{{{CHOSEN}}}[{RATE}])) * 3600",
                    "gen_ai_provider_name",
                    "currencyUSD",
                    stacked=True,
                ),
                lines(
                    "Cost within an hour",
                    "The series behind the alert on cost spikes.",
                    f"{HOURLY_COST}{{{TEMPLATE}}}",
                    "template",
                    "currencyUSD",
                    origin=Origin.RULES,
                ),
            ],
        ),
        Row(
            "What the money is spent on",
            [
                lines("Tokens by kind", "Tokens by type.", f"sum by (type) ({tokens(RATE)})", "type", stacked=True),
                lines(
                    "Calls without a price by model",
                    "Models that the price list does not know.",
                    "sum by (model) (max by (template, model) "
                    f"(increase(spanloom_unpriced_calls_total{{{TEMPLATE}}}[{RATE}])))",
                    "model",
                ),
            ],
        ),
    ],
)

NODE_BOARD = Board(
    "nodes",
    "nodes",
    "Inside executions: nodes by type, tools, retrieval.",
    [
        Row(
            "Nodes",
            [
                lines("Node attempts", "By type of node.", rate(NODES, BY_TYPE), BY_TYPE, "ops", stacked=True),
                lines(
                    "Failed node attempts, with their traces",
                    "Including handled and retried failures; points link to traces.",
                    failures(NODES, BY_TYPE),
                    BY_TYPE,
                    "ops",
                    exemplars=True,
                ),
                lines("Duration, 95 %", "By type.", quantile(0.95, NODES, BY_TYPE), BY_TYPE, "s", exemplars=True),
                lines(
                    "Why nodes fail",
                    "By error type.",
                    rate(NODES + ',status_code="STATUS_CODE_ERROR"', "error_type"),
                    "error_type",
                    "ops",
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Tools",
            [
                lines("Tool calls", "By tool.", rate(TOOLS, BY_TOOL), BY_TOOL, "ops", stacked=True),
                lines(
                    "Failed tool calls, with their traces",
                    "Points link to traces.",
                    failures(TOOLS, BY_TOOL),
                    BY_TOOL,
                    "ops",
                    exemplars=True,
                ),
                lines("Duration of tool calls, 95 %", "By tool.", quantile(0.95, TOOLS, BY_TOOL), BY_TOOL, "s"),
            ],
        ),
        Row(
            "Retrieval",
            [
                lines("Retrievals", "By workflow.", rate(RETRIEVALS, BY_WORKFLOW), BY_WORKFLOW, "ops", stacked=True),
                lines(
                    "Duration of retrievals, 95 %",
                    "By workflow.",
                    quantile(0.95, RETRIEVALS, BY_WORKFLOW),
                    BY_WORKFLOW,
                    "s",
                ),
            ],
        ),
    ],
)

MODELS = Board(
    "models",
    "models",
    "Model calls, one per attempt at a provider: volume, errors, latency, tokens.",
    [
        Row(
            "Calls",
            [
                lines("Model calls", "By model.", rate(CHATS, BY_MODEL), BY_MODEL, "ops", stacked=True),
                lines(
                    "Failed model calls, with their traces",
                    "Including calls that were retried; points link to traces.",
                    failures(CHATS, BY_MODEL),
                    BY_MODEL,
                    "ops",
                    exemplars=True,
                ),
                lines(
                    "Error rate",
                    "Failed calls as a share of all calls.",
                    f"{failures(CHATS, BY_MODEL)} / {rate(CHATS, BY_MODEL)}",
                    BY_MODEL,
                    "percentunit",
                ),
                lines(
                    "Why calls fail",
                    "By error type.",
                    rate(CHATS + ',status_code="STATUS_CODE_ERROR"', "error_type"),
                    "error_type",
                    "ops",
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Latency",
            [
                lines("Median", "By model.", quantile(0.5, CHATS, BY_MODEL), BY_MODEL, "s", exemplars=True),
                lines("95 %", "By model.", quantile(0.95, CHATS, BY_MODEL), BY_MODEL, "s", exemplars=True),
            ],
        ),
        Row(
            "Tokens",
            [
                lines(
                    "Input tokens of a call, 95 %",
                    "By model.",
                    quantile(0.95, OF_WORKFLOW + ',gen_ai_token_type="input"', BY_MODEL, "gen_ai_client_token_usage"),
                    BY_MODEL,
                ),
                lines(
                    "Output tokens of a call, 95 %",
                    "By model.",
                    quantile(0.95, OF_WORKFLOW + ',gen_ai_token_type="output"', BY_MODEL, "gen_ai_client_token_usage"),
                    BY_MODEL,
                ),
                lines(
                    "Tokens by model",
                    "Exact, from the books.",
                    f"sum by (model) ({tokens(RATE)})",
                    "model",
                    stacked=True,
                ),
                lines("Cost per hour", "Exact, from the books.", hourly("model"), "model", "currencyUSD", stacked=True),
            ],
        ),
    ],
)

BOARDS = (OVERVIEW, COSTS, NODE_BOARD, MODELS, TELEMETRY)


def board_files() -> dict[str, str]:
    """The JSON of each dashboard, by file name."""
    return {f"{board.slug}.json": to_json(board) for board in BOARDS}


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of a panel, ready to send to Prometheus."""

    board: str
    panel: str
    expr: str
    origin: Origin
    has_exemplars: bool


def panel_queries(
    *, window: str = "5m", workflow_name: str = ".*", source: str = ".*", template: str = ".*"
) -> Iterator[PanelQuery]:
    """Every query of every dashboard, with Grafana's variables filled in."""
    values = {RATE: window, RANGE: window, "$workflow_name": workflow_name, "$source": source, "$template": template}
    for board in BOARDS:
        for panel in board.panels():
            for query in panel.queries:
                expr = query.expr
                for name, value in values.items():
                    expr = expr.replace(name, value)
                yield PanelQuery(board.slug, panel.title, expr, query.origin, query.exemplars)
