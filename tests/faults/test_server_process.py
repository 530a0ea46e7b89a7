"""A real server is killed, frozen, stopped and started again, and is itself afterwards."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from tests.faults.clients import clients
from tests.faults.provider import Latency, provider
from tests.faults.server_process import server_process
from tests.services.process import ServiceBroken, answers


async def test_a_server_runs_executions_and_stops_in_order(migrated_url: str, tmp_path: Path) -> None:
    async with provider(tmp_path / "provider") as models:
        async with server_process(tmp_path, migrated_url, environment=models.environment(tmp_path)) as server:
            async with clients(server.url, tmp_path / "clients") as callers:
                assert (await callers.start(number=0)).status == "completed"
                assert (await callers.start(number=6)).status == "completed"
                assert len(callers.accepted) == 2
            stopped = await server.stop()
        assert stopped.exit_code == 0
        assert '"ready at' in server.logs()
        assert len(models.ledger.of("finished")) == 2


async def test_a_server_that_was_killed_is_there_again_at_the_same_address(
    migrated_sqlite_url: str, tmp_path: Path
) -> None:
    async with server_process(tmp_path, migrated_sqlite_url) as server:
        await server.kill()
        assert not await asyncio.to_thread(answers, f"{server.url}/healthz")
        await server.start()
        assert await asyncio.to_thread(answers, f"{server.url}/healthz")
        assert (server.starts, server.kills) == (2, 1)


async def test_a_frozen_server_says_nothing_until_it_is_thawed(migrated_sqlite_url: str, tmp_path: Path) -> None:
    async with server_process(tmp_path, migrated_sqlite_url) as server:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=1) as http:
            server.freeze()
            with pytest.raises(httpx2.TimeoutException):
                await http.get("/healthz")
            server.thaw()
            assert (await http.get("/healthz")).status_code == 200


@pytest.mark.usefixtures("books_left_open")
async def test_a_client_of_a_server_that_is_killed_writes_down_that_it_was_cut_off(
    migrated_sqlite_url: str, tmp_path: Path
) -> None:
    async with provider(tmp_path / "provider", Latency(word_seconds=60)) as models:
        async with server_process(tmp_path, migrated_sqlite_url, environment=models.environment(tmp_path)) as server:
            async with clients(server.url, tmp_path / "clients") as callers:
                streaming = asyncio.create_task(callers.start(number=4))
                await models.until_asked(1)
                await server.kill()
                told = await streaming
        assert (told.was_cut, told.status, callers.accepted) == (True, None, [told.execution_id])
        assert [fact["what"] for fact in callers.ledger.facts()] == ["sent", "accepted", "cut"]
    assert [fact["what"] for fact in models.ledger.facts()] == ["asked", "cut"]


async def test_a_server_that_does_not_come_up_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServiceBroken, match="SPANLOOM_DATABASE_URL"):
        async with server_process(tmp_path, "mysql://nobody"):
            pytest.fail("it came up")


async def test_a_server_has_a_wall_clock_of_its_own(migrated_sqlite_url: str, tmp_path: Path) -> None:
    faults = ["--clock-hours", "1"]
    async with provider(tmp_path / "provider") as models:
        async with server_process(
            tmp_path, migrated_sqlite_url, faults=faults, environment=models.environment(tmp_path)
        ) as server:
            async with clients(server.url, tmp_path / "clients") as callers:
                told = await callers.start(number=0)
                record = (await callers.http.get(f"/v1/executions/{told.execution_id}")).json()
    ahead = datetime.fromisoformat(record["started_at"]) - datetime.now(UTC)
    assert timedelta(minutes=58) < ahead <= timedelta(hours=1)
    assert 0 <= record["duration_ms"] < 60_000
