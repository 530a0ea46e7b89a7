"""Content stands where one setting allows it, secrets stand nowhere, and what is forgotten is gone."""

import asyncio
import itertools
import logging
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import orjson
import pytest
from sqlalchemy import inspect, select, text

from engine.content.policy import Capture
from engine.database.database import Database
from engine.graph import JsonObject
from engine.resources import ModelRequest
from engine.store import tables as engine_tables
from engine.store.checkpoints import open_checkpoints
from engine.testing.models import Call, Fail, Hold, Say, Step
from engine.tracing import semconv
from telemetry.signals import otlp
from telemetry.signals.records import EventRecord
from telemetry.store import tables
from tests.api.harness import ASK, UNKNOWN_ID, Service, ended, front, read_frames, running
from tests.api.pausing import pause
from tests.attacks.otlp_sink import Sink, otlp_sink
from tests.collector.observation import in_jaeger, tags
from tests.conftest import StartCollector
from tests.endtoend.load import NAMED
from tests.endtoend.wiring import wired
from tests.misbehaving_collector import TOKEN
from tests.services.jaeger.server import Jaeger
from tests.workflow_runner import request as a_request

OUR_LOGGERS = ("spanloom", "engine", "telemetry", "api", "uvicorn")
SECRET_KEY = "0123456789abcdef" * 4

SHAPES = {
    "openai": "sk-{}aaaaaaaaaaaaaaaa",
    "slack": "xoxb-{}bbbbbbbbbbbbbbbb",
    "webhook": "whsec_{}cccccccccccccccc",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.{}dddddddd.eeeeeeee",
    "aws": "AKIA{}",
}
TEXTS = {
    "plain": "the {} text of the zebra and the lighthouse",
    "umlaut": "Käfig und Größe {} 北京 🦓 am Leuchtturm",
    "quoted": 'he said "{}" and\tleft\nat \\once\\ for the harbour',
}
PLACES = ("system", "prompt", "answer", "argument", "document", "tag", "refusal", "header")


def _planted() -> dict[str, dict[str, str]]:
    """A text of each shape for each place.

    A tag is a label, and so holds secrets only, as does a header; a system message with a secret would be refused.
    """
    found: dict[str, dict[str, str]] = {}
    for place in PLACES:
        code = place.upper().ljust(8, "X")
        secrets_only = place in ("tag", "header", "refusal")
        shapes = SHAPES if secrets_only else TEXTS if place == "system" else SHAPES | TEXTS
        found[place] = {
            name: shape.format(code * 2 if name == "aws" else code + "01") for name, shape in shapes.items()
        }
    return found


PLANTED = _planted()
CANARIES = {f"{place} {name}": text for place, texts in PLANTED.items() for name, text in texts.items()}
SECRETS = {what: canary for what, canary in CANARIES.items() if what.split()[1] in SHAPES}
MARKS = {place: place.upper().ljust(8, "X") for place in PLACES}
"""A part of each canary that no escape changes and no secret's shape needs: what is looked for."""

ALLOWED = {
    "execution_control.request",
    "execution_control.result",
    "execution_control.subject",
    "conversation_messages.content",
    "conversation_messages.tool_calls",
    "executions.params",
    "graphs.graph",
}
"""Where content may stand by default: what was asked and answered, the conversation, and the workflow with its
parameters filled in."""


def said(place: str) -> str:
    """Everything that is planted in a place, as one text."""
    return " ; ".join(PLANTED[place].values())


def script() -> Iterator[Step]:
    """A provider that repeats the prompt when it refuses, then a search, a tool that fails, and the answer."""
    yield Fail("rate_limited", f"try later: '{said('prompt')}' with key {said('refusal')}", retry_after_seconds=0)
    yield Call("search_docs", {"query": f"lighthouse {said('argument')}"})
    yield Call("calculate", {"expression": f"nonsense + {said('argument')}"}, id="call-2")
    yield Say(said("answer"))


@dataclass(slots=True)
class Scene:
    """A service that was told every canary, what it exported, and the execution."""

    service: Service
    sink: Sink
    execution_id: str
    answer: JsonObject

    @property
    def database(self) -> Database:
        """The database of the service."""
        return self.service.runtime.database


