"""A sum never looks more exact than it is: calls cut off, without usage or without a price show everywhere."""

from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson
import pytest
from sqlalchemy import select, text

from api.cli.rendering.tables import DemoShare, cost_table, execution_details, executions_table
from api.cli.rendering.trace_tree import trace_view
from api.schemas import executions as documents
from engine.database import migrations
from engine.database.database import Database
from engine.errors import BudgetExceeded
from engine.graph import JsonObject, Limits
from engine.ledger import CallReservation, Checkpoint
from engine.resources import AS_USUAL, CostSource, ModelRequest, ModelSettings, Price, Served, Unpriced
from engine.runtime.budget import Budget
from engine.testing.models import PerTokenPrices, ScriptedModel
from engine.tracing import semconv
from engine.tracing import tracker as tracker_module
from engine.tracing.attributes import Attributes, sums
from engine.tracing.semconv import Waste
from engine.tracing.tracker import Tracing, WorkflowTracker
from engine.usage import Carried, Totals, Unfinished, Usage
from telemetry.metrics.exposition import Metrics
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reads.cost import CostReport, cost
from telemetry.reads.cost_query import CostFilter
from telemetry.reads.executions import ExecutionRecord, get_execution
from telemetry.reads.traces import get_trace
from telemetry.reconcile.audit import check_books, find_differences
from telemetry.reconcile.compare import compare_books
from telemetry.reconcile.findings import Check, Difference
from telemetry.reconcile.window import Window
from telemetry.records.consumer import Records
from telemetry.records.rollups import accepted_at, rebuild
from telemetry.recovery.sweeper import Sweeper
from telemetry.signals.records import Batch, EventRecord
from telemetry.store.tables import execution_rollups, execution_rollups_daily
from telemetry.webhooks.payloads import TYPES, body_of
from tests.api.cli.rendering.samples import drawn
from tests.leases import end_leases
from tests.telemetry.bookkeeper import REQUEST, Bookkeeper, Story, bookkeeper, identity
from tests.telemetry.scraping import scrape

PRICE = 140_000
CUT_OFF = 5_000_000
"""The most that a call in flight may cost."""

SMALL = ModelRequest(system="", messages=[], settings=ModelSettings(max_tokens=150))
"""Costs at most $0.001."""


class OwnIsUnpriced(PerTokenPrices):
    """A catalogue without a price for the model `own`."""

    def price(self, provider: str, model: str, usage: Usage | None, at: datetime, served: Served = AS_USUAL) -> Price:
        if model == "own":
            return Price(None, CostSource.NONE, reason=Unpriced.MODEL)
        return super().price(provider, model, usage, at, served)


@dataclass(slots=True)
class Crashes:
    """A process that dies while models answer, and another one that closes its books."""

    keeper: Bookkeeper
    sweeper: Sweeper
    committed: list[Batch]

    async def crash(self, upper: int | None = CUT_OFF, *, calls: int = 1) -> Story:
        """An execution with one paid call that dies during others."""
        story = self.keeper.begin()
        await self.keeper.journal.accept(replace(story.acceptance(), on_lost="fail"))
        story.answer()
        for number in range(calls):
            reservation = CallReservation(f"{number + 1:016x}", "scripted", "small", 1_000, upper)
            await self.keeper.journal.checkpoint(Checkpoint(story.identity.execution_id, 1, begins=reservation))
        await end_leases(self.keeper.database)
        await self.sweeper.sweep()
        return story

    async def fail(self) -> Story:
        """An execution with a paid, an unpriced, a broken, a refused, a cancelled and a mute call."""
        story = self.keeper.begin()
        story.tracker.prices = OwnIsUnpriced()
        await self.keeper.journal.accept(story.acceptance())
        story.answer()
        story.answer(model="own")
        story.answer(None)
        node = story.node("model")
        for error in ("provider_error", "rate_limited"):
            call = node.model_call(_model(), REQUEST)
            call.fail(error, "no", Waste.RETRIED)
        node.model_call(_model(), REQUEST).cancel()
        node.complete(label=None, edges=None, degraded=False)
        story.tracker.complete()
        assert await self.keeper.journal.finish(story.finish())
        return story

    async def report(self, *by: str) -> CostReport:
        """The cost as it is read."""
        async with self.keeper.database.read() as connection:
            return await cost(connection, CostFilter(), by)

    async def record(self, story: Story) -> ExecutionRecord:
        """What is stored of an execution."""
        async with self.keeper.database.read() as connection:
            found = await get_execution(connection, story.identity.execution_id, None)
        assert found is not None
        return found

    def closing(self) -> list[EventRecord]:
        """The closing events that the sweeper said."""
        return [event for batch in self.committed for event in batch.events if event.name in TYPES]


