"""Every route against callers who may not use it: without a key, with dead keys, with too few scopes, of another owner.

The routes are read from the application, so a new route is attacked without an edit here, as long as its OpenAPI has an
example of its body, and what its path names can be created by a POST on the path before.
"""

import re
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select

from api.access import keys
from api.access.gate import Gate
from api.access.keys import KeyHasher, NewKey
from api.access.principal import Unauthenticated
from api.access.scopes import ABOVE_OWNERS, SCOPES
from api.service import app
from api.wiring.access import build_hasher
from engine.database.base import metadata
from engine.database.database import Database
from engine.graph import JsonObject
from tests.api.harness import UNKNOWN_ID, Service, request, running

OPEN_ROUTES = {
    ("GET", "/healthz"),
    ("HEAD", "/healthz"),
    ("GET", "/readyz"),
    ("HEAD", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/runbook"),
    ("GET", "/docs"),
    ("GET", "/docs/{name}"),
    ("GET", "/openapi.json"),
    ("HEAD", "/openapi.json"),
}
"""The only routes that answer without a key. `/metrics` does so on this machine alone."""

ANY_KEY = {"/v1/me"}
"""The only paths that need a key, but no scope: they show nothing that an owner has."""

CANARY = "canary-of-ann"
URL = "https://93.184.215.14/hook"
BODIES: dict[str, JsonObject] = {
    "EndpointBody": {"url": URL, "events": ["workflow.execution.failed"], "description": CANARY},
    "RedeliverBody": {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"},
}
"""Bodies of requests that have no example in OpenAPI and are not `{}`."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}")


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path, with the scopes that it declares; null if it declares no key."""

    method: str
    path: str
    scopes: list[str] | None
    body: JsonObject | None
    has_cursor: bool

    @property
    def parameters(self) -> list[str]:
        """The names in the path."""
        return re.findall(r"{(\w+)", self.path)

    def url(self, ids: dict[str, str]) -> str:
        """The path with these ids in it."""
        return re.sub(r"{(\w+)[^}]*}", lambda name: ids[name[1]], self.path)


def routes() -> list[Route]:
    """Every route of the application but the open ones."""
    document = app.openapi_document()
    return [_route(document, method, path) for method, path in sorted(_methods_and_paths() - OPEN_ROUTES)]


def _methods_and_paths() -> set[tuple[str, str]]:
    return {(method, one.path or "") for one in app.routes() for method in one.methods or ()}


def _route(document: JsonObject, method: str, path: str) -> Route:
    operation: Any = document["paths"].get(path, {}).get(method.lower(), {})  # type: ignore[union-attr]  # an OpenAPI document
    schemes = [one["key"] for one in operation.get("security", []) if "key" in one]
    names = [one["name"] for one in operation.get("parameters", [])]
    return Route(method, path, schemes[0] if schemes else None, _body(operation), "cursor" in names)


def _body(operation: Any) -> JsonObject | None:
    if "requestBody" not in operation:
        return None
    content = operation["requestBody"]["content"]["application/json"]
    examples: list[Any] = [one["value"] for one in content.get("examples", {}).values()]
    model = content["schema"].get("$ref", "").rpartition("/")[2]
    body: JsonObject = examples[0] if examples else BODIES.get(model, {})
    return body


ALL_ROUTES = routes()


@dataclass(slots=True)
class World:
    """A service with two owners: what ann has, and keys of both."""

    service: Service
    ids: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    async def key(self, owner: str, scopes: list[str], *, expired: bool = False, revoked: bool = False) -> str:
        """A new key of an owner."""
        expires_at = datetime.now(UTC) - timedelta(seconds=1) if expired else None
        new = NewKey(owner, f"{owner} {len(scopes)}", scopes, expires_at)
        async with self.service.runtime.database.begin() as connection:
            made, text = await keys.create(connection, new, build_hasher(self.service.runtime.settings))
            if revoked:
                await keys.revoke(connection, made.id)
        return text

    async def send(self, route: Route, ids: dict[str, str], key: str | None, **query: str) -> httpx2.Response:
        """A request to a route; of an event stream only the beginning is read."""
        headers = {"X-Correlation-ID": "attack"} | ({"Authorization": f"Bearer {key}"} if key else {})
        built = self.service.client.build_request(
            route.method, route.url(ids), json=route.body, headers=headers, params=query
        )
        response = await self.service.client.send(built, stream=True)
        try:
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                return httpx2.Response(response.status_code, headers=response.headers)
            await response.aread()
            return response
        finally:
            await response.aclose()

    async def rows(self) -> dict[str, list[str]]:
        """Every row of every table, but for what the service notes about itself and the use of keys."""
        found: dict[str, list[str]] = {}
        async with self.service.runtime.database.read() as connection:
            for table in metadata.sorted_tables:
                columns = [column for column in table.columns if column.name not in ("last_used_at", "lease_until")]
                if table.name != "write_probes":
                    found[table.name] = sorted(map(repr, await connection.execute(select(*columns))))
        return found


@pytest.fixture
async def world(migrated_url: str) -> AsyncIterator[World]:
    """Ann has one of everything that a path can name; bob has keys only."""
    async with running(migrated_url, secret_key=("s" * 32,)) as service:
        made = World(service)
        made.keys = {
            "ann": await made.key("ann", [*SCOPES]),
            "bob": await made.key("bob", [scope for scope in SCOPES if scope not in ABOVE_OWNERS]),
        }
        await _fill(made)
        yield made


async def _fill(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.keys['ann']}"}
    client = world.service.client
    for _ in range(3):
        body = request(tags={"of": CANARY}, input={"message": CANARY})
        answer = await client.post("/v1/executions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        world.ids["execution_id"] = answer.json()["execution_id"]
    chat = {"source": {"kind": "chat"}, "input": {"message": CANARY}}
    answer = await client.post("/v1/executions", json=chat, headers=headers)
    world.ids["conversation_id"] = answer.json()["metadata"]["conversation_id"]
    for _ in range(2):
        answer = await client.post("/v1/webhooks/endpoints", json=BODIES["EndpointBody"], headers=headers)
        assert answer.status_code == 201, answer.text
        world.ids["endpoint_id"] = answer.json()["id"]
    for _ in range(2):
        answer = await client.post(f"/v1/webhooks/endpoints/{world.ids['endpoint_id']}/test", headers=headers)
        world.ids["delivery_id"] = answer.json()["id"]
    for name in {name for route in ALL_ROUTES for name in route.parameters} - world.ids.keys():
        world.ids[name] = await _create(world, name)


async def _create(world: World, name: str) -> str:
    """What a path names, created on the path before it: `/v1/keys/{key_id}` by POST on `/v1/keys`."""
    path = next(route.path for route in ALL_ROUTES if name in route.parameters).partition(f"/{{{name}")[0]
    creating = next((route for route in ALL_ROUTES if (route.method, route.path) == ("POST", path)), None)
    assert creating is not None, f"nothing creates what {{{name}}} names by POST {path}: create it in _fill"
    answer = await world.send(creating, world.ids, world.keys["ann"])
    assert answer.status_code == 201, f"POST {path} with its example: {answer.text}"
    return str(answer.json()["id"])


def unknown_like(id_: str) -> str:
    """An id of the same form that nothing has."""
    return UNKNOWN_ID if _UUID.fullmatch(id_) else "z" * len(id_)


def named_by(route: Route, ids: dict[str, str]) -> dict[str, str]:
    """The ids that the path of a route names."""
    return {name: ids[name] for name in route.parameters}


def comparable(answer: httpx2.Response, ids: dict[str, str]) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers without what differs between any two requests: ids, trace and time."""
    trace_id = answer.headers["traceresponse"].split("-")[1]
    text = answer.text.replace(trace_id, "TRACE")
    headers = {name: value for name, value in answer.headers.items() if name not in ("traceresponse", "date")}
    for name, id_ in ids.items():
        text = text.replace(id_, name)
        headers = {header: value.replace(id_, name) for header, value in headers.items()}
    headers.pop("content-length", None)
    return answer.status_code, text, headers


def test_every_route_says_who_may_call_it() -> None:
    assert len(ALL_ROUTES) >= 30
    assert [route for route in ALL_ROUTES if route.scopes is None] == []
    assert [route.path for route in ALL_ROUTES if not route.scopes and route.path not in ANY_KEY] == []
    assert _methods_and_paths() >= OPEN_ROUTES
    assert {scope for route in ALL_ROUTES for scope in route.scopes or []} <= SCOPES.keys()


async def test_no_route_answers_without_a_key_that_counts(world: World) -> None:
    dead = {
        "no key": None,
        "an unknown key": f"spl_{'a' * 12}_{'b' * 43}",
        "no key of ours": "abc.def.ghi",
        "a revoked key": await world.key("ann", [*SCOPES], revoked=True),
        "an expired key": await world.key("ann", [*SCOPES], expired=True),
        "the id with another secret": world.keys["ann"][:-43] + "c" * 43,
    }
    before = await world.rows()
    for route in ALL_ROUTES:
        for what, key in dead.items():
            answer = await world.send(route, world.ids, key)
            assert answer.status_code == 401, f"{route.method} {route.path} with {what}: {answer.status_code}"
            assert answer.json()["code"] == "unauthenticated"
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            assert CANARY not in answer.text
    assert await world.rows() == before


async def test_no_route_answers_a_key_that_lacks_a_scope(world: World) -> None:
    lacking = {scope: await world.key("ann", [each for each in SCOPES if each != scope]) for scope in SCOPES}
    before = await world.rows()
    for route in ALL_ROUTES:
        for scope in route.scopes or []:
            answer = await world.send(route, world.ids, lacking[scope])
            assert answer.status_code == 403, f"{route.method} {route.path} without {scope}: {answer.status_code}"
            assert answer.json()["code"] == "missing_scope"
            assert CANARY not in answer.text
    assert await world.rows() == before


async def test_a_foreign_id_is_answered_like_an_unknown_one(world: World) -> None:
    """And what a path names is there: afterwards its owner gets other answers than 404, to deletions last."""
    before = await world.rows()
    unknown = {name: unknown_like(id_) for name, id_ in world.ids.items()}
    named = [route for route in ALL_ROUTES if route.parameters]
    assert len(named) > 15
    for route in named:
        foreign = await world.send(route, world.ids, world.keys["bob"])
        missing = await world.send(route, unknown, world.keys["bob"])
        assert foreign.status_code == 404, f"{route.method} {route.path}: {foreign.text}"
        assert comparable(foreign, named_by(route, world.ids)) == comparable(missing, named_by(route, unknown))
        assert CANARY not in foreign.text
    assert await world.rows() == before
    for route in sorted(named, key=lambda route: route.method == "DELETE"):
        answer = await world.send(route, world.ids, world.keys["ann"])
        assert answer.status_code not in (401, 403, 404, 500), f"{route.method} {route.path}: {answer.text}"
        if route.method == "DELETE":
            await _fill(world)


async def test_no_list_and_no_sum_shows_what_another_owner_has(world: World) -> None:
    marks = {CANARY, *world.ids.values()}
    for route in readable():
        answer = await world.send(route, {}, world.keys["bob"])
        assert answer.status_code == 200, f"{route.path}: {answer.text}"
        assert [mark for mark in marks if mark in answer.text] == [], route.path


async def test_a_cursor_counts_for_its_owner_only(world: World) -> None:
    tried = 0
    for route in readable():
        if not route.has_cursor:
            continue
        cursor = (await world.send(route, {}, world.keys["ann"], limit="1")).json()["next_cursor"]
        if cursor is None:
            continue
        own = await world.send(route, {}, world.keys["ann"], limit="1", cursor=cursor)
        foreign = await world.send(route, {}, world.keys["bob"], limit="1", cursor=cursor)
        assert (own.status_code, foreign.status_code) == (200, 400), route.path
        assert foreign.json()["code"] == "invalid_cursor"
        tried += 1
    assert tried >= 3


def readable() -> Iterator[Route]:
    """Every route that reads without naming anything, and only what one owner has."""
    for route in ALL_ROUTES:
        if route.method == "GET" and not route.parameters and not set(route.scopes or []) & ABOVE_OWNERS:
            yield route


async def test_an_idempotency_key_belongs_to_its_owner(world: World) -> None:
    started = {}
    for owner, key in world.keys.items():
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "same"}
        answer = await world.service.client.post("/v1/executions", json=request(), headers=headers)
        assert "idempotency-replayed" not in answer.headers
        started[owner] = answer.json()["execution_id"]
    assert started["ann"] != started["bob"]


async def test_a_conversation_of_another_owner_is_unknown(world: World) -> None:
    answers = []
    for conversation_id in (world.ids["conversation_id"], UNKNOWN_ID):
        body = {"source": {"kind": "chat", "conversation_id": conversation_id}, "input": {"message": "hi"}}
        headers = {"Authorization": f"Bearer {world.keys['bob']}", "X-Correlation-ID": "attack"}
        answer = await world.service.client.post("/v1/executions", json=body, headers=headers)
        answers.append(comparable(answer, {"conversation_id": conversation_id}))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


async def test_forwarding_headers_say_nothing_about_who_asks(world: World) -> None:
    spoofed = {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-User": "ann",
        "X-Forwarded-Host": "localhost",
        "X-Real-IP": "127.0.0.1",
        "Forwarded": "for=127.0.0.1;host=localhost",
        "X-Owner": "ann",
        "X-API-Key": world.keys["ann"],
    }
    answer = await world.service.client.get("/v1/me", headers=spoofed)
    assert answer.status_code == 401
    answer = await world.service.client.get(
        "/v1/me", headers=spoofed | {"Authorization": f"Bearer {world.keys['bob']}"}
    )
    assert answer.json()["owner"] == "bob"


async def test_a_key_in_the_url_is_an_unknown_parameter(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    for name in ("api_key", "key", "access_token", "authorization"):
        answer = await world.service.client.get("/v1/me", params={name: world.keys["ann"]})
        assert answer.status_code == 401
        headers = {"Authorization": f"Bearer {world.keys['bob']}"}
        answer = await world.service.client.get("/v1/me", params={name: world.keys["ann"]}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert world.keys["ann"] not in answer.text
    ours = [record for record in caplog.records if not record.name.startswith(("httpx2", "httpcore2"))]
    assert [record for record in ours if world.keys["ann"][-43:] in record.getMessage()] == []


async def test_known_and_unknown_ids_of_keys_take_as_long(migrated_sqlite_url: str) -> None:
    async with open_gate(migrated_sqlite_url) as (gate, text):
        known, unknown = text[:-43] + "a" * 43, f"spl_{'a' * 12}_{'a' * 43}"
        seconds: dict[str, list[float]] = {known: [], unknown: []}
        for _ in range(150):
            for each, taken in seconds.items():
                await gate.admit([f"Bearer {text}"])
                begun = time.perf_counter()
                with suppress(Unauthenticated):
                    await gate.admit([f"Bearer {each}"])
                taken.append(time.perf_counter() - begun)
    medians = [statistics.median(taken) for taken in seconds.values()]
    assert max(medians) < 1.5 * min(medians), medians


@asynccontextmanager
async def open_gate(url: str) -> AsyncIterator[tuple[Gate, str]]:
    """A gate and the text of a key."""
    hasher = KeyHasher(lambda: ["x" * 40])
    async with Database(url) as database:
        async with database.begin() as connection:
            _, text = await keys.create(connection, NewKey("ann", "laptop", ["ops"]), hasher)
        gate = Gate(database, hasher, is_closed=True)
        yield gate, text
        await gate.close()


async def test_the_matrix_has_something_to_find(world: World) -> None:
    """Ann's rows are there, so that nothing of them in bob's answers means something."""
    async with world.service.runtime.database.read() as connection:
        for name in ("executions", "webhook_endpoints", "webhook_deliveries", "conversations"):
            owned = (
                select(func.count()).select_from(metadata.tables[name]).where(metadata.tables[name].c.owner_id == "ann")
            )
            assert (await connection.execute(owned)).scalar_one() >= 1
