"""What runs here keeps its lease, whatever its event loop does; what was taken away is stopped."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from engine.engine import ExecutionEngine
from engine.errors import Unavailable
from engine.request import ExecutionRequest
from engine.store.tables import execution_control
from engine.testing.models import Hold, ScriptedModel
from telemetry.health import LeaseHealth
from telemetry.pipeline.pipeline import Pipeline
from telemetry.records.consumer import Records
from telemetry.recovery import lease_renewal
from telemetry.recovery.lease_renewal import LeaseRenewal
from telemetry.recovery.sweeper import Sweeper
from tests.api.harness import ASK
from tests.engine.harness import scripted_resources
from tests.leases import end_leases
from tests.telemetry.bookkeeper import Bookkeeper, bookkeeper

SECONDS = 20


@pytest.fixture
async def keeper(migrated_url: str) -> AsyncIterator[Bookkeeper]:
    """A bookkeeper that writes only on request."""
    async with Database(migrated_url) as database, bookkeeper(database, flush_seconds=60) as running:
        yield running


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(SECONDS):
        while True:
            if await reached():
                return
            await asyncio.sleep(0.01)


async def lease_until(database: Database) -> datetime:
    """When the lease of the only execution expires."""
    async with database.read() as connection:
        found: datetime = (await connection.execute(select(execution_control.c.lease_until))).scalar_one()
        return found


def block(seconds: float) -> None:
    """Block the event loop of this thread."""
    time.sleep(seconds)


async def test_renewal_goes_on_while_the_event_loop_is_blocked(keeper: Bookkeeper, migrated_url: str) -> None:
    await keeper.journal.accept(keeper.begin().acceptance())
    async with LeaseRenewal(keeper.journal, lambda: Database(migrated_url), renew_seconds=0.05):
        await end_leases(keeper.database)
        before = keeper.journal.health.leases.renewals
        block(3)
        renewed = keeper.journal.health.leases.renewals - before
        until_then = await lease_until(keeper.database)
    assert renewed >= 2
    assert until_then > datetime.now(UTC)


async def test_many_leases_are_renewed_in_pages(
    keeper: Bookkeeper, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_renewal, "PAGE", 2)
    for _ in range(5):
        await keeper.journal.accept(keeper.begin().acceptance())
    await end_leases(keeper.database)

    async def renewed() -> bool:
        async with keeper.database.read() as connection:
            rows = await connection.execute(select(execution_control.c.lease_until))
            return all(row.lease_until > datetime.now(UTC) for row in rows)

    async with LeaseRenewal(keeper.journal, lambda: Database(migrated_url), renew_seconds=0.05):
        await until(renewed)


async def test_an_execution_that_lost_its_lease_is_stopped_and_emits_nothing_more(
    keeper: Bookkeeper, migrated_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = ScriptedModel([Hold()])
    engine = ExecutionEngine(
        scripted_resources(model),
        ledger=keeper.journal,
        tracer_provider=keeper.telemetry.tracer_provider,
        logger_provider=keeper.telemetry.logger_provider,
    )
    keeper.journal.listen_for_fencing(engine.fence_off)
    request = ExecutionRequest.model_validate({"source": {"kind": "graph", "graph": ASK}, "input": {"message": "hi"}})
    execution = await engine.start(request, streaming=True)
    await model.entered.wait()
    await end_leases(keeper.database)
    assert len(await Sweeper(keeper.database, Pipeline([Records()])).sweep()) == 1

    async def stopped() -> bool:
        return engine.active == 0

    async with LeaseRenewal(keeper.journal, lambda: Database(migrated_url), renew_seconds=0.05):
        await until(stopped)

    assert not any([event.type.is_closing async for event in execution.context.events.read()])
    assert keeper.journal.running() == []
    assert keeper.journal.health.leases.missing == 1
    assert keeper.journal._buffers.older_than(0) == []
    assert "stops in this process: A newer attempt owns the execution" in caplog.text


class Troubled(Database):
    """A database that refuses a given number of times."""

    refusals: Iterator[int]

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        if next(self.refusals, None) is not None:
            raise Unavailable("the database is down")
        async with super().begin() as connection:
            yield connection


async def test_a_failed_renewal_is_retried_soon(
    keeper: Bookkeeper, migrated_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await keeper.journal.accept(keeper.begin().acceptance())
    database = Troubled(migrated_url)
    database.refusals = iter(range(2))
    health = keeper.journal.health.leases

    async def renewed() -> bool:
        return health.renewals == 1

    async with LeaseRenewal(keeper.journal, lambda: database, renew_seconds=10):
        await until(renewed)
    assert health.failed_renewals == 2
    assert caplog.text.count("leases could not be renewed; trying again") == 2


async def test_a_bug_does_not_end_the_renewal(
    keeper: Bookkeeper, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(10))

    def breaks() -> list[tuple[str, int]]:
        if next(calls) < 2:
            raise ZeroDivisionError("a bug")
        return []

    monkeypatch.setattr(keeper.journal, "running", breaks)
    health = keeper.journal.health.leases

    async def renewed() -> bool:
        return health.renewals == 1

    async with LeaseRenewal(keeper.journal, lambda: Database(migrated_url), renew_seconds=10):
        await until(renewed)
    assert health.failed_renewals == 2
    monkeypatch.undo()


async def test_a_database_that_hangs_does_not_keep_the_process_from_stopping(
    keeper: Bookkeeper, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = asyncio.Event()
    here = asyncio.get_running_loop()

    async def hangs(*_: object) -> frozenset[str]:
        here.call_soon_threadsafe(entered.set)
        await asyncio.Event().wait()
        return frozenset()

    monkeypatch.setattr(lease_renewal, "renew", hangs)
    await keeper.journal.accept(keeper.begin().acceptance())
    async with LeaseRenewal(keeper.journal, lambda: Database(migrated_url), renew_seconds=60):
        await asyncio.wait_for(entered.wait(), SECONDS)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < lease_renewal._STOP_SECONDS


def test_the_age_of_the_last_renewal_is_reported() -> None:
    assert LeaseHealth().age_seconds == 0
    assert LeaseHealth(renewed_at=time.monotonic() - 5).age_seconds == pytest.approx(5, abs=0.5)
