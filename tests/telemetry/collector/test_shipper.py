"""The shipper counts nothing as delivered that was not taken, keeps everything, and says once what is wrong."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import select

from engine.database.database import Database
from telemetry.collector.outbox import RECORDS
from telemetry.collector.shipper import Shipper
from telemetry.health import Health, OutboxHealth
from telemetry.journal.sinks import OutboxSink
from telemetry.sdk.providers import find_collector
from telemetry.signals.otlp import signal_id
from telemetry.signals.records import Batch, Signal
from telemetry.store.tables import outbox
from tests.both_modes import collector_at, count
from tests.misbehaving_collector import MisbehavingCollector, Mood, always, misbehaving
from tests.telemetry.bookkeeper import SIGNER, Listener

SECONDS = 20
NOWHERE = "http://127.0.0.1:1"


def make_signals(executions: int) -> list[Signal]:
    """Signals of some executions: two events, three spans each."""
    listener = Listener()
    listener.complete(executions)
    return listener.signals()


async def put(database: Database, signals: list[Signal]) -> None:
    """Keep the signals, as the journal does."""
    sink = OutboxSink([RECORDS], health=Health(), signer=SIGNER, on_commit=lambda: None)
    async with database.begin() as connection:
        await sink.apply(connection, Batch.of(signals))


@asynccontextmanager
async def shipping(
    database: Database, mood: Callable[[], Mood], *, url: str | None = None, max_bytes: int = 1_000_000
) -> AsyncIterator[tuple[MisbehavingCollector, Shipper, OutboxHealth]]:
    """A shipper, and a Collector that brings nothing back."""
    health = OutboxHealth()
    async with misbehaving(NOWHERE, mood, forwards=False) as between:
        shipper = Shipper(
            database,
            collector_at(url or between.url),
            resource={"service.name": "spanloom"},
            health=health,
            max_bytes=max_bytes,
            max_pause_seconds=0.05,
        )
        async with shipper:
            yield between, shipper, health


async def unshipped(database: Database) -> int:
    """How many signals wait to be shipped."""
    async with database.read() as connection:
        return len((await connection.execute(select(outbox.c.id).where(outbox.c.shipped_at.is_(None)))).all())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(SECONDS):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_every_signal_is_shipped_in_requests_within_the_size_limit(database: Database) -> None:
    signals = make_signals(20)
    await put(database, signals)
    async with shipping(database, always("takes"), max_bytes=5_000) as (between, _, health):
        await until(lambda: health.shipped == len(signals))
    assert between.ids() == {signal_id(one) for one in signals}
    assert max(between.sizes) < 8_000
    assert len(between.sizes) > 10
    assert await unshipped(database) == 0
    assert await count(database, outbox) == len(signals)


@pytest.mark.parametrize("mood", ["fails", "redirects", "refuses", "rejects"])
async def test_signals_that_the_collector_does_not_accept_are_not_delivered(database: Database, mood: Mood) -> None:
    now: list[Mood] = [mood]
    signals = make_signals(2)
    await put(database, signals)
    async with shipping(database, lambda: now[0]) as (between, shipper, health):
        await until(lambda: not health.is_reachable)
        assert health.failed_posts > 0
        now[0] = "takes"
        shipper.wake()
        await until(lambda: health.is_reachable)
        await until(lambda: between.ids() == {signal_id(one) for one in signals})


async def test_a_missing_collector_is_logged_once_and_nothing_is_lost(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    signals = make_signals(3)
    await put(database, signals)
    with caplog.at_level(logging.INFO):
        async with shipping(database, always("takes"), url=NOWHERE) as (_, _, health):
            await until(lambda: health.failed_posts > 6)
    said = [record.message for record in caplog.records if record.name == "telemetry.collector.shipper"]
    assert said == ["the Collector accepts no signals; they stay in the outbox until it does"]
    assert await unshipped(database) == await count(database, outbox) == len(signals)


async def test_a_server_that_is_no_collector_gets_nothing_confirmed(database: Database) -> None:
    await put(database, make_signals(1))
    async with shipping(database, always("babbles")) as (_, _, health):
        await until(lambda: health.failed_posts > 2)
    assert await unshipped(database) == 5


async def test_one_bad_signal_does_not_hold_up_the_others(database: Database) -> None:
    signals = make_signals(10)
    await put(database, signals)
    bad = signal_id(signals[-1])
    async with shipping(database, always("takes")) as (between, _, _):
        between.poison = bad
        await until(lambda: between.ids() == {signal_id(one) for one in signals} - {bad})
        async with asyncio.timeout(SECONDS):
            while True:
                if await attempts(database, bad) == 5 and not await unshipped(database):
                    break
                await asyncio.sleep(0.05)
    assert await attempts(database, bad) == 5


async def attempts(database: Database, id_: str) -> int:
    """How often a signal was posted to the Collector."""
    async with database.read() as connection:
        found: int = (await connection.execute(select(outbox.c.attempts).where(outbox.c.id == id_))).scalar_one()
    return found


async def test_a_shipper_ships_the_rest_before_it_stops(database: Database) -> None:
    async with shipping(database, always("takes")) as (between, _, _):
        signals = make_signals(3)
        await put(database, signals)
    assert between.ids() == {signal_id(one) for one in signals}


async def test_the_collector_is_the_one_of_the_otel_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_collector().traces.url == "http://localhost:4318/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://other/logs")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    found = find_collector()
    assert (found.traces.url, found.logs.url) == ("https://collector:4318/v1/traces", "http://other/logs")
    assert (found.traces.compress, found.logs.compress) == (True, False)
    assert (found.logs.timeout_seconds, dict(found.logs.headers)) == (3.0, {"x-key": "a b"})
