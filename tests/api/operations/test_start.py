"""Starting an execution in each mode, and repeating the request under the same Idempotency-Key."""

import asyncio

import pytest
from sqlalchemy import update

from engine.store.tables import execution_control
from engine.testing.models import Hold, Say
from tests.api.harness import Service, ended, front, read_frames, request, running

KEY = {"idempotency-key": "order-7"}


async def test_a_full_queue_refuses_and_says_when_to_come_back(migrated_url: str) -> None:
    async with front(migrated_url, max_queued=1) as service:
        first = await service.client.post("/v1/executions", json=request(mode="async"), headers=KEY)
        refused = await service.start(mode="async")
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert refused.headers["retry-after"]
        again = await service.client.post("/v1/executions", json=request(mode="async"), headers=KEY)
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        assert (await service.start()).json()["status"] == "completed"
        await service.client.post(f"/v1/executions/{first.json()['id']}/cancel")


async def test_a_repeated_request_is_the_same_execution(migrated_url: str) -> None:
    async with running(migrated_url) as service:
        asked = request(mode="async")
        first, *others = await asyncio.gather(
            *(service.client.post("/v1/executions", json=asked, headers=KEY) for _ in range(3))
        )
        assert {one.status_code for one in (first, *others)} == {202}
        assert len({one.json()["id"] for one in (first, *others)}) == 1
        assert sorted(one.headers.get("idempotency-replayed", "") for one in (first, *others)) == ["", "true", "true"]
        await ended(service, first.json()["id"])
        late = await service.client.post("/v1/executions", json=asked, headers=KEY)
        assert (late.status_code, late.json()["status"]) == (202, "completed")
        assert late.json()["result"]["response"] == "Hello you there"
        assert len(service.model.requests) == 1


async def test_wait_joins_what_runs_here_and_gets_its_result(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold(Say("done"))]) as service:
        first = asyncio.create_task(service.client.post("/v1/executions", json=request(), headers=KEY))
        await service.model.entered.wait()
        short = await service.client.post("/v1/executions?wait_seconds=1", json=request(), headers=KEY)
        assert (short.status_code, short.headers["idempotency-replayed"]) == (202, "true")
        second = asyncio.create_task(service.client.post("/v1/executions", json=request(), headers=KEY))
        service.model.release.set()
        answers = await asyncio.gather(first, second)
        assert [one.json()["response"] for one in answers] == ["done", "done"]
        assert answers[0].json() == answers[1].json()
        late = await service.client.post("/v1/executions", json=request(mode="wait"), headers=KEY)
        assert (late.status_code, late.json()) == (200, answers[0].json())
        assert late.headers["idempotency-replayed"] == "true"


async def test_wait_joins_what_runs_in_another_process(migrated_url: str) -> None:
    async with running(migrated_url, [Hold(Say("done"))]) as here, front(migrated_url) as there:
        first = asyncio.create_task(here.client.post("/v1/executions", json=request(), headers=KEY))
        await here.model.entered.wait()
        short = await there.client.post("/v1/executions?wait_seconds=1", json=request(), headers=KEY)
        assert (short.status_code, short.json()["status"]) == (202, "running")
        joined = asyncio.create_task(there.client.post("/v1/executions", json=request(), headers=KEY))
        here.model.release.set()
        assert (await joined).json() == (await first).json()
        assert not there.model.requests


async def test_stream_follows_what_runs_already(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold(Say("you"), after="Hello ")]) as service:
        first = asyncio.create_task(service.client.post("/v1/executions", json=request(), headers=KEY))
        await service.model.entered.wait()
        asked = request(mode="stream")
        async with service.client.stream("POST", "/v1/executions", json=asked, headers=KEY) as response:
            assert response.headers["idempotency-replayed"] == "true"
            service.model.release.set()
            frames = [frame async for frame in read_frames(response)]
        assert [frame.event for frame in (frames[0], frames[-1])] == ["started", "completed"]
        assert frames[-1].data["data"] == (await first).json()


async def test_a_client_with_a_key_may_leave_and_come_back(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold(Say("done"))]) as service:
        waiting = asyncio.create_task(service.client.post("/v1/executions", json=request(), headers=KEY))
        execution_id = await service.running_id()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        service.model.release.set()
        back = await service.client.post("/v1/executions", json=request(), headers=KEY)
        assert (back.json()["execution_id"], back.json()["status"]) == (execution_id, "completed")


@pytest.mark.parametrize("mode", ["wait", "async", "stream"])
async def test_a_key_stands_for_one_request(stored_service: Service, mode: str) -> None:
    client = stored_service.client
    await client.post("/v1/executions", json=request(), headers=KEY)
    other = await client.post("/v1/executions", json=request(mode=mode, input={"message": "bye"}), headers=KEY)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    tagged = await client.post("/v1/executions", json=request(mode=mode, tags={"a": "b"}), headers=KEY)
    assert tagged.headers["idempotency-replayed"] == "true"


async def test_an_old_key_may_start_something_else(migrated_url: str) -> None:
    async with running(migrated_url, idempotency_hours=1.0) as service:
        first = await service.client.post("/v1/executions", json=request(), headers=KEY)
        async with service.runtime.database.begin() as connection:
            column = execution_control.c.accepted_at
            [found] = (await connection.execute(execution_control.select().with_only_columns(column))).scalars()
            await connection.execute(update(execution_control).values(accepted_at=found.replace(year=2020)))
        other = await service.client.post("/v1/executions", json=request(input={"message": "bye"}), headers=KEY)
        assert other.status_code == 200
        assert other.json()["execution_id"] != first.json()["execution_id"]


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "a\tb"])
async def test_a_key_is_visible_ascii(service: Service, key: str) -> None:
    answer = await service.client.post("/v1/executions", json=request(), headers={"idempotency-key": key})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_header")


async def test_what_is_handed_over_while_it_is_waited_for_goes_on_elsewhere(migrated_url: str) -> None:
    async with running(migrated_url, [Hold()], drain_seconds=0.0) as service:
        waiting = asyncio.create_task(service.start(overrides={"on_lost": "retry"}))
        await service.model.entered.wait()
        service.server.should_exit = True
        answer = await waiting
        assert (answer.status_code, answer.json()["status"]) == (202, "running")
        await service.serving
    async with running(migrated_url) as restarted:
        found = await ended(restarted, answer.json()["id"])
        assert (found["status"], found["attempt"]) == ("completed", 2)
