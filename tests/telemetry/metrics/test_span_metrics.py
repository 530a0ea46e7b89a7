"""Committed spans are counted with exemplars, under a closed set of labels."""

from engine.database.database import Database
from telemetry.reads.workflow_labels import OTHER
from telemetry.signals.records import Batch
from tests.telemetry.bookkeeper import Listener
from tests.telemetry.scraping import OPEN_METRICS, made, only, scrape


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
