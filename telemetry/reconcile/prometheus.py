"""Compares Prometheus counters with the records, for the reconcile report.

Raw samples at both ends of the window are subtracted (`increase` would extrapolate). An execution that ran across an
end of the window may count on either side, so an increase must lie between two sums, which are equal if nothing ran at
the ends. A counter that was reset within the window is not compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
from sqlalchemy import BigInteger, ColumnElement, and_, cast, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from telemetry.reads.workflow_labels import OTHER, WorkflowColumns, label_of
from telemetry.reconcile.findings import Check, CounterOutcome, Difference
from telemetry.reconcile.window import DAY
from telemetry.records.rollups import first_id
from telemetry.store.retention_tables import pruned_rollups
from telemetry.store.tables import executions, spans

SETTLE = timedelta(seconds=60)
"""How long a signal may take to reach the counter, through journal, Collector and scrape."""

_LOOKBACK_SECONDS = 300

Group = tuple[str, ...]
Sums = Mapping[Group, int]
Labels = frozenset[tuple[str, str]]
Samples = dict[Labels, tuple[float, float]]
"""The newest sample of each series: time in seconds since the epoch, and value."""


class NotCompared(Exception):
    """A counter cannot be compared; the message says why."""


@dataclass(frozen=True, slots=True)
class _Counter:
    """A counter and the column of the records that it counts."""

    metric: str
    selector: str
    labels: Group
    column: str
    is_exact: bool
    """Whether all processes read it from the roll-ups; otherwise each process counts in its own memory."""
    unit: float
    """The factor that makes an increase a whole number."""


_ROOT = 'gen_ai_operation_name="invoke_workflow",workflow_nested!="true"'
_COUNTERS = (
    _Counter("spanloom_executions_total", "", ("template", "status"), "executions", True, 1),
    _Counter("spanloom_cost_nano_usd_total", "", ("template",), "cost_nano_usd", True, 1),
    _Counter(
        "traces_span_metrics_calls_total",
        _ROOT + ',workflow_execution_status=~"completed|failed|cancelled"',
        ("workflow_name", "workflow_execution_status"),
        "executions",
        False,
        1,
    ),
    _Counter("workflow_cost_usd_total", "", ("workflow_name",), "cost_nano_usd", False, 1e9),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome per counter, and all differences."""

    outcomes: list[CounterOutcome]
    differences: list[Difference]


