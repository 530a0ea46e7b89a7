"""Prometheus reads the same numbers as everybody else."""

from datetime import UTC, datetime

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text
from sqlalchemy import insert

from engine.database.database import Database
from engine.store.tables import workflow_templates
from telemetry.metrics.span_metrics import OTHER, LabelCap, Metrics
from telemetry.pipeline.pipeline import Pipeline
from telemetry.records.consumer import Records
from telemetry.signals.records import Batch
from telemetry.store.tables import reconcile_runs
from tests.telemetry.bookkeeper import Bookkeeper, Listener

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
Samples = dict[str, float]


async def scrape(metrics: Metrics, accept: str = OPEN_METRICS) -> Samples:
    """Every sample by its name and labels that are not empty."""
    content_type, text = await metrics.exposition(accept)
    parse = open_metrics if content_type.startswith("application/openmetrics-text") else plain_text
    return {
        sample.name + str(sorted((key, value) for key, value in sample.labels.items() if value)): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }


def only(samples: Samples, start: str) -> list[float]:
    """The values of the samples whose name begins so."""
    return [value for name, value in samples.items() if name.startswith(start)]


def made(database: Database) -> Metrics:
    """Metrics with nothing counted yet."""
    return Metrics(database, Pipeline([Records()]).health)


async def register(database: Database, template_id: str = "t-1", key: str = "answer") -> None:
    """A stored template that nobody has run yet."""
    now = datetime.now(UTC)
    async with database.begin() as connection:
        await connection.execute(
            insert(workflow_templates).values(
                template_id=template_id,
                version=1,
                owner_id="",
                key=key,
                name=key,
                description="",
                category="chat",
                tags=[],
                parameters={},
                defaults={},
                graph={},
                required_tools=[],
                required_retrievers=[],
                content_hash="sha256:00",
                is_builtin=True,
                is_public=True,
                is_latest=True,
                created_at=now,
            )
        )


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
    unpriced = "spanloom_unpriced_calls_total[('template', 'answer')]"
    assert (await scrape(made(database)))[unpriced] == 0
    listener = Listener()
    story = listener.begin()
    story.answer(None)
    story.answer()
    story.tracker.complete()
    async with database.begin() as connection:
        await Records().apply(connection, Batch.of(listener.signals()))
    samples = await scrape(made(database))
    assert samples["spanloom_unpriced_calls_total[('model', 'small'), ('template', 'answer')]"] == 1
    assert samples[unpriced] == 0


async def test_unfinished_executions_have_an_age_whoever_runs_them(keeper: Bookkeeper) -> None:
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


async def test_committed_spans_are_counted_with_exemplars(database: Database) -> None:
    listener = Listener()
    story = listener.begin()
    story.answer()
    story.answer(wasted=True)
    story.tracker.first_token()
    story.tracker.fail("timeout", "too late")
    metrics = made(database)
    metrics.feed(Batch.of(listener.signals()))

    samples = await scrape(metrics)
    _, text = await metrics.exposition(OPEN_METRICS)

    assert sum(only(samples, "traces_span_metrics_calls_total")) == 5
    assert sum(only(samples, "traces_span_metrics_duration_seconds_count")) == 5
    failed = [name for name in samples if name.startswith("traces_span_metrics_calls_total") and "'failed'" in name]
    assert len(failed) == 1
    assert "('error_type', 'timeout')" in failed[0]
    assert "('status_code', 'STATUS_CODE_ERROR')" in failed[0]
    assert sum(only(samples, "workflow_cost_usd_total")) == 2 * 140_000 / 1e9
    assert sum(v for n, v in samples.items() if n.startswith("gen_ai_client_token_usage_sum") and "'input'" in n) == 200
    assert only(samples, "workflow_time_to_first_token_seconds_count") == [1]
    assert f'trace_id="{story.tracker.trace_id}"' in text.decode()


async def test_plain_text_has_the_same_numbers(database: Database) -> None:
    await register(database)
    metrics = made(database)
    content_type, _ = await metrics.exposition("text/plain")
    assert content_type.startswith("text/plain")
    plain, opened = await scrape(metrics, "text/plain"), await scrape(metrics)
    assert {name: value for name, value in opened.items() if "_created" not in name} == {
        name: value for name, value in plain.items() if "_created" not in name
    }


async def test_labels_are_a_closed_set(database: Database) -> None:
    metrics = made(database)
    for number in range(300):
        listener = Listener()
        listener.begin(workflow_name=f"w{number}", source="definition").tracker.complete()
        metrics.feed(Batch.of(listener.signals()))
    samples = await scrape(metrics)
    counted = {name: v for name, v in samples.items() if name.startswith("traces_span_metrics_calls_total")}
    assert len(counted) == 201
    assert [v for name, v in counted.items() if f"'{OTHER}'" in name] == [100]


def test_a_known_label_value_stays_known() -> None:
    cap = LabelCap(limit=1)
    assert [cap("a"), cap("b"), cap("a")] == ["a", OTHER, "a"]
