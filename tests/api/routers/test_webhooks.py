"""Webhooks as their users meet them: endpoints over HTTP, signed deliveries of real executions, and what is refused."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

import httpx2
import jsonschema_rs
import pytest
from sqlalchemy import update

from api.service.background import run_keeper
from api.service.logs import configure_logs
from api.settings import Settings, SettingsInvalid
from api.wiring.secret_key import key_file
from api.wiring.webhooks import build_sealer
from engine.graph import Json, JsonObject
from telemetry.store.tables import webhook_deliveries, webhook_endpoints
from telemetry.webhooks.payloads import TYPES
from tests.api.harness import Service, running
from tests.api.service.test_openapi import COMPONENTS, DOCUMENT, SCHEMAS, fits
from tests.telemetry.receiver import Receiver, Reply, receiving

ENDPOINTS = "/v1/webhooks/endpoints"
DELIVERIES = "/v1/webhooks/deliveries"
ENDS: list[Json] = ["workflow.execution.completed", "workflow.execution.failed", "workflow.execution.cancelled"]
KEY = "0123456789abcdef" * 4


@dataclass(slots=True)
class Office:
    """A service that sends, and a receiver that it may reach."""

    service: Service
    receiver: Receiver

    @property
    def client(self) -> httpx2.AsyncClient:
        """Of the service."""
        return self.service.client

    async def endpoint(self, path: str = "/a", **body: Json) -> JsonObject:
        """An endpoint at the receiver."""
        given = {"url": self.receiver.url + path, "events": list(TYPES)} | body
        answer = await self.client.post(ENDPOINTS, json=given)
        assert answer.status_code == 201, answer.text
        made: JsonObject = answer.json()
        assert answer.headers["location"] == f"{ENDPOINTS}/{made['id']}"
        self.receiver.secrets[path] = str(made["secret"])
        return made

    async def arrived(self, count: int) -> None:
        """So many calls were accepted."""
        await self.receiver.until(lambda: len(self.receiver.accepted) >= count)

    async def settled(self, delivery_id: object) -> JsonObject:
        """The delivery once it is no longer pending."""
        while True:
            found: JsonObject = (await self.client.get(f"{DELIVERIES}/{delivery_id}")).json()
            if found["state"] != "pending":
                return found


@asynccontextmanager
async def office(url: str, **settings: object) -> AsyncIterator[Office]:
    """A service with a keeper."""
    async with receiving() as receiver:
        given: dict[str, object] = {
            "egress_allow": (receiver.url.removeprefix("http://"),),
            "webhook_schedule": (0, 0.05, 0.05),
            "secret_key": (KEY,),
        }
        async with running(url, None, **given | settings) as service, run_keeper(service.runtime):
            yield Office(service, receiver)


@pytest.fixture
async def desk(migrated_sqlite_url: str) -> AsyncIterator[Office]:
    """On SQLite."""
    async with office(migrated_sqlite_url) as opened:
        yield opened


@pytest.fixture
async def stored_desk(migrated_url: str) -> AsyncIterator[Office]:
    """On both databases."""
    async with office(migrated_url) as opened:
        yield opened


async def test_an_endpoint_hears_of_an_execution_and_the_delivery_tells_of_it(stored_desk: Office) -> None:
    made = await stored_desk.endpoint(description="tests", headers={"X-Own": "canary-header"})
    fits(made, "NewEndpointAnswer")
    started = (await stored_desk.service.start()).json()
    await stored_desk.arrived(2)
    said = {call.document["type"]: call for call in stored_desk.receiver.accepted}
    assert set(said) == {"workflow.execution.started", "workflow.execution.completed"}
    completed = said["workflow.execution.completed"]
    data = completed.document["data"]
    assert isinstance(data, dict)
    assert (data["execution_id"], data["status"], completed.headers["x-own"]) == (
        started["execution_id"],
        "completed",
        "canary-header",
    )
    assert b"Hello you there" not in completed.body
    page = (
        await stored_desk.client.get(DELIVERIES, params={"event_type": str(ENDS[0]), "endpoint": str(made["id"])})
    ).json()
    fits(page, "DeliveryPage")
    [listed] = page["items"]
    assert (listed["webhook_id"], listed["execution_id"]) == (completed.id, started["execution_id"])
    found = await stored_desk.settled(listed["id"])
    fits(found, "DeliveryDetail")
    assert (found["state"], found["attempts_made"], found["last_status"]) == ("delivered", 1, 204)
    [attempt] = cast("list[JsonObject]", found["attempts"])
    fits(attempt, "DeliveryAttempt")


async def test_what_is_sent_is_what_the_description_says(desk: Office) -> None:
    await desk.endpoint()
    await desk.service.start()
    await desk.arrived(2)
    described = cast("dict[str, dict[str, JsonObject]]", DOCUMENT["webhooks"])
    assert set(described) == {*TYPES, "webhook.test"}
    for call in desk.receiver.accepted:
        operation = described[str(call.document["type"])]["post"]
        content = cast("dict[str, dict[str, dict[str, JsonObject]]]", operation["requestBody"])["content"]
        schema = content["application/json"]["schema"]
        jsonschema_rs.validator_for(schema | {"components": COMPONENTS}).validate(call.document)


async def test_an_endpoint_may_ask_for_every_type(desk: Office) -> None:
    events = cast("dict[str, dict[str, JsonObject]]", SCHEMAS["EndpointBody"]["properties"])["events"]
    assert events["items"]["enum"] == list(TYPES)
    assert (await desk.endpoint(events=list(TYPES)))["events"] == list(TYPES)


async def test_a_failed_execution_is_told_with_its_reason(migrated_sqlite_url: str) -> None:
    async with office(migrated_sqlite_url) as desk:
        await desk.endpoint(events=["workflow.execution.failed"])
        answer = await desk.client.post(
            "/v1/executions",
            json={"source": {"kind": "template", "template": "document_qa", "params": {"path": "/nowhere"}}},
        )
        assert answer.json()["status"] == "failed", answer.text
        await desk.arrived(1)
        [call] = desk.receiver.accepted
        data = call.document["data"]
        assert isinstance(data, dict)
        assert data["error_type"] == answer.json()["error_type"]


async def test_a_secret_is_shown_once_and_never_again(desk: Office) -> None:
    made = await desk.endpoint(headers={"Authorization": "Bearer canary"})
    id_ = made["id"]
    rotated = (await desk.client.post(f"{ENDPOINTS}/{id_}/rotate-secret", json={"overlap_hours": 1})).json()
    fits(rotated, "SecretAnswer")
    secrets = [str(made["secret"]), rotated["secret"], "canary"]
    assert all(secret.startswith("whsec_") for secret in secrets[:2])
    for path in (ENDPOINTS, f"{ENDPOINTS}/{id_}", DELIVERIES, "/metrics"):
        text = (await desk.client.get(path)).text
        assert not any(secret in text for secret in secrets), path
    found = (await desk.client.get(f"{ENDPOINTS}/{id_}")).json()
    fits(found, "EndpointAnswer")
    assert (found["header_names"], found["old_secret_valid_until"]) == (["Authorization"], rotated["old_valid_until"])
    changed = await desk.client.patch(f"{ENDPOINTS}/{id_}", json={"description": "x"})
    assert not any(secret in changed.text for secret in secrets)


async def test_a_test_is_sent_at_once(desk: Office) -> None:
    made = await desk.endpoint(events=ENDS)
    answer = await desk.client.post(f"{ENDPOINTS}/{made['id']}/test")
    assert answer.status_code == 202
    fits(answer.json(), "DeliveryAnswer")
    assert (await desk.settled(answer.json()["id"]))["state"] == "delivered"
    assert desk.receiver.accepted[0].document["type"] == "webhook.test"


async def test_an_endpoint_is_changed_disabled_enabled_and_forgotten(stored_desk: Office) -> None:
    client = stored_desk.client
    made = await stored_desk.endpoint(events=ENDS, templates=["other"], description="before")
    path = f"{ENDPOINTS}/{made['id']}"
    changed = (await client.patch(path, json={"templates": None, "url": stored_desk.receiver.url + "/b"})).json()
    assert (changed["templates"], changed["description"], changed["events"]) == (None, "before", ENDS)
    stored_desk.receiver.secrets["/b"] = str(made["secret"])
    disabled = (await client.patch(path, json={"status": "disabled"})).json()
    assert (disabled["status"], disabled["disabled_reason"]) == ("disabled", "owner")
    await stored_desk.service.start()
    times = {"from": _at(-60), "to": _at(60)}
    for refused in (
        await client.post(f"{path}/test"),
        await client.post(f"{path}/redeliver", json=times),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "endpoint_disabled")
    enabled = (await client.patch(path, json={"status": "active"})).json()
    assert (enabled["status"], enabled["disabled_at"], enabled["disabled_reason"]) == ("active", None, None)
    again = await client.post(f"{path}/redeliver", json=times)
    assert (again.status_code, again.json()) == (202, {"deliveries": 1})
    await stored_desk.arrived(1)
    [call] = stored_desk.receiver.accepted
    assert (call.path, call.document["type"]) == ("/b", ENDS[0])
    [delivery] = (await client.get(DELIVERIES)).json()["items"]
    await stored_desk.settled(delivery["id"])
    once_more = await client.post(f"{DELIVERIES}/{delivery['id']}/redeliver")
    assert once_more.status_code == 202
    await stored_desk.arrived(2)
    first, second = stored_desk.receiver.accepted
    assert (first.id, first.body) == (second.id, second.body)
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404
    assert (await client.get(DELIVERIES)).json()["items"] == []


async def test_gone_disables(desk: Office) -> None:
    desk.receiver.answer = lambda call: Reply(410)
    made = await desk.endpoint(events=ENDS)
    await desk.service.start()
    [delivery] = (await desk.client.get(DELIVERIES)).json()["items"]
    assert (await desk.settled(delivery["id"]))["last_status"] == 410
    found = (await desk.client.get(f"{ENDPOINTS}/{made['id']}")).json()
    assert (found["status"], found["disabled_reason"]) == ("disabled", "gone")
    metrics = (await desk.client.get("/metrics")).text
    assert 'spanloom_deliveries_endpoints{status="disabled"} 1.0' in metrics
    assert "spanloom_deliveries_endpoints_disabled_total 1.0" in metrics


async def test_deliveries_are_counted(desk: Office) -> None:
    before = (await desk.client.get("/metrics")).text
    assert 'spanloom_deliveries_attempts_total{outcome="failed"} 0.0' in before
    desk.receiver.answer = lambda call: Reply(500 if len(desk.receiver.calls) == 0 else 200)
    await desk.endpoint(events=ENDS)
    await desk.service.start()
    [delivery] = (await desk.client.get(DELIVERIES)).json()["items"]
    await desk.settled(delivery["id"])
    after = (await desk.client.get("/metrics")).text
    for line in (
        'spanloom_deliveries_attempts_total{outcome="failed"} 1.0',
        'spanloom_deliveries_attempts_total{outcome="delivered"} 1.0',
        "spanloom_deliveries_arrived_total 1.0",
        "spanloom_deliveries_waiting 0.0",
    ):
        assert line in after


async def test_the_log_tells_no_address_of_an_endpoint(
    desk: Office, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    configure_logs(Settings())
    made = await desk.endpoint("/canary")
    sent = (await desk.client.post(f"{ENDPOINTS}/{made['id']}/test")).json()
    assert (await desk.settled(sent["id"]))["state"] == "delivered"
    assert "canary" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("https://127.0.0.1/", "127.0.0.1 leads to 127.0.0.1, this machine"),
        ("https://2130706433/", "leads to 127.0.0.1"),
        ("https://[::ffff:127.0.0.1]/", "this machine"),
        ("https://169.254.169.254/latest", "a cloud's metadata service"),
        ("https://localhost/", "SPANLOOM_EGRESS_ALLOW"),
        ("http://93.184.216.34/", "use https"),
        ("https://93.184.216.34:22/", "port 22"),
        ("https://user:secret@93.184.216.34/", "user or a password"),
        ("nonsense", "begins with https://"),
    ],
)
async def test_a_url_that_leads_inside_is_refused_with_a_sentence(desk: Office, url: str, sentence: str) -> None:
    made = await desk.endpoint()
    for refused in (
        await desk.client.post(ENDPOINTS, json={"url": url, "events": ENDS}),
        await desk.client.patch(f"{ENDPOINTS}/{made['id']}", json={"url": url}),
    ):
        assert (refused.status_code, refused.json()["code"]) == (422, "url_not_allowed")
        assert sentence in refused.json()["detail"]
        assert "secret" not in refused.text
    assert len((await desk.client.get(ENDPOINTS)).json()["items"]) == 1


BODIES: dict[str, JsonObject] = {
    "no url": {"events": ENDS[:1]},
    "no events": {"url": "https://hooks.example/"},
    "an empty list of events": {"url": "https://hooks.example/", "events": []},
    "an unknown event": {"url": "https://hooks.example/", "events": ["workflow.execution.exploded"]},
    "an unknown field": {"url": "https://hooks.example/", "events": ENDS[:1], "secret": "mine"},
    "a header of ours": {"url": "https://hooks.example/", "events": ENDS[:1], "headers": {"webhook-id": "1"}},
    "a header with a line break": {
        "url": "https://hooks.example/",
        "events": ENDS[:1],
        "headers": {"X-A": "canary\r\nHost: b"},
    },
    "an empty list of templates": {"url": "https://hooks.example/", "events": ENDS[:1], "templates": []},
    "a number for a url": {"url": 5, "events": ENDS[:1]},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
async def test_a_body_of_another_form_is_refused(desk: Office, body: JsonObject) -> None:
    refused = await desk.client.post(ENDPOINTS, json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), refused.text
    assert "canary" not in refused.text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"from": "2026-01-01T00:00:00Z"},
        {"from": 5, "to": 6},
        {"from": "2026-01-01", "to": "2026-01-02T00:00:00Z"},
        {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z", "only": "some"},
    ],
)
async def test_a_range_of_another_form_is_refused(desk: Office, body: JsonObject) -> None:
    made = await desk.endpoint()
    refused = await desk.client.post(f"{ENDPOINTS}/{made['id']}/redeliver", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), refused.text


async def test_lists_come_in_pages(desk: Office) -> None:
    ids = [(await desk.endpoint(f"/{number}", events=ENDS))["id"] for number in range(3)]
    await desk.service.start()
    for path in (ENDPOINTS, DELIVERIES):
        found: list[JsonObject] = []
        url = f"{path}?limit=2"
        while url:
            answer = await desk.client.get(url)
            found += answer.json()["items"]
            url = answer.links["next"]["url"] if "next" in answer.links else ""
        assert len(found) == 3
        assert len({str(one["id"]) for one in found}) == 3
        wrong = await desk.client.get(f"{path}?cursor=xyz")
        assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_cursor")
        assert (await desk.client.get(f"{path}?nonsense=1")).status_code == 422
    assert [one["id"] for one in (await desk.client.get(ENDPOINTS)).json()["items"]] == ids[::-1]
    fits((await desk.client.get(ENDPOINTS)).json(), "EndpointPage")


async def test_what_belongs_to_another_owner_is_not_there(stored_desk: Office, books_left_open: None) -> None:
    made = await stored_desk.endpoint(events=ENDS)
    await stored_desk.service.start()
    [delivery] = (await stored_desk.client.get(DELIVERIES)).json()["items"]
    await stored_desk.settled(delivery["id"])
    async with stored_desk.service.runtime.database.begin() as connection:
        for table in (webhook_endpoints, webhook_deliveries):
            await connection.execute(update(table).values(owner_id="other"))
    times = {"from": _at(-60), "to": _at(60)}
    endpoint, sent = f"{ENDPOINTS}/{made['id']}", f"{DELIVERIES}/{delivery['id']}"
    for method, path, body in (
        ("GET", endpoint, None),
        ("PATCH", endpoint, {"status": "disabled"}),
        ("DELETE", endpoint, None),
        ("POST", f"{endpoint}/rotate-secret", None),
        ("POST", f"{endpoint}/test", None),
        ("POST", f"{endpoint}/redeliver", times),
        ("GET", sent, None),
        ("POST", f"{sent}/redeliver", None),
    ):
        answer = (
            await stored_desk.client.request(method, path, json=body)
            if body
            else await stored_desk.client.request(method, path)
        )
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    for path in (ENDPOINTS, DELIVERIES):
        assert (await stored_desk.client.get(path)).json()["items"] == []


async def test_on_sqlite_the_key_is_made_beside_the_database_for_its_owner_only(
    migrated_sqlite_url: str,
) -> None:
    settings = Settings(database_url=migrated_sqlite_url)
    file = key_file(settings)
    assert file is not None
    assert not file.exists()
    async with office(migrated_sqlite_url, secret_key=()) as desk:
        await desk.endpoint(events=ENDS)
        assert file.stat().st_mode & 0o777 == 0o600
        kept = file.read_text()
        await desk.endpoint("/b", events=ENDS)
        assert file.read_text() == kept
        await desk.service.start()
        await desk.arrived(2)
    assert [one.name for one in file.parent.iterdir() if one.name.startswith(file.name)] == [file.name]
    file.chmod(0o644)
    with pytest.raises(SettingsInvalid, match=f"chmod 600 {file}"):
        build_sealer(settings).seal("x")


@pytest.mark.postgres
async def test_on_postgres_a_key_must_be_given(migrated_postgres_url: str) -> None:
    async with office(migrated_postgres_url, secret_key=()) as desk:
        refused = await desk.client.post(ENDPOINTS, json={"url": desk.receiver.url, "events": ENDS})
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert "SPANLOOM_SECRET_KEY" in refused.json()["detail"]
        assert (await desk.service.start()).status_code == 200
        assert (await desk.client.get(ENDPOINTS)).json()["items"] == []


def _at(minutes: int) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
