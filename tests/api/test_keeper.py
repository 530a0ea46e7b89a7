"""What a service does beside answering goes on, whatever breaks."""

import asyncio

import pytest

from api import keeper
from api.keeper import keeping
from telemetry.delivery import Sender
from tests.api.harness import Service


async def test_work_that_breaks_is_begun_again(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Semaphore(0)

    async def breaks(self: Sender) -> None:
        begun.release()
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(Sender, "run", breaks)
    monkeypatch.setattr(keeper, "RESTART_SECONDS", 0.0)
    async with keeping(service.runtime), asyncio.timeout(10):
        for _ in range(3):
            await begun.acquire()
    assert "deliveries broke and is begun again" in caplog.text
    assert "a fault of ours" in caplog.text
