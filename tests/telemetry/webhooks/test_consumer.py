"""Events become deliveries, one per event and endpoint, with bytes that never change and never hold content."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
from sqlalchemy import select

from engine.database.database import Database
from engine.graph import JsonObject
from engine.pause import Paused
from engine.security.redaction import MAX_MESSAGE_BYTES
from engine.security.sealing import Sealer
from engine.tracing import semconv
from engine.tracing.semconv import Event
from telemetry.pipeline.pipeline import Pipeline
from telemetry.records.consumer import Records
from telemetry.signals.records import Batch, EventRecord, Signal
from telemetry.store.tables import webhook_deliveries, webhook_events
from telemetry.webhooks.consumer import Webhooks
from telemetry.webhooks.endpoints import Changes, Endpoint, NewEndpoint, change, create
from telemetry.webhooks.payloads import DATA_MODELS, MAX_BODY_BYTES, TEST, TYPES, body_of
from tests.telemetry.bookkeeper import Listener, Story, bookkeeper

SEALER = Sealer(lambda: ["a key of the tests"])
ENDS = [Event.COMPLETED, Event.FAILED, Event.CANCELLED]


def trace_link(trace_id: str | None) -> str | None:
    """As the setting makes it."""
    return f"https://traces.example/{trace_id}"


async def endpoint(database: Database, owner: str = "default", **fields: object) -> Endpoint:
    """An endpoint that asks for everything, unless it says otherwise."""
    given: dict[str, object] = {"url": "https://hooks.example/", "events": TYPES} | fields
    async with database.begin() as connection:
        made, _ = await create(connection, owner, NewEndpoint(**given), SEALER)  # type: ignore[arg-type]  # callers name fields
    return made


async def apply(database: Database, signals: Sequence[Signal]) -> None:
    """One transaction."""
    async with database.begin() as connection:
        await Webhooks(trace_link).apply(connection, Batch.of(signals))


async def deliveries(database: Database) -> list[tuple[str, str]]:
    """Endpoint and type of each delivery."""
    async with database.read() as connection:
        rows = await connection.execute(
            select(webhook_deliveries.c.endpoint_id, webhook_deliveries.c.event_type).order_by(webhook_deliveries.c.id)
        )
        return sorted((row.endpoint_id, row.event_type) for row in rows)


async def bodies(database: Database) -> dict[str, bytes]:
    """The bytes of each kept event, by its id."""
    async with database.read() as connection:
        rows = await connection.execute(select(webhook_events.c.event_id, webhook_events.c.body))
        return {row.event_id: bytes(row.body) for row in rows}


def everything() -> list[Signal]:
    """Signals of executions that say every type of event."""
    listener = Listener()
    story = _told(listener)
    story.tracker.budget(Event.BUDGET_WARNING, limit=1_000, spent=855, unit="nano_usd")
    story.tracker.budget(Event.BUDGET_EXCEEDED, limit=10, spent=12, unit="tokens")
    story.tracker.complete()
    _told(listener).tracker.fail("timeout", "it took too long", "n1")
    _told(listener).tracker.cancel("no longer wanted")
    _told(listener).tracker.pause(Paused([], datetime(2026, 11, 24, tzinfo=UTC)))
    listener.begin(attempt=2)
    listener.queue()
    return listener.signals()


def _told(listener: Listener, **changes: object) -> Story:
    story = listener.begin(**changes)
    story.answer(wasted=True)
    story.answer()
    return story


async def test_each_event_becomes_one_delivery_per_endpoint_however_often_it_is_said(database: Database) -> None:
    first, second = await endpoint(database), await endpoint(database, events=ENDS)
    signals = everything()
    events = [signal for signal in signals if isinstance(signal, EventRecord)]
    for _ in range(3):
        await apply(database, [*signals, *signals])
    made = await deliveries(database)
    assert [type_ for id_, type_ in made if id_ == first.id] == sorted(event.name for event in events)
    assert [type_ for id_, type_ in made if id_ == second.id] == sorted(ENDS)
    assert len(await bodies(database)) == len(events)


def test_the_body_about_a_queued_execution_links_to_its_trace() -> None:
    listener = Listener()
    listener.queue()
    [event] = _events(listener.signals())
    data = document(event)["data"]
    assert isinstance(data, dict)
    assert (data["trace_id"], data["trace_url"]) == (event.trace_id, trace_link(event.trace_id))
    assert event.trace_id is not None


async def test_bytes_are_fixed_when_an_event_is_kept(database: Database) -> None:
    await endpoint(database)
    signals = everything()
    await apply(database, signals)
    kept = await bodies(database)
    later = [replace(s, at_ns=s.at_ns + 5_000_000) if isinstance(s, EventRecord) else s for s in signals]
    await endpoint(database)
    await apply(database, later)
    assert await bodies(database) == kept


async def test_an_endpoint_hears_of_its_owners_executions_only(database: Database) -> None:
    mine, other = await endpoint(database, "a", events=ENDS), await endpoint(database, "b", events=ENDS)
    listener = Listener()
    listener.begin(owner="a").tracker.complete()
    await apply(database, listener.signals())
    assert await deliveries(database) == [(mine.id, Event.COMPLETED)]
    assert other.id not in dict(await deliveries(database))


@pytest.mark.parametrize(
    ("templates", "hears"), [(["t-1"], True), (["answer"], True), (["t-2", "else"], False), (None, True)]
)
async def test_an_endpoint_may_ask_for_templates_by_id_or_key(
    database: Database, templates: list[str] | None, hears: bool
) -> None:
    await endpoint(database, events=ENDS, templates=templates)
    listener = Listener()
    listener.begin().tracker.complete()
    listener.begin(source="definition", template_id=None, template_version=None, workflow_name="other").tracker.fail(
        "x", "y"
    )
    await apply(database, listener.signals())
    assert (Event.COMPLETED in [type_ for _, type_ in await deliveries(database)]) is hears
    assert (Event.FAILED in [type_ for _, type_ in await deliveries(database)]) is (templates is None)


async def test_a_disabled_endpoint_gets_no_delivery_and_its_events_are_kept(database: Database) -> None:
    made = await endpoint(database, events=ENDS)
    async with database.begin() as connection:
        await change(connection, "default", made.id, Changes(status="disabled"), SEALER)
    await apply(database, everything())
    assert await deliveries(database) == []
    assert len(await bodies(database)) == 3


async def test_without_an_endpoint_nothing_is_kept(database: Database) -> None:
    await apply(database, everything())
    assert await bodies(database) == {}


async def test_deliveries_are_made_in_the_commit_that_decides(database: Database) -> None:
    made = await endpoint(database, events=ENDS)
    async with bookkeeper(database, [Records(), Webhooks(trace_link)]) as keeper:
        story = await keeper.completed()
        assert await deliveries(database) == [(made.id, Event.COMPLETED)]
    [body] = (await bodies(database)).values()
    assert orjson.loads(body)["data"]["execution_id"] == story.identity.execution_id


async def test_a_poisoned_event_is_kept_aside_and_the_others_are_delivered(database: Database) -> None:
    await endpoint(database)
    signals = everything()
    bad = next(s for s in signals if isinstance(s, EventRecord) and s.name == Event.COMPLETED)
    poisoned = replace(bad, attributes=bad.attributes | {semconv.DURATION_MS: "long"})
    pipeline = Pipeline([Webhooks(trace_link)])
    async with database.begin() as connection:
        await pipeline.apply(connection, Batch.of([poisoned if s is bad else s for s in signals]))
    events = [s for s in signals if isinstance(s, EventRecord)]
    assert len(await bodies(database)) == len(events) - 1


def test_every_event_of_an_execution_is_a_type_and_has_a_body() -> None:
    assert set(TYPES) == {event.value for event in Event if event is not Event.EVALUATION_RESULT}
    assert set(DATA_MODELS) == {*TYPES, TEST}
    said = {event.name: document(event) for event in _events(everything())}
    assert set(said) == set(TYPES)
    for name, body in said.items():
        assert body.keys() == {"type", "timestamp", "data"}
        data = body["data"]
        assert isinstance(data, dict)
        assert data.keys() == DATA_MODELS[name].model_fields.keys()
        DATA_MODELS[name].model_validate_json(orjson.dumps(data))


def test_the_end_of_an_execution_says_what_its_record_does() -> None:
    listener = Listener()
    story = _told(listener, tags={"secret": "canary-tag"}, params={"style": "canary-param"})
    story.tracker.fail("timeout", "it took too long", "n1")
    event = next(e for e in _events(listener.signals()) if e.name == Event.FAILED)
    body = document(event)
    data = body["data"]
    assert isinstance(data, dict)
    known = {
        "execution_id": story.identity.execution_id,
        "owner": "default",
        "attempt": 1,
        "seq": event.seq,
        "status": "failed",
        "workflow_name": "answer",
        "source": "template",
        "template_id": "t-1",
        "template_version": 3,
        "graph_hash": "sha256:00",
        "correlation_id": "c-1",
        "trace_id": event.trace_id,
        "trace_url": f"https://traces.example/{event.trace_id}",
        "model_calls": 2,
        "error_type": "timeout",
        "error_message": "it took too long",
        "error_node_id": "n1",
        "nodes": {"total": 2, "failed": 0, "retried": 1},
    }
    assert {name: data[name] for name in known} == known
    assert body["timestamp"] == data["completed_at"]
    at = datetime.fromisoformat(str(body["timestamp"]))
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert b"canary" not in body_of(event, trace_link)


def test_every_event_says_which_execution_it_belongs_to_in_full() -> None:
    for event in _events(everything()):
        data = document(event)["data"]
        assert isinstance(data, dict)
        assert (data["correlation_id"], data["graph_hash"]) == ("c-1", "sha256:00"), event.name


def test_money_and_tokens_of_a_budget_are_told_apart() -> None:
    said = {event.name: document(event)["data"] for event in _events(everything())}
    money, tokens = said[Event.BUDGET_WARNING], said[Event.BUDGET_EXCEEDED]
    assert isinstance(money, dict)
    assert isinstance(tokens, dict)
    assert (money["limit_nano_usd"], money["spent_nano_usd"], money["limit_tokens"], money["percent"]) == (
        1_000,
        855,
        None,
        85,
    )
    assert (tokens["limit_tokens"], tokens["spent_tokens"], tokens["limit_nano_usd"], tokens["percent"]) == (
        10,
        12,
        None,
        120,
    )


def test_a_body_is_never_too_large() -> None:
    long = "\x01" * MAX_MESSAGE_BYTES
    listener = Listener()
    story = listener.begin(workflow_name=long, correlation_id=long, graph_hash=long, template_id=long, owner=long)
    story.tracker.fail(long, long, long)
    for event in _events(listener.signals()):
        body = body_of(event, trace_link)
        assert len(body) <= MAX_BODY_BYTES
        assert orjson.loads(body)["data"]["execution_id"] == story.identity.execution_id


def _events(signals: Sequence[Signal]) -> list[EventRecord]:
    return [signal for signal in signals if isinstance(signal, EventRecord)]


def document(event: EventRecord) -> JsonObject:
    """The body as its receiver reads it."""
    read: JsonObject = orjson.loads(body_of(event, trace_link))
    return read
