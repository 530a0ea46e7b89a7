"""The service in the Collector mode: what callers see while a record lags, and that no restart loses one."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from api.schemas.executions import Execution
from api.service.server import ingest_of, listen, receiving, url_of
from api.settings import Settings, SettingsInvalid
from api.wiring.ingest import open_ingest
from api.wiring.pipelines import find_destination
from api.wiring.runtime import open_runtime
from engine.database.database import Database
from telemetry.store.tables import executions, outbox, spans
from tests.api.harness import Service, running
from tests.both_modes import count
from tests.misbehaving_collector import TOKEN, MisbehavingCollector, Mood, misbehaving

SECONDS = 30
KEY = "0123456789abcdef" * 4


@asynccontextmanager
async def in_collector_mode(url: str, between: MisbehavingCollector) -> AsyncIterator[Service]:
    """A service whose signals go through a misbehaving Collector."""
    with pytest.MonkeyPatch.context() as environment, listen("127.0.0.1", 0) as listener:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", between.url)
        # Before the service starts: what an earlier one left in the outbox is shipped at once.
        between.receiver_url = url_of(listener)
        async with running(url, pipeline="collector", ingest_tokens=(TOKEN,), secret_key=(KEY,)) as service:
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
    assert 'spanloom_executions_total{status="completed",template="ask"} 1.0' in metrics
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


@pytest.mark.parametrize("url", ["http://collector:4318", "http://10.0.0.7:4318", "http://localhost.evil.example"])
def test_plain_http_to_another_machine_needs_a_setting(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318")
    assert find_destination(Settings()).logs.url == "https://collector:4318/v1/logs"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", url)
    with pytest.raises(SettingsInvalid, match=f"{re.escape(url)} is plain HTTP beyond this machine"):
        find_destination(Settings())
    assert find_destination(Settings(collector_plain_http=True)).logs.url == url


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:4318", "http://[::1]:4318", "http://localhost:4318"])
def test_plain_http_to_this_machine_does_not(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if url is not None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    find_destination(Settings())


def test_a_protocol_that_is_not_shipped_is_refused_as_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(SettingsInvalid, match="http/protobuf"):
        find_destination(Settings())


async def test_postgresql_needs_a_secret_key_for_what_goes_through_the_collector(migrated_postgres_url: str) -> None:
    settings = Settings(database_url=migrated_postgres_url, pipeline="collector", ingest_tokens=(TOKEN,))
    for opened in (open_ingest(settings), open_runtime(settings)):
        with pytest.raises(SettingsInvalid, match="SPANLOOM_SECRET_KEY"):
            await opened.__aenter__()