def _model() -> ScriptedModel:
    return ScriptedModel([], model="small")


@pytest.fixture
async def crashes(migrated_url: str) -> AsyncIterator[Crashes]:
    """Books on both databases."""
    committed: list[Batch] = []
    async with Database(migrated_url) as database, bookkeeper(database, flush_seconds=60) as keeper:
        yield Crashes(keeper, Sweeper(database, Pipeline([Records()], after_commit=committed.append)), committed)


async def test_the_unknown_of_a_crash_stands_in_every_sum(crashes: Crashes) -> None:
    for _ in range(2):
        await crashes.crash()
    most = 2 * (PRICE + CUT_OFF)
    for by in ((), ("template",), ("day",), ("model",), ("provider", "owner")):
        total = (await crashes.report(*by)).total
        assert (total.cost_nano_usd, total.unfinished_calls, total.cost_upper_nano_usd) == (2 * PRICE, 2, most), by
    answer = documents.cost(await crashes.report("template"))
    for shown in (answer.rows[0], answer.total):
        assert (shown.unfinished_calls, shown.cost_upper_nano_usd) == (2, most)
    samples = await scrape(Metrics(crashes.keeper.database, Pipeline([Records()]).health))
    assert samples["spanloom_unfinished_calls_total[('bounded', 'true'), ('template', 'answer')]"] == 2
    assert samples["spanloom_cost_upper_nano_usd_total[('template', 'answer')]"] == most
    for event in crashes.closing():
        data = orjson.loads(body_of(event, lambda _: None))["data"]
        assert (data["unfinished_calls"], data["cost_upper_nano_usd"]) == (1, PRICE + CUT_OFF)
    async with crashes.keeper.database.read() as connection:
        view = (await connection.execute(text("SELECT * FROM template_analytics"))).mappings().one()
    assert (view["unfinished_calls"], view["total_cost_upper_nano_usd"]) == (2, most)


async def test_the_unknown_of_a_crash_is_marked_wherever_a_person_reads_a_sum(crashes: Crashes) -> None:
    story = await crashes.crash()
    record = await crashes.record(story)
    async with crashes.keeper.database.read() as connection:
        trace = await get_trace(connection, record.id, None)
    assert trace is not None
    shown = {
        "list": executions_table([record], width=120),
        "show": execution_details(record, None),
        "trace": trace_view(trace, record, width=100),
        **{
            f"cost by {by}": cost_table(await crashes.report(by), DemoShare(0, frozenset()))
            for by in ("template", "model", "day")
        },
    }
    for place, view in shown.items():
        lines = drawn(view, width=120)
        assert any("$0.00014" in line and "*" in line for line in lines), (place, lines)
        assert any("not the whole cost" in line for line in lines), (place, lines)
        if place != "list":
            assert any("at most $0.00514" in line for line in lines), (place, lines)


async def test_an_exact_sum_is_not_marked(crashes: Crashes) -> None:
    await crashes.keeper.completed()
    lines = drawn(cost_table(await crashes.report("template"), DemoShare(0, frozenset())))
    assert "*" not in "".join(lines)
    total = (await crashes.report()).total
    assert (total.unfinished_calls, total.cost_upper_nano_usd) == (0, total.cost_nano_usd)


async def test_a_crash_during_a_call_without_a_known_price_leaves_every_upper_limit_unknown(crashes: Crashes) -> None:
    await crashes.crash()
    await crashes.crash(None, calls=2)
    total = (await crashes.report("template")).total
    assert (total.unfinished_calls, total.unbounded_calls, total.cost_upper_nano_usd) == (3, 2, None)
    samples = await scrape(Metrics(crashes.keeper.database, Pipeline([Records()]).health))
    assert samples["spanloom_unfinished_calls_total[('bounded', 'false'), ('template', 'answer')]"] == 2
    lines = drawn(cost_table(await crashes.report("template"), DemoShare(0, frozenset())))
    assert lines[-1] == "* not the whole cost: 3 calls cut off by a crash (limit unknown)."


