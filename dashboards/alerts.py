"""The recording rules and alerts, as data. Metric names are those of `telemetry/metrics` and the Collector.

Counters read from the roll-ups are equal in all processes, hence `max`; counters of a single process are summed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dashboards.options import Options
from engine.result import ErrorClass

PAGE, TICKET = "page", "ticket"
ROOT = 'gen_ai_operation_name="invoke_workflow",workflow_nested!="true"'

EXECUTIONS = "spanloom:executions:total"
NOT_BY_CALLER = 'error_class!="caller"'
"""A failure that the caller's own document or input caused is no failure of the service."""
FAILED = f'status="failed",{NOT_BY_CALLER}'
ENDED = f'status=~"completed|failed",{NOT_BY_CALLER}'
COST = "spanloom:cost_usd:total"
HOURLY_COST = "spanloom:cost_usd:increase1h"
UNPRICED = "spanloom:unpriced_calls:total"
MODEL_CALLS = "spanloom:model_calls:total"
FAILED_CALLS = "spanloom:failed_calls:total"

FAILED_EXECUTIONS = "&".join(
    ("status=failed", *(f"error_class={each}" for each in ErrorClass if each is not ErrorClass.CALLER))
)
"""The filters of failed executions, without those that callers caused."""

FAST_BURN, SLOW_BURN = 14.4, 6.0
"""Multiples of the failure rate allowed that page: a month's budget in two days, or in five."""
RATIO_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


@dataclass(frozen=True, slots=True)
class Recording:
    """A query whose result Prometheus stores as a series of its own."""

    name: str
    expr: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert: its condition and its texts."""

    name: str
    severity: str
    expr: str
    summary: str
    description: str
    wait: str | None = None
    """How long the condition must hold, as a nominal time."""
    executions: str | None = None
    """The filters of `GET /v1/executions` that list what it counts; its `template` label is added to them."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that Prometheus evaluates one after the other."""

    name: str
    recordings: Sequence[Recording] = ()
    alerts: Sequence[Alert] = ()


def failure_ratio(window: str) -> str:
    """The name of the recorded failure rate over a nominal window."""
    return f"spanloom:failure_ratio:rate{window}"


def recordings(options: Options) -> Group:
    """The recorded series that alerts and dashboards share."""
    rules = [
        Recording(EXECUTIONS, "max by (template, status, error_class) (spanloom_executions_total)"),
        Recording(COST, "sum by (template) (max by (template, model) (spanloom_cost_nano_usd_total)) / 1e9"),
        Recording(UNPRICED, "sum by (template) (max by (template, model) (spanloom_unpriced_calls_total))"),
        Recording(MODEL_CALLS, "max by (template, model) (spanloom_model_calls_total)"),
        Recording(FAILED_CALLS, "max by (template, model) (spanloom_failed_calls_total)"),
        Recording(HOURLY_COST, f"sum by (template) (increase({COST}[{options.time('1h')}]))"),
    ]
    for window in RATIO_WINDOWS:
        failed = f"sum by (template) (increase({EXECUTIONS}{{{FAILED}}}[{options.time(window)}]))"
        rules.append(Recording(failure_ratio(window), f"{failed}\n/ {_ended(options.time(window))}"))
    return Group("spanloom-recordings", recordings=rules)


def groups(options: Options) -> list[Group]:
    """All alerts, by group."""
    return [_failures(options), _executions(options), _cost(options), _telemetry(options), _books(options)]


def _ended(window: str) -> str:
    return f"sum by (template) (increase({EXECUTIONS}{{{ENDED}}}[{window}]))"


def _failures(options: Options) -> Group:
    alerts = [
        _burn(options, "SpanloomFailuresBurnFast", PAGE, "1h", "5m", FAST_BURN),
        _burn(options, "SpanloomFailuresBurn", PAGE, "6h", "30m", SLOW_BURN),
        _burn(options, "SpanloomFailuresBurnSlowly", TICKET, "1d", "2h", 3),
        _burn(options, "SpanloomFailuresBurnVerySlowly", TICKET, "3d", "6h", 1),
        Alert(
            "SpanloomNothingCompletes",
            TICKET,
            f"sum by (template) (increase({EXECUTIONS}{{{FAILED}}}[{options.time('1h')}])) > 0\n"
            f'unless sum by (template) (increase({EXECUTIONS}{{status="completed"}}[{options.time("1h")}])) > 0',
            "Every execution of {{ $labels.template }} fails",
            "In the last hour executions of {{ $labels.template }} failed and none completed. "
            "This alert also covers a template's very first executions.",
            executions=FAILED_EXECUTIONS,
        ),
    ]
    return Group("spanloom-failures", alerts=alerts)


