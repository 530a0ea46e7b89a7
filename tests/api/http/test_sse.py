"""Following an execution by server-sent events."""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncGenerator
from typing import NoReturn

import httpx2
import orjson
import pytest
from starlette.types import Receive, Scope, Send
from uvicorn import Config, Server

from api.access.principal import Unauthenticated
from api.http import sse
from api.http.problems import Problem, problem_of
from api.http.sse import EventStream
from api.schemas.problems import ProblemDocument
from api.service.server import listen
from engine.errors import SpanloomError, Unavailable
from engine.events import EventType, ExecutionEvent
from engine.testing.models import Fail, Hold
from tests.api.harness import Frame, Service, read_frames, request, running

VARYING = {"execution_id", "duration_ms", "messages", "metadata"}


async def test_the_stream_ends_with_what_wait_answers(stored_service: Service) -> None:
    waited = (await stored_service.start()).json()
    frames = await stored_service.frames()
    streamed = frames[-1].data["data"]
    assert isinstance(streamed, dict)
    assert {k: v for k, v in streamed.items() if k not in VARYING} == {
        k: v for k, v in waited.items() if k not in VARYING
    }
    found = await stored_service.client.get(f"/v1/executions/{streamed['execution_id']}")
    assert found.json()["result"] == streamed
    assert [frame.event for frame in frames] == [
        "started",
        *("node_started", "node_completed"),
        *("node_started", "token", "token", "token", "node_completed"),
        *("node_started", "node_completed"),
        "completed",
    ]
    assert [frame.id for frame in frames] == [f"1-{number}" for number in range(1, len(frames) + 1)]
    assert "".join(text_of(frame) for frame in frames) == "Hello you there"


async def test_a_failed_execution_ends_its_stream_with_failed(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Fail("auth", after="Hel")]) as service:
        frames = await service.frames()
        assert frames[-1].event == "failed"
        assert [text_of(frame) for frame in frames if frame.event == "token"] == ["Hel"]


async def test_the_headers_say_which_execution_it_is(service: Service) -> None:
    async with service.client.stream("POST", "/v1/executions", json=request(mode="stream")) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        frames = [frame async for frame in read_frames(response)]
    assert {frame.data["execution_id"] for frame in frames} == {response.headers["x-execution-id"]}


async def test_a_refusal_comes_before_the_headers(service: Service) -> None:
    body = {"source": {"kind": "template", "template": "no_such"}, "mode": "stream"}
    answer = await service.client.post("/v1/executions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_client_that_leaves_cancels_the_execution(migrated_url: str) -> None:
    async with running(migrated_url, [Hold(after="Hello")]) as service:
        execution_id = await first_token(service)
        ended = await service.ended(execution_id)
        assert (ended.status, ended.cancel_reason) == ("cancelled", "the client left")


async def test_a_client_that_leaves_may_want_it_to_go_on(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold(after="Hello")]) as service:
        execution_id = await first_token(service, on_disconnect="continue")
        service.model.release.set()
        assert (await service.ended(execution_id)).status == "completed"


