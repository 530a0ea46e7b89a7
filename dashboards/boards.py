"""The five dashboards. Counters read from the roll-ups are equal in all processes, hence `max` over them."""

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

TELEMETRY = Board(
    "telemetry",
    "telemetry health",
    "The health of the bookkeeping itself: journal, outbox, records, webhooks, comparison of the books.",
    [
        Row(
            "Now",
            [
                number("Journal", "1 if the last commit succeeded.", "min(spanloom_journal_writable)"),
                number(
                    "Records behind",
                    "How long the oldest signal has waited for its record; an alert fires after one minute.",
                    "max(spanloom_record_lag_seconds)",
                    "s",
                ),
                number(
                    "Dead letters",
                    "Signals that became dead letters in the selected time.",
                    f"sum(increase(spanloom_dead_letters_total[{RANGE}]))",
                ),
                number("Books differ", "Numbers that differ between two books.", "max(spanloom_reconcile_differences)"),
                number(
                    "Drift",
                    "The sum of all differences in cost.",
                    "max(spanloom_reconcile_drift_nano_usd) / 1e9",
                    "currencyUSD",
                ),
                number(
                    "Books compared",
                    "How long ago the last comparison finished.",
                    "time() - max(spanloom_reconcile_finished_timestamp_seconds)",
                    "s",
                ),
            ],
        ),
        Row(
            "Journal",
            [
                lines(
                    "Signals",
                    "Signals made durable per second.",
                    f"sum(rate(spanloom_journal_signals_total[{RATE}]))",
                    "",
                    "ops",
                ),
                lines(
                    "Duration of a commit",
                    "Average duration of the journal's commits.",
                    f"sum(rate(spanloom_journal_commit_seconds_total[{RATE}]))\n"
                    f"/ sum(rate(spanloom_journal_commits_total[{RATE}]))",
                    "",
                    "s",
                ),
                lines("Waiting", "Decisions that are not durable yet.", "sum(spanloom_journal_waiting)", ""),
                lines(
                    "Failed commits",
                    "Failed commits are retried.",
                    f"sum(increase(spanloom_journal_failed_commits_total[{RATE}]))",
                    "",
                ),
                lines(
                    "Dead letters by consumer",
                    "Signals that a consumer could not store.",
                    f"sum by (consumer) (increase(spanloom_dead_letters_total[{RATE}]))",
                    "consumer",
                ),
                lines(
                    "Late signals",
                    "Signals whose execution no longer runs here.",
                    f"sum(increase(spanloom_journal_late_signals_total[{RATE}]))",
                    "",
                ),
            ],
        ),
        Row(
            "Executions",
            [
                lines("Running executions", "By process.", "spanloom_executions_active", "instance"),
                lines(
                    "Unfinished",
                    "Executions that are queued or running, in all processes.",
                    "max by (status) (spanloom_executions_unfinished)",
                    "status",
                    stacked=True,
                ),
                lines(
                    "Oldest unfinished",
                    "An alert fires after one hour.",
                    "max by (status) (spanloom_executions_oldest_seconds)",
                    "status",
                    "s",
                ),
            ],
        ),
        Row(
            "Outbox and Collector",
            [
                lines("Outbox", "Signals that a consumer has not stored yet.", "max(spanloom_outbox_signals)", ""),
                lines(
                    "Oldest in the outbox",
                    "How long the oldest signal has waited for its record.",
                    "max(spanloom_record_lag_seconds)",
                    "",
                    "s",
                ),
                lines(
                    "Served without the Collector",
                    "Signals that did not come back in time and were stored from the outbox.",
                    f"sum by (consumer) (increase(spanloom_outbox_served_locally_total[{RATE}]))",
                    "consumer",
                ),
                lines(
                    "Queues of the Collector",
                    "Queue sizes as a share of their capacity.",
                    "sum by (exporter) (otelcol_exporter_queue_size)\n"
                    "/ sum by (exporter) (otelcol_exporter_queue_capacity)",
                    "exporter",
                    "percentunit",
                    origin=Origin.COLLECTOR,
                ),
                lines(
                    "Spans received by the Collector",
                    "From all senders.",
                    f"sum by (receiver) (rate(otelcol_receiver_accepted_spans[{RATE}]))",
                    "receiver",
                    "ops",
                    origin=Origin.COLLECTOR,
                ),
                lines(
                    "Memory of the Collector",
                    "It refuses signals before it runs out of memory.",
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
                lines("Waiting", "Pending deliveries.", "max(spanloom_deliveries_waiting)", ""),
                lines(
                    "Oldest due",
                    "How long the most overdue delivery has been due; an alert fires after half an hour.",
                    "max(spanloom_deliveries_oldest_seconds)",
                    "",
                    "s",
                ),
                lines(
                    "Given up",
                    "Deliveries whose last attempt failed.",
                    f"sum(increase(spanloom_deliveries_given_up_total[{RATE}]))",
                    "",
                ),
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
