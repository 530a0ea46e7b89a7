"""`/metrics`: what Prometheus reads, from the same signals and roll-ups as everything else.

Span metrics, tokens, cost and time to first token are fed after each commit and start at 0 with the process; the
`spanloom_*` counters of executions, cost and tokens are exact: read from the roll-ups at each scrape.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import database_time
from engine.database.database import Database
from engine.result import Status
from engine.store import control_reads
from engine.store.tables import workflow_templates
from engine.tracing import semconv
from telemetry.collector.outbox import RECORDS, WEBHOOKS, Backlog, read_backlog
from telemetry.health import DeliveryHealth, Health, LeaseHealth, OutboxHealth
from telemetry.metrics.single_flight import SingleFlight
from telemetry.signals.records import Attributes, Batch, Kind, SpanRecord
from telemetry.store.tables import TOKEN_COLUMNS, execution_rollups_daily, reconcile_runs
from telemetry.webhooks.queue import QueueState, read_queue

MAX_LABEL_VALUES = 200
OTHER = "_other"
SERVICE = "spanloom"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_TOKENS = tuple(4**exponent for exponent in range(14))
"""The bucket bounds that the GenAI conventions advise."""

_SPAN_LABELS = (
    "service_name",
    "span_kind",
    "status_code",
    "gen_ai_operation_name",
    "workflow_name",
    "workflow_source",
    "workflow_nested",
    "workflow_node_type",
    "workflow_execution_status",
    "gen_ai_request_model",
    "gen_ai_tool_name",
    "error_type",
)
_TOKEN_TYPES = {
    semconv.GENAI_INPUT: "input",
    semconv.GENAI_OUTPUT: "output",
    semconv.GENAI_CACHE_READ: "cache_read",
    semconv.GENAI_CACHE_WRITE: "cache_write",
    semconv.GENAI_REASONING: "reasoning",
}
_CLIENT_KINDS = frozenset({Kind.MODEL, Kind.RETRIEVAL})
_ERROR_STATUS = frozenset({"failed", "retrying"})

Counts = dict[tuple[str, ...], int]


class LabelCap:
    """Keeps a label's values a closed set: what comes after the first 200 is `_other`."""

    def __init__(self, limit: int = MAX_LABEL_VALUES) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= self._limit:
            return OTHER
        self._known.add(value)
        return value


