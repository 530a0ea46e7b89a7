"""Attack: answers of a model that are endless, huge, broken or sent from elsewhere."""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import httpx2
import pytest

from engine.errors import ModelFailure
from engine.graph import Json, JsonObject
from engine.models.registry import LangChainModels, ProviderSettings
from engine.resources import ChatModel, Message, ModelReply, ModelRequest, ToolCall, ToolSpec
from engine.runtime.calls import check_reply
from engine.testing.models import Say, ScriptedModel
from tests.engine.harness import Harness, graph, graph_request
from tests.faults.hostile_provider import KEY, PROVIDERS, HostileProvider, hostile_provider
from tests.faults.server_process import ServerProcess, server_process

ENDLESS = ("endless", "endless-reasoning", "endless-nothing", "endless-comments")
CASES = [case for case in product(PROVIDERS, ENDLESS) if case != ("google", "endless-comments")]
"""Google's SDK takes a comment for an answer that it cannot read."""

LIMIT_SECONDS = 1.0
DRAIN_SECONDS = 1.0
LATE_SECONDS = 2.0
"""How late an execution may end after its limit, on a machine that is busy with the provider as well."""
HELD_UP_SECONDS = 2.0
"""The longest that another request may take meanwhile."""
GROWTH_MIB = 250
"""The most memory that any answer may take. The answers here are of 50 MB to a gigabyte."""

TOO_LARGE = ("huge-reply", "huge-event", "many-calls", "huge-arguments", "huge-broken-arguments", "gzip-bomb")
ENDS_AS = {
    **dict.fromkeys(TOO_LARGE, "invalid_output"),
    "endless-headers": "connection",
    "malformed": "provider_error",
    "nested": "provider_error",
    "not-utf-8": "provider_error",
    "many-lines": "invalid_output",
    "redirect": "bad_request",
    "cut": "connection",
}
"""The error type of an attack that ends by itself, whether it is streamed or not."""
OTHERWISE = {("google", "not-utf-8"): "empty_response"}
"""Google's SDK reads what it can."""


HI: Message = {"id": "1", "role": "user", "content": "hi"}
TOOL = ToolSpec("calculate", "Work it out.", {"type": "object", "properties": {}})
ASK = graph(
    [{"id": "ask", "type": "model", "stream": True, "retry": {"max_attempts": 1}}], ["start -> ask", "ask -> end"]
)


@asynccontextmanager
async def asked(hostile: HostileProvider, provider: str, name: str) -> AsyncIterator[ChatModel]:
    """A model of the hostile provider."""
    address = hostile.environment["OPENAI_BASE_URL"] if provider == "openai" else hostile.url
    models = LangChainModels({provider: ProviderSettings(KEY, address)})
    yield models.get(provider, name)
    await models.aclose()


async def answer_of(model: ChatModel, *, stream: bool) -> ModelReply:
    """The reply, read to its end, as a call takes it."""
    request = ModelRequest("", [HI], [TOOL])
    reply = [piece async for piece in model.stream(request)][-1] if stream else await model.invoke(request)
    assert isinstance(reply, ModelReply)
    check_reply(reply)
    return reply


@pytest.fixture
async def hostile() -> AsyncIterator[HostileProvider]:
    async with hostile_provider() as made:
        yield made


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("name", "error_type"), ENDS_AS.items())
async def test_an_answer_that_cannot_be_taken_is_a_failure_with_its_code(
    hostile: HostileProvider, provider: str, stream: bool, name: str, error_type: str
) -> None:
    async with asked(hostile, provider, name) as model:
        with pytest.raises(ModelFailure) as caught:
            await answer_of(model, stream=stream)
    assert caught.value.error_type == OTHERWISE.get((provider, name), error_type)
    assert KEY not in caught.value.message
    assert hostile.strayed == []


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["honest", "dripping", "wrong-type"])
async def test_an_odd_answer_is_taken(hostile: HostileProvider, provider: str, stream: bool, name: str) -> None:
    async with asked(hostile, provider, name) as model:
        reply = await answer_of(model, stream=stream)
    assert (reply.text, reply.finish_reason) == ("Hello there", "stop")
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (100, 50)


async def test_a_call_that_begins_without_arguments_is_taken(hostile: HostileProvider) -> None:
    async with asked(hostile, "openai", "frugal-call") as model:
        reply = await answer_of(model, stream=True)
    assert reply.tool_calls == (ToolCall(id="call-1", name="calculate", arguments={"x": 1}),)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_that_ends_before_its_answer_is_no_answer(hostile: HostileProvider, provider: str) -> None:
    async with asked(hostile, provider, "unfinished") as model:
        with pytest.raises(ModelFailure, match="before the answer was complete") as caught:
            await answer_of(model, stream=True)
    assert caught.value.error_type == "connection"


