"""The five dashboards. Counters of the roll-ups are the same in every process, hence `max` over them."""

from collections.abc import Iterator
from dataclasses import dataclass

from dashboards.alerts import ENDED, EXECUTIONS, FAILED, HOURLY_COST, ROOT, failure_ratio
from dashboards.options import Options
from dashboards.panels import Board, Origin, Panel, Query, Row, to_json

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
    """How many executions ended so within a time."""
    grown = f"increase({EXECUTED}{{{TEMPLATE},{which}}}[{window}])"
    return f"sum by ({by}) (max by (template, status, error_class) ({grown}))"


def spent(window: str, by: str) -> str:
    """USD within a time."""
    return f"sum by ({by}) (max by (template, model) (increase({NANO}{{{TEMPLATE}}}[{window}]))) / 1e9"


def hourly(by: str) -> str:
    """USD an hour, at the pace of the moment."""
    return f"sum by ({by}) (max by (template, model) (rate({NANO}{{{TEMPLATE}}}[{RATE}]))) * 3600 / 1e9"


def tokens(window: str, which: str = "") -> str:
    """Tokens within a time, per process and series."""
    return f"max by (template, model, type) (increase(spanloom_tokens_total{{{TEMPLATE}{which}}}[{window}]))"


def rate(selector: str, by: str, metric: str = CALLS) -> str:
    """Events per second."""
    return f"sum by ({by}) (rate({metric}{{{selector}}}[{RATE}]))"


