"""Cost per group is read from the roll-ups and equals the sum of the records."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from engine.database.database import Database
from engine.result import ErrorClass
from telemetry.reads import cost as cost_module
from telemetry.reads.cost import CostReport, Sums, cost
from telemetry.reads.cost_query import CostFilter
from telemetry.reads.workflow_labels import OTHER
from telemetry.records.consumer import Records
from telemetry.signals.records import Batch
from tests.telemetry.bookkeeper import Listener, an_id

PRICE = 140_000
NOON = datetime(2026, 5, 10, 12, 30, tzinfo=UTC)

_NUMBERS = itertools.count()


async def book(database: Database, *times: datetime, **changes: object) -> None:
    """One completed execution with one call at each of these times."""
    listener = Listener()
    for at in times:
        story = listener.begin(execution_id=an_id(at, next(_NUMBERS)), **changes)
        story.answer()
        story.tracker.complete()
    async with database.begin() as connection:
        await Records().apply(connection, Batch.of(listener.signals()))


async def report(database: Database, *group_by: str, **wanted: object) -> CostReport:
    """The cost as it is read."""
    async with database.read() as connection:
        return await cost(connection, CostFilter(**wanted), group_by)  # type: ignore[arg-type]  # named by the callers


async def test_the_total_is_the_sum_of_all_executions(database: Database) -> None:
    await book(database, NOON, NOON + timedelta(days=40))
    total = (await report(database)).total
    assert (total.executions, total.executions_completed, total.model_calls) == (2, 2, 2)
    assert (total.cost_nano_usd, total.input_tokens, total.output_tokens) == (2 * PRICE, 200, 40)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (NOON.replace(minute=0), NOON.replace(hour=13, minute=0), 1),
        (NOON.replace(hour=13, minute=0), NOON.replace(hour=14, minute=0), 0),
        (NOON - timedelta(days=1), NOON + timedelta(days=3, hours=1), 4),
        (NOON.replace(hour=0, minute=0), NOON.replace(hour=0, minute=0) + timedelta(days=1), 1),
        (NOON + timedelta(hours=6), NOON + timedelta(days=2, hours=6), 2),
        (NOON + timedelta(hours=6), NOON + timedelta(hours=14), 0),
        (NOON, NOON, 1),
    ],
)
async def test_days_and_hours_add_up_at_every_edge(
    database: Database, since: datetime, until: datetime, expected: int
) -> None:
    await book(database, *(NOON + timedelta(days=day) for day in range(4)))
    for dimensions in ((), ("day",), ("template", "model")):
        found = await report(database, *dimensions, since=since, until=until)
        assert found.total.executions == expected
        assert found.total.priced_nano_usd == expected * PRICE


async def test_failures_that_the_caller_caused_are_counted_apart_and_left_out_of_the_rate(database: Database) -> None:
    await book(database, NOON, NOON + timedelta(days=40))
    listener = Listener()
    for error_class in (ErrorClass.CALLER, ErrorClass.CALLER, ErrorClass.PROVIDER):
        story = listener.begin(execution_id=an_id(NOON, next(_NUMBERS)))
        story.tracker.fail("broken", "It does not work.", error_class=error_class)
    async with database.begin() as connection:
        await Records().apply(connection, Batch.of(listener.signals()))
    total = (await report(database)).total
    assert (total.executions, total.executions_completed, total.executions_failed) == (5, 2, 3)
    assert (total.failed_by_caller, total.failure_rate) == (2, 1 / 3)


def test_the_failure_rate_is_unknown_where_only_callers_failed() -> None:
    assert Sums(executions=2, executions_failed=2, failed_by_caller=2).failure_rate is None
    assert Sums(executions=1, executions_cancelled=1).failure_rate is None


async def test_cost_is_grouped_by_day(database: Database) -> None:
    days = [NOON + timedelta(days=day) for day in range(3)]
    await book(database, *days)
    since, until = days[0] - timedelta(hours=1), days[2] + timedelta(hours=1)
    rows = (await report(database, "day", since=since, until=until)).rows
    assert sorted(row.group for row in rows) == [(day.replace(hour=0, minute=0),) for day in days]
    assert [row.sums.cost_nano_usd for row in rows] == [PRICE] * 3


async def test_cost_is_grouped_and_filtered_by_what_ran(database: Database) -> None:
    await book(database, NOON)
    await book(database, NOON, workflow_name="slug", source="definition", template_id=None, template_version=None)
    await book(database, NOON, owner="other")

    by_template = (await report(database, "template", owner="default")).rows
    assert {row.group: row.sums.executions for row in by_template} == {("slug",): 1, ("answer",): 1}
    by_model = (await report(database, "provider", "model")).rows
    assert {row.group: row.sums.model_calls for row in by_model} == {("scripted", "small"): 3, (None, None): 0}
    assert (await report(database, template="t-1", owner="other")).total.executions == 1
    assert (await report(database, source="definition")).total.priced_nano_usd == PRICE
    assert (await report(database, workflow="slug", model="small")).total.model_calls == 1
    assert (await report(database, model="large")).total == Sums()


async def test_groups_beyond_the_limit_are_one_row_and_the_total_holds_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_module, "MAX_GROUPS", 2)
    await book(database, NOON, NOON, NOON + timedelta(days=1), NOON + timedelta(days=2))
    found = await report(database, "day")
    assert [(row.group[0], row.sums.executions) for row in found.rows] == [
        (NOON.replace(hour=0, minute=0), 2),
        (OTHER, 2),
    ]
    assert sum((row.sums for row in found.rows), Sums()) == found.total == (await report(database)).total


def test_cost_is_null_only_where_no_call_had_a_price() -> None:
    assert Sums().cost_nano_usd == 0
    assert Sums(model_calls=2, unpriced_calls=2).cost_nano_usd is None
    assert Sums(model_calls=2, unpriced_calls=1, priced_nano_usd=5).cost_nano_usd == 5
