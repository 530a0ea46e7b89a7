"""Counters of executions, cost and calls equal the roll-ups, and exist before anything ran."""

from engine.database.database import Database
from telemetry.records.consumer import Records
from telemetry.signals.records import Batch
from tests.telemetry.bookkeeper import Listener
from tests.telemetry.scraping import made, register, scrape


async def test_a_registered_template_has_its_counters_before_it_runs(database: Database) -> None:
    await register(database)
    samples = await scrape(made(database))
    for status in ("completed", "failed", "cancelled"):
        assert samples[f"spanloom_executions_total[('status', '{status}'), ('template', 'answer')]"] == 0
    assert samples["spanloom_dead_letters_total[('consumer', 'records')]"] == 0


async def test_the_exact_counters_equal_the_rollups(database: Database) -> None:
    await register(database)
    listener = Listener()
    for failing in (False, True, True):
        story = listener.begin()
        story.answer()
        if failing:
            story.tracker.fail("timeout", "too late")
        else:
            story.tracker.complete()
    async with database.begin() as connection:
        await Records().apply(connection, Batch.of(listener.signals()))

    samples = await scrape(made(database))

    assert samples["spanloom_executions_total[('status', 'failed'), ('template', 'answer')]"] == 2
    assert samples["spanloom_executions_total[('status', 'completed'), ('template', 'answer')]"] == 1
    assert samples["spanloom_cost_nano_usd_total[('model', 'small'), ('template', 'answer')]"] == 3 * 140_000
    assert samples["spanloom_tokens_total[('model', 'small'), ('template', 'answer'), ('type', 'input')]"] == 300


async def test_calls_of_unknown_cost_are_counted_from_zero(database: Database) -> None:
    await register(database)
    unmetered = "spanloom_unmetered_calls_total[('template', 'answer')]"
    assert (await scrape(made(database)))[unmetered] == 0
    listener = Listener()
    story = listener.begin()
    story.answer(None)
    story.answer()
    story.tracker.complete()
    async with database.begin() as connection:
        await Records().apply(connection, Batch.of(listener.signals()))
    samples = await scrape(made(database))
    assert samples["spanloom_unmetered_calls_total[('model', 'small'), ('template', 'answer')]"] == 1
    assert samples[unmetered] == 0


async def test_the_cost_of_unused_answers_is_counted_from_zero(database: Database) -> None:
    await register(database)
    assert (await scrape(made(database)))["spanloom_waste_nano_usd_total[('template', 'answer')]"] == 0
    listener = Listener()
    story = listener.begin()
    story.answer(wasted=True)
    story.answer()
    story.tracker.complete()
    async with database.begin() as connection:
        await Records().apply(connection, Batch.of(listener.signals()))
    samples = await scrape(made(database))
    assert samples["spanloom_waste_nano_usd_total[('model', 'small'), ('template', 'answer')]"] == 140_000
    assert samples["spanloom_cost_nano_usd_total[('model', 'small'), ('template', 'answer')]"] == 280_000
