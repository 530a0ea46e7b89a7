"""The receiver believes only what this deployment has said, whoever holds the Collector's token."""

import gzip
import json
import os
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path

import httpx2
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import select
from uuid_utils.compat import uuid7

from api.service.ingest import MAX_BYTES
from engine.database.base import json_text
from engine.database.database import Database
from engine.identity import ExecutionIdentity
from engine.ledger import Checkpoint
from engine.tracing import semconv
from telemetry.collector.refusals import LETTERS_PER_HOUR
from telemetry.reconcile.audit import check_books
from telemetry.recovery.replay import Replay
from telemetry.signals import otlp
from telemetry.signals.records import EventRecord, Kind, Signal, SpanRecord
from telemetry.store.tables import dead_letter, executions, outbox, webhook_deliveries
from tests.both_modes import CollectorMode, add_endpoint, collector_mode, consumers, count, rows_of_books
from tests.conftest import StartCollector
from tests.endtoend.load import run_all
from tests.endtoend.wiring import eventually, wired
from tests.misbehaving_collector import TOKEN
from tests.services.collector.server import CONFIG, OTLP_TOKEN, Collector
from tests.telemetry.bookkeeper import Listener, Story, identity

pytestmark = pytest.mark.usefixtures("books_left_open")  # what is refused is kept aside

NOWHERE = "http://127.0.0.1:1"
EACH = 100
"""How often each of the ten forgeries is sent."""

TRACES = "/internal/otlp/v1/traces"
LOGS = "/internal/otlp/v1/logs"
WEBHOOKS = "/internal/otlp/webhooks/v1/logs"

Request = tuple[str, bytes]
"""The path of the receiver and the body."""


@dataclass(slots=True)
class Scene:
    """A deployment in the Collector mode, whose token the attacker has, and what is known of its executions."""

    way: CollectorMode
    client: httpx2.AsyncClient
    finished: Story
    """Everything that it said has come back and is in the books."""
    running: Story
    """It has come back up to its start; the rest is still on its way."""
    pending: list[Request]
    """What the Collector has yet to bring back, and what the attacker may have seen."""

    async def post(self, path: str, body: bytes, content_encoding: str = "identity") -> httpx2.Response:
        """Send a body as the Collector does."""
        headers = {
            "authorization": f"Bearer {TOKEN}",
            "content-type": otlp.CONTENT_TYPE,
            "content-encoding": content_encoding,
        }
        return await self.client.post(path, content=body, headers=headers)

    async def metric(self, name: str) -> float:
        """The sum over the series of a metric of the receiver."""
        answer = await self.client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
        lines = [line for line in answer.text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.split()[-1]) for line in lines)


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    """One execution that has ended, one that runs, and an endpoint that hears of every end."""
    async with collector_mode(migrated_url, endpoint=NOWHERE) as way:
        await add_endpoint(way.database)
        listener = Listener()
        listener.telemetry.add(way.journal.spans, way.journal.events)
        async with httpx2.AsyncClient(base_url=way.receiver_url, trust_env=False, timeout=30) as client:
            finished, running = listener.begin(), listener.begin()
            made = Scene(way, client, finished, running, [])
            for story in (finished, running):
                await way.journal.accept(story.acceptance())
                story.answer()
            finished.tracker.complete()
            assert await way.journal.finish(finished.finish())
            for path, body in await said(way.database):
                assert (await made.post(path, body)).status_code == 200
            await way.journal.checkpoint(Checkpoint(running.identity.execution_id, 1))
            made.pending = await said(way.database)
            yield made


async def said(database: Database) -> list[Request]:
    """The requests that bring back the signals in the outbox, one signal each, as the Collector makes them."""
    async with database.read() as connection:
        rows = list(await connection.execute(select(outbox).order_by(outbox.c.id)))
    made: list[Request] = []
    for row in rows:
        if row.is_event:
            body = otlp.logs_request({}, [(row.scope, row.payload)])
            made += [(path, body) for path, owed in ((LOGS, row.owes_records), (WEBHOOKS, row.owes_webhooks)) if owed]
        else:
            made.append((TRACES, otlp.traces_request({}, [(row.scope, row.payload)])))
    return made


def forged(of: ExecutionIdentity, **changes: object) -> list[Signal]:
    """All signals of an execution that claims to be this one: it costs something and completes."""
    listener = Listener()
    known = {"execution_id": of.execution_id, "attempt": of.attempt, "owner": of.owner}
    story = listener.begin(**(known | changes))
    story.answer()
    story.tracker.complete()
    return listener.signals()