async def test_what_a_refused_answer_had_cost_until_then_is_known(hostile: HostileProvider) -> None:
    async with asked(hostile, "anthropic", "many-calls") as model:  # the only one that says it at the beginning
        with pytest.raises(ModelFailure) as caught:
            await answer_of(model, stream=True)
    report = caught.value.report
    assert report is not None
    assert report.is_partial
    assert report.usage is not None
    assert (report.usage.input_tokens, report.usage.output_tokens) == (100, None)


class Chatterbox(ScriptedModel):
    """A model of a user that streams for ever: it never waits, or it takes a cancellation for an error of its own."""

    def __init__(self, piece: str, *, swallows: bool) -> None:
        super().__init__([])
        self._piece = piece
        self._swallows = swallows

    async def stream(self, request: ModelRequest) -> AsyncIterator[str | ModelReply]:
        self.entered.set()
        while True:
            if self._swallows:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            yield self._piece


@pytest.mark.parametrize("piece", ["", "word "])
@pytest.mark.parametrize("swallows", [True, False])
async def test_a_model_that_never_waits_can_be_stopped(piece: str, swallows: bool) -> None:
    timed_out = await Harness(models=[Chatterbox(piece, swallows=swallows)]).run(
        {**ASK, "limits": {"run_seconds": 0.2}}
    )
    assert (timed_out.result.status, timed_out.result.error_type) == ("failed", "timeout")
    harness = Harness(models=[Chatterbox(piece, swallows=swallows)])
    execution = await harness.engine.start(graph_request(ASK), streaming=True)
    await harness.model.entered.wait()
    execution.cancel("enough")
    assert (await execution.result()).status == "cancelled"


CALLS = tuple(ToolCall(id=f"call-{number}", name="echo", arguments={}) for number in range(129))
ONE_LARGE_CALL = (ToolCall(id="call-1", name="echo", arguments={"x": "a" * 4_194_305}),)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("answer", [Say("a" * 4_194_305), Say(tool_calls=CALLS), Say(tool_calls=ONE_LARGE_CALL)])
async def test_every_model_has_the_same_limits_and_what_it_used_is_booked(answer: Say, stream: bool) -> None:
    harness = Harness([answer])
    node: JsonObject = {"id": "ask", "type": "model", "stream": stream, "retry": {"max_attempts": 1}}
    run = await harness.run(graph([node], ["start -> ask", "ask -> end"]))
    assert (run.result.status, run.result.error_type) == ("failed", "invalid_output")
    assert "SPANLOOM_MAX_ANSWER" in str(run.result.error_message)
    assert run.result.usage.input_tokens == (None if stream and answer.text else 12)


async def test_an_answer_that_is_too_large_is_not_asked_for_for_ever() -> None:
    harness = Harness([Say(tool_calls=CALLS)] * 10)
    node: JsonObject = {"id": "ask", "type": "model", "retry": {"max_attempts": 3, "initial_delay_seconds": 0}}
    run = await harness.run(graph([node], ["start -> ask", "ask -> end"]))
    assert (run.result.status, run.result.model_calls) == ("failed", 2)


@dataclass(slots=True)
class Service:
    """A real server, its provider, and the longest time that a health check took."""

    server: ServerProcess
    provider: HostileProvider
    http: httpx2.AsyncClient
    waits: list[float] = field(default_factory=list)

    async def run(self, provider: str, model: str, *, mode: str = "wait", **more: Any) -> dict[str, Any]:
        """Run a workflow with one model node. `node` and `limits` are those of the graph."""
        answer = await self.http.post("/v1/executions", json=asking(provider, model, mode=mode, **more))
        assert answer.status_code in (200, 202), answer.text
        found: dict[str, Any] = answer.json()
        return found | {"execution_id": answer.headers["x-execution-id"]}

    async def until_asked(self) -> None:
        """The provider has been asked by the execution that was started last."""
        await asyncio.wait_for(self.provider.news.get(), 30)

    async def record(self, execution_id: str) -> dict[str, Any]:
        """The record, once the execution has ended."""
        while True:
            answer = await self.http.get(f"/v1/executions/{execution_id}")
            found: dict[str, Any] = answer.json()
            if found["status"] in ("completed", "failed", "cancelled"):
                return found
            await asyncio.sleep(0.02)

    def check_health(self, until: threading.Event) -> None:
        """Ask for the health of the server again and again. In a thread: the provider holds up the loop of the test."""
        with httpx2.Client(base_url=self.server.url, timeout=60, trust_env=False) as http:
            while not until.wait(0.02):
                began = time.monotonic()
                with suppress(httpx2.TransportError):  # the server is being stopped
                    http.get("/healthz")
                self.waits.append(time.monotonic() - began)


