"""The dashboard of the bookkeeping itself."""

from dashboards.options import Options
from dashboards.panels import Board, Origin, Panel, Query, Row, Shape, Step, good_below
from dashboards.queries import RANGE, RATE, count, lines, number, or_none

_LIMITS = Options()
_NONE_IS_GOOD = good_below(warning=0.5, bad=0.5)

TELEMETRY = Board(
    "telemetry",
    "telemetry health",
    "The health of the bookkeeping itself: journal, outbox, records, webhooks, comparison of the books.",
    [
        Row(
            "Now",
            [
                Panel(
                    "Journal",
                    "Whether the last commit succeeded.",
                    [Query("min(spanloom_journal_writable)")],
                    width=4,
                    shape=Shape.NUMBER,
                    steps=(Step(None, "red"), Step(1, "green")),
                    texts={"0": "fails", "1": "writes"},
                ),
                number(
                    "Records behind",
                    "How long the oldest signal has waited for its record; an alert fires after one minute.",
                    "max(spanloom_record_lag_seconds)",
                    "s",
                    good_below(warning=_LIMITS.lag_seconds / 2, bad=_LIMITS.lag_seconds),
                ),
                count(
                    "Dead letters",
                    "Signals that became dead letters in the selected time.",
                    f"sum(increase(spanloom_dead_letters_total[{RANGE}]))",
                    steps=_NONE_IS_GOOD,
                ),
                number(
                    "Books differ",
                    "Numbers that differ between two books.",
                    "max(spanloom_reconcile_differences)",
                    steps=_NONE_IS_GOOD,
                ),
                number(
                    "Drift",
                    "The sum of all differences in cost.",
                    "max(spanloom_reconcile_drift_nano_usd) / 1e9",
                    "currencyUSD",
                    good_below(warning=1e-9, bad=1e-9),
                ),
                number(
                    "Books compared",
                    "How long ago the last comparison finished; an alert fires after three hours.",
                    "time() - max(spanloom_reconcile_finished_timestamp_seconds)",
                    "s",
                    good_below(warning=_LIMITS.overdue_seconds / 2, bad=_LIMITS.overdue_seconds),
                ),
            ],
        ),
        Row(
            "Journal",
            [
                lines(
                    "Signals",
                    "Signals made durable, per minute.",
                    f"sum(rate(spanloom_journal_signals_total[{RATE}])) * 60",
                    "",
                    axis="signals per minute",
                    width=8,
                ),
                lines(
                    "Duration of a commit",
                    "Average duration of the journal's commits.",
                    f"sum(rate(spanloom_journal_commit_seconds_total[{RATE}]))\n"
                    f"/ sum(rate(spanloom_journal_commits_total[{RATE}]))",
                    "",
                    "s",
                    width=8,
                ),
                lines(
                    "Decisions waiting",
                    "Decisions that are not durable yet.",
                    "sum(spanloom_journal_waiting)",
                    "",
                    axis="decisions",
                    width=8,
                ),
                lines(
                    "Failed commits",
                    "Per minute; failed commits are retried.",
                    f"sum(rate(spanloom_journal_failed_commits_total[{RATE}])) * 60",
                    "",
                    axis="commits per minute",
                    width=8,
                ),
                lines(
                    "Dead letters by consumer",
                    "Signals that a consumer could not store, per minute.",
                    or_none(f"sum by (consumer) (rate(spanloom_dead_letters_total[{RATE}])) * 60", "consumer"),
                    "consumer",
                    axis="signals per minute",
                    width=8,
                ),
                lines(
                    "Late signals",
                    "Signals whose execution no longer runs here, per minute.",
                    f"sum(rate(spanloom_journal_late_signals_total[{RATE}])) * 60",
                    "",
                    axis="signals per minute",
                    width=8,
                ),
            ],
        ),
        Row(
            "Executions",
            [
                lines(
                    "Running executions",
                    "By process.",
                    "spanloom_executions_active",
                    "instance",
                    axis="executions",
                    width=8,
                ),
                lines(
                    "Unfinished",
                    "Executions that are queued or running, in all processes.",
                    "max by (status) (spanloom_executions_unfinished)",
                    "status",
                    axis="executions",
                    stacked=True,
                    width=8,
                ),
                lines(
                    "Oldest unfinished",
                    "An alert fires after one hour.",
                    "max by (status) (spanloom_executions_oldest_seconds)",
                    "status",
                    "s",
                    width=8,
                ),
            ],
        ),
        Row(
            "Outbox and Collector",
            [
                lines(
                    "Outbox",
                    "Signals that a consumer has not stored yet.",
                    "max(spanloom_outbox_signals)",
                    "",
                    axis="signals",
                    width=8,
                ),
                lines(
                    "Oldest in the outbox",
                    "How long the oldest signal has waited for its record.",
                    "max(spanloom_record_lag_seconds)",
                    "",
                    "s",
                    width=8,
                ),
                lines(
                    "Served without the Collector",
                    "Signals that did not come back in time and were stored from the outbox, per minute.",
                    f"sum by (consumer) (rate(spanloom_outbox_served_locally_total[{RATE}])) * 60",
                    "consumer",
                    axis="signals per minute",
                    width=8,
                ),
                lines(
                    "Queues of the Collector",
                    "Queue sizes as a share of their capacity.",
                    "sum by (exporter) (otelcol_exporter_queue_size)\n"
                    "/ sum by (exporter) (otelcol_exporter_queue_capacity)",
                    "exporter",
                    "percentunit",
                    origin=Origin.COLLECTOR,
                    width=8,
                ),
                lines(
                    "Spans received by the Collector",
                    "From all senders, per minute.",
                    f"sum by (receiver) (rate(otelcol_receiver_accepted_spans[{RATE}])) * 60",
                    "receiver",
                    axis="spans per minute",
                    origin=Origin.COLLECTOR,
                    width=8,
                ),
                lines(
                    "Memory of the Collector",
                    "It refuses signals before it runs out of memory.",
                    "otelcol_process_memory_rss",
                    "instance",
                    "bytes",
                    origin=Origin.COLLECTOR,
                    width=8,
                ),
            ],
        ),
        Row(
            "Webhooks",
            [
                lines(
                    "Deliveries waiting",
                    "Pending deliveries.",
                    "max(spanloom_deliveries_waiting)",
                    "",
                    axis="deliveries",
                    width=8,
                ),
                lines(
                    "Oldest due",
                    "How long the most overdue delivery has been due; an alert fires after half an hour.",
                    "max(spanloom_deliveries_oldest_seconds)",
                    "",
                    "s",
                    width=8,
                ),
                lines(
                    "Given up",
                    "Deliveries whose last attempt failed, per minute.",
                    f"sum(rate(spanloom_deliveries_given_up_total[{RATE}])) * 60",
                    "",
                    axis="deliveries per minute",
                    width=8,
                ),
            ],
        ),
    ],
    has_workflow=False,
)
