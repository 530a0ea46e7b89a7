"""The service in the Collector mode: what callers see while a record lags, and that no restart loses one."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from api.cli.commands.serve import run_service
from api.schemas.executions import Execution
from api.service.server import default_roles, ingest_of, listen, receiving, url_of
from api.settings import Settings, SettingsInvalid, check_ingest
from engine.database.database import Database
from telemetry.store.tables import executions, outbox, spans
from tests.api.harness import Service, running
from tests.both_modes import count
from tests.house.lock import ROOT
from tests.misbehaving_collector import TOKEN, MisbehavingCollector, Mood, misbehaving

SECONDS = 30


@asynccontextmanager
async def in_collector_mode(url: str, between: MisbehavingCollector) -> AsyncIterator[Service]:
    """A service whose signals go through a misbehaving Collector."""
    with pytest.MonkeyPatch.context() as environment, listen("127.0.0.1", 0) as listener:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", between.url)
        async with running(url, pipeline="collector", ingest_tokens=(TOKEN,)) as service:
            between.receiver_url = url_of(listener)
            async with receiving(ingest_of(service.runtime), listener):
                yield service


async def seen(service: Service, execution_id: str) -> Execution:
    """What a caller gets."""
    found = await service.client.get(f"/v1/executions/{execution_id}")
    assert found.status_code == 200
    return Execution.model_validate_json(found.content)


async def caught_up(service: Service, execution_id: str) -> Execution:
    """What a caller gets once all spans are there."""
    async with asyncio.timeout(SECONDS):
        while True:
            execution = await seen(service, execution_id)
            if execution.seal.complete:
                return execution
            await asyncio.sleep(0.02)


async def drained(url: str) -> None:
    """Nothing is owed any more."""
    async with Database(url) as database, asyncio.timeout(SECONDS):
        while True:
            if not await count(database, outbox):
                return
            await asyncio.sleep(0.02)


async def test_an_execution_answers_from_control_until_its_record_has_caught_up(migrated_url: str) -> None:
    mood: list[Mood] = ["fails"]
    async with (
        misbehaving("", lambda: mood[0]) as between,
        in_collector_mode(migrated_url, between) as service,
    ):
        result = (await service.start()).json()
        before = await seen(service, result["execution_id"])
        assert await count(service.runtime.database, executions) == 0
        assert (before.status, before.seal.expected, before.seal.complete) == ("completed", None, False)
        assert before.result is not None

        mood[0] = "takes"
        after = await caught_up(service, result["execution_id"])
        await drained(migrated_url)

    assert (after.status, after.seal.expected, after.seal.stored) == ("completed", 5, 5)
    told = ("status", "usage", "cost_nano_usd", "unpriced_calls", "model_calls", "tool_calls", "duration_ms", "source")
    assert [getattr(before, name) for name in told] == [getattr(after, name) for name in told]


async def test_the_span_metrics_are_left_to_the_collector(migrated_sqlite_url: str) -> None:
    async with (
        misbehaving("", lambda: "takes") as between,
        in_collector_mode(migrated_sqlite_url, between) as service,
    ):
        result = (await service.start()).json()
        await caught_up(service, result["execution_id"])
        await drained(migrated_sqlite_url)
        metrics = (await service.client.get("/metrics")).text
    assert "traces_span_metrics_calls_total{" not in metrics
    assert 'spanloom_executions_total{status="completed",template="custom"} 1.0' in metrics
    assert 'spanloom_outbox_confirmed_total{consumer="records"} 7.0' in metrics
    assert "spanloom_record_lag_seconds 0.0" in metrics


async def test_our_signals_leave_by_the_shipper_alone(migrated_sqlite_url: str) -> None:
    async with misbehaving("", lambda: "takes") as between:
        async with in_collector_mode(migrated_sqlite_url, between) as service:
            result = (await service.start()).json()
            await caught_up(service, result["execution_id"])
    assert sum(scope.startswith("spanloom.") for scope in between.seen) == 7
    assert sum(scope.startswith("fastapi") for scope in between.seen) >= 1


async def test_a_restart_with_a_full_outbox_loses_nothing(migrated_url: str) -> None:
    async with (
        misbehaving("", lambda: "fails") as between,
        in_collector_mode(migrated_url, between) as service,
    ):
        ids = [(await service.start()).json()["execution_id"] for _ in range(5)]
    async with (
        misbehaving("", lambda: "takes") as between,
        in_collector_mode(migrated_url, between) as service,
    ):
        for id_ in ids:
            assert (await caught_up(service, id_)).status == "completed"
        await drained(migrated_url)


async def test_going_back_to_the_embedded_mode_serves_what_is_left(migrated_url: str) -> None:
    async with (
        misbehaving("", lambda: "fails") as between,
        in_collector_mode(migrated_url, between) as service,
    ):
        id_ = (await service.start()).json()["execution_id"]
    async with running(migrated_url) as service:
        assert (await seen(service, id_)).seal.complete
        assert await count(service.runtime.database, outbox) == 0
        assert await count(service.runtime.database, spans) == 5


def test_the_collector_needs_a_token_to_show() -> None:
    with pytest.raises(SettingsInvalid, match="SPANLOOM_INGEST_TOKENS"):
        check_ingest(Settings(pipeline="collector"))
    with pytest.raises(SettingsInvalid, match="SPANLOOM_PIPELINE=collector"):
        check_ingest(Settings(ingest_tokens=("x",)))
    check_ingest(Settings(pipeline="collector", ingest_tokens=("x",)))


def test_ingest_is_a_role_where_there_is_a_collector() -> None:
    assert default_roles(Settings()) == {"api", "worker", "keeper"}
    assert default_roles(Settings(pipeline="collector")) == {"api", "worker", "keeper", "ingest"}


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="api, worker, keeper, ingest"):
        run_service("api,janitor")


async def test_a_process_of_its_own_may_take_signals_back(migrated_sqlite_url: str) -> None:
    environment = os.environ | {
        "SPANLOOM_DATABASE_URL": migrated_sqlite_url,
        "SPANLOOM_PIPELINE": "collector",
        "SPANLOOM_INGEST_TOKENS": f"old,{TOKEN}",
        "SPANLOOM_INGEST_BIND": "127.0.0.1:0",
    }
    command = (sys.executable, "-c", "from api.cli.main import main; main()", "serve", "--role", "ingest")
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    async with asyncio.timeout(SECONDS):
        while b"ready for the Collector at " not in (line := await process.stderr.readline()):
            assert line, "it ended before it was ready"
    url = line.decode().partition("Collector at ")[2].split('"')[0].strip()
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/x-protobuf"}
    async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        assert (await client.post("/internal/otlp/v1/traces", content=b"", headers=headers)).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), SECONDS) == 0
