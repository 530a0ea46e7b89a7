"""The dashboard of the bookkeeping itself."""

from dashboards.panels import Board, Origin, Row
from dashboards.queries import RANGE, RATE, lines, number

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