@asynccontextmanager
async def told(
    url: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    *,
    capture: Capture = Capture.NO_CONTENT,
    **settings: object,
) -> AsyncIterator[Scene]:
    """A service in this mode, in which one chat has run that holds every canary."""
    documents = folder / "documents"
    documents.mkdir(exist_ok=True)
    (documents / "a.md").write_text(f"# Lighthouse\n\nThe lighthouse of the harbour: {said('document')}\n")
    given: dict[str, object] = {"pipeline": mode, "secret_key": (SECRET_KEY,), "files_roots": (documents,)}
    if mode == "collector":  # nothing comes back from the sink, so signals are served locally
        given |= {"ingest_tokens": (TOKEN,), "outbox_confirm_seconds": 0.2}
    with otlp_sink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", capture.value)
        async with running(url, script(), **given | settings) as service:
            await _subscribe(service)
            answer = await _chat(service, documents)
            yield Scene(service, sink, str(answer["execution_id"]), answer)


async def _subscribe(service: Service) -> None:
    events = ["workflow.execution.started", "workflow.execution.completed", "workflow.execution.failed"]
    endpoint = {"url": "https://receiver.example/hook", "events": events}
    made = await service.client.post("/v1/webhooks/endpoints", json=endpoint)
    assert made.status_code == 201, made.text


async def _chat(service: Service, documents: Path) -> JsonObject:
    params = {
        "system_message": said("system"),
        "enable_retrieval": True,
        "enable_tools": True,
        "allowed_tools": ["search_docs", "calculate"],
        "path": str(documents),
    }
    asked = {
        "source": {"kind": "chat", "template": "universal_chat", "params": params},
        "input": {"message": f"What about the lighthouse? {said('prompt')}"},
        "tags": dict(PLANTED["tag"]),
    }
    headers = {"authorization": f"Token {PLANTED['header']['jwt']}", "x-own": PLANTED["header"]["openai"]}
    done = await service.client.post("/v1/executions", json=asked, headers=headers)
    result: JsonObject = done.json()
    assert (done.status_code, result["status"]) == (200, "completed"), result
    assert result["response"] == said("answer")
    return result


async def settled(scene: Scene) -> None:
    """Wait until everything is booked and exported."""
    async with asyncio.timeout(60):
        while True:
            found = (await scene.service.client.get(f"/v1/executions/{scene.execution_id}")).json()
            if found["seal"]["complete"] and await _is_outbox_empty(scene):
                break
            await asyncio.sleep(0.05)
    provider = scene.service.runtime.telemetry.tracer_provider
    await asyncio.to_thread(provider.force_flush)
    await asyncio.to_thread(scene.service.runtime.telemetry.logger_provider.force_flush)


async def _is_outbox_empty(scene: Scene) -> bool:
    async with scene.database.read() as connection:
        return (await connection.execute(select(tables.outbox.c.id).limit(1))).first() is None


async def cells(database: Database, marks: Mapping[str, str]) -> dict[str, set[str]]:
    """Table and column of each cell that holds a mark, by what is marked; compressed content is unpacked."""
    found: dict[str, set[str]] = {}
    async with database.read() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        for table in names:
            for row in (await connection.execute(text(f'SELECT * FROM "{table}"'))).mappings():
                for column, value in row.items():
                    shown = _readable(value)
                    for what, mark in marks.items():
                        if mark in shown:
                            found.setdefault(what, set()).add(f"{table}.{column}")
    return found


def _readable(value: object) -> str:
    if not isinstance(value, bytes | memoryview):
        return str(value)
    data = bytes(value)
    try:
        return zlib.decompress(data).decode()
    except zlib.error:
        return data.decode("utf-8", "replace")


def on_disk(url: str, marks: Mapping[str, str]) -> dict[str, list[str]]:
    """Which marks the file of the database, its log and its shared memory hold, by file."""
    file = Path(url.removeprefix("sqlite:///"))
    files = [each for each in file.parent.glob(f"{file.name}*") if each.is_file()]
    return {
        each.name: held
        for each in files
        if (held := [what for what, mark in marks.items() if mark.encode() in each.read_bytes()])
    }


def test_fifty_and_more_are_planted() -> None:
    assert len(CANARIES) == len(set(CANARIES.values())) >= 50
    assert all(MARKS[what.split()[0]] in canary for what, canary in CANARIES.items())