@pytest.mark.usefixtures("books_left_open")
async def test_a_stream_whose_books_cannot_be_closed_breaks_with_a_problem(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(finish: object) -> bool:
        raise Unavailable("the database is gone")

    monkeypatch.setattr(service.runtime.journal, "finish", refuse)
    last = (await service.frames())[-1]
    assert (last.event, last.data["code"], last.data["status"]) == ("stream_error", "unavailable", 503)
    assert last.data["execution_id"]
    waited = await service.start()
    assert (waited.status_code, waited.json()["detail"]) == (503, "the database is gone")
    assert waited.headers["x-execution-id"] == waited.json()["execution_id"]


async def admitted() -> None:
    """A reader whose key counts."""


async def test_silence_is_filled_with_pings() -> None:
    go_on = asyncio.Event()

    async def follow(last: ExecutionEvent | None) -> AsyncGenerator[ExecutionEvent, None]:
        assert last is not None
        await go_on.wait()
        yield event(EventType.COMPLETED, last.seq + 1)

    parts = sse.frames(follow, document, recheck=admitted, first=event(EventType.STARTED, 1), ping_seconds=0.01)
    assert (await anext(parts)).startswith(b"retry: 2000\n\nevent: started\n")
    assert [await anext(parts), await anext(parts)] == [b": ping\n\n"] * 2
    go_on.set()
    rest = [part async for part in parts if part != b": ping\n\n"]
    assert [part.split(b"\n")[0] for part in rest] == [b"event: completed"]


@pytest.mark.parametrize("is_busy", [True, False])
async def test_a_reader_whose_key_no_longer_counts_reads_no_more(
    is_busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether events come all the time or never."""
    monkeypatch.setattr(sse, "RECHECK_SECONDS", 0.05)
    asked = 0

    async def follow(last: ExecutionEvent | None) -> AsyncGenerator[ExecutionEvent, None]:
        assert last is not None
        while True:
            await asyncio.sleep(0.001 if is_busy else 60)
            yield event(EventType.TOKEN, last.seq + 1, text="more")

    async def recheck() -> None:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise Unauthenticated("This API key was revoked.")

    def broken(error: SpanloomError | None) -> ProblemDocument:
        assert error is not None
        return problem_of(error).document(None)

    frames = sse.frames(follow, broken, recheck=recheck, first=event(EventType.STARTED, 1), ping_seconds=0.01)
    async with asyncio.timeout(20):
        parts = [part async for part in frames]
    assert parts[-1].startswith(b"event: stream_error\ndata: ")
    assert b'"unauthenticated"' in parts[-1]


async def test_frames_are_read_as_they_were_meant() -> None:
    written = event(EventType.TOKEN, 7, text='two\nlines, "quotes", \u2028 and ü')
    content = b"retry: 2000\n\n" + sse.frame(written) + b": ping\n\n" + sse.error_frame(document(None))
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: sent(content))) as client:
        async with client.stream("GET", "http://localhost/") as response:
            token, error = [frame async for frame in read_frames(response)]
    assert (token.event, token.id, token.data) == ("token", "1-7", orjson.loads(orjson.dumps(written.document())))
    assert (error.event, error.data["code"]) == ("stream_error", "internal_error")


async def test_a_reader_that_takes_nothing_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def never(message: object = None) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    async def content() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"

    monkeypatch.setattr(sse, "SLOW_SECONDS", 0.01)
    closed = asyncio.Event()
    await sse.EventStream(content(), closed.set, {})({"type": "http"}, never, never)
    assert closed.is_set()
    assert "disconnected a reader" in caplog.text


def sent(content: bytes) -> httpx2.Response:
    return httpx2.Response(200, headers={"Content-Type": "text/event-stream"}, content=content)


def event(type_: EventType, seq: int, text: str = "") -> ExecutionEvent:
    return ExecutionEvent(type_, seq, "e-1", 1, 1_764_000_000.0, {"text": text})


def document(error: SpanloomError | None) -> ProblemDocument:
    return Problem("internal_error", "It broke.").document(None)


def text_of(frame: Frame) -> str:
    data = frame.data["data"]
    assert isinstance(data, dict)
    return str(data["text"]) if frame.event == "token" else ""


async def first_token(service: Service, **more: str) -> str:
    """Follow an execution to its first token, and leave. Its id."""
    async with service.client.stream("POST", "/v1/executions", json=request(mode="stream", **more)) as response:
        async for frame in read_frames(response):
            if frame.event == "token":
                return str(frame.data["execution_id"])
    raise AssertionError("there was no token")


async def test_a_client_that_leaves_in_a_burst_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Asyncio warns of the fifth write to a connection that is gone, within one turn of its loop."""
    written = 0
    ended = asyncio.Event()

    async def burst(leave: socket.socket) -> AsyncGenerator[bytes, None]:
        nonlocal written
        for number in range(200):
            if number == 3:
                leave.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                leave.close()
            yield b"event: token\ndata: {}\n\n"
            written += 1

    client = socket.socket()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await EventStream(burst(client), ended.set, {})(scope, receive, send)

    with listen("127.0.0.1", 0) as listener, caplog.at_level(logging.DEBUG, logger="asyncio"):
        server = Server(Config(app, http="httptools", lifespan="off", log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve([listener]))
        await asyncio.to_thread(client.connect, listener.getsockname())
        client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        async with asyncio.timeout(10):
            await ended.wait()
        server.should_exit = True
        await serving
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
    assert written < 200
