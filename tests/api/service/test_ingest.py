"""The Collector gets 200 when all is committed, and else a clear answer; nothing that it brought is lost."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import httpx2
import pytest
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # its stubs lack the marker
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from sqlalchemy import select

from api.service.ingest import MAX_BYTES
from telemetry.collector.intake import Intake
from telemetry.signals import otlp
from telemetry.signals.records import EventRecord, Kind, Signal, SpanRecord
from telemetry.store.tables import dead_letter, executions, outbox, spans
from tests.both_modes import CollectorMode, collector_mode, count
from tests.misbehaving_collector import TOKEN
from tests.telemetry.bookkeeper import SIGNER, Listener, Story

# Signals are posted here without an engine that accepts and ends their executions.
pytestmark = pytest.mark.usefixtures("books_left_open")

TRACES = "/internal/otlp/v1/traces"
LOGS = "/internal/otlp/v1/logs"
WEBHOOKS = "/internal/otlp/webhooks/v1/logs"
NOWHERE = "http://127.0.0.1:1"


@dataclass(slots=True)
class Ingest:
    """The receiver, asked by hand, and a journal whose signals nobody ships."""

    way: CollectorMode
    client: httpx2.AsyncClient
    listener: Listener

    async def post(self, path: str, body: bytes, **headers: str) -> httpx2.Response:
        """As the Collector does."""
        usual = {"authorization": f"Bearer {TOKEN}", "content-type": "application/x-protobuf"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, content=body, headers=usual | named)

    async def completed(self) -> tuple[Story, list[Signal]]:
        """An execution whose signals are in the outbox."""
        story = self.listener.begin()
        await self.way.journal.accept(story.acceptance())
        story.answer()
        story.tracker.complete()
        assert await self.way.journal.finish(story.finish())
        return story, self.listener.signals()

    async def letters(self) -> list[tuple[str, str | None, str]]:
        """Consumer, execution and reason of everything kept aside."""
        async with self.way.database.read() as connection:
            rows = await connection.execute(select(dead_letter))
            return [(row.consumer, row.execution_id, row.reason) for row in rows]


@pytest.fixture
async def ingest(migrated_url: str) -> AsyncIterator[Ingest]:
    async with collector_mode(migrated_url, endpoint=NOWHERE) as way:
        listener = Listener()
        listener.telemetry.add(way.journal.spans, way.journal.events)
        async with httpx2.AsyncClient(base_url=way.receiver_url, trust_env=False, timeout=30) as client:
            yield Ingest(way, client, listener)


def traces(signals: Sequence[Signal]) -> bytes:
    """A request of the spans among them."""
    of = [(otlp.scope_of(one), otlp.encode(one, SIGNER.sign)) for one in signals if isinstance(one, SpanRecord)]
    return otlp.traces_request({}, of)


def logs(signals: Sequence[Signal]) -> bytes:
    """A request of the events among them."""
    of = [(otlp.scope_of(one), otlp.encode(one, SIGNER.sign)) for one in signals if isinstance(one, EventRecord)]
    return otlp.logs_request({}, of)


def message(answer: httpx2.Response) -> str:
    """The sentence of an error."""
    assert answer.headers["content-type"] == "application/x-protobuf"
    return str(Status.FromString(answer.content).message)


async def test_what_is_answered_with_200_is_stored_and_no_longer_owed(ingest: Ingest) -> None:
    story, signals = await ingest.completed()
    assert await count(ingest.way.database, outbox) == len(signals) == 5

    answer = await ingest.post(TRACES, traces(signals))

    assert (answer.status_code, answer.content) == (200, ExportTraceServiceResponse().SerializeToString())
    assert (await count(ingest.way.database, spans), await count(ingest.way.database, outbox)) == (3, 2)
    assert (await ingest.post(LOGS, logs(signals))).status_code == 200
    assert await count(ingest.way.database, outbox) == 2
    assert (await ingest.post(WEBHOOKS, logs(signals))).status_code == 200
    assert await count(ingest.way.database, outbox) == 0
    async with ingest.way.database.read() as connection:
        row = (await connection.execute(select(executions))).one()
    assert (row.id, row.status, row.spans_expected, row.spans_stored) == (
        story.identity.execution_id,
        "completed",
        3,
        3,
    )
    assert await ingest.letters() == []


async def test_requests_at_the_same_time_are_all_counted(ingest: Ingest) -> None:
    _, signals = await ingest.completed()
    bodies = [traces([one]) for one in signals if is_span(one)]
    answers = await asyncio.gather(ingest.post(LOGS, logs(signals)), *(ingest.post(TRACES, body) for body in bodies))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert ingest.way.health.outbox.confirmed == {"records": 5}


async def test_a_packed_body_and_the_same_again_are_fine(ingest: Ingest) -> None:
    _, signals = await ingest.completed()
    for _ in range(2):
        answer = await ingest.post(TRACES, gzip.compress(traces(signals)), content_encoding="gzip")
        assert answer.status_code == 200
    assert await count(ingest.way.database, spans) == 3


@pytest.mark.parametrize("shown", ["Bearer wrong", "Basic x", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", ""])
async def test_a_wrong_token_is_refused(ingest: Ingest, shown: str) -> None:
    answer = await ingest.post(TRACES, b"", authorization=shown)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "SPANLOOM_INGEST_TOKENS" in message(answer)


@pytest.mark.parametrize(
    "headers", [{"content_type": "application/json"}, {"content_type": ""}, {"content_encoding": "zstd"}]
)
async def test_json_and_other_packings_are_refused(ingest: Ingest, headers: dict[str, str]) -> None:
    assert (await ingest.post(TRACES, b"{}", **headers)).status_code == 415
    assert await ingest.letters() == []


@pytest.mark.parametrize("path", [TRACES, LOGS, WEBHOOKS])
async def test_undecodable_bytes_are_kept_aside_before_they_are_refused(ingest: Ingest, path: str) -> None:
    assert (await ingest.post(path, b"\xffno protobuf")).status_code == 400
    consumer = "webhooks" if path == WEBHOOKS else "records"
    assert await ingest.letters() == [(consumer, None, "the request body is not an OTLP protobuf message")]
    async with ingest.way.database.read() as connection:
        kept = (await connection.execute(select(dead_letter.c.signal))).scalar_one()
    assert (kept["size"], kept["base64"]) == (12, "/25vIHByb3RvYnVm")


@pytest.mark.parametrize(
    "body", [b"no gzip", gzip.compress(b"x" * 100, mtime=0)[:-9], gzip.compress(b"", mtime=0) + b"more"]
)
async def test_bytes_that_cannot_be_unpacked_are_kept_aside_too(ingest: Ingest, body: bytes) -> None:
    assert (await ingest.post(TRACES, body, content_encoding="gzip")).status_code == 400
    assert len(await ingest.letters()) == 1


@pytest.mark.parametrize("packed", [True, False])
async def test_a_body_that_is_too_large_is_refused(ingest: Ingest, packed: bool) -> None:
    body = bytes(MAX_BYTES + 1)
    answer = await ingest.post(
        TRACES, gzip.compress(body) if packed else body, content_encoding="gzip" if packed else "identity"
    )
    assert answer.status_code == 413


async def test_signals_of_an_unknown_execution_are_kept_aside_before_the_200(ingest: Ingest) -> None:
    _, known = await ingest.completed()
    listener = Listener()
    strange = listener.begin()
    strange.tracker.complete()

    assert (await ingest.post(TRACES, traces([*listener.signals(), *known]))).status_code == 200
    assert (await ingest.post(LOGS, logs(listener.signals()))).status_code == 200

    id_ = strange.identity.execution_id
    assert await ingest.letters() == [("records", id_, "there is no execution with this id")] * 3
    assert await count(ingest.way.database, spans) == 3


async def test_the_collector_is_told_how_many_signals_are_refused(ingest: Ingest) -> None:
    _, signals = await ingest.completed()
    unsigned = [(otlp.scope_of(one), otlp.encode(one)) for one in signals if is_span(one)]
    signed = [(otlp.scope_of(one), otlp.encode(one, SIGNER.sign)) for one in signals if is_span(one)]
    answer = await ingest.post(TRACES, otlp.traces_request({}, [*unsigned, *signed[:1]]))
    told = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert (answer.status_code, told.rejected_spans) == (200, 3)
    assert "spanloom dead-letters" in told.error_message
    assert (await count(ingest.way.database, spans), await count(ingest.way.database, outbox)) == (1, 4)

    logs_answer = await ingest.post(
        LOGS, otlp.logs_request({}, [(otlp.scope_of(one), otlp.encode(one)) for one in signals if not is_span(one)])
    )
    rejected = ExportLogsServiceResponse.FromString(logs_answer.content).partial_success.rejected_log_records
    assert rejected == 2


async def test_whose_an_execution_is_says_control(ingest: Ingest) -> None:
    _, signals = await ingest.completed()
    thief = {"workflow.owner.id": "thief"}
    moved = [
        replace(one, identity=replace(one.identity, owner="thief"), fields=one.fields | thief)
        for one in signals
        if is_span(one)
    ]
    assert (await ingest.post(TRACES, traces(moved))).status_code == 200
    async with ingest.way.database.read() as connection:
        assert set((await connection.execute(select(spans.c.owner_id))).scalars()) == {"default"}


def is_span(signal: Signal) -> TypeGuard[SpanRecord]:
    return isinstance(signal, SpanRecord)


async def test_a_poisoned_signal_is_kept_aside_and_the_rest_is_stored(ingest: Ingest) -> None:
    _, signals = await ingest.completed()
    bad = [replace(one, end_ns=one.start_ns) for one in signals if is_span(one)]
    at = next(index for index, one in enumerate(bad) if one.kind is Kind.NODE)
    wrong = "no status of ours"
    bad[at] = replace(bad[at], status=wrong, fields=bad[at].fields | {"workflow.node.status": wrong})
    assert (await ingest.post(TRACES, traces(bad))).status_code == 200
    assert (await count(ingest.way.database, spans), await count(ingest.way.database, outbox)) == (2, 2)
    assert [consumer for consumer, _, _ in await ingest.letters()] == ["records"]
    assert ingest.way.health.dead_letters["records"] == 1


async def test_other_libraries_are_not_stored(ingest: Ingest) -> None:
    _, signals = await ingest.completed()
    foreign = otlp.traces_request({}, [("fastapi", otlp.encode(one, SIGNER.sign)) for one in signals if is_span(one)])
    assert (await ingest.post(TRACES, foreign)).status_code == 200
    assert await count(ingest.way.database, spans) == 0


@pytest.mark.parametrize("path", [TRACES, LOGS, WEBHOOKS])
async def test_a_database_in_trouble_is_503_and_nothing_is_lost(ingest: Ingest, path: str) -> None:
    _, signals = await ingest.completed()
    ingest.way.receiving_database.share = 2.0
    for body in ((traces if path == TRACES else logs)(signals), b"\xff"):
        answer = await ingest.post(path, body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert message(answer) == "the database is down"
    assert (await count(ingest.way.database, outbox), await ingest.letters()) == (5, [])


async def test_our_own_mistakes_are_503_too(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Intake, decoded: object) -> int:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(Intake, "receive", broken)
    answer = await ingest.post(TRACES, b"")
    assert (answer.status_code, message(answer)) == (503, "the signals cannot be stored now")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", TRACES, 405), ("POST", "/v1/executions", 404)])
async def test_there_is_nothing_else(ingest: Ingest, method: str, path: str, status: int) -> None:
    answer = await ingest.client.request(method, path, headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == status
    assert message(answer)


async def test_metrics_are_behind_the_token(ingest: Ingest) -> None:
    await ingest.completed()
    assert (await ingest.client.get("/metrics")).status_code == 401
    answer = await ingest.client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert "spanloom_outbox_signals 5.0" in answer.text
    assert "spanloom_outbox_collector_reachable" in answer.text
