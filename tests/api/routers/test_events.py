"""/v1/executions/{id}/events: following an execution that somebody has started, and coming back to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from engine.testing.models import Hold, Say
from tests.api.harness import Frame, Service, front, read_frames, running
from tests.api.pausing import pause

UNKNOWN = "01a20b66-91b7-745e-b3cc-f69ba7284313"


@asynccontextmanager
async def following(
    service: Service, execution_id: str, after: str | None = None
) -> AsyncIterator[tuple[httpx2.Response, AsyncIterator[Frame]]]:
    headers = {} if after is None else {"last-event-id": after}
    path = f"/v1/executions/{execution_id}/events"
    async with service.client.stream("GET", path, headers=headers) as response:
        yield response, read_frames(response)


async def all_frames(service: Service, execution_id: str, after: str | None = None) -> list[Frame]:
    async with following(service, execution_id, after) as (response, frames):
        assert response.status_code == 200
        return [frame async for frame in frames]


async def test_a_reader_who_comes_back_misses_nothing_and_gets_nothing_twice(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold(Say(" and the rest"), after="Hello you")]) as service:
        started = await service.start("?wait_seconds=1", on_disconnect="continue")
        execution_id = started.json()["id"]
        seen: list[Frame] = []
        async with following(service, execution_id) as (_, frames):
            async for frame in frames:
                seen.append(frame)
                if frame.event == "token":
                    break
        service.model.release.set()
        await service.ended(execution_id)
        rest = await all_frames(service, execution_id, seen[-1].id)
        assert [frame.id for frame in [*seen, *rest]] == [f"1-{seq}" for seq in range(1, len(seen) + len(rest) + 1)]
        assert rest[-1].event == "completed"
        async with following(service, execution_id, rest[-1].id) as (response, _):
            assert response.status_code == 204


async def test_the_query_says_it_too_and_the_header_counts_before_it(stored_service: Service) -> None:
    execution_id = (await stored_service.start()).json()["execution_id"]
    path = f"/v1/executions/{execution_id}/events"
    frames = await all_frames(stored_service, execution_id)
    last = frames[-1].id
    assert (await stored_service.client.get(path, params={"after": last})).status_code == 204
    async with stored_service.client.stream(
        "GET", path, params={"after": last}, headers={"last-event-id": "1-1"}
    ) as response:
        assert [frame.id async for frame in read_frames(response)] == [frame.id for frame in frames[1:]]


async def test_of_what_ended_in_another_process_the_closing_frame_is_told_once(migrated_url: str) -> None:
    async with running(migrated_url) as service:
        result = (await service.start()).json()
        told = await all_frames(service, result["execution_id"])
    async with running(migrated_url) as other:
        [closing] = await all_frames(other, result["execution_id"])
        assert (closing.event, closing.id, closing.data["data"]) == ("completed", told[-1].id, result)
        gap, again = await all_frames(other, result["execution_id"], "1-2")
        assert (gap.event, gap.data["data"]) == ("gap", {"first": 3, "last": len(told) - 1})
        assert again.id == closing.id
        async with following(other, result["execution_id"], closing.id) as (response, _):
            assert response.status_code == 204


async def test_of_what_runs_in_another_process_the_state_is_told(migrated_url: str) -> None:
    async with running(migrated_url, [Hold(Say("done"))]) as here, front(migrated_url) as there:
        waiting = asyncio.create_task(here.start())
        execution_id = await here.running_id()
        async with following(there, execution_id) as (_, frames):
            started = await anext(frames)
            assert (started.event, started.id) == ("started", "1-1")
            here.model.release.set()
            rest = [frame async for frame in frames]
        assert [frame.event for frame in rest] == ["gap", "completed"]
        assert rest[-1].data["data"] == (await waiting).json()


async def test_a_reader_of_what_is_queued_sees_it_run(migrated_url: str) -> None:
    async with front(migrated_url) as desk:
        execution_id = (await desk.start(mode="async")).json()["id"]
        async with following(desk, execution_id) as (response, frames):
            assert response.status_code == 200
            async with running(migrated_url):
                events = [frame.event async for frame in frames]
        assert events[-1] == "completed"


async def test_a_reader_who_leaves_never_cancels(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold(Say("done"))]) as service:
        waiting = asyncio.create_task(service.start(on_disconnect="cancel"))
        execution_id = await service.running_id()
        async with following(service, execution_id) as (_, frames):
            await anext(frames)
        service.model.release.set()
        assert (await waiting).json()["status"] == "completed"


async def test_sixteen_may_follow_an_execution(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold(Say("done"))]) as service:
        waiting = asyncio.create_task(service.start())
        execution_id = await service.running_id()
        told: asyncio.Queue[Frame] = asyncio.Queue()

        async def read_along() -> Frame:
            async with following(service, execution_id) as (_, frames):
                async for frame in frames:
                    told.put_nowait(frame)
            return frame

        readers = [asyncio.create_task(read_along()) for _ in range(16)]
        begun = 0
        while begun < 16:
            begun += (await told.get()).event == "started"
        refused = await service.client.get(f"/v1/executions/{execution_id}/events")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_subscribers")
        service.model.release.set()
        assert {frame.event for frame in await asyncio.gather(*readers)} == {"completed"}
        await waiting
        assert not service.runtime.readers


async def test_a_paused_execution_says_so_and_then_waits_until_it_is_resumed(migrated_url: str) -> None:
    async with front(migrated_url) as service:
        execution_id = (await service.start(mode="async")).json()["id"]
        approval = await pause(service, execution_id)
        [paused] = await all_frames(service, execution_id)
        assert (paused.event, paused.id) == ("paused", "1-5")
        data = paused.data["data"]
        assert isinstance(data, dict)
        assert (data["status"], data["approvals"]) == ("paused", [approval.model_dump(mode="json")])
        async with following(service, execution_id, paused.id) as (response, frames):
            assert response.status_code == 200
            async with running(migrated_url) as worker:
                body = {"approval_id": approval.approval_id, "choice": "approved"}
                await worker.client.post(f"/v1/executions/{execution_id}/resume", json=body)
                rest = [frame async for frame in frames]
        assert [frame.event for frame in rest if frame.event != "gap"][-1] == "completed"
        assert {frame.id.split("-")[0] for frame in rest} == {"2"}


async def test_readers_of_what_runs_elsewhere_are_sent_away_when_the_service_stops(migrated_sqlite_url: str) -> None:
    async with front(migrated_sqlite_url) as service:
        execution_id = (await service.start(mode="async")).json()["id"]
        async with following(service, execution_id) as (_, frames):
            service.server.should_exit = True
            [broken] = [frame async for frame in frames]
        assert (broken.event, broken.data["code"]) == ("stream_error", "draining")
        await service.serving
    async with running(migrated_sqlite_url) as restarted:
        assert (await all_frames(restarted, execution_id))[-1].event == "completed"


@pytest.mark.parametrize(
    ("headers", "query", "status", "code"),
    [
        ({"last-event-id": "7"}, "", 400, "invalid_header"),
        ({}, "?after=1-", 422, "invalid_request"),
        ({}, "?since=1-1", 422, "invalid_request"),
    ],
)
async def test_an_id_that_is_none_is_refused(
    service: Service, headers: dict[str, str], query: str, status: int, code: str
) -> None:
    execution_id = (await service.start()).json()["execution_id"]
    answer = await service.client.get(f"/v1/executions/{execution_id}/events{query}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_an_unknown_execution_cannot_be_followed(stored_service: Service) -> None:
    answer = await stored_service.client.get(f"/v1/executions/{UNKNOWN}/events")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_browsers_are_told_how_soon_to_come_back(service: Service) -> None:
    execution_id = (await service.start()).json()["execution_id"]
    answer = await service.client.get(f"/v1/executions/{execution_id}/events")
    assert answer.text.startswith("retry: 2000\n\nevent: started\n")
    assert answer.headers["x-execution-id"] == execution_id