@pytest.mark.parametrize("mode", ["embedded", "collector"])
async def test_by_default_content_is_in_the_answer_and_nowhere_else(
    migrated_url: str,
    mode: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in OUR_LOGGERS:
        caplog.set_level(logging.DEBUG, name)
    async with told(migrated_url, tmp_path, monkeypatch, mode) as scene:
        await settled(scene)
        found = await cells(scene.database, MARKS)
        metrics = (await scene.service.client.get("/metrics")).text
        listed = (await scene.service.client.get("/v1/executions")).text
        trace = (await scene.service.client.get(f"/v1/executions/{scene.execution_id}/trace")).text
        content = (await scene.service.client.get(f"/v1/executions/{scene.execution_id}/content")).json()
    assert {what: places - ALLOWED for what, places in found.items() if places - ALLOWED} == {}
    assert {"prompt", "answer", "argument"} <= found.keys(), "the result is there"
    assert "execution_control.result" in found["answer"]
    assert "header" not in found
    ours = [record for record in caplog.records if record.name.partition(".")[0] in OUR_LOGGERS]
    printed = "".join(f"{record.getMessage()} {record.__dict__}" for record in ours)
    for what, mark in MARKS.items():
        assert mark not in printed, f"{what} in the log"
        assert mark not in metrics, f"{what} in the metrics"
        assert mark not in trace, f"{what} in the trace"
        assert not scene.sink.holds("/v1/traces", mark), f"{what} in the trace store"
        if mode == "embedded":
            assert not scene.sink.holds("/v1/logs", mark), f"{what} in the log store"
        if what != "system":  # it is a parameter, which the list shows
            assert mark not in listed, f"{what} in the list"
    assert scene.sink.bodies["/v1/traces"], "the trace store got something"
    assert content["calls"] == []


@pytest.mark.parametrize("mode", ["embedded", "collector"])
async def test_with_spans_allowed_the_trace_store_has_content_without_secrets_and_the_books_none(
    migrated_url: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with told(migrated_url, tmp_path, monkeypatch, mode, capture=Capture.SPAN_AND_EVENT) as scene:
        await settled(scene)
        found = await cells(scene.database, MARKS)
        metrics = (await scene.service.client.get("/metrics")).text
    assert {what: places - ALLOWED for what, places in found.items() if places - ALLOWED} == {}
    assert [what for what, mark in MARKS.items() if mark in metrics] == []
    for place in ("system", "prompt", "answer", "argument", "document"):
        text = PLANTED[place]["plain"]
        assert scene.sink.holds("/v1/traces", text), f"{place} is missing on spans"
        assert scene.sink.holds("/v1/logs", text), f"{place} is missing in events"
    exported = b"".join(itertools.chain.from_iterable(scene.sink.bodies.values()))
    assert [what for what, secret in SECRETS.items() if secret.encode() in exported] == []


@pytest.mark.parametrize("capture", [Capture.SPAN_ONLY, Capture.EVENT_ONLY])
async def test_content_goes_where_the_mode_says_only(
    migrated_sqlite_url: str, capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with told(migrated_sqlite_url, tmp_path, monkeypatch, "embedded", capture=capture) as scene:
        await settled(scene)
    places = {path for path in ("/v1/traces", "/v1/logs") if scene.sink.holds(path, PLANTED["answer"]["plain"])}
    assert places == {"/v1/traces" if capture.on_spans else "/v1/logs"}


@pytest.mark.parametrize("mode", ["embedded", "collector"])
async def test_what_is_forgotten_is_in_no_table_file_or_checkpoint(
    migrated_url: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with told(migrated_url, tmp_path, monkeypatch, mode, capture=Capture.SPAN_ONLY, content="full") as scene:
        path = f"/v1/executions/{scene.execution_id}"
        await settled(scene)
        calls = (await scene.service.client.get(f"{path}/content")).json()["calls"]
        assert {call["operation"] for call in calls} == {"chat", "execute_tool", "retrieval"}
        await leave_traces(scene)
        assert "call_content.document" in (await cells(scene.database, MARKS))["answer"]
        before = (await scene.service.client.get(path)).json()
        for _ in range(2):
            gone = await scene.service.client.delete(f"{path}/content")
            assert (gone.status_code, gone.content) == (204, b"")
        after = (await scene.service.client.get(path)).json()
        assert await cells(scene.database, MARKS) == {}
        assert (after["content"], after["input"], after["result"], after["params"]) == ("forgotten", None, None, {})
        same = before.keys() - {"content", "input", "result", "params"}
        assert {name: after[name] for name in same} == {name: before[name] for name in same}, "the numbers stay"
        events = await scene.service.client.get(f"{path}/events")
        assert [what for what, mark in MARKS.items() if mark in events.text] == []
        retried = await scene.service.client.post(f"{path}/retry")
        assert (retried.status_code, retried.json()["code"]) == (409, "input_gone")
        if migrated_url.startswith("sqlite"):
            assert on_disk(migrated_url, MARKS) == {}
        async with scene.database.begin() as connection:
            await connection.execute(tables.dead_letter.delete())


async def test_a_signal_that_comes_late_brings_nothing_back(
    migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Collector still holds the end of a forgotten execution, with the parameters, when all that is known is its
    start; and so do the outbox and the dead letters.
    """
    settings = {"outbox_confirm_seconds": 3_600.0}
    async with told(migrated_url, tmp_path, monkeypatch, "collector", capture=Capture.SPAN_ONLY, **settings) as scene:
        async with asyncio.timeout(30):
            while True:
                if scene.sink.holds("/v1/logs", "workflow.execution.completed"):
                    break
                await asyncio.sleep(0.05)
        assert "outbox.payload" in (await cells(scene.database, MARKS))["system"]
        gone = await scene.service.client.delete(f"/v1/executions/{scene.execution_id}/content")
        assert gone.status_code == 204
        assert await cells(scene.database, MARKS) == {}
        for event in ("workflow.execution.started", "workflow.execution.completed"):
            await _bring_back(scene, event)
            assert await cells(scene.database, MARKS) == {}
        await scene.service.runtime.receiver.serve_all()
        found = (await scene.service.client.get(f"/v1/executions/{scene.execution_id}")).json()
        assert (found["status"], found["params"], found["seal"]["complete"]) == ("completed", {}, True)
        assert await cells(scene.database, MARKS) == {}


async def _bring_back(scene: Scene, event: str) -> None:
    """Give the exported log requests that name an event to the receiver, as the Collector does."""
    records = next(intake for intake in scene.service.runtime.receiver.intakes if intake.name == "records")
    for body in scene.sink.bodies["/v1/logs"]:
        decoded = otlp.decode_logs(body)
        signed = [each for each in decoded.signed if isinstance(each[0], EventRecord) and each[0].name == event]
        await records.receive(otlp.Decoded(signed))


async def test_content_changes_no_row_of_the_books(
    migrated_sqlite_url: str, other_sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, list[dict[str, object]]]] = []
    for url, capture in ((migrated_sqlite_url, Capture.NO_CONTENT), (other_sqlite_url, Capture.SPAN_AND_EVENT)):
        async with told(url, tmp_path, monkeypatch, "embedded", capture=capture) as scene:
            await settled(scene)
            seen.append(await _shape_of_books(scene.database))
    assert seen[0] == seen[1]


async def _shape_of_books(database: Database) -> dict[str, list[dict[str, object]]]:
    """The rows of the books without ids and times; of attributes the keys, and which of them were changed."""
    found: dict[str, list[dict[str, object]]] = {}
    async with database.read() as connection:
        for table in (tables.executions, tables.spans, tables.webhook_events):
            columns = [column for column in table.c if column.name in SAME_IN_EVERY_RUN]
            rows = await connection.execute(
                select(*columns, *([table.c.attributes] if "attributes" in table.c else []))
            )
            found[table.name] = sorted((_comparable(dict(row)) for row in rows.mappings()), key=repr)
    return found


SAME_IN_EVERY_RUN = frozenset(
    {"status", "attempt", "kind", "name", "node_id", "error_type", "error_message", "input_tokens", "output_tokens"}
    | {"cost_nano_usd", "model_calls", "tool_calls", "spans_expected", "spans_stored", "tags", "params", "event_type"}
)


def _comparable(row: dict[str, object]) -> dict[str, object]:
    attributes = row.pop("attributes", None)
    if not isinstance(attributes, dict):
        return row
    return row | {"keys": sorted(attributes), "sanitized": attributes.get(semconv.SANITIZED)}


async def test_what_runs_is_not_forgotten(migrated_url: str) -> None:
    async with running(migrated_url, [Hold(Say("done"))]) as service:
        waiting = asyncio.create_task(service.start())
        execution_id = await service.running_id()
        await _is_refused(service, execution_id, "running")
        service.model.release.set()
        await waiting
        assert (await service.client.delete(f"/v1/executions/{execution_id}/content")).status_code == 204


async def test_what_waits_for_an_answer_is_not_forgotten(migrated_url: str) -> None:
    async with front(migrated_url) as service:
        execution_id = (await service.start(mode="async")).json()["id"]
        await _is_refused(service, execution_id, "queued")
        await pause(service, execution_id)
        await _is_refused(service, execution_id, "paused")
        assert (await service.client.post(f"/v1/executions/{execution_id}/cancel")).status_code == 202
        assert (await service.client.delete(f"/v1/executions/{execution_id}/content")).status_code == 204


async def _is_refused(service: Service, execution_id: str, status: str) -> None:
    refused = await service.client.delete(f"/v1/executions/{execution_id}/content")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_finished")
    assert f"is {status}" in refused.json()["detail"]
    assert "cancel it" in refused.json()["detail"]
    assert (await service.client.get(f"/v1/executions/{execution_id}")).json()["input"] == {"message": "hi"}


async def test_an_unknown_execution_is_not_forgotten(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url) as service:
        for method in ("GET", "DELETE"):
            answer = await service.client.request(method, f"/v1/executions/{UNKNOWN_ID}/content")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_turn_is_forgotten_and_the_others_stay(migrated_url: str) -> None:
    """Messages, the summary that covers them, and what later calls were sent of them."""
    texts = ["first secret life", "second turn", "third turn"]
    async with running(migrated_url, lambda request: Say(f"echo {_last(request)}"), content="full") as service:
        ids: list[str] = []
        talk: str | None = None
        for message in texts:
            source: JsonObject = {"kind": "chat", "template": "universal_chat", "conversation_id": talk}
            done = (await service.client.post("/v1/executions", json=_message(message, source))).json()
            ids.append(done["execution_id"])
            talk = done["metadata"]["conversation_id"]
        await _summarize(service, str(talk), "they spoke of a first secret life")
        marks = {message: message for message in texts}
        assert "call_content.document" in (await cells(service.runtime.database, marks))[texts[0]]
        gone = await service.client.delete(f"/v1/executions/{ids[0]}/content")
        assert gone.status_code == 204
        left = await cells(service.runtime.database, marks)
        assert texts[0] not in left
        assert "conversation_messages.content" in left[texts[1]] & left[texts[2]]
        kept = (await service.client.get(f"/v1/executions/{ids[1]}")).json()
        assert (kept["content"], kept["result"]["response"]) == ("shown", f"echo {texts[1]}")
        again = await service.client.post(
            "/v1/executions", json=_message("fourth", {**source, "conversation_id": talk})
        )
        assert again.json()["status"] == "completed"


async def test_a_conversation_that_goes_on_keeps_its_turns(migrated_url: str) -> None:
    async with running(migrated_url, [Say("one"), Hold(Say("two"))]) as service:
        source: JsonObject = {"kind": "chat", "template": "universal_chat"}
        first = (await service.client.post("/v1/executions", json=_message("a turn", source))).json()
        more = {**source, "conversation_id": first["metadata"]["conversation_id"]}
        service.model.entered.clear()
        waiting = asyncio.create_task(service.client.post("/v1/executions", json=_message("more", more)))
        await service.model.entered.wait()
        refused = await service.client.delete(f"/v1/executions/{first['execution_id']}/content")
        assert (refused.status_code, refused.json()["code"]) == (409, "conversation_busy")
        service.model.release.set()
        await waiting
        gone = await service.client.delete(f"/v1/executions/{first['execution_id']}/content")
        assert gone.status_code == 204


def _message(message: str, source: JsonObject) -> JsonObject:
    return {"source": source, "input": {"message": message}}


def _last(request: ModelRequest) -> object:
    return request.messages[-1]["content"]


async def _summarize(service: Service, talk: str, summary: str) -> None:
    messages, talks = engine_tables.conversation_messages, engine_tables.conversations
    async with service.runtime.database.begin() as connection:
        covers = (
            (await connection.execute(select(messages.c.message_id).order_by(messages.c.position))).scalars().first()
        )
        await connection.execute(talks.update().values(summary={"text": summary, "covers": covers}))


async def test_with_none_nothing_is_kept_that_was_taken(migrated_url: str, tmp_path: Path) -> None:
    marks = {"question": "a question about zebras", "answer": "an answer on zebras"}
    asked = {"source": {"kind": "graph", "graph": ASK}, "input": {"message": marks["question"]}}
    async with running(migrated_url, lambda _: Say(marks["answer"]), content="none") as service:
        waited = (await service.client.post("/v1/executions", json=asked)).json()
        assert waited["response"] == marks["answer"]
        async with service.client.stream("POST", "/v1/executions", json={**asked, "mode": "stream"}) as response:
            streamed = [frame async for frame in read_frames(response)][-1].data
        assert streamed["data"]["response"] == marks["answer"]  # type: ignore[index,call-overload]  # JSON
        assert await cells(service.runtime.database, marks) == {}
        found = (await service.client.get(f"/v1/executions/{waited['execution_id']}")).json()
        assert (found["content"], found["input"], found["result"]) == ("not_stored", None, None)
        assert found["model_calls"] == 1

        queued = (await service.client.post("/v1/executions", json={**asked, "mode": "async"})).json()
        later = await ended(service, queued["id"])
        assert later["result"]["response"] == marks["answer"], "nobody waited, so it is there to be fetched"  # type: ignore[index,call-overload]  # JSON
        keyed = await service.client.post("/v1/executions", json=asked, headers={"Idempotency-Key": "again"})
        repeated = await service.client.post("/v1/executions", json=asked, headers={"Idempotency-Key": "again"})
        assert keyed.json() == repeated.json()
        assert repeated.json()["response"] == marks["answer"]


async def test_parameters_are_hashed_with_none(migrated_sqlite_url: str) -> None:
    param = "You are the zebra of the lighthouse"
    source: JsonObject = {"kind": "template", "template": "universal_chat", "params": {"system_message": param}}
    async with running(migrated_sqlite_url, content="none") as service:
        other: JsonObject = {**source, "params": {"system_message": "another"}}
        left = (await service.client.post("/v1/executions", json=_message("hi", other))).json()
        assert (await service.client.get(f"/v1/executions/{left['execution_id']}")).json()["content"] == "not_stored"
        done = (await service.client.post("/v1/executions", json=_message("hi", source))).json()
        places = await cells(service.runtime.database, {"param": param})
        assert places == {"param": {"graphs.graph"}}, "the workflow stays until nothing names it"
        gone = await service.client.delete(f"/v1/executions/{done['execution_id']}/content")
        assert gone.status_code == 204
        assert await cells(service.runtime.database, {"param": param}) == {}


async def test_a_graph_that_another_execution_runs_stays(migrated_url: str) -> None:
    async with running(migrated_url) as service:
        first, second = [(await service.start()).json()["execution_id"] for _ in range(2)]
        for execution_id, graphs in ((first, 1), (second, 0)):
            assert (await service.client.delete(f"/v1/executions/{execution_id}/content")).status_code == 204
            async with service.runtime.database.read() as connection:
                assert len((await connection.execute(select(engine_tables.graphs))).all()) == graphs
            retried = await service.client.post(f"/v1/executions/{execution_id}/retry")
            assert (retried.status_code, retried.json()["code"]) == (409, "input_gone")


@pytest.mark.jaeger
async def test_jaeger_shows_prompt_and_answer_of_each_call(
    jaeger: Jaeger, migrated_sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", jaeger.otlp_http)
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    async with running(migrated_sqlite_url, [Say("Zebras live here.")]) as service:
        done = (await service.start(input={"message": "Where do zebras live?"})).json()
        trace = (await service.client.get(f"/v1/executions/{done['execution_id']}/trace")).json()
        shown = await in_jaeger(jaeger, done["metadata"]["trace_id"], len(trace["spans"]) + 1)
    by_name = {str(span["operationName"]): tags(span) for span in shown}
    [http] = [found for name, found in by_name.items() if name.startswith("POST")]
    for found in (http, next(found for name, found in by_name.items() if name.startswith("invoke_workflow"))):
        assert found[semconv.INPUT_VALUE] == "Where do zebras live?"
        assert found[semconv.OUTPUT_VALUE] == "Zebras live here."
    [chat] = [found for name, found in by_name.items() if name.startswith("chat")]
    assert orjson.loads(chat[semconv.INPUT_MESSAGES]) == [
        {"role": "user", "parts": [{"type": "text", "content": "Where do zebras live?"}]}
    ]
    assert orjson.loads(chat[semconv.OUTPUT_MESSAGES]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Zebras live here."}], "finish_reason": "stop"}
    ]


@pytest.mark.collector
@pytest.mark.jaeger
async def test_content_passes_a_real_collector_into_jaeger_and_not_into_the_books(
    jaeger: Jaeger,
    start_collector: StartCollector,
    migrated_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    (tmp_path / "a.md").write_text("# Zebras\n\nZebras of the lighthouse eat 42 apples.\n")
    marks = {"argument": "6 * 7 - 0", "document": "eat 42 apples", "answer": "It is 42, says the zebra."}
    to_jaeger = {"JAEGER_OTLP_ENDPOINT": jaeger.otlp_http}
    async with wired(migrated_url, tmp_path, start_collector, environment=to_jaeger) as way:
        script: list[Step] = [Call("calculate", {"expression": marks["argument"]}), Say(marks["answer"])]
        request = a_request({"kind": "template", "template": NAMED}, message="What of the zebras of the lighthouse?")
        result = await way.runner.engine(script).execute(request)
        await way.drained()
        trace = await way.runner.trace(result.execution_id)
        shown = await in_jaeger(jaeger, str(result.metadata.trace_id), len(trace.spans))
        places = await cells(way.database, marks)
    said_by = {str(span["operationName"]).partition(" ")[0]: tags(span) for span in shown}
    assert marks["argument"] in said_by["execute_tool"][semconv.TOOL_ARGUMENTS]
    assert said_by["execute_tool"][semconv.TOOL_RESULT] == "42"
    assert marks["document"] in said_by["retrieval"][semconv.RETRIEVED]
    assert marks["document"] in said_by["retrieval"][semconv.OUTPUT_VALUE]
    assert said_by["invoke_workflow"][semconv.OUTPUT_VALUE] == marks["answer"]
    answers = [tags(span)[semconv.OUTPUT_MESSAGES] for span in shown if str(span["operationName"]).startswith("chat")]
    assert any("tool_call" in answer for answer in answers)
    assert any(marks["answer"] in answer for answer in answers)
    assert {what: found - ALLOWED for what, found in places.items() if found - ALLOWED} == {}


def test_each_file_page_of_what_is_deleted_is_overwritten(tmp_path: Path) -> None:
    """Rows of all sizes, updated and deleted in random order, so that pages are split, joined and freed."""
    url = f"sqlite:///{tmp_path / 'pages.db'}"
    gone = asyncio.run(_churn(url, Random(3)))
    assert len(gone) > 100
    assert on_disk(url, {mark: mark for mark in gone}) == {}


async def _churn(url: str, random: Random) -> list[str]:
    kept: dict[str, str] = {}
    made: list[str] = []
    async with Database(url) as database:
        async with database.begin() as connection:
            await connection.execute(text("CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT, b TEXT)"))
        for number in range(400):
            mark = f"MARK{number:05}KRAM"
            made.append(mark)
            async with database.begin() as connection:
                row = {"id": f"{random.getrandbits(64):016x}", "a": mark + "x" * random.choice([9, 900, 9_000])}
                await connection.execute(text("INSERT INTO t VALUES (:id, :a, :b)"), row | {"b": f"{mark} again"})
                kept[row["id"]] = mark
                if random.random() < 0.5:
                    victim = random.choice(list(kept))
                    how = random.choice(
                        ["DELETE FROM t WHERE id = :id", "UPDATE t SET a = '', b = NULL WHERE id = :id"]
                    )
                    await connection.execute(text(how), {"id": victim})
                    del kept[victim]
        await database.scrub()
    return sorted(set(made) - set(kept.values()))


async def leave_traces(scene: Scene) -> None:
    """Dead letters, a signal on its way, and a checkpoint of the execution, each with content."""
    id_, marks = scene.execution_id, " ".join(MARKS.values())
    params = {semconv.PARAMS: f'{{"system_message": "{marks}"}}'}
    letter = {
        "consumer": "records",
        "execution_id": id_,
        "reason": "test",
        "at": datetime(2020, 1, 1, tzinfo=UTC),
        "due_at": None,
    }
    signals = [{"type": "event", "attributes": params}, {"type": "refused", "signal": {"attributes": params}}]
    async with scene.database.begin() as connection:
        for number, signal in enumerate(signals):
            row = letter | {"id": f"letter-{number}", "signal": signal}
            await connection.execute(tables.dead_letter.insert().values(row))
    async with open_checkpoints(scene.service.runtime.settings.database_url) as checkpoints:
        await checkpoints.keep(id_, 1, marks.encode() * 100)