def request(signal: Signal, path: str | None = None) -> Request:
    """A request with this signal."""
    is_event = isinstance(signal, EventRecord)
    build = otlp.logs_request if is_event else otlp.traces_request
    return path or (LOGS if is_event else TRACES), build({}, [(otlp.scope_of(signal), otlp.encode(signal))])


def spans_with_cost(scene: Scene) -> Iterator[Request]:
    """A model call of a known execution that costs 777 dollars."""
    for one in forged(scene.running.identity):
        if isinstance(one, SpanRecord) and one.kind is Kind.MODEL:
            yield request(replace(one, fields=one.fields | {semconv.COST_NANO_USD: 777_000_000_000}))


def ends_of_the_running_one(scene: Scene) -> Iterator[Request]:
    """The running execution is said to be completed."""
    yield from (request(one) for one in forged(scene.running.identity) if is_end(one))


def events_for_webhooks(scene: Scene) -> Iterator[Request]:
    """The end of a known execution, sent where webhooks are made of it."""
    yield from (request(one, WEBHOOKS) for one in forged(scene.running.identity) if is_end(one))


def other_attempts(scene: Scene) -> Iterator[Request]:
    """A later attempt of a known execution: what it says would win."""
    yield from (request(one) for one in forged(scene.finished.identity, attempt=7))


def other_owners(scene: Scene) -> Iterator[Request]:
    """A known execution in the name of somebody else."""
    yield from (request(one) for one in forged(scene.running.identity, owner="thief"))


def same_ids(scene: Scene) -> Iterator[Request]:
    """Ids of signals that were said and have not come back yet, over another content."""
    for path, body in scene.pending:
        for signal in decoded(path, body):
            if isinstance(signal, SpanRecord):
                yield request(replace(signal, fields=signal.fields | {semconv.COST_NANO_USD: 777_000_000_000}))
            else:
                yield request(replace(signal, name=semconv.Event.COMPLETED), path)


def altered_attributes(scene: Scene) -> Iterator[Request]:
    """Signals exactly as they were said, but for one attribute that a record holds."""
    for path, body in scene.pending:
        [(_, carrier)] = carriers(path, body)
        for number, attribute in enumerate(carrier.attributes):
            if attribute.key in semconv.PEER_KEYS or attribute.key.startswith(semconv.PEER_PREFIXES):
                continue
            [(scope, altered)] = carriers(path, body)
            alter(altered.attributes[number])
            yield rebuilt(path, (scope, altered))


def unknown_executions(scene: Scene) -> Iterator[Request]:
    """Executions that never were."""
    yield from (request(one) for one in forged(scene.running.identity, execution_id=str(uuid7())))


def malformed_ids(scene: Scene) -> Iterator[Request]:
    """Ids of a wrong length, of zeros, and none."""
    for path, body in map(request, forged(scene.running.identity)):
        [(scope, carrier)] = carriers(path, body)
        if isinstance(carrier, Span):
            for wrong in (b"", b"\0" * 8, b"\1" * 7, b"\1" * 16):
                carrier.span_id = wrong
                yield rebuilt(path, (scope, carrier))
        else:
            event_id = next(each for each in carrier.attributes if each.key == semconv.EVENT_ID)
            carrier.attributes.remove(event_id)
            yield rebuilt(path, (scope, carrier))


def signals_of_the_finished_one(scene: Scene) -> Iterator[Request]:
    """More of an execution that has ended: spans, and a second end."""
    yield from (request(one) for one in forged(scene.finished.identity))


KINDS: Sequence[Callable[[Scene], Iterator[Request]]] = (
    same_ids,
    spans_with_cost,
    ends_of_the_running_one,
    events_for_webhooks,
    other_attempts,
    other_owners,
    altered_attributes,
    unknown_executions,
    malformed_ids,
    signals_of_the_finished_one,
)


def forgeries(scene: Scene, kind: Callable[[Scene], Iterator[Request]]) -> Iterator[Request]:
    """A hundred requests of a kind, with one signal each; every other one also shows the signature of a true signal."""
    made = islice(chain.from_iterable(kind(scene) for _ in repeat(None)), EACH)
    lent = signature_in(*scene.pending[0])
    return (
        with_signature(path, body, lent) if number % 2 else (path, body) for number, (path, body) in enumerate(made)
    )


