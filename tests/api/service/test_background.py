"""The keeper's jobs restart after an error, and the worker runs queued executions."""

import asyncio
from dataclasses import replace

import pytest

from api.service import background
from api.service.background import run_keeper
from engine.database import frozen
from engine.database.database import Database
from engine.testing.models import Hold, Say
from telemetry.webhooks.sender import Sender
from tests.api.harness import Service, ended, front, running


async def test_work_that_breaks_is_begun_again(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Semaphore(0)

    async def breaks(self: Sender) -> None:
        begun.release()
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(Sender, "run", breaks)
    monkeypatch.setattr(background, "KEEPER_RESTART_SECONDS", 0.0)
    async with run_keeper(service.runtime), asyncio.timeout(10):
        for _ in range(3):
            await begun.acquire()
    assert "deliveries failed and is restarted" in caplog.text
    assert "a fault of ours" in caplog.text


async def test_connections_of_frozen_processes_are_looked_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()

    async def look(database: Database) -> int:
        assert database is service.runtime.database
        looked.set()
        return 0

    monkeypatch.setattr(frozen, "end_frozen", look)
    runtime = replace(service.runtime, settings=service.runtime.settings.model_copy(update={"sweep_seconds": 0.01}))
    async with run_keeper(runtime), asyncio.timeout(10):
        await looked.wait()


async def test_async_is_accepted_and_a_worker_runs_it(stored_service: Service) -> None:
    answer = await stored_service.start(mode="async", tags={"team": "a"})
    assert (answer.status_code, answer.json()["result"]) == (202, None)
    execution_id = answer.json()["id"]
    assert answer.headers["location"] == f"/v1/executions/{execution_id}"
    found = await ended(stored_service, execution_id)
    assert (found["status"], found["attempt"], found["tags"]) == ("completed", 1, {"team": "a"})
    assert found["result"]["response"] == "Hello you there"  # type: ignore[index,call-overload]  # it has ended
    assert found["seal"]["complete"]  # type: ignore[index,call-overload]  # a document


async def test_what_waits_for_a_worker_is_queued(migrated_url: str) -> None:
    async with front(migrated_url) as service:
        answer = (await service.start(mode="async")).json()
        assert (answer["status"], answer["started_at"]) == ("queued", None)
        assert "0" * 16 not in answer.values()
        assert "0" * 32 not in answer.values()
        page = (await service.client.get("/v1/executions?status=queued")).json()
        assert [item["id"] for item in page["items"]] == [answer["id"]]
    async with running(migrated_url) as restarted:
        assert (await ended(restarted, answer["id"]))["status"] == "completed"


async def test_another_process_takes_what_this_one_has_queued(migrated_url: str) -> None:
    async with front(migrated_url) as desk, running(migrated_url) as worker:
        execution_id = (await desk.start(mode="async")).json()["id"]
        assert (await ended(desk, execution_id))["status"] == "completed"
        assert len(worker.model.requests) == 1
        assert not desk.model.requests


async def test_a_worker_holds_no_more_than_its_slots(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, lambda _: Hold(Say("done")), worker_slots=1) as service:
        ids = [(await service.start(mode="async")).json()["id"] for _ in range(2)]
        await service.model.entered.wait()
        statuses = [(await service.client.get(f"/v1/executions/{id_}")).json()["status"] for id_ in ids]
        assert statuses == ["running", "queued"]
        service.model.release.set()
        assert [(await ended(service, id_))["status"] for id_ in ids] == ["completed", "completed"]
