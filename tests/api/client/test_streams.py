"""Following an execution over connections that break: each event once, in order, and an end that is told."""

from collections.abc import Iterator

import httpx2
import pytest
import stamina

from api.client import streams
from api.client.client import AsyncClient, Client
from api.client.errors import ServerProblem, Unreachable
from engine.events import ExecutionEvent
from engine.request import ExecutionRequest, GraphSource
from tests.api.client.fake_service import Answer, AsyncFakeService, FakeService, frame, problem, stream

ASKED = ExecutionRequest(source=GraphSource(kind="graph", graph={}))
BROKEN = httpx2.ReadError("the connection broke")
STARTED, TOKEN, MORE, COMPLETED = (
    frame("started", 1),
    frame("token", 2, text="a"),
    frame("token", 3, text="b"),
    frame("completed", 4, status="completed"),
)
PING = b": ping\n\n"
WHOLE = ["1-1", "1-2", "1-3", "1-4"]


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(streams, "_MAX_PAUSE", 0.0)
    with stamina.set_testing(True, attempts=5):
        yield


def ids(events: list[ExecutionEvent]) -> list[str]:
    return [f"{event.attempt}-{event.seq}" for event in events]


def client(*answers: Answer) -> tuple[Client, FakeService]:
    service = FakeService(list(answers))
    return Client("https://spanloom.example", transport=service), service


def error_frame(code: str, status: int) -> bytes:
    return b"event: stream_error\ndata: " + problem(code, status).content + b"\n\n"


def test_a_whole_stream_is_read_once() -> None:
    spanloom, service = client(stream(STARTED, PING, TOKEN, MORE, COMPLETED))
    events = list(spanloom.stream(ASKED))
    assert ids(events) == WHOLE
    assert events[-1].data == {"status": "completed"}
    assert len(service.requests) == 1


@pytest.mark.parametrize("error", [BROKEN, httpx2.RemoteProtocolError("cut"), httpx2.ReadTimeout("silent"), None])
def test_a_stream_that_breaks_is_taken_up_behind_the_last_event(error: Exception | None) -> None:
    spanloom, service = client(stream(STARTED, TOKEN, MORE[:20], error=error), stream(MORE, COMPLETED))
    assert ids(list(spanloom.stream(ASKED))) == WHOLE
    assert [(one.method, one.url.path) for one in service.requests] == [
        ("POST", "/v1/executions"),
        ("GET", "/v1/executions/e/events"),
    ]
    assert service.sent("last-event-id") == [None, "1-2"]


def test_a_start_whose_answer_was_lost_is_sent_again_with_its_key() -> None:
    spanloom, service = client(BROKEN, stream(STARTED, TOKEN, MORE, COMPLETED))
    assert ids(list(spanloom.stream(ASKED))) == WHOLE
    assert [one.method for one in service.requests] == ["POST", "POST"]
    assert len(set(service.sent("idempotency-key"))) == 1


def test_a_stream_that_broke_before_its_first_event_is_followed_from_the_start() -> None:
    spanloom, service = client(stream(error=BROKEN), stream(STARTED, TOKEN, MORE, COMPLETED))
    assert ids(list(spanloom.stream(ASKED))) == WHOLE
    assert service.sent("last-event-id") == [None, None]


def test_a_process_that_stops_hands_the_reader_over() -> None:
    spanloom, _ = client(
        stream(STARTED, error_frame("draining", 503)), problem("draining", 503), stream(TOKEN, MORE, COMPLETED)
    )
    assert ids(list(spanloom.events("e"))) == WHOLE


def test_a_stream_that_cannot_go_on_says_why() -> None:
    spanloom, service = client(stream(STARTED, error_frame("internal_error", 500)))
    with pytest.raises(ServerProblem) as broken:
        list(spanloom.events("e"))
    assert broken.value.code == "internal_error"
    assert len(service.requests) == 1


def test_an_execution_that_is_unknown_is_not_asked_for_again() -> None:
    spanloom, service = client(problem("not_found", 404))
    with pytest.raises(ServerProblem):
        list(spanloom.events("e"))
    assert len(service.requests) == 1


def test_an_execution_that_has_ended_has_no_more_events() -> None:
    spanloom, _ = client(httpx2.Response(204, headers={"X-Execution-ID": "e"}))
    assert list(spanloom.events("e", after="1-4")) == []


@pytest.mark.parametrize("error", [BROKEN, None])
def test_a_service_that_always_breaks_off_is_given_up(error: Exception | None) -> None:
    service = FakeService([lambda _: stream(error=error)])
    with pytest.raises(Unreachable):
        list(Client("https://spanloom.example", transport=service).events("e"))
    assert len(service.requests) == 9


def test_events_that_come_between_breaks_keep_the_reader_patient() -> None:
    answers: list[Answer] = [stream(frame("token", seq), error=BROKEN) for seq in range(1, 31)]
    spanloom, _ = client(*answers, stream(frame("completed", 31)))
    assert len(list(spanloom.events("e"))) == 31


def test_events_of_a_newer_service_are_skipped() -> None:
    spanloom, _ = client(stream(STARTED, frame("hologram", 2), COMPLETED))
    assert ids(list(spanloom.events("e"))) == ["1-1", "1-4"]


def test_an_answer_that_is_no_stream_is_told_as_such() -> None:
    spanloom, service = client(httpx2.Response(200, html="<h1>Sign in</h1>"))
    with pytest.raises(Unreachable):
        list(spanloom.events("e"))
    assert len(service.requests) <= 9


async def test_the_same_holds_for_asyncio() -> None:
    service = FakeService([BROKEN, stream(STARTED, TOKEN, error=BROKEN), stream(MORE, COMPLETED)])
    async with AsyncClient("https://spanloom.example", transport=AsyncFakeService(service)) as spanloom:
        assert ids([event async for event in spanloom.stream(ASKED)]) == WHOLE
    assert service.sent("last-event-id") == [None, None, "1-2"]