class Prometheus:
    """Reads raw samples from a Prometheus at a URL."""

    def __init__(self, client: httpx2.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url.rstrip("/")

    async def query(self, promql: str, at: datetime) -> list[dict[str, Any]]:
        """The series of an expression at a time. Raises `NotCompared` if Prometheus does not respond."""
        try:
            answer = await self._client.get(
                f"{self._url}/api/v1/query", params={"query": promql, "time": f"{at.timestamp():.3f}"}
            )
            answer.raise_for_status()
            result: list[dict[str, Any]] = answer.json()["data"]["result"]
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            raise NotCompared(
                f"Prometheus did not respond: {type(error).__name__}; check SPANLOOM_PROMETHEUS_URL"
            ) from error
        return result

    async def newest(self, selector: str, at: datetime) -> Samples:
        """The newest sample of each series, at most 5 minutes old."""
        found: Samples = {}
        for series in await self.query(f"{selector}[{_LOOKBACK_SECONDS}s]", at):
            time, value = series["values"][-1]
            found[frozenset(series["metric"].items())] = float(time), float(value)
        return found

    async def has_any(self, promql: str, at: datetime) -> bool:
        """Whether an expression has any series."""
        return bool(await self.query(promql, at))


async def compare_counters(
    connection: AsyncConnection,
    prometheus: Prometheus,
    since: datetime,
    until: datetime,
    *,
    settle: timedelta = SETTLE,
) -> Comparison:
    """Compare every counter with the records, over a window that ended at least `settle` ago."""
    outcomes: list[CounterOutcome] = []
    differences: list[Difference] = []
    are_pruned = await _has_pruned(connection, since, until)
    for counter in _COUNTERS:
        try:
            if are_pruned:
                raise NotCompared("retention has deleted records or spans of the window")
            grown = await _increase(prometheus, counter, since, until)
            least, most = await _bounds(connection, counter, grown, settle)
        except NotCompared as reason:
            outcomes.append(CounterOutcome(counter.metric, False, str(reason)))
            continue
        outcomes.append(CounterOutcome(counter.metric, True))
        differences += _differences(counter, grown.by_group, least, most)
    return Comparison(outcomes, differences)


async def _has_pruned(connection: AsyncConnection, since: datetime, until: datetime) -> bool:
    """Whether the rows that a counter is compared with are incomplete; they may be a day older than the window."""
    hour = pruned_rollups.c.bucket_hour
    found = await connection.execute(select(hour).where(hour > since - DAY, hour < until).limit(1))
    return found.first() is not None


@dataclass(frozen=True, slots=True)
class _Growth:
    """The increase of a counter, and the earliest and latest time of its samples at each end."""

    by_group: dict[Group, int]
    since: tuple[datetime, datetime]
    until: tuple[datetime, datetime]


async def _increase(prometheus: Prometheus, counter: _Counter, since: datetime, until: datetime) -> _Growth:
    selector = f"{counter.metric}{{{counter.selector}}}"
    first = await _samples(prometheus, selector, since, "beginning")
    last = await _samples(prometheus, selector, until, "end")
    await _check_restarts(prometheus, counter, selector, first, last, since, until)
    grown = _grouped(counter, {labels: value - first.get(labels, _NOTHING)[1] for labels, (_, value) in last.items()})
    if any(OTHER in group for group in grown):
        raise NotCompared(f"the label values exceed their limit, and the rest share the series {OTHER}")
    return _Growth(grown, _ends(first, since), _ends(last, until))


_NOTHING = (0.0, 0.0)
"""The sample of a series that does not exist yet."""


async def _samples(prometheus: Prometheus, selector: str, at: datetime, name: str) -> Samples:
    """The counter's samples; it may have none as long as the service has some."""
    samples = await prometheus.newest(selector, at)
    if not samples and not await prometheus.has_any(f"spanloom_executions_total[{_LOOKBACK_SECONDS}s]", at):
        raise NotCompared(f"Prometheus has no sample from the {name} of the window")
    return samples


def _grouped(counter: _Counter, series: Mapping[Labels, float]) -> dict[Group, int]:
    """The increase per group: the largest of the processes if exact, else their sum, over models and error classes."""
    by_series: dict[tuple[Group, Group], float] = {}
    for labels, value in series.items():
        named = dict(labels)
        summed = named.get("model", ""), named.get("error_class", "")
        key = tuple(named.get(label, "") for label in counter.labels), summed
        known = by_series.get(key, 0.0)
        by_series[key] = max(known, value) if counter.is_exact else known + value
    grown: dict[Group, float] = {}
    for (group, _), value in by_series.items():
        grown[group] = grown.get(group, 0.0) + value
    return {group: round(value * counter.unit) for group, value in grown.items()}


async def _check_restarts(
    prometheus: Prometheus,
    counter: _Counter,
    selector: str,
    first: Samples,
    last: Samples,
    since: datetime,
    until: datetime,
) -> None:
    seconds = f"{(until - since).total_seconds() + _LOOKBACK_SECONDS:.0f}s"
    has_fallen = any(value < first.get(labels, _NOTHING)[1] for labels, (_, value) in last.items())
    if has_fallen or await prometheus.has_any(f"resets({selector}[{seconds}]) > 0", until):
        raise NotCompared("the counter was reset within the window")
    if counter.is_exact:
        return
    if first.keys() - last.keys():
        raise NotCompared("a process that counted has stopped within the window")
    sources = {(dict(labels).get("job", ""), dict(labels).get("instance", "")) for labels in first | last}
    for job, instance in sorted(sources):
        started = f'process_start_time_seconds{{job="{job}",instance="{instance}"}}'
        if await prometheus.has_any(f"changes({started}[{seconds}]) > 0", until):
            raise NotCompared(f"{instance} was restarted within the window")
    uptime = '{__name__=~"otelcol_process_uptime.*"}'
    if await prometheus.has_any(f"resets({uptime}[{seconds}]) > 0", until):
        raise NotCompared("the Collector was restarted within the window")


def _ends(samples: Samples, at: datetime) -> tuple[datetime, datetime]:
    times = [datetime.fromtimestamp(time, UTC) for time, _ in samples.values()]
    return min(times, default=at), at


async def _bounds(
    connection: AsyncConnection, counter: _Counter, grown: _Growth, settle: timedelta
) -> tuple[Sums, Sums]:
    """The smallest and the largest increase that the records allow."""
    surely = grown.since[1] + settle, grown.until[0] - settle
    perhaps = grown.since[0] - settle, grown.until[1] + settle
    label = label_of(_WORKFLOW) if counter.is_exact else executions.c.workflow_name
    if counter.column == "executions":
        return await _executions(connection, label, *surely), await _executions(connection, label, *perhaps)
    c = executions.c
    within = and_(c.queued_at >= surely[0], c.completed_at <= surely[1])
    touching = and_(c.queued_at <= perhaps[1], or_(c.completed_at >= perhaps[0], c.completed_at.is_(None)))
    return await _cost(connection, label, surely[0], within), await _cost(connection, label, perhaps[0], touching)


_WORKFLOW = WorkflowColumns.of(executions, source="workflow_source")


async def _executions(connection: AsyncConnection, label: ColumnElement[str], since: datetime, until: datetime) -> Sums:
    c = executions.c
    statement = (
        select(label.label("label"), c.status, func.count())
        .where(c.id >= first_id(since - DAY), c.completed_at >= since, c.completed_at <= until)
        .group_by(text("1"), text("2"))
    )
    return {(name, status): count for name, status, count in await connection.execute(statement)}


async def _cost(
    connection: AsyncConnection, label: ColumnElement[str], since: datetime, condition: ColumnElement[bool]
) -> Sums:
    """The cost of executions that meet the condition; they were accepted at most a day before `since`."""
    c = executions.c
    statement = (
        select(label.label("label"), cast(func.coalesce(func.sum(spans.c.cost_nano_usd), 0), BigInteger))
        .select_from(spans.join(executions, c.id == spans.c.execution_id))
        .where(spans.c.kind == "model", c.id >= first_id(since - DAY), condition)
        .group_by(text("1"))
    )
    return {(name,): cost for name, cost in await connection.execute(statement)}


_CAUSE = "the counter and the records count different executions; a roll-up or a counter missed some"


def _differences(counter: _Counter, grown: Sums, least: Sums, most: Sums) -> list[Difference]:
    found: list[Difference] = []
    for group in sorted(grown.keys() | most.keys()):
        value, bounds = grown.get(group, 0), (least.get(group, 0), most.get(group, 0))
        if bounds[0] <= value <= bounds[1]:
            continue
        named = ",".join(f'{label}="{part}"' for label, part in zip(counter.labels, group, strict=True))
        nearest = bounds[0] if value < bounds[0] else bounds[1]
        subject = f"{counter.metric}{{{named}}}"
        found.append(Difference(Check.COUNTER, subject, counter.column, value, nearest, _CAUSE))
    return found
