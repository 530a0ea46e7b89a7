"""What a service does beside answering goes on, whatever breaks."""

import asyncio
from dataclasses import replace

import pytest

from api.service import background
from api.service.background import run_keeper
from engine.database import frozen
from engine.database.database import Database
from telemetry.webhooks.sender import Sender
from tests.api.harness import Service


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
