"""The services of the tests start, answer and are cleaned up."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import text

from engine.database import migrations
from engine.database.database import Database
from tests.services.aimock.server import ModelServer
from tests.services.cache import ServiceMissing, cached_folder, filling, tool
from tests.services.jaeger.server import Jaeger
from tests.services.postgres.server import PostgresServer
from tests.services.process import ServiceBroken, running


def test_a_changed_manifest_is_another_folder(tmp_path: Path) -> None:
    manifest = tmp_path / "go.mod"
    manifest.write_text("one")
    before = cached_folder("jaeger", "1", [manifest])
    manifest.write_text("two")
    assert cached_folder("jaeger", "1", [manifest]) != before
    assert cached_folder("jaeger", "2", [manifest]).parent == before.parent


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "aimock"
    with pytest.raises(IsADirectoryError), filling(target) as folder:
        folder.write_text("half")
    assert list(target.parent.iterdir()) == []


def test_a_missing_program_names_the_package_that_has_it() -> None:
    with pytest.raises(ServiceMissing, match="apt-get install golang-go"):
        tool("no-such-program", needed_for="jaeger", package="golang-go")


def test_a_program_that_dies_shows_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(ServiceBroken, match="no such port"),
        running(["sh", "-c", "echo no such port; exit 3"], log=tmp_path / "log", ready=lambda: False),
    ):
        pytest.fail("it came up")


def test_a_program_ends_with_its_block(tmp_path: Path) -> None:
    with running(["sleep", "60"], log=tmp_path / "log", ready=lambda: True) as process:
        assert process.poll() is None
    assert process.returncode is not None


@pytest.mark.postgres
async def test_postgres_copies_a_template(postgres_server: PostgresServer) -> None:
    template = postgres_server.create_database()
    async with Database(template) as database, database.begin() as connection:
        await connection.execute(text("CREATE TABLE kept (id int)"))
    copy = postgres_server.create_database(template=template.rsplit("/", 1)[1])
    async with Database(copy) as database, database.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM kept"))).scalar_one() == 0
    postgres_server.drop_database(copy)
    postgres_server.drop_database(template)


def test_each_test_has_a_database_of_its_own(database_url: str) -> None:
    assert database_url.startswith(("sqlite:///", "postgresql://"))


async def test_a_migrated_database_has_nothing_pending(migrated_url: str) -> None:
    assert await migrations.pending(migrated_url) == []


@pytest.mark.node
def test_aimock_answers_a_fixture_and_journals_the_request(aimock: ModelServer) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 7}
    aimock.answer({"match": {"userMessage": "hello"}, "response": {"content": "Hi", "usage": usage}})
    answer = _post(f"{aimock.openai_url}/chat/completions", _chat("hello"))
    assert cast("dict[str, int]", answer["usage"]) == usage | {"total_tokens": 19}
    assert [entry["path"] for entry in aimock.journal()] == ["/v1/chat/completions"]


@pytest.mark.node
def test_aimock_refuses_requests_without_a_matching_fixture(aimock: ModelServer) -> None:
    assert _status(f"{aimock.openai_url}/chat/completions", _chat("nobody")) >= 400


@pytest.mark.node
def test_aimock_fails_once_when_told(aimock: ModelServer) -> None:
    aimock.answer({"match": {"userMessage": "hello"}, "response": {"content": "Hi"}})
    aimock.fail_next(429, message="slow down", kind="rate_limit_error")
    url = f"{aimock.openai_url}/chat/completions"
    assert [_status(url, _chat("hello")) for _ in range(2)] == [429, 200]


@pytest.mark.node
def test_aimock_forgets_chaos_on_reset(aimock: ModelServer) -> None:
    fixture = {"match": {"userMessage": "hello"}, "response": {"content": "Hi"}}
    aimock.answer(fixture)
    aimock.chaos(rateLimitRate=1)
    assert _status(f"{aimock.openai_url}/chat/completions", _chat("hello")) == 429
    aimock.reset()
    aimock.answer(fixture)
    assert _status(f"{aimock.openai_url}/chat/completions", _chat("hello")) == 200


@pytest.mark.jaeger
def test_jaeger_takes_a_trace_and_gives_it_back(jaeger: Jaeger) -> None:
    trace_id = "5b8efff798038103d269b633813fc60c"
    span = {
        "traceId": trace_id,
        "spanId": "eee19b7ec3c1b174",
        "name": "invoke_workflow house",
        "kind": 1,
        "startTimeUnixNano": "1700000000000000000",
        "endTimeUnixNano": "1700000001000000000",
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "house"}}]}
    body: dict[str, object] = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}
    assert _status(f"{jaeger.otlp_http}/v1/traces", body) == 200
    with urllib.request.urlopen(f"{jaeger.query_url}/api/traces/{trace_id}", timeout=10) as response:
        spans = json.load(response)["data"][0]["spans"]
    assert [span["operationName"] for span in spans] == ["invoke_workflow house"]


def _chat(text: str) -> dict[str, object]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}


def _post(url: str, body: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"content-type": "application/json", "authorization": "Bearer x"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: dict[str, object] = json.load(response)
        return answer


def _status(url: str, body: dict[str, object]) -> int:
    try:
        _post(url, body)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    return 200