def asking(
    provider: str, model: str, *, mode: str = "wait", node: JsonObject | None = None, limits: JsonObject | None = None
) -> JsonObject:
    """A request for one answer of one model, which is not asked again."""
    config: JsonObject = {"provider": provider, "model": model}
    asked: JsonObject = {"id": "ask", "type": "model", "config": config, "retry": {"max_attempts": 1}, **(node or {})}
    more: dict[str, Json] = {"limits": limits} if limits else {}
    document = graph([asked], ["start -> ask", "ask -> end"], **more)
    return {"source": {"kind": "graph", "graph": document}, "input": {"message": "hi"}, "mode": mode}


@asynccontextmanager
async def serving(folder: Path, database_url: str, **environment: str) -> AsyncIterator[Service]:
    """The server and its provider; meanwhile its health is checked."""
    async with (
        hostile_provider() as provider,
        server_process(folder, database_url, environment=provider.environment | environment) as server,
        httpx2.AsyncClient(base_url=server.url, timeout=100, trust_env=False) as http,
    ):
        service = Service(server, provider, http)
        for each in PROVIDERS:  # the first call imports the provider's package, which takes a second
            assert (await service.run(each, "honest"))["status"] == "completed"
            await service.until_asked()
        stop = threading.Event()
        checks = asyncio.create_task(asyncio.to_thread(service.check_health, stop), name="health checks")
        try:
            yield service
        finally:
            stop.set()
            await checks


@pytest.fixture
async def service(tmp_path: Path, migrated_sqlite_url: str) -> AsyncIterator[Service]:
    async with serving(tmp_path, migrated_sqlite_url, SPANLOOM_DRAIN_SECONDS=f"{DRAIN_SECONDS}") as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_an_endless_answer_ends_at_the_timeout(service: Service) -> None:
    limits: list[dict[str, Any]] = [
        {"node": {"timeout_seconds": LIMIT_SECONDS, "stream": True}},
        {"limits": {"run_seconds": LIMIT_SECONDS}, "node": {"stream": True}},
        {"node": {"timeout_seconds": LIMIT_SECONDS}},  # read at once, and too large after 16 MiB
    ]
    for (provider, model), limit in product(CASES, limits):
        began = time.monotonic()
        result = await service.run(provider, model, **limit)
        seconds = time.monotonic() - began
        allowed = ("timeout",) if limit["node"].get("stream") else ("timeout", "invalid_output")
        assert result["status"] == "failed", (provider, model, limit, result)
        assert result["error_type"] in allowed, (provider, model, limit, result)
        assert seconds < LIMIT_SECONDS + LATE_SECONDS, (provider, model, limit)
        record = await service.record(result["execution_id"])
        assert (record["status"], record["error_type"]) == ("failed", result["error_type"])
        assert (record["model_calls"], record["unmetered_calls"], record["cost_nano_usd"]) == (1, 1, None)
    assert max(service.waits) < HELD_UP_SECONDS


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_an_endless_answer_can_be_cancelled(service: Service) -> None:
    for provider, model in CASES:
        started = await service.run(provider, model, mode="async", node={"stream": True})
        await service.until_asked()
        began = time.monotonic()
        await service.http.post(f"/v1/executions/{started['execution_id']}/cancel", json={"reason": "enough"})
        record = await service.record(started["execution_id"])
        assert record["status"] == "cancelled", (provider, model, record)
        assert time.monotonic() - began < LATE_SECONDS
        assert (record["model_calls"], record["unmetered_calls"], record["cost_nano_usd"]) == (1, 1, None)
    assert max(service.waits) < HELD_UP_SECONDS


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_endless_answers_do_not_keep_a_server_from_stopping(service: Service) -> None:
    for provider, model in CASES[::2]:
        await service.run(provider, model, mode="async", node={"stream": True})
        await service.until_asked()
    stopped = await service.server.stop()
    assert (stopped.exit_code, stopped.seconds < DRAIN_SECONDS + 2 * LATE_SECONDS) == (0, True), stopped
    assert "destroyed" not in service.server.logs()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_huge_answers_take_little_memory_and_do_not_hold_up_others(service: Service) -> None:
    before = peak_mib(service.server)
    for model in (*TOO_LARGE, "reasoning", "many-lines", "endless"):
        for provider in PROVIDERS:
            for stream in (True, False):
                result = await service.run(provider, model, node={"stream": stream, "timeout_seconds": 5})
                grown = peak_mib(service.server) - before
                print(f"{provider} {model} {stream}: {result['status']}, {grown:.0f} MiB, {max(service.waits):.2f} s")
    assert service.server.is_running
    assert peak_mib(service.server) - before < GROWTH_MIB
    assert max(service.waits) < HELD_UP_SECONDS


def peak_mib(server: ServerProcess) -> float:
    """The most memory that the process has used so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1_024
