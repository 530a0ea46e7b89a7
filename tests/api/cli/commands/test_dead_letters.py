"""Dead letters are shown with their reason, and tried again by the service and on request."""

import asyncio
import json
from functools import partial

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from api.service.background import run_keeper
from telemetry.reconcile.audit import check_books
from telemetry.records.consumer import Records
from telemetry.signals.records import Batch
from telemetry.store.tables import dead_letter, executions
from tests.api.harness import Service
from tests.api.routers.test_reconcile import spanloom
from tests.both_modes import count


async def _fail(self: Records, connection: AsyncConnection, batch: Batch) -> None:
    raise OSError("the disk is full")


@pytest.fixture
def records_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The records cannot be stored in this process."""
    monkeypatch.setattr(Records, "apply", _fail)


@pytest.mark.usefixtures("records_fail")
async def test_the_command_shows_dead_letters_and_stores_them_with_replay(
    service: Service, migrated_sqlite_url: str
) -> None:
    assert (await service.start()).status_code == 200
    kept = await count(service.runtime.database, dead_letter)
    shown = await asyncio.to_thread(spanloom, migrated_sqlite_url, "dead-letters")
    [_, _, line] = shown.stdout.splitlines()
    assert (shown.returncode, line.split()[0], "the disk is full" in line) == (0, "records", True), shown.stderr

    stored = await asyncio.to_thread(spanloom, migrated_sqlite_url, "dead-letters", "--replay")
    assert (stored.returncode, stored.stdout.splitlines()) == (
        0,
        [f"Stored {kept} dead letters.", "No dead letters."],
    )
    assert await count(service.runtime.database, executions) == 1
    assert await check_books(service.runtime.database) == []


@pytest.mark.usefixtures("records_fail", "books_left_open")
async def test_the_command_exits_with_1_if_dead_letters_remain(service: Service, migrated_sqlite_url: str) -> None:
    await service.start()
    async with service.runtime.database.begin() as connection:
        await connection.execute(update(dead_letter).values(signal={"type": "bytes"}))
    done = await asyncio.to_thread(spanloom, migrated_sqlite_url, "dead-letters", "--replay", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["stored"]) == (1, 0)
    assert [group["next_try_at"] for group in document["items"]] == [None]


async def test_the_service_tries_due_dead_letters_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Records, "apply", _fail)
        await service.start()
    assert await count(service.runtime.database, executions) == 0
    kept = await count(service.runtime.database, dead_letter)
    async with service.runtime.database.begin() as connection:
        await connection.execute(update(dead_letter).values(due_at=dead_letter.c.at))
    often = partial(service.runtime.replay.run, look_seconds=0.01)
    monkeypatch.setattr(service.runtime.replay, "run", often)
    async with run_keeper(service.runtime), asyncio.timeout(10):
        while True:
            if await count(service.runtime.database, dead_letter) == 0:
                break
            await asyncio.sleep(0.02)
    assert await count(service.runtime.database, executions) == 1
    metrics = await service.client.get("/metrics")
    assert f'spanloom_dead_letters_stored_total{{consumer="records"}} {kept}' in metrics.text
