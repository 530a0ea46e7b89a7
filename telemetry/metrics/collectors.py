"""Metrics that are read at scrape time: what is unfinished, and the health of the bookkeeping."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import database_time
from engine.result import Status
from engine.store import control_reads
from telemetry.collector.outbox import RECORDS, WEBHOOKS, Backlog, read_backlog
from telemetry.collector.refusals import Reason
from telemetry.health import DeliveryHealth, Health, LeaseHealth, OutboxHealth
from telemetry.metrics.exact_counters import Counts, family
from telemetry.metrics.labels import LabelCap
from telemetry.store.tables import RECONCILE_CHECKS, reconcile_runs
from telemetry.webhooks.queue import QueueState, read_queue


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """Queued or running executions, here and in other processes."""

    count: int = 0
    oldest_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Reconciled:
    """The result of the newest reconcile run."""

    differences: int = 0
    drift_nano_usd: int = 0
    finished_at: datetime | None = None
    by_check: Mapping[str, int] | None = None
    """The number of differences of each kind that was found."""


class TableCollector(Collector):
    """Current states, read from the database and equal in every process."""

    def __init__(self) -> None:
        self._unfinished: Sequence[tuple[str, _Unfinished]] = ()
        self._reconciled = _Reconciled()

    async def read(self, connection: AsyncConnection) -> None:
        """Read the values that the next `collect` shows."""
        self._unfinished = await _read_unfinished(connection)
        self._reconciled = await _read_reconciled(connection)

    def collect(self) -> Iterable[Metric]:
        yield from self._unfinished_families()
        yield from self._reconciled_families()

    def _unfinished_families(self) -> Iterable[Metric]:
        count = GaugeMetricFamily("spanloom_executions_unfinished", "Queued or running executions", labels=("status",))
        oldest = GaugeMetricFamily(
            "spanloom_executions_oldest_seconds", "Age of the oldest queued or running execution", labels=("status",)
        )
        for status, unfinished in self._unfinished:
            count.add_metric((status,), unfinished.count)
            oldest.add_metric((status,), unfinished.oldest_seconds)
        yield count
        yield oldest

    def _reconciled_families(self) -> Iterable[Metric]:
        """Yield the result of the newest run; before the first run, a difference of 0 and no timestamp."""
        found = self._reconciled
        yield GaugeMetricFamily(
            "spanloom_reconcile_drift_nano_usd",
            "Cost on which the books disagree, in nano-USD",
            found.drift_nano_usd,
        )
        yield GaugeMetricFamily(
            "spanloom_reconcile_differences",
            "Figures on which the books disagree",
            found.differences,
        )
        by_check = GaugeMetricFamily(
            "spanloom_reconcile_findings", "The same by the books that were compared", labels=("check",)
        )
        for check in RECONCILE_CHECKS:
            by_check.add_metric((check,), (found.by_check or {}).get(check, 0))
        yield by_check
        if found.finished_at is not None:
            yield GaugeMetricFamily(
                "spanloom_reconcile_finished_timestamp_seconds",
                "When the last reconcile run finished",
                found.finished_at.timestamp(),
            )


class ServiceCollector(Collector):
    """What alerts and dashboards say of the service: its version, and its address for their links."""

    def __init__(self, public_url: str) -> None:
        self._labels = {"version": version("spanloom"), "public_url": public_url}

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("spanloom_service", "Version and address of the service", value=self._labels)


class OutboxCollector(Collector):
    """The outbox and the traffic with the Collector; all values are 0 in embedded mode."""

    def __init__(self, health: OutboxHealth) -> None:
        self._health = health
        self._backlog = Backlog(0, 0, 0.0, 0.0)

    async def read(self, connection: AsyncConnection) -> None:
        """Read the values that the next `collect` shows."""
        self._backlog = await read_backlog(connection)

    def collect(self) -> Iterable[Metric]:
        health, backlog = self._health, self._backlog
        gauges = {
            "spanloom_outbox_signals": ("Signals in the outbox", backlog.waiting),
            "spanloom_outbox_unshipped": (
                "Outbox signals that the Collector has not accepted",
                backlog.unshipped,
            ),
            "spanloom_outbox_oldest_seconds": ("Age of the oldest signal in the outbox", backlog.oldest_seconds),
            "spanloom_outbox_collector_reachable": (
                "1 if the Collector took the last request",
                int(health.is_reachable),
            ),
            "spanloom_record_lag_seconds": (
                "Age of the oldest signal that is not in the records yet",
                backlog.record_lag_seconds,
            ),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(name, meaning, value=value)
        shipped = ("spanloom_outbox_shipped", "Signals accepted by the Collector", health.shipped)
        failed = ("spanloom_outbox_failed_posts", "Requests that the Collector did not accept", health.failed_posts)
        for name, meaning, value in (shipped, failed):
            yield CounterMetricFamily(name, meaning, value=value)
        confirmed = "Signals that came back from the Collector and were stored"
        yield family("spanloom_outbox_confirmed", confirmed, ("consumer",), _by_consumer(health.confirmed))
        local = "Signals stored locally because the Collector did not send them back in time"
        yield family("spanloom_outbox_served_locally", local, ("consumer",), _by_consumer(health.served_locally))
        refused = "Signals and bodies that the receiver refused, by reason"
        yield family("spanloom_signals_refused", refused, ("consumer", "reason"), _refused(health.refused))
        answers: Counts = {(str(status),): count for status, count in health.requests.items()}
        yield family("spanloom_ingest_requests", "Requests from the Collector", ("status",), answers)


def _by_consumer(counter: Mapping[str, int]) -> Counts:
    """The counts, with 0 for each consumer without an entry."""
    return {(name,): counter.get(name, 0) for name in (RECORDS, WEBHOOKS)}


def _refused(counter: Mapping[tuple[str, str], int]) -> Counts:
    """The counts, with 0 for each consumer and reason without an entry."""
    return {(name, why.value): counter.get((name, why.value), 0) for name in (RECORDS, WEBHOOKS) for why in Reason}


class DeliveryCollector(Collector):
    """Webhook deliveries: the queue is equal in every process, the attempts are those of this process."""

    def __init__(self, health: DeliveryHealth) -> None:
        self._health = health
        self._queue = QueueState()

    async def read(self, connection: AsyncConnection) -> None:
        """Read the values that the next `collect` shows."""
        self._queue = await read_queue(connection)

    def collect(self) -> Iterable[Metric]:
        health, queue = self._health, self._queue
        gauges = {
            "spanloom_deliveries_waiting": ("Webhook deliveries that are pending", queue.pending),
            "spanloom_deliveries_oldest_seconds": (
                "Time by which the oldest webhook delivery is late",
                queue.lag_seconds,
            ),
            "spanloom_deliveries_in_flight": ("Webhooks that this process is sending now", health.in_flight),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(name, meaning, value=value)
        endpoints = GaugeMetricFamily("spanloom_deliveries_endpoints", "Webhook endpoints", labels=("status",))
        endpoints.add_metric(("active",), queue.endpoints_active)
        endpoints.add_metric(("disabled",), queue.endpoints_disabled)
        yield endpoints
        attempts: Counts = {("delivered",): health.attempts_delivered, ("failed",): health.attempts_failed}
        yield family("spanloom_deliveries_attempts", "Attempts to deliver a webhook", ("outcome",), attempts)
        yield CounterMetricFamily("spanloom_deliveries_arrived", "Webhooks that were delivered", value=health.delivered)
        yield CounterMetricFamily("spanloom_deliveries_given_up", "Webhooks that failed for good", value=health.failed)
        disabled = "Endpoints disabled because of their responses"
        yield CounterMetricFamily("spanloom_deliveries_endpoints_disabled", disabled, value=health.endpoints_disabled)


class LeaseCollector(Collector):
    """Lease renewal in this process, and the lost attempts that it found."""

    def __init__(self, health: LeaseHealth) -> None:
        self._health = health

    def collect(self) -> Iterable[Metric]:
        health = self._health
        yield GaugeMetricFamily(
            "spanloom_leases_age_seconds",
            "Time since this process last renewed the leases of its executions",
            value=health.age_seconds,
        )
        counters = {
            "spanloom_leases_renewals": ("Successful renewals of this process's leases", health.renewals),
            "spanloom_leases_failed_renewals": ("Failed renewals", health.failed_renewals),
            "spanloom_leases_missing": (
                "Leases that another process had taken over",
                health.missing,
            ),
        }
        for name, (meaning, value) in counters.items():
            yield CounterMetricFamily(name, meaning, value=value)
        lost: Counts = {(outcome,): health.lost.get(outcome, 0) for outcome in ("failed", "cancelled", "retried")}
        yield family("spanloom_executions_lost", "Attempts whose process died", ("outcome",), lost)


class HealthCollector(Collector):
    """The journal, and the dead letters."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._providers, self._keys = LabelCap(), LabelCap()
        self._started_at = datetime.now(UTC).timestamp()

    def collect(self) -> Iterable[Metric]:
        health = self._health
        gauges: dict[str, tuple[str, float]] = {
            "process_start_time_seconds": ("When this process started to count", self._started_at),
            "spanloom_executions_active": ("Executions running in this process", health.running),
            "spanloom_journal_waiting": ("Decisions that are not durable yet", health.waiting),
            "spanloom_journal_writable": ("1 if the last commit succeeded", int(health.is_writable)),
        }
        counters: dict[str, tuple[str, float]] = {
            "spanloom_journal_commits": ("Transactions committed", health.commits),
            "spanloom_journal_failed_commits": ("Transactions that failed", health.failed_commits),
            "spanloom_journal_decisions": (
                "Decisions committed, such as checkpoints and finishes",
                health.decisions,
            ),
            "spanloom_journal_signals": ("Spans and events committed", health.signals),
            "spanloom_journal_fenced": ("Decisions refused because another attempt owns the execution", health.fenced),
            "spanloom_journal_late_signals": (
                "Dropped signals of executions not running here",
                health.late_signals,
            ),
            "spanloom_journal_commit_seconds": ("Time spent in commits", health.commit_seconds),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(name, meaning, value=value)
        for name, (meaning, count) in counters.items():
            yield CounterMetricFamily(name, meaning, value=count)
        dead: Counts = {(consumer,): letters for consumer, letters in health.dead_letters.items()}
        yield family(
            "spanloom_dead_letters",
            "Signals that became dead letters",
            ("consumer",),
            dead,
        )
        stored: Counts = {(consumer,): letters for consumer, letters in health.dead_letters_stored.items()}
        yield family("spanloom_dead_letters_stored", "Dead letters that were stored later", ("consumer",), stored)
        yield self._unread_family()
        pruned: Counts = {(table,): rows for table, rows in health.rows_pruned.items()}
        yield family("spanloom_retention_deleted_rows", "Rows that retention deleted", ("table",), pruned)

    def _unread_family(self) -> Metric:
        """The keys are the provider's own words, so that their number is capped."""
        unread: Counts = {}
        for (provider, key), calls in self._health.usage_keys_unread.items():
            labels = (self._providers(provider), self._keys(key))
            unread[labels] = unread.get(labels, 0) + calls
        return family(
            "spanloom_usage_keys_unread",
            "Model calls whose provider reported a figure that spanloom does not know: it may have a price",
            ("provider", "key"),
            unread,
        )


async def _read_unfinished(connection: AsyncConnection) -> list[tuple[str, _Unfinished]]:
    """Queued and running executions; paused ones wait for a person and are never overdue."""
    counts = await control_reads.count_unfinished(connection, (Status.QUEUED, Status.RUNNING))
    now = await database_time(connection)
    found = {
        status: _Unfinished(count, (now - oldest_accepted_at).total_seconds())
        for status, count, oldest_accepted_at in counts
    }
    return [(status, found.get(status, _Unfinished())) for status in (Status.QUEUED, Status.RUNNING)]


async def _read_reconciled(connection: AsyncConnection) -> _Reconciled:
    c = reconcile_runs.c
    newest = (
        select(c.differences, c.drift_nano_usd, c.finished_at, c.report["by_check"])
        .where(c.finished_at.is_not(None))
        .order_by(c.scheduled_for.desc())
        .limit(1)
    )
    row = (await connection.execute(newest)).one_or_none()
    return _Reconciled() if row is None else _Reconciled(*row)