def _burn(options: Options, name: str, severity: str, long: str, short: str, factor: float) -> Alert:
    """A burn-rate alert (Google's SRE workbook, chapter 5).

    The long window shows that the failures matter, the short one that they still happen.
    """
    over = f"/ {options.budget:g} > {factor:g}"
    return Alert(
        name,
        severity,
        f"{failure_ratio(long)} {over}\n"
        f"and {failure_ratio(short)} {over}\n"
        f"and {_ended(options.time(long))} >= {options.least_executions}",
        "{{ $labels.template }} fails too often",
        f'{{{{ $labels.template }}}} burns {{{{ printf "%.3g" $value }}}} times its error budget over {long}; '
        f"the limit is {factor:g}. Its objective: {options.objective:.0%} of its executions complete.",
        executions=FAILED_EXECUTIONS,
    )


def _executions(options: Options) -> Group:
    lost = f'traces_span_metrics_calls_total{{{ROOT},error_type="engine_lost",workflow_execution_status="failed"}}'
    duration = f'traces_span_metrics_duration_seconds_bucket{{{ROOT},workflow_execution_status="completed"}}'
    window = options.time("15m")
    alerts = [
        Alert(
            "SpanloomExecutionStuck",
            PAGE,
            f"max by (status) (spanloom_executions_oldest_seconds) > {options.seconds(options.stuck_seconds)}",
            "An execution has been {{ $labels.status }} for too long",
            "The oldest execution that is {{ $labels.status }} was accepted {{ $value | humanizeDuration }} ago.",
        ),
        Alert(
            "SpanloomExecutionLost",
            PAGE,
            _grown(lost, "workflow_name", window),
            "Executions of {{ $labels.workflow_name }} lost their process",
            "An execution of {{ $labels.workflow_name }} failed with engine_lost: the process that ran it "
            "died or stopped renewing its lease.",
        ),
        Alert(
            "SpanloomSlow",
            TICKET,
            f"histogram_quantile(0.95, sum by (workflow_name, le) (rate({duration}[{window}])))\n"
            f"> {options.slow_seconds:g}\n"
            f"and sum by (workflow_name) (increase({duration.replace('_bucket', '_count')}[{window}]))\n"
            f">= {options.least_executions}",
            "{{ $labels.workflow_name }} is slow",
            "The 95th percentile of the duration of {{ $labels.workflow_name }} is {{ $value | humanizeDuration }}.",
            wait="10m",
        ),
    ]
    return Group("spanloom-executions", alerts=alerts)


def _cost(options: Options) -> Group:
    usual = f"(avg_over_time({HOURLY_COST}[{options.time('1d')}] offset {options.time('1h')}) or {HOURLY_COST} * 0)"
    alerts = [
        Alert(
            "SpanloomCostSpike",
            TICKET,
            f"{HOURLY_COST} > {options.spike_usd:g}\nand {HOURLY_COST} > {options.spike_factor:g} * {usual}",
            "{{ $labels.template }} costs much more than usual",
            "{{ $labels.template }} cost {{ $value | humanize }} USD within an hour, "
            f"more than {options.spike_factor:g} times its average hour of the day before.",
        ),
        Alert(
            "SpanloomUnpricedCalls",
            TICKET,
            f"sum by (template) (increase({UNPRICED}[{options.time('1h')}])) > 0",
            "Model calls of {{ $labels.template }} have no price",
            'About {{ printf "%.0f" $value }} model calls of {{ $labels.template }} within an hour went to models '
            "without a price. Their tokens are counted, but the cost is too low.",
            executions="unpriced=true",
        ),
        Alert(
            "SpanloomModelCallsFail",
            TICKET,
            f"{_calls(FAILED_CALLS, options)}\n/ {_calls(MODEL_CALLS, options)} > {options.failed_calls:g}\n"
            f"and {_calls(MODEL_CALLS, options)} >= {options.least_executions}",
            "Calls of {{ $labels.template }} to {{ $labels.model }} fail",
            "{{ $value | humanizePercentage }} of the calls of {{ $labels.template }} to {{ $labels.model }} failed "
            "within an hour. Retries may hide this, but they take time and may cost money.",
        ),
    ]
    return Group("spanloom-cost", alerts=alerts)


