"""Unit tests of the alerts for promtool: each alert fires when it should and otherwise stays quiet."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote_plus

from dashboards.alerts import Alert, groups, recordings
from dashboards.options import AS_TOLD, LOOPBACK, Options
from dashboards.rule_files import Yaml, annotations, dump

A = 'template="a"'
FAILED = f'spanloom_executions_total{{status="failed",{A}}}'
BY_CALLER = f'spanloom_executions_total{{error_class="caller",status="failed",{A}}}'
COMPLETED = f'spanloom_executions_total{{status="completed",{A}}}'
COST = f'spanloom_cost_nano_usd_total{{model="m",{A}}}'
UNPRICED = f'spanloom_unpriced_calls_total{{model="m",{A}}}'
PRICED = f'spanloom_unpriced_calls_total{{model="",{A}}}'
MODEL_CALLS = f'spanloom_model_calls_total{{model="m",{A}}}'
FAILED_CALLS = f'spanloom_failed_calls_total{{model="m",{A}}}'
_ROOT = 'gen_ai_operation_name="invoke_workflow",workflow_name="a"'
LOST = f'traces_span_metrics_calls_total{{{_ROOT},error_type="engine_lost",workflow_execution_status="failed"}}'
SENT = 'otelcol_exporter_send_failed_spans{exporter="otlp_http/jaeger"}'


@dataclass(frozen=True, slots=True)
class Case:
    """Series in promtool's notation and whether an alert fires at a given time.

    One value per minute or, in cases of a day and longer, per ten minutes.
    """

    name: str
    alert: str
    series: Mapping[str, str]
    at: str
    labels: Mapping[str, str] | None = None
    """The labels of the firing alert, besides the severity; null if it must stay quiet."""
    value: str = ""
    """`$value` as the texts format it."""
    service: str = LOOPBACK
    """The address in the links."""

    @property
    def is_long(self) -> bool:
        """Whether the case takes a day or longer."""
        return self.at.endswith("d")


def took(seconds: Mapping[str, str]) -> dict[str, str]:
    """A duration histogram of completed executions: upper bound to values."""
    name = "traces_span_metrics_duration_seconds"
    labels = f'{_ROOT},workflow_execution_status="completed"'
    buckets = {f'{name}_bucket{{{labels},le="{bound}"}}': values for bound, values in seconds.items()}
    return buckets | {f"{name}_count{{{labels}}}": seconds["+Inf"]}


OF_A = {"template": "a"}
CASES = (
    Case("one in four fails", "SpanloomFailuresBurnFast", {FAILED: "0+1x60", COMPLETED: "0+3x60"}, "1h", OF_A, "25"),
    Case(
        "links lead to the address that the service tells, and names are escaped in them",
        "SpanloomFailuresBurnFast",
        {'spanloom_executions_total{status="failed",template="my flow"}': "0+1x60",
         'spanloom_executions_total{status="completed",template="my flow"}': "0+3x60",
         'spanloom_service_info{public_url="https://flows.example",version="1"}': "1x60"},
        "1h",
        {"template": "my flow"},
        "25",
        "https://flows.example",
    ),
    Case("one in a hundred fails", "SpanloomFailuresBurnFast", {FAILED: "0+1x60", COMPLETED: "0+99x60"}, "1h"),
    Case("it is over", "SpanloomFailuresBurnFast", {FAILED: "0+1x40 40x20", COMPLETED: "0+3x60"}, "1h"),
    Case("too few to tell", "SpanloomFailuresBurnFast", {FAILED: "0+1x9", COMPLETED: "0x9"}, "9m"),
    Case(
        "the first failure of a fresh template counts among the ten that are needed",
        "SpanloomFailuresBurnFast",
        {FAILED: "0x5 1 10x5", COMPLETED: "0x12"},
        "9m",
        OF_A,
        "100",
    ),
    Case("callers send invalid graphs", "SpanloomFailuresBurnFast", {FAILED: "0x60", BY_CALLER: "0+9x60",
         COMPLETED: "0+3x60"}, "1h"),
    Case("of the others one in four fails", "SpanloomFailuresBurnFast", {FAILED: "0+1x60", BY_CALLER: "0+9x60",
         COMPLETED: "0+3x60"}, "1h", OF_A, "25"),
    Case("cancelled ones are no failures", "SpanloomFailuresBurnFast", {FAILED: "0x60", COMPLETED: "0x60",
         f'spanloom_executions_total{{status="cancelled",{A}}}': "0+9x60"}, "1h"),
    Case("of two processes one counts", "SpanloomFailuresBurnFast", {
         f'spanloom_executions_total{{instance="x",status="failed",{A}}}': "0x55 1 2 3 4 5",
         f'spanloom_executions_total{{instance="y",status="failed",{A}}}': "0x55 1 2 3 4 5",
         COMPLETED: "0x60"}, "1h"),
    Case("one in ten fails", "SpanloomFailuresBurn", {FAILED: "0+1x360", COMPLETED: "0+9x360"}, "6h", OF_A, "10"),
    Case("one in fifty fails", "SpanloomFailuresBurn", {FAILED: "0+1x360", COMPLETED: "0+49x360"}, "6h"),
    Case("one in twenty-five fails", "SpanloomFailuresBurnSlowly", {FAILED: "0+1x144", COMPLETED: "0+24x144"}, "1d",
         OF_A, "4"),
    Case("one in fifty fails", "SpanloomFailuresBurnSlowly", {FAILED: "0+1x144", COMPLETED: "0+49x144"}, "1d"),
    Case("one in fifty fails", "SpanloomFailuresBurnVerySlowly", {FAILED: "0+1x432", COMPLETED: "0+49x432"}, "3d",
         OF_A, "2"),
    Case("one in two hundred fails", "SpanloomFailuresBurnVerySlowly", {FAILED: "0+1x432", COMPLETED: "0+199x432"},
         "3d"),
    Case("the first execution of a fresh template fails", "SpanloomNothingCompletes", {FAILED: "0x5 1x5",
         COMPLETED: "0x10"}, "7m", OF_A),
    Case("only callers failed", "SpanloomNothingCompletes", {FAILED: "0x10", BY_CALLER: "0x5 1x5", COMPLETED: "0x10"},
         "7m"),
    Case("others completed", "SpanloomNothingCompletes", {FAILED: "0x5 1x5", COMPLETED: "0+1x10"}, "7m"),
    Case("nothing ran", "SpanloomNothingCompletes", {FAILED: "3x10", COMPLETED: "0x10"}, "7m"),
    Case("it runs for more than an hour", "SpanloomExecutionStuck",
         {'spanloom_executions_oldest_seconds{status="running"}': "3700x5"}, "3m", {"status": "running"},
         "1h 1m 40s"),
    Case("it runs for a while", "SpanloomExecutionStuck",
         {'spanloom_executions_oldest_seconds{status="running"}': "3500x5"}, "3m"),
    Case("the first one is lost", "SpanloomExecutionLost", {LOST: "_x5 1x10"}, "8m", {"workflow_name": "a"}),
    Case("it was lost long ago", "SpanloomExecutionLost", {LOST: "1x60"}, "1h"),
    Case("most take two minutes", "SpanloomSlow", took({"60": "0x40", "120": "0+4x40", "+Inf": "0+4x40"}), "40m",
         {"workflow_name": "a"}, "1m 57s"),
    Case("most take a second", "SpanloomSlow", took({"1": "0+4x40", "60": "0+4x40", "+Inf": "0+4x40"}), "40m"),
    Case("only one was slow", "SpanloomSlow", took({"60": "0x40", "120": "0x30 1x10", "+Inf": "0x30 1x10"}), "40m"),
    Case("ten times as much as the day before", "SpanloomCostSpike", {COST: "0+1e8x1500 151e9+1e9x59"}, "26h", OF_A,
         "60"),
    Case("as much as ever", "SpanloomCostSpike", {COST: "0+3e8x1560"}, "26h"),
    Case("a fresh template costs a lot", "SpanloomCostSpike",
         {f'spanloom_cost_nano_usd_total{{model="",{A}}}': "0x20", COST: "_x9 20e9x10"}, "15m", OF_A, "20"),
    Case("a fresh template costs little", "SpanloomCostSpike", {COST: "0x9 1e9x10"}, "15m"),
    Case("the first calls of a model have no price", "SpanloomUnpricedCalls", {PRICED: "0x20", UNPRICED: "_x9 2x10"},
         "15m", OF_A, "2"),
    Case("they had no price long ago", "SpanloomUnpricedCalls", {PRICED: "0x120", UNPRICED: "2x120"}, "2h"),
    Case("failed calls of models with a price are no calls without one", "SpanloomUnpricedCalls",
         {PRICED: "0x60", UNPRICED: "0x60", FAILED_CALLS: "0+9x60", MODEL_CALLS: "0+10x60"}, "1h"),
    Case("every second call fails", "SpanloomModelCallsFail", {FAILED_CALLS: "0+1x60", MODEL_CALLS: "0+2x60"}, "1h",
         {"template": "a", "model": "m"}, "50%"),
    Case("every tenth call fails", "SpanloomModelCallsFail", {FAILED_CALLS: "0+1x60", MODEL_CALLS: "0+10x60"}, "1h"),
    Case("the few calls that there were failed", "SpanloomModelCallsFail",
         {FAILED_CALLS: "0x50 1 2 3 3x7", MODEL_CALLS: "0x50 1 2 3 3x7"}, "1h"),
    Case("the records cannot store signals", "SpanloomSignalsKeptAside",
         {'spanloom_dead_letters_total{consumer="records"}': "0x5 3x10"}, "10m", {"consumer": "records"}, "3"),
    Case("nothing is kept aside", "SpanloomSignalsKeptAside",
         {'spanloom_dead_letters_total{consumer="records"}': "5x60"}, "1h"),
    Case("somebody forges signals", "SpanloomSignalsRefused",
         {'spanloom_signals_refused_total{consumer="records",reason="not_ours"}': "0x5 3x10",
          'spanloom_signals_refused_total{consumer="webhooks",reason="not_ours"}': "0x5 4x10"},
         "10m", {"reason": "not_ours"}, "7"),
    Case("nothing is refused", "SpanloomSignalsRefused",
         {'spanloom_signals_refused_total{consumer="records",reason="not_ours"}': "5x60"}, "1h"),
    Case("no commit succeeds", "SpanloomJournalFailing", {"spanloom_journal_writable": "1 0x5"}, "4m", {}),
    Case("one commit failed", "SpanloomJournalFailing", {"spanloom_journal_writable": "1 0 1x5"}, "4m"),
    Case("traces do not arrive", "SpanloomCollectorDropping", {SENT: "_x5 7x10"}, "10m",
         {"exporter": "otlp_http/jaeger"}, "7"),
    Case("a queue is full", "SpanloomCollectorDropping",
         {'otelcol_exporter_enqueue_failed_log_records{exporter="otlp_http/webhooks"}': "0x5 4x10"}, "10m",
         {"exporter": "otlp_http/webhooks"}, "4"),
    Case("they did not arrive long ago", "SpanloomCollectorDropping", {SENT: "7x60"}, "1h"),
    Case("two minutes behind", "SpanloomRecordsLagging", {"spanloom_record_lag_seconds": "120x20"}, "10m", {},
         "2m 0s"),
    Case("a second behind", "SpanloomRecordsLagging", {"spanloom_record_lag_seconds": "1x20"}, "10m"),
    Case("behind for a moment", "SpanloomRecordsLagging", {"spanloom_record_lag_seconds": "120 120 1x20"}, "10m"),
    Case("nothing is sent", "SpanloomDeliveriesFailing", {"spanloom_deliveries_oldest_seconds": "0+60x60"}, "1h", {}),
    Case("deliveries were given up", "SpanloomDeliveriesFailing", {"spanloom_deliveries_given_up_total": "0x5 1x10"},
         "10m", {}),
    Case("all arrive", "SpanloomDeliveriesFailing", {"spanloom_deliveries_oldest_seconds": "3x60",
         "spanloom_deliveries_given_up_total": "9x60"}, "1h"),
    Case("money differs", "SpanloomBooksDisagree",
         {"spanloom_reconcile_differences": "0 2x5", "spanloom_reconcile_drift_nano_usd": "0 1x5"}, "3m", {}, "2"),
    Case("all agree", "SpanloomBooksDisagree",
         {"spanloom_reconcile_differences": "0x5", "spanloom_reconcile_drift_nano_usd": "0x5"}, "3m"),
    Case("four hours ago", "SpanloomBooksNotCompared",
         {"spanloom_reconcile_finished_timestamp_seconds": "0x240"}, "4h", {}, "4h 0m 0s"),
    Case("two hours ago", "SpanloomBooksNotCompared",
         {"spanloom_reconcile_finished_timestamp_seconds": "0x240"}, "2h"),
    Case("never yet", "SpanloomBooksNotCompared", {"spanloom_reconcile_differences": "0x240"}, "4h"),
)  # fmt: skip


def test_files(options: Options) -> dict[str, str]:
    """File name to tests of the shipped rules, for `promtool test rules`."""
    return {
        "alerts.yaml": _file([case for case in CASES if not case.is_long], "1m", options),
        "alerts_of_days.yaml": _file([case for case in CASES if case.is_long], "10m", options),
    }


def _file(cases: Sequence[Case], step: str, options: Options) -> str:
    alerts = {alert.name: alert for group in groups(options) for alert in group.alerts}
    return dump(
        {
            "rule_files": ["../recordings.yaml", "../alerts.yaml"],
            "evaluation_interval": step,
            "group_eval_order": [recordings(options).name, *(group.name for group in groups(options))],
            "tests": [_test(case, alerts[case.alert], step, options) for case in cases],
        }
    )


def _test(case: Case, alert: Alert, step: str, options: Options) -> Yaml:
    expected: list[Yaml] = []
    if case.labels is not None:
        texts = {name: _expanded(text, case) for name, text in annotations(alert, options).items()}
        expected = [{"exp_labels": {"severity": alert.severity, **case.labels}, "exp_annotations": {**texts}}]
    return {
        "name": f"{alert.name}: {case.name}",
        "interval": step,
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": alert.name, "exp_alerts": expected}],
    }


def _expanded(text: str, case: Case) -> str:
    text = text.replace(AS_TOLD, case.service)
    for label, value in (case.labels or {}).items():
        text = text.replace(f"{{{{ $labels.{label} | urlquery }}}}", quote_plus(value))
        text = text.replace(f"{{{{ $labels.{label} }}}}", value)
        text = text.replace(f"{{{{ $labels.{label} | urlquery }}}}", quote_plus(value))
    return re.sub(r"{{[^}]*\$value[^}]*}}", case.value, text)
