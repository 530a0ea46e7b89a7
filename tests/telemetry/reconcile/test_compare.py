"""The books are compared, and every kind of drift is named with the id it is about."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from sqlalchemy import Delete, Update, delete, func, select, update

from engine.database.database import Database
from engine.result import Status
from telemetry.reconcile.compare import compare_books
from telemetry.reconcile.findings import Check, Difference, ReconcileReport
from telemetry.reconcile.job import ReconcileJob, list_runs, reconcile
from telemetry.reconcile.prometheus import Prometheus, compare_counters
from telemetry.reconcile.window import Window
from telemetry.records.consumer import Records
from telemetry.signals.records import Batch
from telemetry.store.tables import execution_rollups, execution_rollups_daily, executions, reconcile_runs, spans
from tests.telemetry.bookkeeper import Listener, an_id, decide

PRICE = 140_000
NOON = datetime(2026, 5, 10, 12, 30, tzinfo=UTC)
DAY = Window(NOON.replace(hour=0, minute=0), NOON.replace(day=11, hour=0, minute=0))
_NUMBERS: Iterator[int] = itertools.count()


async def book(database: Database, at: datetime = NOON, status: Status = Status.COMPLETED, **changes: object) -> str:
    """An execution with a priced, a wasted and an unpriced call; gives its id."""
    listener = Listener()
    story = listener.begin(execution_id=an_id(at, next(_NUMBERS)), **changes)
    story.answer()
    story.answer(wasted=True)
    story.answer(None)
    story.tool()
    if status is Status.FAILED:
        story.tracker.fail("timeout", "too slow", None)
    else:
        story.tracker.complete()
    async with database.begin() as connection:
        await Records().apply(connection, Batch.of(listener.signals()))
    await decide(database)
    return story.identity.execution_id


async def compare(database: Database, window: Window = DAY) -> ReconcileReport:
    """The report without counters."""
    return await compare_books(database, window)


async def plant(database: Database, statement: Update | Delete) -> None:
    """Change the books directly in the database."""
    async with database.begin() as connection:
        await connection.execute(statement)


def named(report: ReconcileReport, check: Check) -> dict[str, Difference]:
    """The differences of one kind, by column."""
    return {difference.column: difference for difference in report.differences if difference.check is check}


async def test_unchanged_books_agree(database: Database) -> None:
    for hours in (0, 1, 11):
        await book(database, NOON + timedelta(hours=hours))
    await book(database, NOON, Status.FAILED, owner="other", template_id=None, template_version=None)
    await book(database, NOON + timedelta(days=1))
    report = await compare(database)
    assert (report.differences, report.drift_nano_usd, report.executions) == ([], 0, 4)
    assert report.rollup_rows == 4 * 2 + 2 * 2


async def test_a_changed_cost_in_a_span_row_is_named_with_its_execution(database: Database) -> None:
    id_ = await book(database)
    await book(database)
    call = select(func.min(spans.c.span_id)).where(spans.c.execution_id == id_, spans.c.waste.is_not(None))
    changed = update(spans).where(spans.c.execution_id == id_, spans.c.span_id == call.scalar_subquery())
    await plant(database, changed.values(cost_nano_usd=PRICE + 1))

    report = await compare(database)
    record = named(report, Check.RECORD)
    assert set(record) == {"cost_nano_usd", "waste_nano_usd"}
    cost = record["cost_nano_usd"]
    assert (cost.subject, cost.found, cost.expected) == (id_, 2 * PRICE, 2 * PRICE + 1)
    [changed_span] = [one for one in report.differences if one.check is Check.SPAN]
    assert (changed_span.subject, changed_span.column) == (id_, "cost_nano_usd")
    assert (changed_span.found, changed_span.expected) == (PRICE + 1, PRICE)
    rollup = named(report, Check.ROLLUP)["cost_nano_usd"]
    assert (rollup.found, rollup.expected) == (4 * PRICE, 4 * PRICE + 1)
    assert "2026-05-10T12Z" in rollup.subject
    assert "workflow_name=answer" in rollup.subject
    assert report.drift_nano_usd == 3
    assert str(cost).startswith(f"record {id_}: cost_nano_usd is 280000, expected 280001; span rows")


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("tool", {"spans_stored", "spans_expected", "seal", "tool_calls"}),
        (
            "model",
            {
                "spans_stored",
                "spans_expected",
                "seal",
                "model_calls",
                "unmetered_calls",
                "failed_calls",
                "cost_nano_usd",
                "waste_nano_usd",
                "input_tokens",
                "output_tokens",
                "cache_read_tokens",
                "reasoning_tokens",
            },
        ),
    ],
)
async def test_a_missing_span_is_named(database: Database, kind: str, columns: set[str]) -> None:
    id_ = await book(database)
    await plant(database, delete(spans).where(spans.c.execution_id == id_, spans.c.kind == kind))
    record = named(await compare(database), Check.RECORD)
    assert set(record) == columns
    assert {difference.subject for difference in record.values()} == {id_}


async def test_a_rollup_off_by_one_nano_dollar_is_named(database: Database) -> None:
    await book(database)
    c = execution_rollups.c
    await plant(database, update(execution_rollups).where(c.model == "small").values(cost_nano_usd=c.cost_nano_usd - 1))
    report = await compare(database)
    hour, day = named(report, Check.ROLLUP), named(report, Check.DAILY_ROLLUP)
    assert (hour["cost_nano_usd"].found, hour["cost_nano_usd"].expected) == (2 * PRICE - 1, 2 * PRICE)
    assert (day["cost_nano_usd"].found, day["cost_nano_usd"].expected) == (2 * PRICE, 2 * PRICE - 1)
    assert "model=small" in hour["cost_nano_usd"].subject
    assert named(report, Check.RECORD) == {}


async def test_a_daily_rollup_that_lost_a_row_is_named(database: Database) -> None:
    await book(database)
    await plant(database, delete(execution_rollups_daily).where(execution_rollups_daily.c.model == ""))
    found = named(await compare(database), Check.DAILY_ROLLUP)
    assert "executions_completed" in found
    assert found["executions_completed"].found == 0


async def test_a_record_with_another_status_is_seen_by_the_rollup(database: Database) -> None:
    id_ = await book(database)
    await plant(database, update(executions).where(executions.c.id == id_).values(status="failed"))
    found = named(await compare(database), Check.ROLLUP)
    assert set(found) == {"executions_completed", "executions_failed", "last_success_at", "last_failure_at"}


async def test_rows_outside_the_window_are_not_compared(database: Database) -> None:
    id_ = await book(database, NOON - timedelta(days=1))
    await plant(database, delete(spans).where(spans.c.execution_id == id_))
    assert (await compare(database)).differences == []


async def test_an_execution_that_has_not_ended_is_no_drift(database: Database) -> None:
    listener = Listener()
    story = listener.begin(execution_id=an_id(NOON, next(_NUMBERS)))
    story.answer()
    async with database.begin() as connection:
        await Records().apply(connection, Batch.of(listener.signals()))
    await decide(database)
    report = await compare(database)
    assert (report.executions, report.unfinished, report.differences) == (0, 1, [])


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


async def test_the_hourly_run_is_made_once_by_one_process(database: Database) -> None:
    await book(database)
    clock = Clock(NOON + timedelta(hours=1))
    one, other = (ReconcileJob(database, None, clock=clock) for _ in range(2))
    report = await one.run_if_due()
    assert report is not None
    assert (report.since, report.until) == (NOON.replace(day=9, hour=13, minute=0), NOON.replace(hour=13, minute=0))
    assert await one.run_if_due() is None
    assert await other.run_if_due() is None
    clock.now += timedelta(minutes=39)
    assert await other.run_if_due() is None
    clock.now += timedelta(minutes=1)
    assert await other.run_if_due() is not None
    async with database.read() as connection:
        runs = await list_runs(connection)
    assert [run.scheduled_for.hour for run in runs] == [14, 13]
    assert (runs[1].report.executions, runs[1].differences) == (1, 0)


async def test_an_abandoned_run_is_taken_over_by_another_process(database: Database) -> None:
    clock = Clock(NOON)
    job = ReconcileJob(database, None, clock=clock)
    await job.run_if_due()
    await plant(database, update(reconcile_runs).values(finished_at=None))
    other = ReconcileJob(database, None, clock=clock)
    assert await other.run_if_due() is None
    clock.now += timedelta(minutes=16)
    assert await other.run_if_due() is not None


async def test_drift_stays_in_the_window_until_it_is_gone(database: Database) -> None:
    id_ = await book(database)
    await plant(database, update(executions).where(executions.c.id == id_).values(cost_nano_usd=1))
    clock = Clock(NOON + timedelta(hours=1))
    job = ReconcileJob(database, None, clock=clock)
    await job.run_if_due()
    clock.now += timedelta(days=3)
    report = await job.run_if_due()
    assert report is not None
    assert report.drift_nano_usd == 2 * PRICE - 1
    await plant(database, update(executions).where(executions.c.id == id_).values(cost_nano_usd=2 * PRICE))
    for expected in (timedelta(days=3, hours=25), timedelta(days=1)):
        clock.now += timedelta(hours=1)
        report = await job.run_if_due()
        assert report is not None
        assert (report.differences, report.until - report.since) == ([], expected)


async def test_hours_in_which_no_service_ran_are_compared_afterwards(database: Database) -> None:
    """Commands write books, too, and retention keeps what was not compared."""
    clock = Clock(NOON)
    job = ReconcileJob(database, None, clock=clock)
    await job.run_if_due()
    id_ = await book(database, NOON + timedelta(hours=5))
    await plant(database, update(executions).where(executions.c.id == id_).values(model_calls=9))
    clock.now += timedelta(days=3)
    report = await job.run_if_due()
    assert report is not None
    assert [difference.subject for difference in report.differences] == [id_]
    clock.now += timedelta(days=40)
    report = await ReconcileJob(database, None, clock=clock).run_if_due()
    assert report is not None
    assert report.until - report.since == timedelta(days=31), "but not for ever"


async def test_the_first_comparison_covers_what_commands_have_booked_for_weeks(database: Database) -> None:
    id_ = await book(database, NOON - timedelta(days=20))
    await book(database, NOON - timedelta(days=50))
    await plant(database, update(executions).where(executions.c.id == id_).values(model_calls=9))
    report = await ReconcileJob(database, None, clock=Clock(NOON)).run_if_due()
    assert report is not None
    assert [difference.subject for difference in report.differences] == [id_]
    assert timedelta(days=19) < report.until - report.since < timedelta(days=21)


async def test_a_clock_that_was_ahead_for_a_while_hides_no_drift(database: Database) -> None:
    await ReconcileJob(database, None, clock=Clock(NOON + timedelta(days=365))).run_if_due()
    id_ = await book(database)
    await plant(database, update(executions).where(executions.c.id == id_).values(model_calls=9))
    for days in (1, 4):
        clock = Clock(NOON + timedelta(days=days))
        report = await ReconcileJob(database, None, clock=clock).run_if_due()
        assert report is not None
        assert [difference.subject for difference in report.differences] == [id_]


async def test_a_stored_report_lists_the_differences(database: Database) -> None:
    id_ = await book(database)
    await plant(database, update(executions).where(executions.c.id == id_).values(model_calls=9))
    await ReconcileJob(database, None, clock=Clock(NOON + timedelta(hours=1))).run_if_due()
    async with database.read() as connection:
        [run] = await list_runs(connection)
    cause = "the record was changed after it was stored"
    assert list(run.report.differences) == [Difference(Check.RECORD, id_, "model_calls", 9, 3, cause)]
    assert run.report.counters[0].note == "SPANLOOM_PROMETHEUS_URL is not set"


Series = dict[str, tuple[float | None, float]]
"""Labels to the value at the beginning and at the end of the window; null: not there yet."""

SINCE, UNTIL = NOON - timedelta(minutes=10), NOON + timedelta(minutes=20)
LABELS = {
    "spanloom_executions_total": 'template="answer",status="completed"',
    "spanloom_cost_nano_usd_total": 'template="answer",model="small"',
    "traces_span_metrics_calls_total": 'workflow_name="answer",workflow_execution_status="completed",instance="a"',
    "workflow_cost_usd_total": 'workflow_name="answer",instance="a"',
}


def recorded(**changed: tuple[float | None, float]) -> Series:
    """Counters that one execution of `book` moved."""
    right: Series = {
        "spanloom_executions_total": (4, 5),
        "spanloom_cost_nano_usd_total": (7 * PRICE, 9 * PRICE),
        "traces_span_metrics_calls_total": (None, 1),
        "workflow_cost_usd_total": (None, 2 * PRICE / 1e9),
    }
    return right | changed


def prometheus(values: Series, *, has: str = "", processes: int = 1) -> Prometheus:
    """A Prometheus with these samples from so many processes; queries that begin with `has` give something."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        query, time = request.url.params["query"], float(request.url.params["time"])
        metric = query.partition("{")[0].partition("[")[0]
        result: list[object] = []
        if metric in values:
            value = values[metric][0 if time <= SINCE.timestamp() else 1]
            labels = dict(part.replace('"', "").split("=") for part in LABELS[metric].split(","))
            if value is not None:
                result = [
                    {"metric": labels | {"pod": str(number)}, "values": [[time - 1, str(value)]]}
                    for number in range(processes)
                ]
        elif has and query.startswith(has):
            result = [{"metric": {}, "value": [time, "1"]}]
        return httpx2.Response(200, json={"status": "success", "data": {"resultType": "matrix", "result": result}})

    return Prometheus(httpx2.AsyncClient(transport=httpx2.MockTransport(answer)), "http://prometheus")


