"""Cancelling, answering and retrying: what a caller may decide about an execution, and when it is too late."""

import asyncio

import pytest
from sqlalchemy import delete, update

from engine.graph import Json, JsonObject
from engine.store.tables import execution_control
from engine.testing.models import Fail, Hold, Say
from tests.api.harness import Service, front, read_frames, request, running
from tests.api.pausing import SCORE, pause

UNKNOWN = "01a20b66-91b7-745e-b3cc-f69ba7284313"


async def read(service: Service, execution_id: str) -> dict[str, Json]:
    found = await service.client.get(f"/v1/executions/{execution_id}")
    assert found.status_code == 200
    document: dict[str, Json] = found.json()
    return document


async def ended(service: Service, execution_id: str) -> dict[str, Json]:
    """The execution, once its closing event is told."""
    async with service.client.stream("GET", f"/v1/executions/{execution_id}/events") as response:
        _ = [frame async for frame in read_frames(response)]
    return await read(service, execution_id)


async def test_what_is_queued_is_cancelled_at_once(migrated_url: str) -> None:
    async with front(migrated_url) as service:
        execution_id = (await service.start(mode="async")).json()["id"]
        path = f"/v1/executions/{execution_id}/cancel"
        answer = await service.client.post(path, json={"reason": "enough"})
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
        assert (answer.json()["cancel_reason"], answer.json()["result"]["status"]) == ("enough", "cancelled")
        assert answer.json()["cancel_requested_at"] is not None
        assert (await service.client.post(path)).status_code == 200


async def test_what_is_paused_is_cancelled_at_once(migrated_url: str) -> None:
    async with front(migrated_url) as service:
        execution_id = (await service.start(mode="async")).json()["id"]
        await pause(service, execution_id)
        answer = await service.client.post(f"/v1/executions/{execution_id}/cancel")
        assert (answer.status_code, answer.json()["status"], answer.json()["approvals"]) == (202, "cancelled", [])


async def test_a_paused_execution_shows_what_it_asks(migrated_url: str) -> None:
    async with front(migrated_url) as service:
        execution_id = (await service.start(mode="async")).json()["id"]
        approval = await pause(service, execution_id, response_schema=SCORE)
        found = await read(service, execution_id)
        assert (found["status"], found["approvals"]) == ("paused", [approval.model_dump(mode="json")])
        result = found["result"]
        assert isinstance(result, dict)
        assert result["status"] == "paused"
        await service.client.post(f"/v1/executions/{execution_id}/cancel")


async def test_the_first_answer_lets_it_go_on_and_the_second_is_a_conflict(migrated_url: str) -> None:
    async with front(migrated_url) as service:
        execution_id = (await service.start(mode="async")).json()["id"]
        approval = await pause(service, execution_id, response_schema=SCORE)
        path = f"/v1/executions/{execution_id}/resume"
        body: JsonObject = {"approval_id": approval.approval_id, "choice": "approved", "data": {"score": 1}}
        answers = await asyncio.gather(*(service.client.post(path, json=body) for _ in range(3)))
        assert sorted(one.status_code for one in answers) == [202, 409, 409]
        assert {one.json()["code"] for one in answers if one.status_code == 409} == {"already_answered"}
        [good] = [one for one in answers if one.status_code == 202]
        assert (good.json()["status"], good.json()["approvals"], good.json()["result"]) == ("running", [], None)
    async with running(migrated_url) as worker:
        found = await ended(worker, execution_id)
        assert (found["status"], found["attempt"]) == ("completed", 2)
        late = await worker.client.post(path, json=body)
        assert (late.status_code, late.json()["code"]) == (409, "not_paused")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"choice": "maybe"}, 422, "invalid_answer"),
        ({"data": None}, 422, "invalid_answer"),
        ({"data": {"score": "canary"}}, 422, "invalid_answer"),
        ({"approval_id": UNKNOWN}, 404, "not_found"),
        ({"score": 1}, 422, "invalid_request"),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_and_changes_nothing(
    migrated_sqlite_url: str, change: JsonObject, status: int, code: str
) -> None:
    async with front(migrated_sqlite_url) as service:
        execution_id = (await service.start(mode="async")).json()["id"]
        approval = await pause(service, execution_id, response_schema=SCORE)
        good: JsonObject = {"approval_id": approval.approval_id, "choice": "approved", "data": {"score": 1}}
        answer = await service.client.post(f"/v1/executions/{execution_id}/resume", json=good | change)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert "canary" not in answer.text
        assert (await read(service, execution_id))["status"] == "paused"
        await service.client.post(f"/v1/executions/{execution_id}/cancel")


