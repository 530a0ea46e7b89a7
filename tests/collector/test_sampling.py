"""Tail sampling, switched on by one line, thins the store and nothing else."""

import asyncio
import json
from pathlib import Path

import httpx2
import pytest
from uuid_utils.compat import uuid4

from engine.tracing import semconv
from tests.collector.observation import calls, scraped
from tests.collector.receiver import EVENTS, WEBHOOKS, Receiver
from tests.conftest import StartCollector
from tests.services.jaeger.server import Jaeger
from tests.telemetry.bookkeeper import Listener

pytestmark = [pytest.mark.collector, pytest.mark.jaeger]

UNREMARKABLE = 150
FAILED = 10


def tell(listener: Listener) -> tuple[set[str], set[str]]:
    """Executions that complete, then some that fail. Returns the trace ids of both."""
    traces: tuple[set[str], set[str]] = (set(), set())
    for number in range(UNREMARKABLE + FAILED):
        story = listener.begin()
        story.answer()
        failed = number >= UNREMARKABLE
        if failed:
            story.tracker.fail("auth", "the key is wrong")
        else:
            story.tracker.complete()
        assert story.tracker.trace_id
        traces[failed].add(story.tracker.trace_id)
    listener.telemetry.shutdown()
    return traces


async def test_ten_percent_of_the_traces_and_all_of_the_books(
    start_collector: StartCollector,
    receiver: Receiver,
    jaeger: Jaeger,
    sampled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sooner = tmp_path / "sooner.json"
    sooner.write_text(json.dumps({"processors": {"tail_sampling": {"decision_wait_after_root_received": "1s"}}}))
    collector = start_collector(
        sampled, sooner, OTELCOL_SAMPLE_PERCENT="10", JAEGER_OTLP_ENDPOINT=jaeger.otlp_http, **receiver.environment
    )
    service = f"sampled-{uuid4()}"
    for name, value in collector.sender_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTEL_SERVICE_NAME", service)
    listener = Listener()
    unremarkable, failed = await asyncio.to_thread(tell, listener)

    spans = listener.spans.get_finished_spans()
    assert await asyncio.to_thread(receiver.wait_for, lambda: receiver.has(len(spans), 2 * (UNREMARKABLE + FAILED)))
    assert len(receiver.spans) == len(spans)
    assert receiver.event_ids(EVENTS) == receiver.event_ids(WEBHOOKS) == _event_ids(listener)
    assert await scraped(collector, lambda text: calls(text) == len(spans))

    kept = await _kept(jaeger, service, failed)
    assert failed <= kept, "what failed is always kept"
    assert 0 < len(kept & unremarkable) < UNREMARKABLE / 3


def _event_ids(listener: Listener) -> list[str]:
    events = listener.journalled()
    return sorted(str((event.log_record.attributes or {})[semconv.EVENT_ID]) for event in events)


async def _kept(jaeger: Jaeger, service: str, last: set[str]) -> set[str]:
    """The traces in the store, once those that were decided about last are there."""
    async with httpx2.AsyncClient(trust_env=False) as client, asyncio.timeout(30):
        while True:
            answer = await client.get(f"{jaeger.query_url}/api/traces", params={"service": service, "limit": "1000"})
            kept = {trace["traceID"] for trace in answer.json().get("data") or []}
            if last <= kept:
                return kept
            await asyncio.sleep(0.1)