async def counted(database: Database, asked: Prometheus) -> tuple[list[str], list[str]]:
    """Why counters were not compared, and what differs."""
    async with database.read() as connection:
        found = await compare_counters(connection, asked, SINCE, UNTIL)
    notes = [f"{outcome.metric}: {outcome.note}" for outcome in found.outcomes if not outcome.is_compared]
    return notes, [str(difference) for difference in found.differences]


@pytest.fixture
async def booked(database: Database) -> Database:
    """A database with one execution that ended at noon."""
    id_ = await book(database)
    times = {"queued_at": NOON, "started_at": NOON, "completed_at": NOON + timedelta(seconds=2)}
    await plant(database, update(executions).where(executions.c.id == id_).values(**times))
    return database


async def test_counters_that_grew_by_what_the_records_say_agree(booked: Database) -> None:
    assert await counted(booked, prometheus(recorded())) == ([], [])


async def test_exact_counters_count_once_and_counters_of_processes_add_up(booked: Database) -> None:
    halves = prometheus(
        recorded(traces_span_metrics_calls_total=(3, 3.5), workflow_cost_usd_total=(None, PRICE / 1e9)), processes=2
    )
    assert await counted(booked, halves) == ([], [])


@pytest.mark.parametrize(
    ("metric", "end", "sentence"),
    [
        ("spanloom_executions_total", 6, "executions is 2, expected 1"),
        ("spanloom_cost_nano_usd_total", 9 * PRICE - 1, "cost_nano_usd is 279999, expected 280000"),
        ("traces_span_metrics_calls_total", 2, "executions is 2, expected 1"),
        ("workflow_cost_usd_total", (2 * PRICE + 1) / 1e9, "cost_nano_usd is 280001, expected 280000"),
    ],
)
async def test_a_counter_that_is_off_by_one_is_named(booked: Database, metric: str, end: float, sentence: str) -> None:
    start = recorded()[metric][0]
    notes, [difference] = await counted(booked, prometheus(recorded(**{metric: (start, end)})))
    assert notes == []
    assert difference.startswith(f"counter {metric}{{")
    assert sentence in difference


