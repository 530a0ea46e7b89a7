"""The client over a service and proxies that behave badly: what is repeated, what is not, and what is given away."""

from collections.abc import Iterator
from uuid import UUID

import httpx2
import pytest
import stamina

from api.client.client import AsyncClient, Client
from api.client.errors import ServerProblem, Unreachable
from engine.graph import JsonObject
from engine.request import ExecutionRequest, GraphSource
from tests.api.client.fake_service import Answer, AsyncFakeService, FakeService, problem

KEY = "spl_abcdefghijkl_" + "s" * 43
ASKED = ExecutionRequest(source=GraphSource(kind="graph", graph={}), mode="async")
REPORTS: JsonObject = {"items": [], "next_cursor": None, "field_of_a_newer_service": {"a": 1}}
BROKEN = httpx2.ReadError("the connection broke")
NOT_CONNECTED = httpx2.ConnectError("nobody listens")


@pytest.fixture(autouse=True)
def without_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=5):
        yield


def client(*answers: Answer) -> tuple[Client, FakeService]:
    service = FakeService(list(answers))
    return Client("https://spanloom.example", api_key=KEY, transport=service), service


def test_a_start_is_repeated_with_the_same_key_until_it_is_answered() -> None:
    spanloom, service = client(BROKEN, NOT_CONNECTED, problem("draining", 503), problem("not_found", 404))
    with pytest.raises(ServerProblem) as refused:
        spanloom.executions.start(ASKED)
    assert refused.value.code == "not_found"
    keys = set(service.sent("idempotency-key"))
    assert len(service.requests) == 4
    assert len(keys) == 1
    UUID(str(keys.pop()))


def test_two_starts_have_two_keys() -> None:
    spanloom, service = client(problem("not_found", 404))
    for _ in range(2):
        with pytest.raises(ServerProblem):
            spanloom.executions.start(ASKED)
    assert len(set(service.sent("idempotency-key"))) == 2


def test_a_cancellation_that_may_have_arrived_is_not_sent_again() -> None:
    spanloom, service = client(BROKEN)
    with pytest.raises(Unreachable):
        spanloom.executions.cancel("e")
    assert len(service.requests) == 1


@pytest.mark.parametrize("first", [NOT_CONNECTED, problem("unavailable", 503), problem("rate_limited", 429)])
def test_a_cancellation_that_was_not_taken_is_sent_again(first: Answer) -> None:
    spanloom, service = client(first, problem("not_found", 404))
    with pytest.raises(ServerProblem):
        spanloom.executions.cancel("e")
    assert len(service.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500])
def test_other_problems_are_told_at_once(status: int) -> None:
    spanloom, service = client(problem("some_code", status))
    with pytest.raises(ServerProblem) as refused:
        spanloom.executions.get("e")
    assert (refused.value.status, refused.value.code) == (status, "some_code")
    assert refused.value.message == "It is some_code."
    assert len(service.requests) == 1


def test_a_service_that_asks_for_an_hour_of_patience_is_not_waited_for() -> None:
    spanloom, service = client(problem("budget_exhausted", 429, **{"Retry-After": "3600"}))
    with pytest.raises(ServerProblem) as refused:
        spanloom.executions.start(ASKED)
    assert refused.value.retry_after_seconds == 3600
    assert len(service.requests) == 1


def test_a_service_that_never_answers_is_given_up() -> None:
    spanloom, service = client(NOT_CONNECTED)
    with pytest.raises(Unreachable, match="nobody listens"):
        spanloom.reconcile.list()
    assert len(service.requests) == 5


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(200, html="<h1>Sign in, secret-of-the-proxy</h1>"),
        httpx2.Response(502, html="<h1>Bad gateway, secret-of-the-proxy</h1>"),
        httpx2.Response(404, json={"detail": "secret-of-the-proxy"}),
        httpx2.Response(204),
    ],
)
def test_an_answer_of_somebody_else_is_none(answer: httpx2.Response) -> None:
    spanloom, _ = client(answer)
    with pytest.raises(ServerProblem, match="check its address") as refused:
        spanloom.reconcile.list()
    assert refused.value.code == "unexpected_answer"
    assert "secret-of-the-proxy" not in repr(refused.value)


def test_a_newer_service_may_answer_with_more_fields() -> None:
    spanloom, _ = client(httpx2.Response(200, json=REPORTS))
    assert spanloom.reconcile.list().items == []


def test_the_key_is_sent_to_the_service_and_not_where_it_redirects_to() -> None:
    spanloom, service = client(httpx2.Response(307, headers={"Location": "https://evil.example/"}))
    with pytest.raises(ServerProblem):
        spanloom.reconcile.list()
    assert service.sent("authorization") == [f"Bearer {KEY}"]
    assert [request.url.host for request in service.requests] == ["spanloom.example"]


def test_the_key_is_in_no_error_and_no_representation() -> None:
    spanloom, _ = client(NOT_CONNECTED)
    with pytest.raises(Unreachable) as error:
        spanloom.reconcile.list()
    assert KEY not in f"{error.value!r} {vars(spanloom)} {spanloom!r}"


def test_an_id_stays_one_segment_of_the_path() -> None:
    spanloom, service = client(problem("not_found", 404))
    with pytest.raises(ServerProblem):
        spanloom.executions.get("../keys?a=b#c")
    assert service.requests[0].url.raw_path == b"/v1/executions/..%2Fkeys%3Fa%3Db%23c"


def test_filters_are_sent_as_the_api_names_them_and_only_those_that_are_set() -> None:
    spanloom, service = client(problem("not_found", 404))
    with pytest.raises(ServerProblem):
        spanloom.executions.list(status=["failed", "cancelled"], unpriced=False, limit=5)
    assert service.requests[0].url.query == b"status=failed&status=cancelled&unpriced=false&limit=5"


async def test_the_same_holds_for_asyncio() -> None:
    service = FakeService([BROKEN, problem("draining", 503), httpx2.Response(200, json=REPORTS)])
    async with AsyncClient("https://spanloom.example", api_key=KEY, transport=AsyncFakeService(service)) as spanloom:
        assert (await spanloom.reconcile.list()).items == []
    assert len(service.requests) == 3
