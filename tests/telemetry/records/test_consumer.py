"""Records, spans and roll-ups come out the same whatever order signals arrive in, and they agree."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from engine.database.database import Database
from engine.store.tables import execution_control
from engine.tracing import semconv
from engine.tracing.semconv import Waste
from telemetry.reads.traces import get_trace
from telemetry.reconcile.audit import check_books
from telemetry.records.consumer import Records
from telemetry.records.rollups import rebuild
from telemetry.signals.records import Batch, Signal
from telemetry.store.score_tables import execution_scores
from telemetry.store.tables import execution_rollups, execution_rollups_daily, executions, spans
from tests.telemetry.bookkeeper import ANSWER, Listener, Story, an_id, decide

TABLES = (executions, spans, execution_rollups, execution_rollups_daily)
Rows = list[list[tuple[object, ...]]]


async def rows(database: Database) -> Rows:
    """Everything in the bookkeeper's tables, in the order of the keys."""
    async with database.read() as connection:
        return [
            [tuple(row) for row in await connection.execute(select(table).order_by(*table.primary_key))]
            for table in TABLES
        ]


async def store(database: Database, *batches: Sequence[Signal]) -> None:
    """One transaction per batch."""
    for batch in batches:
        async with database.begin() as connection:
            await Records().apply(connection, Batch.of(batch))


async def problems(database: Database) -> list[str]:
    """The differences in the books, but for decisions, which nobody made."""
    await decide(database)
    return await check_books(database)


async def clear(database: Database) -> None:
    """Forget everything."""
    async with database.begin() as connection:
        for table in (*TABLES, execution_control):
            await connection.execute(table.delete())


def told() -> list[Signal]:
    """Five executions of every outcome, as they were said."""
    listener = Listener()
    _completed(listener.begin())
    failed = listener.begin(owner="other", template_id=None, template_version=None, source="graph")
    failed.answer(wasted=True)
    failed.answer(None)
    failed.tracker.fail("provider_error", "it broke", "n2")
    cancelled = listener.begin()
    cancelled.cancelled_call()
    cancelled.tracker.cancel("the client left")
    _completed(listener.begin(record_level="summary"))
    _completed(listener.begin(record_level="nodes"))
    return listener.signals()


def _completed(story: Story) -> None:
    story.answer()
    story.tool()
    story.answer(model="large")
    story.tracker.complete()


async def test_the_record_of_a_queued_execution_has_the_ids_of_its_trace_and_no_spans(database: Database) -> None:
    listener = Listener()
    listener.queue()
    [queued] = listener.signals()
    await store(database, [queued])

    async with database.read() as connection:
        row = (await connection.execute(select(executions))).one()
        trace = await get_trace(connection, row.id, row.owner_id)
    assert (row.status, row.started_at) == ("queued", None)
    assert (row.trace_id, row.root_span_id) == (queued.trace_id, queued.span_id)
    assert None not in (row.trace_id, row.root_span_id)
    assert trace is not None
    assert (trace.attempts, trace.spans) == ([], [])


async def test_the_record_of_an_execution_holds_the_figures_of_its_events_and_calls(database: Database) -> None:
    listener = Listener()
    story = listener.begin()
    story.answer()
    story.answer(wasted=True)
    story.answer(None)
    story.tracker.complete()
    await store(database, listener.signals())

    async with database.read() as connection:
        row = (await connection.execute(select(executions))).one()
    price = 100 * 1_000 + 20 * 2_000
    assert row.id == story.identity.execution_id
    assert (row.status, row.attempt, row.workflow_name, row.template_version) == ("completed", 1, "answer", 3)
    assert (row.input_tokens, row.output_tokens, row.cache_read_tokens, row.reasoning_tokens) == (200, 40, 60, 10)
    assert row.cache_write_tokens is None
    assert (row.cost_nano_usd, row.waste_nano_usd, row.model_calls) == (2 * price, price, 3)
    assert (row.unpriced_calls, row.unmetered_calls, row.failed_calls) == (0, 1, 1)
    assert (row.spans_expected, row.spans_stored) == (7, 7)
    assert (row.tags, row.params) == ({"team": "a"}, {"style": "short"})
    assert row.trace_id == story.tracker.trace_id
    assert story.tracker.root is not None
    assert row.root_span_id == story.tracker.root.span_id
    assert await problems(database) == []


async def test_calls_without_usage_cost_null_and_are_counted(database: Database) -> None:
    listener = Listener()
    story = listener.begin()
    story.answer(None)
    story.tracker.complete()
    await store(database, listener.signals())

    async with database.read() as connection:
        row = (await connection.execute(select(executions))).one()
    assert (row.cost_nano_usd, row.unmetered_calls, row.input_tokens) == (None, 1, None)


async def test_the_record_level_decides_which_spans_are_stored(database: Database) -> None:
    await store(database, told())

    async with database.read() as connection:
        kinds = {
            level: [
                (row.kind, row.attributes is not None)
                for row in await connection.execute(
                    select(spans)
                    .join(executions, executions.c.id == spans.c.execution_id)
                    .where(executions.c.record_level == level)
                    .order_by(spans.c.kind, spans.c.span_id)
                )
            ]
            for level in ("summary", "nodes")
        }
    assert kinds["summary"] == [("model", False), ("model", False), ("workflow", False)]
    assert {kind for kind, _ in kinds["nodes"]} == {"workflow", "node", "model", "tool", "retrieval"}
    assert not any(has_attributes for _, has_attributes in kinds["nodes"])
    assert await problems(database) == []


