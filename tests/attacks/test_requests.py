"""Hostile requests to every route: ids, times, cursors, hosts and content types that no honest client sends."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator

import httpx2
import pytest

from api.http.middleware import OuterMiddleware
from api.http.pagination import write_cursor
from api.routers.executions import ListQuery, TraceQuery
from api.routers.reconcile import ReconcileQuery
from api.routers.webhooks import DeliveriesQuery, EndpointsQuery
from api.service.app import openapi_document
from tests.api.harness import UNKNOWN_ID, Service, running

HOSTILE_IDS = {
    "an emoji": "%F0%9F%98%80",
    "a line break": "%0d%0a",
    "a header": "x%0d%0aSet-Cookie:%20a=b",
    "no UTF-8": "%ff%fe",
    "bidirectional text": "%E2%80%AE0198",
    "a long text": "a" * 5_000,
    "an id and a line break": "0190c8e0-7a3b-7000-8000-000000000000%0a",
    "an id in capitals": "0190C8E0-7A3B-7000-8000-000000000000",
    "digits of another script": "%D9%A0190c8e-7a3b-7000-8000-000000000000",
    "SQL": "x'%20OR%20'1'='1",
    "dots": "..;",
}


@pytest.fixture
async def service(migrated_url: str) -> AsyncIterator[Service]:
    """A service, once over SQLite and once over PostgreSQL."""
    async with running(migrated_url) as started:
        yield started


def operations(wanted: str) -> list[tuple[str, str]]:
    """Method and path of every operation whose path matches."""
    return [
        (method.upper(), path)
        for path, item in openapi_document()["paths"].items()
        for method in item
        if re.search(wanted, path)
    ]


async def test_an_id_that_none_can_be_is_not_found_on_every_route(service: Service) -> None:
    tried = [(name, *operation) for name in HOSTILE_IDS for operation in operations(r"\{\w+_id\}")]
    assert len(tried) > 100
    for name, method, path in tried:
        hostile = HOSTILE_IDS[name]
        answer = await service.client.request(method, re.sub(r"\{\w+\}", hostile, path))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (name, path)
        assert answer.headers["content-type"] == "application/problem+json"
        assert "x-execution-id" not in answer.headers
        assert answer.json()["execution_id"] is None
        assert "set-cookie" not in answer.headers


TIMES = (
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00%2B23:59",
    "1969-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-23:59",
    "9999-01-01T00:00:00Z",
)
TIMED = ("/v1/executions", "/v1/analytics/cost", "/v1/webhooks/deliveries", "/v1/reconcile")


async def test_a_time_near_the_ends_of_the_calendar_is_refused(service: Service) -> None:
    for path, name, time in itertools.product(TIMED, ("from", "to"), TIMES):
        answer = await service.client.get(f"{path}?{name}={time}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), (path, name, time)
        [error] = answer.json()["errors"]
        assert (error["in"], error["pointer"]) == ("query", f"/{name}")
        assert "between 1970 and 9998" in error["message"]


async def test_a_time_at_the_edge_of_the_range_is_taken(service: Service) -> None:
    for path in TIMED:
        answer = await service.client.get(f"{path}?from=1970-01-01T00:00:00Z&to=9998-12-31T23:59:59.999999Z")
        assert answer.status_code == 200, (path, answer.text)


POSITIONS: tuple[list[str], ...] = (
    [],
    ["x"],
    ["x", "y", "z"],
    ["yesterday", UNKNOWN_ID],
    ["2026-11-24T02:20:00", UNKNOWN_ID],
    ["0001-01-01T00:00:00+23:59", UNKNOWN_ID],
    ["9999-12-31T23:59:59-23:59", UNKNOWN_ID],
    ["9" * 60],
    ["\0"],
    ["2026-11-24T02:20:00+00:00", "\0"],
)
"""Where no page ends."""


async def test_a_forged_cursor_is_refused(service: Service) -> None:
    made = (await service.start()).json()["execution_id"]
    lists = {
        "/v1/executions": ListQuery(),
        f"/v1/executions/{made}/trace": TraceQuery(),
        "/v1/webhooks/endpoints": EndpointsQuery(),
        "/v1/webhooks/deliveries": DeliveriesQuery(),
        "/v1/reconcile": ReconcileQuery(),
    }
    for (path, query), position in itertools.product(lists.items(), POSITIONS):
        answer = await service.client.get(path, params={"cursor": write_cursor(position, query)})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor"), (path, position)


BROKEN_CURSORS = {"=": 400, "%00": 422, "A" * 1_001: 422, "%F0%9F%98%80": 400, "W10": 400, "WyJcdWQ4MDAiXQ": 400}


async def test_a_broken_cursor_is_refused(service: Service) -> None:
    paths = ("/v1/executions", "/v1/webhooks/endpoints", "/v1/webhooks/deliveries", "/v1/reconcile")
    for path, (text, status) in itertools.product(paths, BROKEN_CURSORS.items()):
        answer = await service.client.get(f"{path}?cursor={text}")
        assert answer.status_code == status, (path, text)


async def test_what_breaks_outside_the_middleware_is_a_problem_too(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*arguments: object) -> None:
        raise RuntimeError("sk-canary-1234")

    monkeypatch.setattr(OuterMiddleware, "__call__", broken)
    answer = await service.client.get("/healthz", headers={"X-Correlation-ID": "job:7"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.json()["code"] == "internal_error"
    assert answer.headers["x-correlation-id"] == answer.json()["correlation_id"] == "job:7"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "canary" not in answer.text
    [record] = [record for record in caplog.records if record.exc_info]
    assert vars(record)["correlation_id"] == "job:7"


POSTS_WITHOUT_BODY = [(method, path) for method, path in operations(r"/(cancel|retry|test|rotate-secret|redeliver)$")]
SIMPLE_TYPES = (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")


async def test_no_post_is_taken_that_any_web_page_could_send(service: Service) -> None:
    assert len(POSTS_WITHOUT_BODY) >= 6
    for (method, path), content_type in itertools.product(POSTS_WITHOUT_BODY, SIMPLE_TYPES):
        asked = service.client.build_request(method, re.sub(r"\{\w+\}", UNKNOWN_ID, path))
        del asked.headers["Content-Type"]
        if content_type is not None:
            asked.headers["Content-Type"] = content_type
        answer = await service.client.send(asked)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type"), path
        assert "application/json" in answer.json()["detail"]


async def test_an_execution_is_not_run_again_by_another_site(service: Service) -> None:
    made = (await service.start("", mode="wait")).json()["execution_id"]
    path = f"/v1/executions/{made}/retry"
    assert (await service.client.post(path, headers={"Content-Type": "text/plain"})).status_code == 415
    assert len((await service.client.get("/v1/executions")).json()["items"]) == 1
    assert (await service.client.post(path)).status_code == 202
    refused = await service.client.post(path, json={"surprise": 1})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


REFUSED_HOSTS = {
    "another name": (b"evil.example", 421),
    "nothing": (b"", 421),
    "another address": (b"[::2]:8000", 421),
    "a future address": (b"[v1.a:b]", 421),
    "a name in percents": (b"%6cocalhost", 421),
    "two dots at the end": (b"localhost..", 421),
    "another spelling of an address": (b"127.1", 421),
    "a number": (b"2130706433", 421),
    "user information": (b"localhost@evil.example", 400),
    "user and password": (b"a:b@localhost", 400),
    "an address without brackets": (b"::1", 400),
    "an unclosed address": (b"[::1", 400),
    "text behind the address": (b"[::1]evil.example", 400),
    "a name in brackets": (b"[localhost]", 400),
    "IPv4 in brackets": (b"[127.0.0.1]", 400),
    "a zone": (b"[fe80::1%25lo]", 400),
    "no port number": (b"localhost:http", 400),
    "a port too large": (b"localhost:65536", 400),
    "a negative port": (b"localhost:-1", 400),
    "a path": (b"localhost/x", 400),
    "a query": (b"localhost?x", 400),
    "two names": (b"localhost, evil.example", 400),
    "a blank": (b"local host", 400),
    "no ASCII": ("löcalhost".encode(), 400),
    "a broken percent": (b"local%2", 400),
}


async def test_a_host_that_is_none_of_ours_is_refused(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url) as service:
        for case, (host, status) in REFUSED_HOSTS.items():
            answer = await raw(service, b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
            code = {421: "host_not_allowed", 400: "invalid_header"}[status]
            assert (answer.status_code, answer.json()["code"]) == (status, code), case


OUR_HOSTS = (
    b"localhost",
    b"LOCALHOST.",
    b"localhost:",
    b"127.0.0.1:8000",
    b"[::1]",
    b"[0:0:0:0:0:0:0:1]:1",
    b"\tlocalhost ",
)


async def test_a_host_of_ours_is_answered_however_it_is_spelt(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url) as service:
        for host in OUR_HOSTS:
            answer = await raw(service, b"GET /healthz HTTP/1.1\r\nHost:" + host + b"\r\n\r\n")
            assert answer.status_code == 200, host


REQUEST_LINES = {
    "two hosts": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "no host in HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", 421),
    "a foreign target": (b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
    "our target": (b"GET http://localhost/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 200),
    "our target with a port": (b"GET http://[::1]:80/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "a user in the target": (b"GET http://localhost@evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a target without a path": (b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "an authority": (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "no ASCII": ("GET /ü HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 400),
    "no HTTP": (b"HELO there\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
}


async def test_a_request_line_is_read_by_the_standard(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url) as service:
        for case, (sent, status) in REQUEST_LINES.items():
            answer = await raw(service, sent)
            assert answer.status_code == status, case
            if status >= 400:
                assert answer.headers["content-type"] == "application/problem+json", case
                assert answer.json()["status"] == status, case
                assert answer.headers["x-correlation-id"] == answer.json()["correlation_id"], case


async def raw(service: Service, sent: bytes) -> httpx2.Response:
    """The answer to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.client.base_url.port)
    try:
        writer.write(sent)
        async with asyncio.timeout(5):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            headers = dict(line.split(": ", 1) for line in lines if line)
            body = await reader.readexactly(int(headers["content-length"]))
        return httpx2.Response(int(first.split()[1]), headers=headers, content=body)
    finally:
        writer.close()
        await writer.wait_closed()