async def state(database: Database) -> dict[str, object]:
    """All rows of the books, and what the outbox owes to whom."""
    o = outbox.c
    async with database.read() as connection:
        owed = select(o.id, o.payload, o.owes_records, o.owes_webhooks).order_by(o.id)
        waiting = [tuple(row) for row in await connection.execute(owed)]
    return {**await rows_of_books(database), "outbox": waiting}


async def test_a_thousand_forged_signals_change_no_row_and_are_counted(scene: Scene) -> None:
    before = await state(scene.way.database)
    for kind in KINDS:
        for path, body in forgeries(scene, kind):
            assert (await scene.post(path, body)).status_code == 200
        assert await state(scene.way.database) == before, f"{kind.__name__}: {kind.__doc__}"
    assert await scene.metric("spanloom_signals_refused_total") == len(KINDS) * EACH == 1_000
    assert await count(scene.way.database, dead_letter) == LETTERS_PER_HOUR
    replayed = await Replay(scene.way.database, consumers()).try_all()
    assert (replayed.stored, replayed.kept) == (0, LETTERS_PER_HOUR)
    assert await state(scene.way.database) == before

    for path, body in scene.pending * 2:
        assert (await scene.post(path, body)).status_code == 200
    assert await count(scene.way.database, outbox) == 0
    await end(scene)
    assert await check_books(scene.way.database) == []
    assert await scene.metric("spanloom_signals_refused_total") == 1_000


@pytest.mark.parametrize("path", [TRACES, LOGS, WEBHOOKS])
async def test_a_bomb_that_is_no_signal_is_kept_as_small_as_it_came(scene: Scene, path: str) -> None:
    bomb = gzip.compress(bytes(MAX_BYTES))
    assert (await scene.post(path, bomb, content_encoding="gzip")).status_code == 400
    async with scene.way.database.read() as connection:
        letters = list((await connection.execute(select(dead_letter.c.signal))).scalars())
    assert [b64decode(letter["base64"]) for letter in letters] == [bomb]
    assert await scene.metric("spanloom_signals_refused_total") == 1


async def test_a_huge_forgery_is_kept_within_a_mebibyte(scene: Scene) -> None:
    much = {f"key{number}": "x" * 8_000 for number in range(250)}
    for one in forged(scene.running.identity):
        if isinstance(one, SpanRecord):
            path, body = request(replace(one, attributes=one.attributes | much))
            assert (await scene.post(path, body)).status_code == 200
    nameless = Span(name="x" * 8 * 1024 * 1024).SerializeToString()
    assert (await scene.post(TRACES, otlp.traces_request({}, [(semconv.SCOPE_GENAI, nameless)]))).status_code == 200
    junk = os.urandom(8 * 1024 * 1024)
    assert (await scene.post(LOGS, junk)).status_code == 400
    async with scene.way.database.read() as connection:
        letters = [json_text(each) for each in (await connection.execute(select(dead_letter.c.signal))).scalars()]
    assert len(letters) == 5
    assert max(map(len, letters)) <= 1024 * 1024


@pytest.mark.collector
async def test_forgeries_through_the_collector_are_refused_and_true_signals_still_come_back(
    migrated_url: str, start_collector: StartCollector, tmp_path: Path
) -> None:
    (tmp_path / "tower.md").write_text("We run to the tower.\n")
    async with wired(migrated_url, tmp_path, start_collector) as service:
        ended = await run_all(service.runner, range(8))
        await service.drained()
        before = await state(service.database)
        with pytest.MonkeyPatch.context() as environment:
            environment.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")  # what is forged goes only where it is sent to
            signals = [one for result in ended.values() for one in forged(identity(execution_id=result.execution_id))]
        for path, body in map(request, signals):
            assert await tell(service.collector, path, body, "wrong") == 401
            assert await tell(service.collector, path, body, OTLP_TOKEN) == 200
        came = sum(2 if isinstance(one, EventRecord) else 1 for one in signals)
        await eventually(lambda: service.outbox.refused.total() == came)
        assert await state(service.database) == before

        await run_all(service.runner, range(8, 24))
        await service.drained()
        assert await check_books(service.database) == []
        assert (service.outbox.refused.total(), service.outbox.served_locally.total()) == (came, 0)
        async with service.database.read() as connection:
            rows = list(await connection.execute(select(executions)))
        assert [row.spans_stored for row in rows] == [row.spans_expected for row in rows]
        assert len(rows) == 24


