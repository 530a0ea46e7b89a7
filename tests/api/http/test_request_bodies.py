"""Bad input: each gets the right status, a sentence that says what to do, and leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from api.http.problems import TITLES
from engine.graph import JsonObject
from tests.api.harness import ASK, UNKNOWN_ID, Service, running

JSON = {"Content-Type": "application/json"}
SECRET = "sk-canary-1234"

BODIES = {
    "not JSON": (b"{", "malformed_json"),
    "empty": (b"", "malformed_json"),
    "the same key twice": (b'{"source": {"kind": "chat"}, "source": {"kind": "chat"}}', "malformed_json"),
    "NaN": (b'{"input": {"x": NaN}}', "malformed_json"),
    "an overflow": (b'{"input": {"x": 1e999}}', "malformed_json"),
    "a large integer": (b'{"input": {"x": 9007199254740993}}', "malformed_json"),
    "NUL": (rb'{"input": {"x": "\u0000"}}', "malformed_json"),
    "half a surrogate pair": (rb'{"input": {"x": "\ud800"}}', "malformed_json"),
    "too deep": (b'{"input": ' + b'{"x":' * 40 + b"1" + b"}" * 41, "malformed_json"),
    "far too deep": (b"[" * 100_000, "malformed_json"),
    "no UTF-8": (b'{"input": {"x": "\xff"}}', "malformed_json"),
    "a list": (b"[]", "invalid_request"),
    "null": (b"null", "invalid_request"),
    "no source": (b"{}", "invalid_request"),
    "an unknown kind": (b'{"source": {"kind": "sk-canary-1234"}}', "invalid_request"),
    "an unknown field": (b'{"source": {"kind": "chat"}, "sk-canary-1234": 1}', "invalid_request"),
    "text for a number": (b'{"source": {"kind": "chat", "version": "sk-canary-1234"}}', "invalid_request"),
    "a mode of a later version": (b'{"source": {"kind": "chat"}, "mode": "async"}', "invalid_request"),
    "too many tags": (
        b'{"source": {"kind": "chat"}, "tags": {' + b",".join(b'"%d": ""' % n for n in range(17)) + b"}}",
        "invalid_request",
    ),
    "a chat without a message": (b'{"source": {"kind": "chat"}}', "invalid_request"),
    "an unknown template": (b'{"source": {"kind": "template", "template": "x"}}', "not_found"),
    "an unknown version": (b'{"source": {"kind": "template", "template": "rag_chat", "version": 9}}', "not_found"),
    "an unknown definition": (b'{"source": {"kind": "definition", "definition": "x"}}', "not_found"),
    "an unknown conversation": (
        b'{"source": {"kind": "chat", "conversation_id": "x"}, "input": {"message": "hi"}}',
        "not_found",
    ),
    "no graph": (b'{"source": {"kind": "graph", "graph": {}}}', "invalid_workflow"),
}


@pytest.mark.parametrize("case", list(BODIES))
async def test_a_bad_body_is_refused_and_leaves_nothing(service: Service, case: str) -> None:
    body, code = BODIES[case]
    answer = await service.client.post("/v1/executions", content=body, headers=JSON)
    problem = answer.json()
    assert (problem["code"], answer.status_code) == (code, TITLES[code][0])
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["detail"].endswith((".", "?")) or code in ("not_found", "invalid_workflow", "invalid_request")
    assert SECRET not in problem["detail"] or case == "an unknown field"
    assert (await service.client.get("/v1/executions")).json()["items"] == []


async def test_a_misspelt_field_is_named_with_the_right_one(service: Service) -> None:
    body = {"source": {"kind": "chat", "convresation_id": "x"}, "inptu": {}}
    problem = (await service.client.post("/v1/executions", json=body)).json()
    assert [(error["in"], error["pointer"], error["code"]) for error in problem["errors"]] == [
        ("body", "/source/convresation_id", "unknown_field"),
        ("body", "/inptu", "unknown_field"),
    ]
    assert "Did you mean `conversation_id`?" in problem["errors"][0]["message"]
    assert "Did you mean `input`?" in problem["errors"][1]["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": ""},
    ],
)
async def test_another_content_type_is_refused(service: Service, headers: dict[str, str]) -> None:
    answer = await service.client.post("/v1/executions", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_a_body_that_says_it_is_too_large_is_not_read(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, max_body_bytes=100) as service:
        answer = await service.client.post("/v1/executions", content=b" " * 101, headers=JSON)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert answer.headers["connection"] == "close"


async def test_a_body_that_turns_out_too_large_is_refused(migrated_sqlite_url: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b" " * 30

    async with running(migrated_sqlite_url, max_body_bytes=100) as service:
        answer = await service.client.post("/v1/executions", content=chunks(), headers=JSON)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_body_that_is_sent_whole_is_refused_at_once(migrated_sqlite_url: str) -> None:
    head = b"POST /v1/executions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    async with running(migrated_sqlite_url, max_body_bytes=100) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.client.base_url.port)
        writer.write(head + b"65\r\n" + b" " * 101 + b"\r\n0\r\n\r\n")
        async with asyncio.timeout(3):
            assert (await reader.readline()).split()[1] == b"413"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/v1/executions?statsu=failed", "/statsu"),
        ("/v1/executions?limit=0", "/limit"),
        ("/v1/executions?limit=201", "/limit"),
        ("/v1/executions?status=late", "/status/0"),
        ("/v1/executions?from=5", "/from"),
        ("/v1/executions?from=2026-11-24T02:20:00", "/from"),
        ("/v1/executions?template_version=99999999999", "/template_version"),
        ("/v1/executions?duration_ms_min=9223372036854775808", "/duration_ms_min"),
        (f"/v1/executions/{UNKNOWN_ID}?limit=1", "/limit"),
        (f"/v1/executions/{UNKNOWN_ID}/trace?attempt=0", "/attempt"),
        ("/v1/analytics/cost?group_by=colour", "/group_by/0"),
        ("/v1/analytics/cost?group_by=day&group_by=model&group_by=source", "/group_by"),
        ("/healthz?x", "/x"),
        ("/readyz?x=1", "/x"),
        ("/metrics?name=x", "/name"),
    ],
)
async def test_a_bad_query_is_refused(service: Service, path: str, pointer: str) -> None:
    answer = await service.client.get(path)
    assert answer.status_code == 422
    assert [(error["in"], error["pointer"]) for error in answer.json()["errors"]] == [("query", pointer)]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/v1/analytics/cost?group_by=colour", "Cannot group by 'colour'. Valid groups: template, template_version, "),
        ("/v1/analytics/cost?group_by=sk-canary-1234", "Cannot group by this. Valid groups: template, "),
        ("/v1/executions?status=late", "Unknown status 'late'. Valid values: queued, running, paused, "),
        ("/v1/executions?statsu=failed", "There is no parameter of this name."),
    ],
)
async def test_an_unknown_value_is_named_with_those_that_are_valid(service: Service, path: str, sentence: str) -> None:
    [error] = (await service.client.get(path)).json()["errors"]
    assert error["message"].startswith(sentence)


async def test_an_unknown_event_is_named_with_those_that_are_valid(service: Service) -> None:
    body = {"url": "https://hooks.example.com", "events": ["workflow.finished"]}
    problem = (await service.client.post("/v1/webhooks/endpoints", json=body)).json()
    [error] = problem["errors"]
    assert (error["pointer"], error["code"]) == ("/events/0", "out_of_range")
    assert error["message"].startswith("Unknown event 'workflow.finished'. Valid events: workflow.execution.queued, ")


async def test_an_unknown_id_is_named(service: Service) -> None:
    for path, kind in (("/v1/executions/", "execution"), ("/v1/webhooks/endpoints/", "endpoint")):
        problem = (await service.client.get(f"{path}0198-unknown")).json()
        assert (problem["title"], problem["detail"]) == ("Not found", f"Not found: there is no {kind} 0198-unknown")


@pytest.mark.parametrize("path", ["/v1/executions/%00", "/v1/executions?template=%00", "/v1/executions?x%00=1"])
async def test_nul_is_refused_everywhere(stored_service: Service, path: str) -> None:
    answer = await stored_service.client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/executions/", "/redoc", "/v1/templates", "/v1/executions/x/y"])
async def test_an_unknown_path_is_a_problem(service: Service, path: str) -> None:
    answer = await service.client.get(path)
    assert (answer.status_code, answer.json()["code"], answer.json()["instance"]) == (404, "not_found", path)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/executions", "GET, POST"),
        ("HEAD", "/v1/executions", "GET, POST"),
        ("POST", "/v1/executions/x", "GET"),
        ("GET", "/v1/executions/x/cancel", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/metrics", "GET"),
    ],
)
async def test_another_method_is_told_all_that_there_are(
    service: Service, method: str, path: str, allowed: str
) -> None:
    answer = await service.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


async def test_a_bad_reason_for_cancelling_is_refused(service: Service) -> None:
    for body in ({"reason": 5}, {"reasn": "x"}, {"reason": "x" * 501}):
        answer = await service.client.post(f"/v1/executions/{UNKNOWN_ID}/cancel", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_typo_in_a_condition_fails_the_execution_with_its_place(service: Service) -> None:
    typo: JsonObject = {"source": "start", "target": "ask", "condition": "inptu.x"}
    graph: JsonObject = ASK | {"edges": [typo, {"source": "ask", "target": "end"}]}
    answer = await service.client.post("/v1/executions", json={"source": {"kind": "graph", "graph": graph}})
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert answer.json()["error_type"] == "invalid_workflow"
    assert "/edges/0" in answer.json()["error_message"]
