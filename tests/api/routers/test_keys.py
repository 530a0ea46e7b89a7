"""/v1/keys and /v1/me: what a key can do with keys."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from api.access import keys
from api.access.keys import NewKey
from api.access.scopes import SCOPES
from api.http import sse
from api.wiring.access import build_hasher
from engine.graph import JsonObject
from engine.testing.models import Hold, Say
from tests.api.harness import Service, read_frames, request, running

READS = ["executions:read", "keys:manage"]


@pytest.fixture
async def stored_service(migrated_url: str) -> AsyncIterator[Service]:
    """A service that can recognise keys, also on PostgreSQL, where no file holds the secret key."""
    async with running(migrated_url, secret_key=("s" * 32,)) as started:
        yield started


@pytest.fixture
async def ann(stored_service: Service) -> httpx2.AsyncClient:
    """The client of ann, whose key reads executions and manages keys."""
    await give(stored_service, "ann", READS)
    return stored_service.client


async def give(service: Service, owner: str, scopes: list[str], expires_at: datetime | None = None) -> None:
    """Let the client of the service send a new key of this owner."""
    async with service.runtime.database.begin() as connection:
        new = NewKey(owner, "laptop", scopes, expires_at)
        _, text = await keys.create(connection, new, build_hasher(service.runtime.settings))
    service.client.headers["Authorization"] = f"Bearer {text}"


async def create(client: httpx2.AsyncClient, **more: Any) -> httpx2.Response:
    """Create a key that reads."""
    body: JsonObject = {"name": "dashboard", "scopes": ["executions:read"]} | more
    return await client.post("/v1/keys", json=body)


async def test_a_key_makes_a_key_that_works_and_is_shown_once(ann: httpx2.AsyncClient) -> None:
    made = await create(ann)
    assert made.status_code == 201
    assert re.fullmatch(r"spl_[A-Za-z0-9]{12}_[A-Za-z0-9]{43}", made.json()["key"])
    me = await ann.get("/v1/me", headers={"Authorization": f"Bearer {made.json()['key']}"})
    assert me.json() == {
        "owner": "ann",
        "key_id": made.json()["id"],
        "key_name": "dashboard",
        "scopes": ["executions:read"],
        "limits": [{"name": "queued", "limit": 1_000, "left": 1_000}],
    }
    listed = (await ann.get("/v1/keys")).json()["items"]
    assert [one["name"] for one in listed] == ["dashboard", "laptop"]
    assert listed[0]["created_by"] == listed[1]["id"]
    assert "key" not in listed[0]
    assert made.json()["key"][-43:] not in (await ann.get("/v1/keys")).text


@pytest.mark.parametrize("scope", ["*", "executions:run", "content:read", "ops", "owners:all"])
async def test_a_key_cannot_give_more_than_it_has(ann: httpx2.AsyncClient, scope: str) -> None:
    refused = await create(ann, scopes=["executions:read", scope])
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_exceeded")
    assert len((await ann.get("/v1/keys")).json()["items"]) == 1


async def test_no_request_gives_the_scope_of_all_owners(stored_service: Service) -> None:
    await give(stored_service, "ann", [*SCOPES])
    refused = await create(stored_service.client, scopes=["owners:all"])
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_exceeded")


async def test_a_key_does_not_outlive_its_maker(stored_service: Service) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    await give(stored_service, "ann", READS, soon)
    longer = await create(stored_service.client, expires_at=(soon + timedelta(seconds=1)).isoformat())
    assert (longer.status_code, longer.json()["code"]) == (403, "scope_exceeded")
    unsaid = await create(stored_service.client)
    assert datetime.fromisoformat(unsaid.json()["expires_at"]) == soon


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a", "scopes": []},
        {"name": "a", "scopes": ["executions:fly"]},
        {"name": "", "scopes": ["executions:read"]},
        {"name": "a\u001b[31m", "scopes": ["executions:read"]},
        {"name": "a", "scopes": ["executions:read"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "a", "scopes": ["executions:read"], "expires_at": 5},
        {"name": "a", "scopes": ["executions:read"], "owner": "bob"},
    ],
)
async def test_a_key_that_makes_no_sense_is_refused(ann: httpx2.AsyncClient, body: JsonObject) -> None:
    refused = await ann.post("/v1/keys", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


async def test_a_revoked_key_is_refused_at_once_and_stays_in_the_list(ann: httpx2.AsyncClient) -> None:
    made = (await create(ann)).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert (await ann.get("/v1/me", headers=headers)).status_code == 200
    for _ in range(2):
        assert (await ann.delete(f"/v1/keys/{made['id']}")).status_code == 204
    refused = await ann.get("/v1/me", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
    assert refused.headers["www-authenticate"] == 'Bearer realm="spanloom", error="invalid_token"'
    assert [one["status"] for one in (await ann.get("/v1/keys")).json()["items"]] == ["revoked", "active"]


async def test_the_first_key_closes_the_service(service: Service) -> None:
    client = service.client
    assert (await client.get("/v1/me")).json()["key_id"] is None
    made = await create(client, scopes=["*"])
    assert (made.status_code, made.json()["owner"], made.json()["created_by"]) == (201, "default", None)
    refused = await client.get("/v1/me")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="spanloom"')
    assert (await client.get("/v1/me", headers={"Authorization": f"Bearer {made.json()['key']}"})).status_code == 200


@pytest.mark.parametrize("path", ["/v1/executions", "events"])
async def test_the_streams_of_a_revoked_key_end(
    path: str, migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "RECHECK_SECONDS", 0.1)
    async with running(migrated_sqlite_url, [Hold(Say("done"))]) as service:
        await give(service, "ann", ["*"])
        body = request(mode="stream", on_disconnect="continue")
        async with service.client.stream("POST", "/v1/executions", json=body) as response:
            key_id = (await service.client.get("/v1/me")).json()["key_id"]
            if path == "events":
                path = f"/v1/executions/{await service.running_id()}/events"
                async with service.client.stream("GET", path) as followed:
                    assert (await service.client.delete(f"/v1/keys/{key_id}")).status_code == 204
                    last = [frame async for frame in read_frames(followed)][-1]
            else:
                assert (await service.client.delete(f"/v1/keys/{key_id}")).status_code == 204
                last = [frame async for frame in read_frames(response)][-1]
        assert (last.event, last.data["code"]) == ("stream_error", "unauthenticated")
        service.model.release.set()


async def test_content_is_hidden_from_a_key_that_may_not_read_it(stored_service: Service) -> None:
    client = stored_service.client
    await give(stored_service, "ann", ["executions:run", "graphs:run", "executions:read"])
    started = await client.post("/v1/executions", json=request(input={"message": "secret plans"}))
    assert started.json()["response"]
    path = f"/v1/executions/{started.json()['execution_id']}"
    hidden = await client.get(path)
    assert (hidden.json()["content"], hidden.json()["input"], hidden.json()["result"]) == ("hidden", None, None)
    assert "secret plans" not in hidden.text
    assert hidden.json()["usage"]["output_tokens"] is not None
    assert (await client.get(f"{path}/events")).json()["code"] == "missing_scope"
    assert (await client.get(f"{path}/content")).json()["code"] == "missing_scope"
    await give(stored_service, "ann", ["executions:read", "content:read"])
    shown = await client.get(path)
    assert (shown.json()["content"], shown.json()["input"]) == ("shown", {"message": "secret plans"})


async def test_graphs_in_requests_and_changed_nodes_need_their_scope(stored_service: Service) -> None:
    client = stored_service.client
    await give(stored_service, "ann", ["executions:run"])
    template: JsonObject = {"source": {"kind": "template", "template": "universal_chat"}, "input": {"message": "hi"}}
    overrides: JsonObject = {"nodes": {"answer": {"config": {}}}}
    for body in (request(), {**template, "overrides": overrides}):
        refused = await client.post("/v1/executions", json=body)
        assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
        assert 'scope="graphs:run"' in refused.headers["www-authenticate"]
    assert (await client.post("/v1/executions", json=template)).status_code == 200


async def test_other_owners_are_listed_with_the_scope_for_it_only(stored_service: Service) -> None:
    client = stored_service.client
    for owner in ("ann", "bob"):
        await give(stored_service, owner, ["*"])
        await client.post("/v1/executions", json=request())
    refused = await client.get("/v1/executions", params={"owner": "ann"})
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
    assert [one["owner"] for one in (await client.get("/v1/executions?owner=bob")).json()["items"]] == ["bob"]
    await give(stored_service, "admin", ["executions:read", "owners:all"])
    owners = {
        asked: [one["owner"] for one in (await client.get("/v1/executions", params=asked)).json()["items"]]
        for asked in ("owner=ann", "owner=*", "")
    }
    assert owners == {"owner=ann": ["ann"], "owner=*": ["bob", "ann"], "": []}


async def test_what_is_wrong_is_told_to_operators_only(service: Service) -> None:
    await service.runtime.drain()
    assert (await service.client.get("/readyz")).json()["checks"]["draining"]["detail"]
    await give(service, "ann", ["ops"])
    service.runtime.gate.close_to_strangers()
    assert (await service.client.get("/readyz")).json()["checks"]["draining"]["detail"]
    for headers in ({"Authorization": ""}, {"Authorization": f"Bearer spl_{'a' * 12}_{'b' * 43}"}):
        told = await service.client.get("/readyz", headers=headers)
        assert (told.status_code, told.json()["checks"]["draining"]) == (503, {"ok": False, "detail": None})