class Metrics:
    """Counts committed signals and writes everything out for Prometheus."""

    def __init__(self, database: Database, health: Health) -> None:
        self._database = database
        self._flight = SingleFlight[bytes]()
        self._registry = CollectorRegistry()
        self._exact = _Exact()
        self._caps: dict[str, LabelCap] = {}
        self._span_children: dict[tuple[str, ...], tuple[Counter, Histogram]] = {}
        self._calls = Counter("traces_span_metrics_calls", "Spans that ended", _SPAN_LABELS, registry=self._registry)
        self._durations = Histogram(
            "traces_span_metrics_duration_seconds",
            "How long spans took",
            _SPAN_LABELS,
            buckets=_SECONDS,
            registry=self._registry,
        )
        call_labels = ("gen_ai_provider_name", "gen_ai_request_model", "workflow_name")
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens per model call",
            ("gen_ai_token_type", *call_labels),
            buckets=_TOKENS,
            registry=self._registry,
        )
        self._cost = Counter(
            "workflow_cost_usd", "Cost of model calls", (*call_labels, "workflow_source"), registry=self._registry
        )
        self._first_token = Histogram(
            "workflow_time_to_first_token_seconds",
            "From the start of an execution to its first streamed token",
            ("workflow_name",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(self._exact)
        self._registry.register(_HealthCollector(health))
        self._outbox = _OutboxCollector(health.outbox)
        self._registry.register(self._outbox)
        self._deliveries = _DeliveryCollector(health.deliveries)
        self._registry.register(self._deliveries)
        self._registry.register(_LeaseCollector(health.leases))

    def feed(self, batch: Batch) -> None:
        """Count signals that have become durable."""
        for span in batch.spans:
            exemplar = {"trace_id": span.trace_id, "span_id": span.span_id}
            calls, durations = self._children(self._span_labels(span))
            calls.inc(exemplar=exemplar)
            durations.observe((span.end_ns - span.start_ns) / 1e9, exemplar)
            if span.kind is Kind.MODEL:
                self._feed_call(span, exemplar)
            elif span.kind is Kind.WORKFLOW:
                self._feed_root(span, exemplar)

    async def exposition(self, accept: str) -> tuple[str, bytes]:
        """Content type and text, OpenMetrics or plain by the `Accept` header. Raises `Unavailable`."""
        encode, content_type = choose_encoder(accept)
        return content_type, await self._flight(content_type, lambda: self._write_out(encode))

    async def _write_out(self, encode: Callable[[Collector], bytes]) -> bytes:
        """Everything as it is now. Thousands of lines take long, and nobody else is to wait for them."""
        async with self._database.read() as connection:
            self._exact.totals = await _read_totals(connection)
            self._exact.unfinished = await _read_unfinished(connection)
            self._exact.reconciled = await _read_reconciled(connection)
            self._outbox.backlog = await read_backlog(connection)
            self._deliveries.queue = await read_queue(connection)
        return await asyncio.to_thread(encode, _Collected(list(self._registry.collect())))

    def _feed_call(self, span: SpanRecord, exemplar: dict[str, str]) -> None:
        labels = (
            self._cap("provider", span.text(semconv.PROVIDER) or ""),
            self._cap("model", span.text(semconv.REQUEST_MODEL) or ""),
            self._cap("workflow", span.identity.workflow_name),
        )
        for key, token_type in _TOKEN_TYPES.items():
            tokens = span.integer(key)
            if tokens is not None:
                self._tokens.labels(token_type, *labels).observe(tokens, exemplar)
        cost = span.integer(semconv.COST_NANO_USD)
        if cost is not None:
            self._cost.labels(*labels, span.identity.workflow_source).inc(cost / 1e9, exemplar)

    def _feed_root(self, span: SpanRecord, exemplar: dict[str, str]) -> None:
        seconds = span.attributes.get(semconv.TIME_TO_FIRST_TOKEN)
        if isinstance(seconds, int | float):
            name = self._cap("workflow", span.identity.workflow_name)
            self._first_token.labels(name).observe(seconds, exemplar)

    def _children(self, labels: tuple[str, ...]) -> tuple[Counter, Histogram]:
        children = self._span_children.get(labels)
        if children is None:
            children = (self._calls.labels(*labels), self._durations.labels(*labels))
            self._span_children[labels] = children
        return children

    def _span_labels(self, span: SpanRecord) -> tuple[str, ...]:
        attributes = span.attributes
        is_root = span.kind is Kind.WORKFLOW
        return (
            SERVICE,
            "SPAN_KIND_CLIENT" if span.kind in _CLIENT_KINDS else "SPAN_KIND_INTERNAL",
            "STATUS_CODE_ERROR" if span.status in _ERROR_STATUS else "STATUS_CODE_UNSET",
            _string(attributes, semconv.OPERATION),
            self._cap("workflow", span.identity.workflow_name),
            span.identity.workflow_source,
            _string(attributes, semconv.NESTED),
            self._cap("node_type", span.text(semconv.NODE_TYPE) or ""),
            _string(attributes, semconv.EXECUTION_STATUS) if is_root else "",
            self._cap("model", span.text(semconv.REQUEST_MODEL) or ""),
            self._cap("tool", _string(attributes, semconv.TOOL_NAME)),
            self._cap("error_type", span.text(semconv.ERROR_TYPE) or ""),
        )

    def _cap(self, label: str, value: str) -> str:
        cap = self._caps.get(label)
        if cap is None:
            cap = self._caps[label] = LabelCap()
        return cap(value)


def _string(attributes: Attributes, key: str) -> str:
    value = attributes.get(key)
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class _Collected(Collector):
    """What was there to be written out."""

    families: Sequence[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


@dataclass(frozen=True, slots=True)
class _Total:
    """What the roll-ups hold for one template and model (`''` for what belongs to no model)."""

    template: str
    model: str
    ended: tuple[int, ...]
    tokens: tuple[int, ...]
    cost_nano_usd: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """Executions that wait or run, here or in another process."""

    count: int = 0
    oldest_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Reconciled:
    """What the newest comparison of the books found."""

    differences: int = 0
    drift_nano_usd: int = 0
    finished_at: datetime | None = None


_STATUSES = ("completed", "failed", "cancelled")


async def _read_totals(connection: AsyncConnection) -> list[_Total]:
    """Every known template has a row, from the moment it is stored: a counter born at 1 hides the first failure."""
    keys: dict[str, str] = {}
    template = workflow_templates.c
    for row in await connection.execute(select(template.template_id, template.key).where(template.is_latest)):
        keys[row.template_id] = row.key
    rollups = execution_rollups_daily.c
    dimensions = (rollups.template_id, rollups.workflow_name, rollups.model)
    summed = (*(f"executions_{status}" for status in _STATUSES), *TOKEN_COLUMNS, "cost_nano_usd", "unpriced_calls")
    sums = [cast(func.sum(rollups[name]), BigInteger).label(name) for name in summed]
    statement = select(*dimensions, *sums).group_by(*dimensions)
    totals = [_Total(key, "", (0, 0, 0), (0,) * len(TOKEN_COLUMNS), 0, 0) for key in keys.values()]
    rows = (await connection.execute(statement)).mappings().all()
    return [*totals, *(_total(row, keys) for row in rows)]


def _total(row: RowMapping, keys: Mapping[str, str]) -> _Total:
    return _Total(
        keys.get(row["template_id"], row["workflow_name"]),
        row["model"],
        tuple(row[f"executions_{status}"] for status in _STATUSES),
        tuple(row[name] for name in TOKEN_COLUMNS),
        row["cost_nano_usd"],
        row["unpriced_calls"],
    )


async def _read_unfinished(connection: AsyncConnection) -> list[tuple[str, _Unfinished]]:
    """By status; one that waits for a person is not overdue and has no line."""
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
        select(c.differences, c.drift_nano_usd, c.finished_at)
        .where(c.finished_at.is_not(None))
        .order_by(c.scheduled_for.desc())
        .limit(1)
    )
    row = (await connection.execute(newest)).one_or_none()
    return _Reconciled() if row is None else _Reconciled(*row)


class _Exact(Collector):
    """What is read from the database, the same in every process: counters that equal the records, and its state."""

    def __init__(self) -> None:
        self.totals: Sequence[_Total] = ()
        self.unfinished: Sequence[tuple[str, _Unfinished]] = ()
        self.reconciled = _Reconciled()

    def collect(self) -> Iterable[Metric]:
        template_cap, model_cap = LabelCap(), LabelCap()
        executions: Counts = {}
        cost: Counts = {}
        unpriced: Counts = {}
        tokens: Counts = {}
        for total in sorted(self.totals, key=lambda total: (total.template, total.model)):
            template, model = template_cap(total.template), model_cap(total.model)
            for status, count in zip(_STATUSES, total.ended, strict=True):
                _add(executions, (template, status), count)
            _add(cost, (template, model), total.cost_nano_usd)
            _add(unpriced, (template, model), total.unpriced_calls)
            for token_type, count in zip(_TOKEN_TYPES.values(), total.tokens, strict=True):
                _add(tokens, (template, model, token_type), count)
        yield _family("spanloom_executions", "Executions that ended", ("template", "status"), executions)
        yield _family("spanloom_cost_nano_usd", "Cost of model calls in nano-USD", ("template", "model"), cost)
        yield _family("spanloom_unpriced_calls", "Model calls of unknown cost", ("template", "model"), unpriced)
        yield _family("spanloom_tokens", "Tokens of model calls", ("template", "model", "type"), tokens)
        yield from self._unfinished()
        yield from self._reconciled()

    def _unfinished(self) -> Iterable[Metric]:
        count = GaugeMetricFamily("spanloom_executions_unfinished", "Executions that wait or run", labels=("status",))
        oldest = GaugeMetricFamily(
            "spanloom_executions_oldest_seconds", "Age of the oldest execution that waits or runs", labels=("status",)
        )
        for status, unfinished in self.unfinished:
            count.add_metric((status,), unfinished.count)
            oldest.add_metric((status,), unfinished.oldest_seconds)
        yield count
        yield oldest

    def _reconciled(self) -> Iterable[Metric]:
        """Without a run there is no difference yet, and no time of one."""
        found = self.reconciled
        yield GaugeMetricFamily(
            "spanloom_reconcile_drift_nano_usd", "Money that the books disagree about", found.drift_nano_usd
        )
        yield GaugeMetricFamily("spanloom_reconcile_differences", "Numbers that differ", found.differences)
        if found.finished_at is not None:
            yield GaugeMetricFamily(
                "spanloom_reconcile_finished_timestamp_seconds",
                "When the books were compared last",
                found.finished_at.timestamp(),
            )


class _OutboxCollector(Collector):
    """How far the way through the Collector lags behind; all 0 in the embedded mode."""

    def __init__(self, health: OutboxHealth) -> None:
        self._health = health
        self.backlog = Backlog(0, 0, 0.0, 0.0)

    def collect(self) -> Iterable[Metric]:
        health, backlog = self._health, self.backlog
        gauges = {
            "spanloom_outbox_signals": ("Signals in the outbox", backlog.waiting),
            "spanloom_outbox_unshipped": ("Of those, not yet taken by the Collector", backlog.unshipped),
            "spanloom_outbox_oldest_seconds": ("How long the oldest signal is in the outbox", backlog.oldest_seconds),
            "spanloom_outbox_collector_reachable": ("1 if the Collector takes signals", int(health.is_reachable)),
            "spanloom_record_lag_seconds": (
                "How long the oldest signal waits that is in no record yet",
                backlog.record_lag_seconds,
            ),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(name, meaning, value=value)
        shipped = ("spanloom_outbox_shipped", "Signals that the Collector took", health.shipped)
        failed = ("spanloom_outbox_failed_posts", "Requests that the Collector did not take", health.failed_posts)
        for name, meaning, value in (shipped, failed):
            yield CounterMetricFamily(name, meaning, value=value)
        confirmed = "Signals that came back and were stored"
        yield _family("spanloom_outbox_confirmed", confirmed, ("consumer",), _by_consumer(health.confirmed))
        local = "Signals that were stored without the Collector"
        yield _family("spanloom_outbox_served_locally", local, ("consumer",), _by_consumer(health.served_locally))
        answers: Counts = {(str(status),): count for status, count in health.requests.items()}
        yield _family("spanloom_ingest_requests", "Requests from the Collector", ("status",), answers)


def _by_consumer(counter: Mapping[str, int]) -> Counts:
    """With a 0 for each consumer that has none."""
    return {(name,): counter.get(name, 0) for name in (RECORDS, WEBHOOKS)}


class _DeliveryCollector(Collector):
    """How webhooks leave. What the queue holds is the same in every process, what was sent is this one's."""

    def __init__(self, health: DeliveryHealth) -> None:
        self._health = health
        self.queue = QueueState()

    def collect(self) -> Iterable[Metric]:
        health, queue = self._health, self.queue
        gauges = {
            "spanloom_deliveries_waiting": ("Webhooks that are not delivered yet", queue.pending),
            "spanloom_deliveries_oldest_seconds": ("How long the most overdue webhook is due", queue.lag_seconds),
            "spanloom_deliveries_in_flight": ("Webhooks that this process is sending", health.in_flight),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(name, meaning, value=value)
        endpoints = GaugeMetricFamily("spanloom_deliveries_endpoints", "Receivers of webhooks", labels=("status",))
        endpoints.add_metric(("active",), queue.endpoints_active)
        endpoints.add_metric(("disabled",), queue.endpoints_disabled)
        yield endpoints
        attempts: Counts = {("delivered",): health.attempts_delivered, ("failed",): health.attempts_failed}
        yield _family("spanloom_deliveries_attempts", "Attempts to deliver a webhook", ("outcome",), attempts)
        yield CounterMetricFamily("spanloom_deliveries_arrived", "Webhooks that arrived", value=health.delivered)
        yield CounterMetricFamily("spanloom_deliveries_given_up", "Webhooks that were given up", value=health.failed)
        disabled = "Endpoints that were disabled because of their answers"
        yield CounterMetricFamily("spanloom_deliveries_endpoints_disabled", disabled, value=health.endpoints_disabled)


class _LeaseCollector(Collector):
    """Whether executions keep their process, and what became of those that did not."""

    def __init__(self, health: LeaseHealth) -> None:
        self._health = health

    def collect(self) -> Iterable[Metric]:
        health = self._health
        yield GaugeMetricFamily(
            "spanloom_leases_age_seconds",
            "How long ago the leases of what runs in this process were renewed",
            value=health.age_seconds,
        )
        counters = {
            "spanloom_leases_renewals": ("Renewals of the leases of this process", health.renewals),
            "spanloom_leases_failed_renewals": ("Renewals that failed", health.failed_renewals),
            "spanloom_leases_missing": ("Leases that another process had taken away", health.missing),
        }
        for name, (meaning, value) in counters.items():
            yield CounterMetricFamily(name, meaning, value=value)
        lost: Counts = {(outcome,): health.lost.get(outcome, 0) for outcome in ("failed", "cancelled", "retried")}
        yield _family("spanloom_executions_lost", "Attempts whose process was gone", ("outcome",), lost)


class _HealthCollector(Collector):
    """How the bookkeeping itself is doing."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._started_at = datetime.now(UTC).timestamp()

    def collect(self) -> Iterable[Metric]:
        health = self._health
        gauges: dict[str, tuple[str, float]] = {
            "process_start_time_seconds": ("When this process began to count", self._started_at),
            "spanloom_executions_active": ("Executions that run in this process", health.running),
            "spanloom_journal_waiting": ("Decisions that are not durable yet", health.waiting),
            "spanloom_journal_writable": ("1 if the last commit succeeded", int(health.is_writable)),
        }
        counters: dict[str, tuple[str, float]] = {
            "spanloom_journal_commits": ("Transactions committed", health.commits),
            "spanloom_journal_failed_commits": ("Transactions that failed", health.failed_commits),
            "spanloom_journal_decisions": ("Acceptances, checkpoints and finishes committed", health.decisions),
            "spanloom_journal_signals": ("Spans and events committed", health.signals),
            "spanloom_journal_fenced": ("Finishes refused because another attempt owns the execution", health.fenced),
            "spanloom_journal_late_signals": ("Signals of no running execution", health.late_signals),
            "spanloom_journal_commit_seconds": ("Time spent in commits", health.commit_seconds),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(name, meaning, value=value)
        for name, (meaning, count) in counters.items():
            yield CounterMetricFamily(name, meaning, value=count)
        dead: Counts = {(consumer,): letters for consumer, letters in health.dead_letters.items()}
        yield _family("spanloom_dead_letters", "Signals kept aside", ("consumer",), dead)
        stored: Counts = {(consumer,): letters for consumer, letters in health.dead_letters_stored.items()}
        yield _family(
            "spanloom_dead_letters_stored", "Signals kept aside that were stored later", ("consumer",), stored
        )


def _add(sums: Counts, key: tuple[str, ...], value: int) -> None:
    sums[key] = sums.get(key, 0) + value


def _family(name: str, meaning: str, labels: Sequence[str], values: Counts) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