async def test_a_counter_that_fell_is_not_compared(booked: Database) -> None:
    notes, differences = await counted(booked, prometheus(recorded(traces_span_metrics_calls_total=(9, 1))))
    assert notes == ["traces_span_metrics_calls_total: the counter was reset within the window"]
    assert differences == []


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("resets(traces_span", "the counter was reset within the window"),
        ("changes(process_start_time_seconds", "a was restarted within the window"),
        ('resets({__name__=~"otelcol', "the Collector was restarted within the window"),
    ],
)
async def test_a_restart_within_the_window_is_reported(booked: Database, query: str, reason: str) -> None:
    notes, differences = await counted(booked, prometheus(recorded(), has=query))
    assert f"traces_span_metrics_calls_total: {reason}" in notes
    assert not [note for note in notes if note.startswith("spanloom_")]
    assert differences == []


async def test_a_prometheus_without_samples_from_the_beginning_is_reported(booked: Database) -> None:
    notes, differences = await counted(booked, prometheus(recorded(spanloom_executions_total=(None, 5))))
    assert "spanloom_executions_total: Prometheus has no sample from the beginning of the window" in notes
    assert differences == []


async def test_an_execution_across_the_end_may_count_on_either_side(booked: Database) -> None:
    await plant(booked, update(executions).values(completed_at=UNTIL + timedelta(seconds=5)))
    before: Series = {metric: (start, start or 0) for metric, (start, _) in recorded().items()}
    assert await counted(booked, prometheus(before)) == ([], [])
    assert await counted(booked, prometheus(recorded())) == ([], [])


async def test_a_prometheus_that_does_not_answer_fails_nothing(booked: Database) -> None:
    report = await reconcile(booked, SINCE, UNTIL, prometheus_url="http://127.0.0.1:1")
    assert {outcome.note for outcome in report.counters} == {
        "Prometheus did not respond: ConnectError; check SPANLOOM_PROMETHEUS_URL"
    }
    assert named(report, Check.COUNTER) == {}
