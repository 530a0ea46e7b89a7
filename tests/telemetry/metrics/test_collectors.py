"""Prometheus reads the numbers of the tables."""

from datetime import UTC, datetime
from importlib.metadata import version

import pytest
from sqlalchemy import insert

from engine.database.database import Database
from telemetry.metrics.exposition import Metrics
from telemetry.pipeline.pipeline import Pipeline
from telemetry.records.consumer import Records
from telemetry.store.tables import reconcile_runs
from tests.telemetry.bookkeeper import Bookkeeper
from tests.telemetry.scraping import OPEN_METRICS, made, scrape


@pytest.mark.parametrize("accept", ["text/plain", OPEN_METRICS])
async def test_the_address_for_links_is_a_label(database: Database, accept: str) -> None:
    metrics = Metrics(database, Pipeline([Records()]).health, "https://spanloom.example")
    labels = [("public_url", "https://spanloom.example"), ("version", version("spanloom"))]
    assert (await scrape(metrics, accept))[f"spanloom_service_info{labels}"] == 1


async def test_unfinished_executions_of_every_process_have_an_age(keeper: Bookkeeper) -> None:
    metrics = made(keeper.database)
    before = await scrape(metrics)
    assert before["spanloom_executions_oldest_seconds[('status', 'running')]"] == 0
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    during = await scrape(metrics)
    assert during["spanloom_executions_unfinished[('status', 'running')]"] == 1
    assert during["spanloom_executions_oldest_seconds[('status', 'running')]"] > 0
    story.tracker.complete()
    await keeper.journal.finish(story.finish())
    assert (await scrape(metrics))["spanloom_executions_unfinished[('status', 'running')]"] == 0


async def test_the_newest_comparison_of_the_books_is_shown(database: Database) -> None:
    metrics = made(database)
    before = await scrape(metrics)
    assert (before["spanloom_reconcile_differences[]"], before["spanloom_reconcile_drift_nano_usd[]"]) == (0, 0)
    assert "spanloom_reconcile_finished_timestamp_seconds[]" not in before
    at = datetime(2026, 5, 10, 12, tzinfo=UTC)
    runs: list[dict[str, object]] = [
        {"scheduled_for": at, "differences": 9, "drift_nano_usd": 9, "finished_at": at},
        {"scheduled_for": at.replace(hour=13), "differences": 2, "drift_nano_usd": 70, "finished_at": at},
        {"scheduled_for": at.replace(hour=14), "differences": None, "drift_nano_usd": None, "finished_at": None},
    ]
    async with database.begin() as connection:
        for run in runs:
            await connection.execute(insert(reconcile_runs).values(run | {"started_at": at, "since": at, "until": at}))
    samples = await scrape(metrics)
    assert (samples["spanloom_reconcile_differences[]"], samples["spanloom_reconcile_drift_nano_usd[]"]) == (2, 70)
    assert samples["spanloom_reconcile_finished_timestamp_seconds[]"] == at.timestamp()


async def test_unread_keys_of_usage_are_counted_under_few_labels(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    for number in range(300):
        story.unread(f"key_{number}", "hologram_tokens")
    story.tracker.complete()
    assert await keeper.journal.finish(story.finish())
    samples = await scrape(Metrics(keeper.database, keeper.journal.health))
    name = "spanloom_usage_keys_unread_total"
    counted = {key: value for key, value in samples.items() if key.startswith(name)}
    assert counted[f"{name}[('key', 'hologram_tokens'), ('provider', 'scripted')]"] == 300
    assert (len(counted), sum(counted.values())) == (201, 600)
