"""What a Collector has taken it gives to the receiver, whatever happens to either."""

import asyncio
from urllib.parse import urlsplit

import pytest

from engine.tracing import semconv
from tests.collector.receiver import EVENTS, WEBHOOKS, Receiver, receiving
from tests.conftest import StartCollector
from tests.services.collector.server import Collector
from tests.services.jaeger.server import Jaeger
from tests.telemetry.bookkeeper import Listener

pytestmark = [pytest.mark.collector, pytest.mark.jaeger]

EXECUTIONS = 60


def tell(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, executions: int = EXECUTIONS
) -> tuple[list[str], list[str]]:
    """Executions told to the Collector, all acknowledged by it. Returns the ids of spans and events."""
    for name, value in collector.sender_environment.items():
        monkeypatch.setenv(name, value)
    listener = Listener()
    listener.complete(executions, tools=True)
    listener.telemetry.shutdown()
    spans = [f"{span.context.span_id:016x}" for span in listener.spans.get_finished_spans() if span.context]
    events = [event.log_record.attributes or {} for event in listener.journalled()]
    return sorted(spans), sorted(str(each[semconv.EVENT_ID]) for each in events)


async def test_a_killed_collector_loses_nothing_that_a_sick_receiver_refused(
    collector: Collector, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.status = 503
    spans, events = await asyncio.to_thread(tell, collector, monkeypatch)
    assert len(spans) >= 3 * EXECUTIONS
    assert await asyncio.to_thread(receiver.wait_for, lambda: len(receiver.paths) == 3), "all three queues tried"
    collector.kill()
    assert (receiver.spans, receiver.events) == ([], {EVENTS: [], WEBHOOKS: []})

    collector.start()
    receiver.status = 200
    assert await asyncio.to_thread(receiver.wait_for, lambda: receiver.has(len(spans), len(events)))
    assert receiver.span_ids() == spans
    assert receiver.event_ids(EVENTS) == events
    assert receiver.event_ids(WEBHOOKS) == events


async def test_a_receiver_that_is_not_there_yet_gets_everything_when_it_comes(
    start_collector: StartCollector, jaeger: Jaeger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as early:
        environment = early.environment
    collector = start_collector(JAEGER_OTLP_ENDPOINT=jaeger.otlp_http, **environment)
    spans, events = await asyncio.to_thread(tell, collector, monkeypatch, 5)
    with receiving(port=urlsplit(early.url).port) as late:
        assert await asyncio.to_thread(late.wait_for, lambda: late.has(len(spans), len(events)))
        assert (late.span_ids(), late.event_ids(WEBHOOKS)) == (spans, events)


async def test_one_route_that_refuses_does_not_hold_up_the_others(
    collector: Collector, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.refusing = {WEBHOOKS}
    spans, events = await asyncio.to_thread(tell, collector, monkeypatch, 5)
    assert await asyncio.to_thread(receiver.wait_for, lambda: receiver.event_ids(EVENTS) == events)
    assert await asyncio.to_thread(receiver.wait_for, lambda: receiver.span_ids() == spans)
    assert receiver.events[WEBHOOKS] == []
    receiver.refusing = set()
    assert await asyncio.to_thread(receiver.wait_for, lambda: receiver.event_ids(WEBHOOKS) == events)