def quantile(share: float, selector: str, by: str = "", metric: str = DURATION) -> str:
    """A quantile of a histogram, per label."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}[{RATE}])))"


def failures(selector: str, by: str) -> str:
    """Spans that ended with an error per second, counted by the histogram, which has the exemplars."""
    failed = f'{DURATION}_bucket{{{selector},status_code="STATUS_CODE_ERROR"}}'
    return f"sum by ({by}) (max without (le) (rate({failed}[{RATE}])))"


def number(title: str, description: str, expr: str, unit: str = "short") -> Panel:
    """One number of six in a row."""
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
    """Lines over time, one per value of the label."""
    legend = f"{{{{{label}}}}}" if label else title
    return Panel(title, description, [Query(expr, legend, exemplars, origin)], unit, 12, is_stacked=stacked)


OVERVIEW = Board(
    "overview",
    "overview",
    "How executions go: volume, failures against the objective, duration. Points of the failure panel lead to traces.",
    [
        Row(
            "In this time",
            [
                number("Executions", "That ended.", f"sum({executed(ANY, RANGE)})"),
                number(
                    "Failure rate",
                    "Failed of those that completed or failed, without cancelled executions and faults of callers.",
                    f"sum({executed(FAILED, RANGE)}) / sum({executed(ENDED, RANGE)})",
                    "percentunit",
                ),
                number("Cost", "Of all model calls.", f"sum({spent(RANGE, 'template')})", "currencyUSD"),
                number(
                    "Duration, 95 %",
                    "Of completed executions.",
                    quantile(0.95, ROOTS + ',workflow_execution_status="completed"').replace(RATE, RANGE),
                    "s",
                ),
                number("Unfinished", "Queued or running.", "sum(max by (status) (spanloom_executions_unfinished))"),
                number(
                    "Oldest unfinished",
                    "Alerts after an hour.",
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
                    "Each point with a trace leads to it in Jaeger.",
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
                    "Failure rate over what the objective allows; a page from 14.4 over one hour, or 6 over six.",
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
                    "Of the failures that the objective allows within 30 days.",
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
                    "Completed ones; points lead to traces.",
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
                    "From the start of a streamed execution.",
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
    "What executions cost, exact to the nano-dollar: the counters are read from the books. Calls of unknown price are "
    "counted apart.",
    [
        Row(
            "In this time",
            [
                number("Cost", "Of all model calls.", f"sum({spent(RANGE, 'template')})", "currencyUSD"),
                number(
                    "Cost of an execution",
                    "On average, of those that ended.",
                    f"sum({spent(RANGE, 'template')}) / sum({executed(ANY, RANGE)})",
                    "currencyUSD",
                ),
                number(
                    "A month at this pace",
                    "30 days like the last hour.",
                    f"sum({spent('1h', 'template')}) * 24 * 30",
                    "currencyUSD",
                ),
                number(
                    "Calls without a price",
                    "Their cost is missing above.",
                    f"sum(max by (template, model) (increase(spanloom_unpriced_calls_total{{{TEMPLATE}}}[{RANGE}])))",
                ),
                number("Input tokens", "Cached ones included.", f"sum({tokens(RANGE, INPUT)})"),
                number("Output tokens", "Reasoning included.", f"sum({tokens(RANGE, OUTPUT)})"),
            ],
        ),
        Row(
            "Where it goes",
            [
                lines(
                    "Cost per hour by workflow", "Exact.", hourly("template"), "template", "currencyUSD", stacked=True
                ),
                lines("Cost per hour by model", "Exact.", hourly("model"), "model", "currencyUSD", stacked=True),
                lines(
                    "Cost per hour by provider",
                    "From spans; counts anew when the process or the Collector restarts.",
                    f"sum by (gen_ai_provider_name) (rate(workflow_cost_usd_total{{{CHOSEN}}}[{RATE}])) * 3600",
                    "gen_ai_provider_name",
                    "currencyUSD",
                    stacked=True,
                ),
                lines(
                    "Cost within an hour",
                    "What the alert on cost spikes looks at.",
                    f"{HOURLY_COST}{{{TEMPLATE}}}",
                    "template",
                    "currencyUSD",
                    origin=Origin.RULES,
                ),
            ],
        ),
        Row(
            "What it is spent on",
            [
                lines("Tokens by kind", "A second.", f"sum by (type) ({tokens(RATE)})", "type", stacked=True),
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
    "What happens inside executions: nodes by type, tools, retrieval.",
    [
        Row(
            "Nodes",
            [
                lines("Node attempts", "By type of node.", rate(NODES, BY_TYPE), BY_TYPE, "ops", stacked=True),
                lines(
                    "Failed node attempts, with their traces",
                    "Handled ones and those that are tried again included; points lead to traces.",
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
                    "Points lead to traces.",
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
                    "Those that were tried again included; points lead to traces.",
                    failures(CHATS, BY_MODEL),
                    BY_MODEL,
                    "ops",
                    exemplars=True,
                ),
                lines(
                    "Error rate",
                    "Failed of all calls.",
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
                lines("Tokens by model", "Exact.", f"sum by (model) ({tokens(RATE)})", "model", stacked=True),
                lines("Cost per hour", "Exact.", hourly("model"), "model", "currencyUSD", stacked=True),
            ],
        ),
    ],
)

TELEMETRY = Board(
    "telemetry",
    "telemetry health",
    "How the bookkeeping itself is doing: journal, outbox, records, webhooks, the comparison of the books.",
    [
        Row(
            "Now",
            [
                number("Journal", "1 if the last commit succeeded.", "min(spanloom_journal_writable)"),
                number("Records behind", "Alerts after a minute.", "max(spanloom_record_lag_seconds)", "s"),
                number("Kept aside", "Signals in this time.", f"sum(increase(spanloom_dead_letters_total[{RANGE}]))"),
                number("Books differ", "Numbers that disagree.", "max(spanloom_reconcile_differences)"),
                number(
                    "Drift",
                    "Money that the books disagree about.",
                    "max(spanloom_reconcile_drift_nano_usd) / 1e9",
                    "currencyUSD",
                ),
                number(
                    "Books compared",
                    "How long ago.",
                    "time() - max(spanloom_reconcile_finished_timestamp_seconds)",
                    "s",
                ),
            ],
        ),
        Row(
            "Journal",
            [
                lines("Signals", "Made durable.", f"sum(rate(spanloom_journal_signals_total[{RATE}]))", "", "ops"),
                lines(
                    "A commit takes",
                    "On average.",
                    f"sum(rate(spanloom_journal_commit_seconds_total[{RATE}]))\n"
                    f"/ sum(rate(spanloom_journal_commits_total[{RATE}]))",
                    "",
                    "s",
                ),
                lines("Waiting", "Decisions that are not durable yet.", "sum(spanloom_journal_waiting)", ""),
                lines(
                    "Failed commits",
                    "They are tried again.",
                    f"sum(increase(spanloom_journal_failed_commits_total[{RATE}]))",
                    "",
                ),
                lines(
                    "Kept aside by consumer",
                    "Signals in dead_letter.",
                    f"sum by (consumer) (increase(spanloom_dead_letters_total[{RATE}]))",
                    "consumer",
                ),
                lines(
                    "Late signals",
                    "Of no running execution.",
                    f"sum(increase(spanloom_journal_late_signals_total[{RATE}]))",
                    "",
                ),
            ],
        ),
        Row(
            "Executions",
            [
                lines("Running here", "By process.", "spanloom_executions_active", "instance"),
                lines(
                    "Unfinished",
                    "Anywhere.",
                    "max by (status) (spanloom_executions_unfinished)",
                    "status",
                    stacked=True,
                ),
                lines(
                    "Oldest unfinished",
                    "Alerts after an hour.",
                    "max by (status) (spanloom_executions_oldest_seconds)",
                    "status",
                    "s",
                ),
            ],
        ),
        Row(
            "Outbox and Collector",
            [
                lines("Outbox", "Signals that a consumer still owes.", "max(spanloom_outbox_signals)", ""),
                lines("Oldest in the outbox", "And in no record yet.", "max(spanloom_record_lag_seconds)", "", "s"),
                lines(
                    "Served without the Collector",
                    "Signals that did not come back in time.",
                    f"sum by (consumer) (increase(spanloom_outbox_served_locally_total[{RATE}]))",
                    "consumer",
                ),
                lines(
                    "Queues of the Collector",
                    "Share of their capacity.",
                    "sum by (exporter) (otelcol_exporter_queue_size)\n"
                    "/ sum by (exporter) (otelcol_exporter_queue_capacity)",
                    "exporter",
                    "percentunit",
                    origin=Origin.COLLECTOR,
                ),
                lines(
                    "Spans taken by the Collector",
                    "From everybody.",
                    f"sum by (receiver) (rate(otelcol_receiver_accepted_spans[{RATE}]))",
                    "receiver",
                    "ops",
                    origin=Origin.COLLECTOR,
                ),
                lines(
                    "Memory of the Collector",
                    "It refuses signals before it has none left.",
                    "otelcol_process_memory_rss",
                    "instance",
                    "bytes",
                    origin=Origin.COLLECTOR,
                ),
            ],
        ),
        Row(
            "Webhooks",
            [
                lines("Waiting", "Deliveries to be made.", "max(spanloom_deliveries_waiting)", ""),
                lines("Oldest due", "Alerts after half an hour.", "max(spanloom_deliveries_oldest_seconds)", "", "s"),
                lines(
                    "Given up",
                    "Deliveries that no endpoint took.",
                    f"sum(increase(spanloom_deliveries_given_up_total[{RATE}]))",
                    "",
                ),
            ],
        ),
    ],
)

BOARDS = (OVERVIEW, COSTS, NODE_BOARD, MODELS, TELEMETRY)


def board_files() -> dict[str, str]:
    """File name to dashboard."""
    return {f"{board.slug}.json": to_json(board) for board in BOARDS}


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of a panel, as it can be put to a Prometheus."""

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
