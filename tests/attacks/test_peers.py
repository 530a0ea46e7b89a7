"""What other tools read of our traces is there in both modes, no caller abuses it, and the books hold none of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import select, text

from engine.content.policy import Capture
from engine.graph import Json, JsonObject
from engine.testing.models import Call, Fail, Say, Script, Step
from engine.tracing import semconv
from telemetry.signals import peers
from telemetry.store import tables
from tests.api.harness import Service, ended, front, request, running
from tests.attacks.otlp_sink import Sink, otlp_sink
from tests.attacks.test_content import cells
from tests.misbehaving_collector import TOKEN

MODES = pytest.mark.parametrize("mode", ["embedded", "collector"])
SECRET = "sk-aaaaaaaaaaaaaaaaaaaaaaaa"
USER = "ada@example.org"
LIGHTHOUSE = "The lighthouse of Brant was built in 1841."


@dataclass(slots=True)
class Scene:
    """A service, and the trace store that it exports to."""

    service: Service
    sink: Sink

    async def exported(self) -> list[Span]:
        """All spans, once everything is booked and exported."""
        async with asyncio.timeout(60):
            while True:
                if not await self._owes():
                    break
                await asyncio.sleep(0.05)
        await asyncio.to_thread(self.service.runtime.telemetry.tracer_provider.force_flush)
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.sink.bodies.get("/v1/traces", [])]
        groups = [
            group for request in requests for resource in request.resource_spans for group in resource.scope_spans
        ]
        return list({span.span_id: span for group in groups for span in group.spans}.values())

    async def _owes(self) -> bool:
        async with self.service.runtime.database.read() as connection:
            return (await connection.execute(select(tables.outbox.c.id).limit(1))).first() is not None

    async def start(self, **more: Json) -> JsonObject:
        """Run the shortest workflow."""
        answer: JsonObject = (await self.service.start("", **more)).json()
        return answer


@asynccontextmanager
async def watched(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    mode: str = "embedded",
    script: Script | None = None,
    capture: Capture = Capture.NO_CONTENT,
    has_worker: bool = True,
    **settings: object,
) -> AsyncIterator[Scene]:
    """A service in this mode and its trace store, from which nothing comes back: signals are served locally."""
    given: dict[str, object] = {"pipeline": mode, "secret_key": ("0123456789abcdef" * 4,)}
    if mode == "collector":
        given |= {"ingest_tokens": (TOKEN,), "outbox_confirm_seconds": 0.2}
    with otlp_sink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", capture.value)
        async with (running if has_worker else front)(url, script, **given | settings) as service:
            yield Scene(service, sink)


def said(span: Span) -> dict[str, Json]:
    """The attributes of a span."""
    found: dict[str, Json] = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        assert kind is not None
        found[pair.key] = getattr(pair.value, kind) if kind != "array_value" else len(pair.value.array_value.values)
    return found


def only(spans: list[Span], start: str) -> Span:
    """The one span whose name begins so."""
    [found] = [span for span in spans if span.name.startswith(start)]
    return found


async def search(scene: Scene, documents: Path) -> JsonObject:
    """A chat that retrieves, calls a tool that fails, and answers."""
    documents.mkdir()
    (documents / "a.md").write_text(f"# Harbour\n\n{LIGHTHOUSE}\n")
    params: JsonObject = {"enable_retrieval": True, "enable_tools": True, "path": str(documents)}
    body: JsonObject = {
        "source": {"kind": "chat", "template": "universal_chat", "params": params},
        "input": {"message": "lighthouse"},
        "tags": {"team": "harbour"},
        "user": USER,
    }
    done = await scene.service.client.post("/v1/executions", json=body)
    result: JsonObject = done.json()
    assert (done.status_code, result["status"]) == (200, "completed"), result
    return result


@MODES
async def test_other_tools_find_what_they_look_for(
    migrated_sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    documents = tmp_path / "documents"
    script: list[Step] = [Call("calculate", {"expression": "nonsense +"}), Say("1841")]
    prices = tmp_path / "prices.json"
    prices.write_text('{"scripted:scripted-1": {"input_mtok": "1", "output_mtok": "2"}}')
    async with watched(
        migrated_sqlite_url,
        monkeypatch,
        mode,
        script,
        files_roots=(documents,),
        phoenix_project="harbour works",
        prices=prices,
    ) as scene:
        result = await search(scene, documents)
        spans = await scene.exported()
    conversation = result["metadata"]["conversation_id"]  # type: ignore[index,call-overload]  # it is a document
    http, root = said(only(spans, "POST ")), said(only(spans, "invoke_workflow "))
    for outermost in (http, root):
        assert outermost["openinference.span.kind"] == "CHAIN"
        assert outermost["session.id"] == conversation
        assert str(outermost["user.id"]).startswith("sha256:")
        assert outermost["workflow.tag.team"] == outermost["mlflow.traceTag.team"] == "harbour"
        assert orjson.loads(str(outermost["metadata"])) == {"team": "harbour"}
    assert root["workflow.cost.usd"] == int(str(root["workflow.cost.nano_usd"])) / 1e9
    assert not [key for key in root if key.startswith("gen_ai.usage.")]
    kinds = {span.name.split()[0]: said(span).get("openinference.span.kind") for span in spans}
    assert kinds == {
        "POST": "CHAIN",
        "invoke_workflow": "CHAIN",
        "execute_node": "CHAIN",
        "retrieval": "RETRIEVER",
        "execute_tool": "TOOL",
        "chat": None,
    }
    tool = only(spans, "execute_tool ")
    assert said(tool)["mlflow.spanType"] == "TOOL"
    [failure] = [event for event in tool.events if event.name == "exception"]
    assert {pair.key for pair in failure.attributes} == {"exception.type", "exception.message"}
    assert failure.time_unix_nano == tool.end_time_unix_nano
    call = said(next(span for span in spans if span.name.startswith("chat ")))
    assert call["workflow.cost.source"] == "override"
    of_input, of_output = (
        int(str(call[f"gen_ai.usage.{kind}_tokens"])) * usd for kind, usd in (("input", 1e-6), ("output", 2e-6))
    )
    costs = {"input_cost": of_input, "output_cost": of_output, "total_cost": of_input + of_output}
    assert orjson.loads(str(call["mlflow.llm.cost"])) == pytest.approx(costs)
    assert scene.sink.holds("/v1/traces", "openinference.project.name")
    assert scene.sink.holds("/v1/traces", "harbour works")


@MODES
async def test_the_books_hold_nothing_of_it(migrated_url: str, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    async with watched(migrated_url, monkeypatch, mode, capture=Capture.SPAN_ONLY) as scene:
        await scene.start(tags={"team": "harbour"}, user=USER)
        await scene.exported()
        async with scene.service.runtime.database.read() as connection:
            rows = (await connection.execute(text("SELECT attributes FROM spans"))).scalars().all()
        metrics = (await scene.service.client.get("/metrics")).text
        webhooks = (await scene.service.client.get("/v1/executions")).text
    stored = orjson.dumps([row if isinstance(row, str) else dict(row) for row in rows]).decode()
    assert "workflow.tags" in stored
    for key in (*semconv.PEER_KEYS, *semconv.PEER_PREFIXES):
        assert f'"{key}' not in stored.replace("\\", ""), key
    assert USER not in stored + metrics + webhooks
    assert "harbour" not in metrics


HOSTILE = {
    "mlflow.artifactLocation": "file:///etc",
    "mlflow.traceName": "forged",
    "openinference.span.kind": "LLM",
    "a\u202eb": "right\u202eleft",
    "line\nbreak": "two\nlines",
    "": "nameless",
    "a": "1",
    "a.b": "2",
    "a.b.c": "3",
    ".": "dot",
    "k" * 64: "v" * 64,
    SECRET: "a secret as a name",
    "secret": SECRET,
    "<img onerror=1>": "<script>",
    "json": '{"a": [1]}',
}


@MODES
async def test_hostile_tags_name_nothing_but_themselves(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    async with watched(migrated_sqlite_url, monkeypatch, mode) as scene:
        assert (await scene.start(tags=dict(HOSTILE)))["status"] == "completed"
        spans = await scene.exported()
        metrics = (await scene.service.client.get("/metrics")).text
    for span in (only(spans, "POST "), only(spans, "invoke_workflow ")):
        found = said(span)
        assert found["openinference.span.kind"] == "CHAIN"
        assert found["workflow.tag.mlflow.traceName"] == "forged"
        assert not [key for key in found if key.startswith("mlflow.traceTag.mlflow.")]
        assert not [key for key in found if key != "".join(filter(str.isprintable, key))]
        assert found["workflow.tag.a\\u202eb"] == "right\u202eleft"
        assert not {"workflow.tag.", "mlflow.traceTag."} & found.keys()
        assert found["workflow.tag.secret"] == "[redacted]"
        assert orjson.loads(str(found["metadata"]))["a.b.c"] == "3"
    assert not scene.sink.holds("/v1/traces", SECRET)
    assert "forged" not in metrics


@MODES
async def test_two_tags_that_look_like_a_secret_side_by_side_stay_two(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    tags = {"url": "https://u:p", "whom": "a@b"}
    async with watched(migrated_sqlite_url, monkeypatch, mode) as scene:
        execution_id = (await scene.start(tags=dict(tags)))["execution_id"]
        root = said(only(await scene.exported(), "invoke_workflow "))
        record = (await scene.service.client.get(f"/v1/executions/{execution_id}")).json()
    assert {name: root[f"workflow.tag.{name}"] for name in tags} == record["tags"] == tags
    assert orjson.loads(str(root["metadata"])) == orjson.loads(str(root["workflow.tags"])) == tags


@MODES
async def test_half_a_key_in_a_parameter_is_refused_with_its_reason(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    params: JsonObject = {"system_message": "-----BEGIN PRIVATE KEY-----MIIEvQ", "temperature": 0.5}
    async with watched(migrated_sqlite_url, monkeypatch, mode) as scene:
        body: JsonObject = {"source": {"kind": "chat", "params": params}, "input": {"message": "hi"}}
        done = await scene.service.client.post("/v1/executions", json=body)
        assert (done.status_code, done.json()["error_type"]) == (200, "invalid_workflow"), done.text
        spans = await scene.exported()
        record = (await scene.service.client.get(f"/v1/executions/{done.json()['execution_id']}")).json()
    assert orjson.loads(str(said(only(spans, "invoke_workflow "))["workflow.params"])).keys() == params.keys()
    assert record["params"] == {"system_message": "[redacted]", "temperature": 0.5}


async def test_ten_thousand_tags_are_refused(migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    many: JsonObject = {f"tag-{number}": "x" for number in range(10_000)}
    async with watched(migrated_sqlite_url, monkeypatch) as scene:
        answer = await scene.service.start(tags=many)
        assert answer.status_code == 422
        assert (await scene.service.start(tags={"t" * 65: "x"})).status_code == 422
    added = peers.added_to({semconv.OPERATION: "invoke_workflow", semconv.TAGS: orjson.dumps(many).decode()})
    assert len([key for key in added if key.startswith(semconv.TAG_PREFIX)]) == 16


@pytest.mark.parametrize(
    ("capture", "shown"),
    [(Capture.NO_CONTENT, "sha256:"), (Capture.EVENT_ONLY, "sha256:"), (Capture.SPAN_ONLY, USER)],
)
@MODES
async def test_a_user_is_a_hash_unless_spans_show_content(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch, mode: str, capture: Capture, shown: str
) -> None:
    async with watched(migrated_sqlite_url, monkeypatch, mode, capture=capture) as scene:
        first = await scene.start(user=USER)
        second = await scene.start(user=USER)
        other = await scene.start(user=f"{USER}.uk")
        spans = await scene.exported()
    found = {
        str(said(span)[semconv.EXECUTION_ID]): str(said(span)["user.id"])
        for span in spans
        if span.name.startswith("invoke_workflow ")
    }
    assert found[str(first["execution_id"])].startswith(shown)
    assert found[str(first["execution_id"])] == found[str(second["execution_id"])]
    assert found[str(first["execution_id"])] != found[str(other["execution_id"])]
    assert scene.sink.holds("/v1/traces", USER) == capture.on_spans


@pytest.mark.parametrize("content", ["none", "result", "full"])
@MODES
async def test_a_user_stands_in_the_stored_request_alone_and_is_forgotten_with_it(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch, mode: str, content: str
) -> None:
    marks = {"user": USER}
    async with watched(migrated_url, monkeypatch, mode, capture=Capture.SPAN_AND_EVENT, content=content) as scene:
        execution_id = (await scene.start(user=USER, tags={"team": "harbour"}))["execution_id"]
        await scene.exported()
        database = scene.service.runtime.database
        before = await cells(database, marks)
        gone = await scene.service.client.delete(f"/v1/executions/{execution_id}/content")
        assert gone.status_code == 204
        after = await cells(database, marks)
    assert before == ({} if content == "none" else {"user": {"execution_control.request"}})
    assert after == {}


async def test_a_user_with_a_secret_or_control_characters_is_shown_without(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(migrated_sqlite_url, monkeypatch, capture=Capture.SPAN_ONLY) as scene:
        await scene.start(user=f"x\u202e\n{SECRET}")
        spans = await scene.exported()
        empty, long = await scene.service.start(user=""), await scene.service.start(user="u" * 256)
    assert said(only(spans, "invoke_workflow "))["user.id"] == "x\\u202e\\n[redacted]"
    assert (empty.status_code, long.status_code) == (422, 422)


async def test_another_user_with_the_same_idempotency_key_gets_no_answer(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"idempotency-key": "one"}
    async with watched(migrated_url, monkeypatch) as scene:
        client = scene.service.client
        first = await client.post("/v1/executions", json=request(user=USER), headers=headers)
        again = await client.post("/v1/executions", json=request(user=USER), headers=headers)
        for other in (request(user="eve"), request()):
            refused = await client.post("/v1/executions", json=other, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_mismatch"), refused.text
    assert again.json()["execution_id"] == first.json()["execution_id"]


async def test_the_user_stays_with_the_execution_when_it_is_queued_and_retried(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script: list[Step] = [Fail("bad_request", "no"), Say("yes")]
    async with watched(migrated_sqlite_url, monkeypatch, script=script) as scene:
        queued = (await scene.service.start(mode="async", user=USER)).json()
        assert (await ended(scene.service, str(queued["id"])))["status"] == "failed"
        retried = await scene.service.client.post(f"/v1/executions/{queued['id']}/retry")
        assert (await ended(scene.service, str(retried.json()["id"])))["status"] == "completed"
        spans = await scene.exported()
    users = [said(span).get("user.id") for span in spans if span.name.startswith("invoke_workflow ")]
    assert len(users) == 2
    assert len(set(users)) == 1
    assert None not in users


@pytest.mark.parametrize("capture", [Capture.NO_CONTENT, Capture.SPAN_ONLY])
@MODES
async def test_the_user_stays_with_an_execution_that_no_process_runs(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch, mode: str, capture: Capture
) -> None:
    async with watched(migrated_sqlite_url, monkeypatch, mode, capture=capture, has_worker=False) as scene:
        await scene.start(user=USER)
        queued = (await scene.service.start(mode="async", user=USER)).json()
        assert (await scene.service.client.post(f"/v1/executions/{queued['id']}/cancel")).status_code == 202
        spans = await scene.exported()
        async with scene.service.runtime.database.read() as connection:
            rows = (await connection.execute(text("SELECT attributes FROM spans"))).scalars().all()
    ran, cancelled = (said(span) for span in spans if span.name.startswith("invoke_workflow "))
    assert {ran["workflow.execution.status"], cancelled["workflow.execution.status"]} == {"completed", "cancelled"}
    assert ran["user.id"] == cancelled.get("user.id")
    assert USER not in str(rows)


@pytest.mark.parametrize("mode", ["wait", "stream"])
@pytest.mark.parametrize(("step", "code"), [(Say("yes"), 1), (Fail("bad_request", "no"), 2)])
async def test_the_outermost_span_tells_how_the_execution_ended(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch, step: Step, code: int, mode: str
) -> None:
    async with watched(migrated_sqlite_url, monkeypatch, script=[step]) as scene:
        assert (await scene.service.start(mode=mode)).status_code == 200
        spans = await scene.exported()
    assert [only(spans, start).status.code for start in ("POST ", "invoke_workflow ")] == [code, code]


async def test_every_failed_span_has_one_exception_event_without_secrets(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [Fail("bad_request", f"the key {SECRET} is wrong")]
    async with watched(migrated_sqlite_url, monkeypatch, script=script) as scene:
        assert (await scene.start())["status"] == "failed"
        spans = await scene.exported()
    failed = [span for span in spans if span.status.code == span.status.STATUS_CODE_ERROR]
    assert {span.name.split()[0] for span in failed} == {"POST", "invoke_workflow", "execute_node", "chat"}
    assert [[event.name for event in span.events] for span in failed] == [["exception"]] * 4
    assert not any(span.events for span in spans if span not in failed)
    assert not scene.sink.holds("/v1/traces", SECRET)