def _calls(counter: str, options: Options) -> str:
    return f"sum by (template, model) (increase({counter}[{options.time('1h')}]))"


def _telemetry(options: Options) -> Group:
    window = options.time("15m")
    lost_by = [
        _grown(f"otelcol_exporter_{how}_failed_{what}", "exporter", window)
        for how in ("enqueue", "send")
        for what in ("spans", "log_records")
    ]
    alerts = [
        Alert(
            "SpanloomSignalsKeptAside",
            TICKET,
            f"sum by (consumer) (increase(spanloom_dead_letters_total[{window}])) > 0",
            "{{ $labels.consumer }} could not store signals",
            'About {{ printf "%.0f" $value }} signals were not stored by {{ $labels.consumer }}. '
            "They are kept as dead letters; `spanloom dead-letters` shows why.",
        ),
        Alert(
            "SpanloomSignalsRefused",
            TICKET,
            f"sum by (reason) (increase(spanloom_signals_refused_total[{window}])) > 0",
            "The receiver refuses signals: {{ $labels.reason }}",
            'About {{ printf "%.0f" $value }} signals were refused ({{ $labels.reason }}). None of them is in the '
            "books; `spanloom dead-letters` shows some and says why.",
        ),
        Alert(
            "SpanloomJournalFailing",
            PAGE,
            "min(spanloom_journal_writable) == 0",
            "The journal cannot write to the database",
            "Commits of the journal fail; new executions are refused with 503 until the database accepts writes again.",
            wait="1m",
        ),
        Alert(
            "SpanloomCollectorDropping",
            PAGE,
            "\nor ".join(lost_by),
            "The Collector drops signals of {{ $labels.exporter }}",
            'The exporter {{ $labels.exporter }} of the Collector dropped {{ printf "%.0f" $value }} signals. '
            "Records and webhooks are served from the outbox; traces and metrics are lost.",
        ),
        Alert(
            "SpanloomRecordsLagging",
            PAGE,
            f"max(spanloom_record_lag_seconds) > {options.seconds(options.lag_seconds)}",
            "Records lag behind",
            "The oldest signal that is not in its record yet has waited {{ $value | humanizeDuration }}.",
            wait="5m",
        ),
        Alert(
            "SpanloomDeliveriesFailing",
            TICKET,
            f"max(spanloom_deliveries_oldest_seconds) > {options.seconds(1_800)}\n"
            f"or sum(increase(spanloom_deliveries_given_up_total[{window}])) > 0",
            "Webhooks are not delivered",
            "Webhook deliveries are overdue or were given up because their endpoints do not accept them; "
            "`spanloom webhooks deliveries` shows the responses.",
        ),
    ]
    return Group("spanloom-telemetry", alerts=alerts)


def _books(options: Options) -> Group:
    alerts = [
        Alert(
            "SpanloomBooksDisagree",
            PAGE,
            "max(spanloom_reconcile_differences) > 0 or max(spanloom_reconcile_drift_nano_usd) > 0",
            "The books disagree",
            "{{ $value | humanize }} numbers differ between spans, records, roll-ups and counters; "
            "`spanloom reconcile` lists them with their ids.",
        ),
        Alert(
            "SpanloomBooksNotCompared",
            TICKET,
            f"time() - max(spanloom_reconcile_finished_timestamp_seconds) > {options.seconds(options.overdue_seconds)}",
            "The books were not compared",
            "The last comparison of the books finished {{ $value | humanizeDuration }} ago; it is due every hour.",
        ),
    ]
    return Group("spanloom-books", alerts=alerts)


def _grown(counter: str, by: str, window: str) -> str:
    """That a counter grew; a new series counts from its first value."""
    return (
        f"sum by ({by}) (increase({counter}[{window}])) > 0\n"
        f"or sum by ({by}) ({counter} unless {counter} offset {window}) > 0"
    )