async def test_what_is_not_paused_takes_no_answer(stored_service: Service) -> None:
    execution_id = (await stored_service.start()).json()["execution_id"]
    body = {"approval_id": UNKNOWN, "choice": "approved"}
    answer = await stored_service.client.post(f"/v1/executions/{execution_id}/resume", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_paused")


async def test_a_retry_runs_the_same_graph_on_the_same_input(migrated_url: str) -> None:
    async with running(migrated_url, [Fail("auth"), Say("now it works")]) as service:
        first = (await service.start(tags={"team": "a"})).json()
        answer = await service.client.post(f"/v1/executions/{first['execution_id']}/retry")
        assert (answer.status_code, answer.json()["retry_of"]) == (202, first["execution_id"])
        found = await ended(service, answer.json()["id"])
        assert (found["status"], found["trigger"], found["tags"]) == ("completed", "retry", {"team": "a"})
        result, source = found["result"], found["source"]
        assert isinstance(result, dict)
        assert isinstance(source, dict)
        assert (result["response"], source["graph_hash"]) == ("now it works", first["metadata"]["graph_hash"])
        assert [asked.messages[-1]["content"] for asked in service.model.requests] == ["hi", "hi"]
        page = (await service.client.get(f"/v1/executions?retry_of={first['execution_id']}")).json()
        assert [item["id"] for item in page["items"]] == [answer.json()["id"]]


async def test_a_retry_under_a_key_is_one_execution(stored_service: Service) -> None:
    client, key = stored_service.client, {"idempotency-key": "again"}
    started = await client.post("/v1/executions", json=request(), headers={"idempotency-key": "first"})
    path = f"/v1/executions/{started.json()['execution_id']}/retry"
    once = await client.post(path, headers=key)
    twice = await client.post(path, headers=key)
    assert (once.status_code, twice.status_code, twice.json()["id"]) == (202, 202, once.json()["id"])
    assert (twice.headers["idempotency-replayed"], "idempotency-replayed" in once.headers) == ("true", False)
    other = await client.post(path, headers={"idempotency-key": "first"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    await ended(stored_service, once.json()["id"])


async def test_what_runs_cannot_be_retried(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold(Say("done"))]) as service:
        waiting = asyncio.create_task(service.start())
        answer = await service.client.post(f"/v1/executions/{await service.running_id()}/retry")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_finished")
        service.model.release.set()
        await waiting


@pytest.mark.usefixtures("books_left_open")
async def test_what_is_not_kept_any_more_cannot_be_retried(stored_service: Service) -> None:
    execution_id = (await stored_service.start()).json()["execution_id"]
    async with stored_service.runtime.database.begin() as connection:
        await connection.execute(delete(execution_control))
    answer = await stored_service.client.post(f"/v1/executions/{execution_id}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "input_gone")
    assert (await stored_service.client.get(f"/v1/executions/{execution_id}/events")).status_code == 204


@pytest.mark.parametrize(
    ("action", "body"), [("retry", None), ("resume", {"approval_id": "a", "choice": "approved"}), ("cancel", {})]
)
async def test_an_unknown_execution_is_not_found(
    stored_service: Service, action: str, body: dict[str, str] | None
) -> None:
    answer = await stored_service.client.post(f"/v1/executions/{UNKNOWN}/{action}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["execution_id"] == UNKNOWN


@pytest.mark.usefixtures("books_left_open")
async def test_what_ended_long_ago_is_known_to_have_ended(stored_service: Service) -> None:
    """Retention has deleted its control row."""
    id_ = (await stored_service.start()).json()["execution_id"]
    async with stored_service.runtime.database.begin() as connection:
        await connection.execute(delete(execution_control))
    path = f"/v1/executions/{id_}"
    answer = {"approval_id": "a", "choice": "approved"}
    cancelled = await stored_service.client.post(f"{path}/cancel", json={})
    resumed = await stored_service.client.post(f"{path}/resume", json=answer)
    assert (cancelled.status_code, cancelled.json()["code"]) == (409, "already_finished")
    assert (resumed.status_code, resumed.json()["code"]) == (409, "not_paused")
    assert (await stored_service.client.get(f"{path}/events")).status_code == 204
    assert (await stored_service.client.get(path)).json()["content"] == "expired"


async def test_a_request_without_its_content_cannot_run_again(stored_service: Service) -> None:
    id_ = (await stored_service.start()).json()["execution_id"]
    async with stored_service.runtime.database.begin() as connection:
        await connection.execute(update(execution_control).values(request={}, result=None))
    answer = await stored_service.client.post(f"/v1/executions/{id_}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "input_gone")