async def test_spans_that_arrive_before_any_event_of_their_execution_are_stored(database: Database) -> None:
    signals = told()
    await store(database, [s for s in signals if s.identity.attempt == 1])
    expected = await rows(database)
    await clear(database)

    events_last = [*[s for s in signals if not hasattr(s, "seq")], *[s for s in signals if hasattr(s, "seq")]]
    await store(database, *([signal] for signal in events_last))

    assert await rows(database) == expected


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), size=st.integers(1, 40))
async def test_permuted_and_repeated_signals_give_the_same_rows(database: Database, seed: int, size: int) -> None:
    signals = told()
    await clear(database)
    await store(database, signals)
    expected = await rows(database)
    await clear(database)

    order = random.Random(seed)
    repeated = [signal for signal in signals for _ in range(order.randint(1, 4))]
    order.shuffle(repeated)
    await store(database, *(repeated[start : start + size] for start in range(0, len(repeated), size)))

    assert await rows(database) == expected
    assert await problems(database) == []


async def test_a_terminal_record_does_not_go_back(database: Database) -> None:
    signals = told()
    await store(database, signals)
    before = await rows(database)

    started = [signal for signal in signals if getattr(signal, "name", "") == semconv.Event.STARTED]
    await store(database, started)

    assert await rows(database) == before


async def test_a_later_attempt_does_not_reopen_an_ended_execution(database: Database) -> None:
    listener = Listener()
    _completed(listener.begin())
    signals = listener.signals()
    await store(database, signals)
    before = await rows(database)

    await store(database, [replace(signal, identity=replace(signal.identity, attempt=2)) for signal in signals[:2]])

    assert await rows(database) == before
    assert await problems(database) == []


async def test_late_events_of_an_older_attempt_change_nothing(database: Database) -> None:
    listener = Listener()
    listener.begin(correlation_id="first")
    (older,) = listener.signals()
    newer = replace(older, identity=replace(older.identity, attempt=2))
    await store(database, [newer])
    before = await rows(database)

    await store(database, [older])

    assert await rows(database) == before


async def test_the_hours_of_a_day_add_up_in_one_daily_row(database: Database) -> None:
    listener = Listener()
    midnight = datetime(2026, 5, 10, tzinfo=UTC)
    for number, hour in enumerate((0, 7, 23)):
        listener.begin(execution_id=an_id(midnight + timedelta(hours=hour, minutes=59), number)).tracker.complete()
    await store(database, listener.signals())

    async with database.read() as connection:
        hours = (await connection.execute(select(execution_rollups))).all()
        days = (await connection.execute(select(execution_rollups_daily))).all()
    assert [row.bucket_hour.hour for row in hours] == [0, 7, 23]
    assert [(row.bucket_day, row.executions_completed) for row in days] == [(midnight, 3)]


async def test_rebuilt_rollups_equal_the_incremental_ones(database: Database) -> None:
    for _ in range(3):
        await store(database, told())
    before = await rows(database)

    async with database.begin() as connection:
        await rebuild(connection)

    assert await rows(database) == before


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        (executions, {"cost_nano_usd": executions.c.cost_nano_usd + 1}, "cost_nano_usd"),
        (execution_rollups, {"input_tokens": execution_rollups.c.input_tokens + 1}, "input_tokens"),
        (spans, {"waste": Waste.FAILED}, "waste_nano_usd"),
        (execution_rollups_daily, {"executions_failed": 7}, "executions_failed"),
    ],
)
async def test_a_difference_in_the_books_is_reported(
    database: Database, table: object, change: dict[str, object], said: str
) -> None:
    await store(database, told())
    async with database.begin() as connection:
        await connection.execute(table.update().values(**change))  # type: ignore[attr-defined]  # one of our tables

    assert any(said in difference for difference in await problems(database))


async def test_tokens_of_cached_input_reach_the_rollup(database: Database) -> None:
    listener = Listener()
    story = listener.begin()
    story.answer(ANSWER)
    story.tracker.complete()
    await store(database, listener.signals())

    async with database.read() as connection:
        found = (await connection.execute(select(execution_rollups).where(execution_rollups.c.model == "small"))).one()
    assert (found.cache_read_tokens, found.model_calls, found.executions_completed) == (30, 1, 0)


async def test_the_views_show_the_stored_rows(database: Database) -> None:
    listener = Listener()
    for failing in (False, True):
        story = listener.begin()
        story.answer()
        story.tool()
        if failing:
            story.tracker.fail("timeout", "too late")
        else:
            story.tracker.complete()
    await store(database, listener.signals())

    async with database.begin() as connection:
        scores = [("e-1", "rating", 4, "human"), ("e-2", "rating", 5, "human"), ("e-1", "length", 1, "code")]
        for execution_id, name, value, source in scores:
            await connection.execute(
                execution_scores.insert().values(
                    execution_id=execution_id,
                    name=name,
                    source=source,
                    owner_id="a",
                    workflow_name="answer",
                    workflow_source="template",
                    template_id="t-1",
                    value=value,
                    scored_at=datetime.now(UTC),
                    event_id="",
                )
            )
        analytics = (await connection.execute(text("SELECT * FROM template_analytics"))).mappings().one()
        calls = (await connection.execute(text("SELECT model, cost_nano_usd FROM model_calls"))).all()
        nodes = (await connection.execute(text("SELECT node_type FROM node_runs ORDER BY node_type"))).scalars().all()
    assert analytics["template_id"] == "t-1"
    assert (analytics["total_executions"], analytics["successful_executions"], analytics["failed_executions"]) == (
        2,
        1,
        1,
    )
    assert (analytics["total_tokens"], analytics["total_cost_nano_usd"]) == (240, 280_000)
    assert (analytics["rating_average"], analytics["rating_count"]) == (4.5, 2)
    assert analytics["last_failure_at"] == analytics["last_used_at"]
    assert calls == [("small", 140_000)] * 2
    assert nodes == ["model", "model", "tools", "tools"]