@pytest.mark.collector
async def test_a_collector_that_changes_signals_is_not_believed_and_nothing_is_lost(
    migrated_sqlite_url: str, start_collector: StartCollector, tmp_path: Path
) -> None:
    meddle = {"context": "span", "statements": ['set(span.attributes["deployment.region"], "eu")']}
    meddling = tmp_path / "meddling.json"
    meddling.write_text(
        json.dumps(
            {
                "processors": {"transform/meddle": {"trace_statements": [meddle]}},
                "service": {"pipelines": {"traces/records": {"processors": ["transform/meddle"]}}},
            }
        )
    )
    async with wired(migrated_sqlite_url, tmp_path, start_collector, CONFIG, meddling, confirm_seconds=2.0) as service:
        await run_all(service.runner, range(8))
        await service.drained()
        async with service.database.read() as connection:
            rows = list(await connection.execute(select(executions)))
        spans = sum(row.spans_stored for row in rows)
        assert (len(rows), spans) == (8, sum(row.spans_expected for row in rows))
        assert await check_books(service.database) == []
        assert service.outbox.refused["records", "not_ours"] >= spans
        assert service.outbox.served_locally["records"] >= spans


async def tell(collector: Collector, path: str, body: bytes, token: str) -> int:
    """Send a request for the receiver to the Collector instead; the status of its answer."""
    headers = {"authorization": f"Bearer {token}", "content-type": otlp.CONTENT_TYPE}
    async with httpx2.AsyncClient(trust_env=False) as client:
        to = collector.otlp_http + path.removeprefix("/internal/otlp")
        return (await client.post(to, content=body, headers=headers)).status_code


async def end(scene: Scene) -> None:
    """End the running execution, and bring back what it says."""
    scene.running.tracker.complete()
    assert await scene.way.journal.finish(scene.running.finish())
    for path, body in await said(scene.way.database):
        assert (await scene.post(path, body)).status_code == 200
    async with scene.way.database.read() as connection:
        rows = list(await connection.execute(select(executions)))
    assert [(row.status, row.spans_stored, row.spans_expected) for row in rows] == [("completed", 3, 3)] * 2
    assert await count(scene.way.database, webhook_deliveries) == 2


def decoded(path: str, body: bytes) -> list[Signal]:
    """The signals of a request."""
    return (otlp.decode_traces if path == TRACES else otlp.decode_logs)(body).signals


def carriers(path: str, body: bytes) -> list[tuple[str, Span | LogRecord]]:
    """The spans or log records of a request, each with its scope."""
    if path == TRACES:
        groups = [
            scope for one in ExportTraceServiceRequest.FromString(body).resource_spans for scope in one.scope_spans
        ]
        return [(group.scope.name, span) for group in groups for span in group.spans]
    logs = [scope for one in ExportLogsServiceRequest.FromString(body).resource_logs for scope in one.scope_logs]
    return [(group.scope.name, record) for group in logs for record in group.log_records]


def rebuilt(path: str, carrier: tuple[str, Span | LogRecord]) -> Request:
    """A request with this span or log record."""
    build = otlp.traces_request if path == TRACES else otlp.logs_request
    return path, build({}, [(carrier[0], carrier[1].SerializeToString())])


def signature_in(path: str, body: bytes) -> KeyValue:
    """The signature that a signal shows; a made-up one if it shows none."""
    [(_, carrier)] = carriers(path, body)
    made_up = KeyValue(key=semconv.SIGNAL_SIGNATURE, value=AnyValue(string_value="0" * 32))
    return next((each for each in carrier.attributes if each.key == semconv.SIGNAL_SIGNATURE), made_up)


def with_signature(path: str, body: bytes, signature: KeyValue) -> Request:
    """The request, whose signal shows this signature if it showed none."""
    [(scope, carrier)] = carriers(path, body)
    if all(each.key != semconv.SIGNAL_SIGNATURE for each in carrier.attributes):
        carrier.attributes.append(signature)
    return rebuilt(path, (scope, carrier))


def alter(attribute: KeyValue) -> None:
    """Give the attribute another value of the same type."""
    value = attribute.value
    match value.WhichOneof("value"):
        case "string_value":
            value.string_value += "x"
        case "int_value":
            value.int_value += 1
        case "bool_value":
            value.bool_value = not value.bool_value
        case "double_value":
            value.double_value += 1
        case _:
            value.array_value.values.append(AnyValue(string_value="x"))


def is_end(signal: Signal) -> bool:
    return isinstance(signal, EventRecord) and signal.name == semconv.Event.COMPLETED