async def test_failed_calls_and_calls_without_usage_are_not_taken_for_models_without_a_price(crashes: Crashes) -> None:
    story = await crashes.fail()
    record, total = await crashes.record(story), (await crashes.report("template")).total
    for found in (record, total):
        assert (found.model_calls, found.unpriced_calls, found.unmetered_calls, found.failed_calls) == (6, 1, 3, 2)
        assert found.cost_nano_usd == PRICE
    by_model = {row.group: row.sums for row in (await crashes.report("model")).rows}
    assert (by_model["own",].unpriced_calls, by_model["own",].failed_calls) == (1, 0)
    assert (by_model["small",].unpriced_calls, by_model["small",].failed_calls) == (0, 2)
    samples = await scrape(Metrics(crashes.keeper.database, Pipeline([Records()]).health))
    of_small = "_calls_total[('model', 'small'), ('template', 'answer')]"
    counted = [samples[f"spanloom_{kind}{of_small}"] for kind in ("unpriced", "unmetered", "failed")]
    assert counted == [0, 3, 2]
    lines = drawn(cost_table(await crashes.report("template"), DemoShare(0, frozenset())), width=120)
    assert lines[-1] == "* not the whole cost: 1 call without a price, 3 calls without usage."


def test_a_budget_counts_the_most_that_a_crash_has_cut_off() -> None:
    for limits in (Limits(budget_tokens=1_000), Limits(budget_nano_usd=1_000_000)):
        for unfinished, is_over in ((Unfinished(), False), (Unfinished(1, 900_000, 900), True)):
            tracker = WorkflowTracker(Tracing.over(None, None), PerTokenPrices(), Carried(unfinished=unfinished))
            tracker.start(identity())
            budget = Budget(limits, PerTokenPrices(), tracker)
            with pytest.raises(BudgetExceeded) if is_over else nullcontext():
                budget.reserve(_model(), SMALL)


async def test_rebuilt_rollups_hold_the_unknown_too(crashes: Crashes) -> None:
    await crashes.crash()
    await crashes.crash(None)
    await crashes.fail()
    before = await _rollups(crashes.keeper.database)
    assert await check_books(crashes.keeper.database) == []
    async with crashes.keeper.database.begin() as connection:
        await rebuild(connection)
    assert await _rollups(crashes.keeper.database) == before


async def test_a_clerk_who_hides_the_unknown_is_found(crashes: Crashes, books_left_open: None) -> None:
    story = await crashes.crash()
    at = accepted_at(story.identity.execution_id)
    assert (await compare_books(crashes.keeper.database, Window.around(at, at))).differences == []
    async with crashes.keeper.database.begin() as connection:
        await connection.execute(text("UPDATE execution_rollups SET unfinished_calls = 0, cost_upper_nano_usd = 1"))
    found = (await compare_books(crashes.keeper.database, Window.around(at, at))).differences
    assert {each.column for each in found} == {"unfinished_calls", "cost_upper_nano_usd"}


async def test_books_of_an_older_schema_say_what_was_unknown(
    crashes: Crashes, migrated_url: str, books_left_open: None
) -> None:
    await crashes.crash()
    await crashes.crash(None)
    await crashes.fail()
    database = crashes.keeper.database
    before = await _rollups(database)
    await migrations.downgrade(migrated_url, "0014")
    await migrations.upgrade(migrated_url)
    assert await _rollups(database) == before
    assert await _differences(database) == []


async def test_what_an_older_program_told_is_no_difference(
    crashes: Crashes, migrated_url: str, monkeypatch: pytest.MonkeyPatch, books_left_open: None
) -> None:
    database = crashes.keeper.database
    monkeypatch.setattr(tracker_module, "sums", told_by_an_older_program)
    story = await crashes.fail()
    await migrations.downgrade(migrated_url, "0014")
    await migrations.upgrade(migrated_url)
    record = await crashes.record(story)
    assert (record.unpriced_calls, record.unmetered_calls, record.failed_calls) == (1, 3, 2)
    assert await _differences(database) == []


async def _differences(database: Database) -> Sequence[Difference]:
    """Without those of span rows: a downgrade drops columns of later versions from them."""
    return [each for each in await find_differences(database) if each.check is not Check.SPAN]


def told_by_an_older_program(totals: Totals, *more: Any) -> Attributes:
    """The sums of a program that took every call of unknown cost for one without a price."""
    told = sums(totals, *more)
    told[semconv.UNPRICED_CALLS] = totals.unpriced_calls + totals.unmetered_calls
    return {key: value for key, value in told.items() if key not in (semconv.UNMETERED_CALLS, semconv.FAILED_CALLS)}


async def _rollups(database: Database) -> Sequence[JsonObject]:
    async with database.read() as connection:
        found = [
            dict(row)
            for table in (execution_rollups, execution_rollups_daily)
            for row in (await connection.execute(select(table))).mappings()
        ]
    return sorted(found, key=str)
