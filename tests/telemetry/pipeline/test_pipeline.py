"""Bad signals become dead letters with their reason, good ones are stored, and consumers do not affect each other."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from engine.errors import Unavailable
from engine.tracing import semconv
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reconcile.audit import find_differences
from telemetry.reconcile.findings import Check
from telemetry.records.consumer import Records
from telemetry.signals.records import Batch, EventRecord, Signal, SpanRecord
from telemetry.store.tables import dead_letter, executions, spans
from tests.telemetry.bookkeeper import Listener, decide


def told(executions: int = 4) -> list[Signal]:
    """Signals of some executions."""
    listener = Listener()
    listener.complete(executions, tools=True)
    return listener.signals()


async def apply(database: Database, pipeline: Pipeline, signals: Sequence[Signal]) -> None:
    """One transaction."""
    async with database.begin() as connection:
        await pipeline.apply(connection, Batch.of(signals))
    pipeline.committed(Batch([], []))


async def letters(database: Database) -> list[tuple[str, str, object]]:
    """Consumer, reason and signal name of every dead letter."""
    async with database.read() as connection:
        rows = await connection.execute(select(dead_letter))
        return [(row.consumer, row.reason, row.signal["name"]) for row in rows]


def poisoned(signal: Signal, number: int) -> Signal:
    """The same signal with something no table takes."""
    if isinstance(signal, SpanRecord):
        poison: list[Signal] = [
            replace(signal, status="no such status"),
            replace(signal, fields=signal.fields | {semconv.NODE_ATTEMPT: 2**62}),
            replace(signal, identity=replace(signal.identity, execution_id="no uuid")),
            replace(signal, end_ns=signal.start_ns - 10_000),
        ]
        return poison[number % 4 if signal.kind == "model" else (0, 3)[number % 2]]
    return replace(signal, attributes=signal.attributes | {semconv.COST_NANO_USD: -1})


async def test_a_poisoned_signal_becomes_a_dead_letter_and_the_rest_is_stored(database: Database) -> None:
    signals = told()
    good = [s for s in signals if isinstance(s, SpanRecord)]
    bad = {id(span): poisoned(span, number) for number, span in enumerate(good[::5])}
    pipeline = Pipeline([Records()])

    await apply(database, pipeline, [poisoned(s, 0) if id(s) in bad else s for s in signals])

    async with database.read() as connection:
        stored = (await connection.execute(select(func.count()).select_from(spans))).scalar_one()
    assert stored == len(good) - len(bad)
    assert len(await letters(database)) == len(bad) == pipeline.health.dead_letters["records"]


@pytest.mark.parametrize("number", range(4))
async def test_each_poison_has_its_reason(database: Database, number: int) -> None:
    signals = told(1)
    call = next(s for s in signals if isinstance(s, SpanRecord) and s.kind == "model")
    bad = poisoned(call, number)
    if database.dialect_name == "sqlite" and number == 1:
        return  # its integers have 64 bits
    await apply(database, Pipeline([Records()]), [bad if s is call else s for s in signals])
    ((consumer, reason, name),) = await letters(database)
    assert (consumer, name) == ("records", "chat small")
    assert "Error" in reason


async def test_a_poisoned_event_becomes_a_dead_letter(database: Database) -> None:
    signals = told(1)
    bad = [poisoned(s, 0) if isinstance(s, EventRecord) else s for s in signals]
    await apply(database, Pipeline([Records()]), bad)
    assert [name for _, _, name in await letters(database)] == [
        semconv.Event.STARTED,
        semconv.Event.COMPLETED,
    ]


async def test_a_broken_consumer_is_given_up_on_early(database: Database) -> None:
    class Broken:
        name = "broken"
        calls = 0

        async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
            self.calls += 1
            await connection.execute(text("SELECT no_such_column"))

    broken = Broken()
    signals = told(40)
    await apply(database, Pipeline([broken, Records()]), signals)
    assert broken.calls < 60
    assert len(await letters(database)) == len(signals)
    await decide(database)
    assert [each for each in await find_differences(database) if each.check is not Check.DEAD_LETTER] == []


async def test_a_consumer_that_leaves_a_savepoint_open_is_undone(database: Database) -> None:
    class Leaking:
        name = "leaking"

        async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
            await connection.begin_nested()
            await connection.execute(executions.delete())

    signals = told(1)
    await apply(database, Pipeline([Records(), Leaking()]), signals)
    await decide(database)
    assert [each for each in await find_differences(database) if each.check is not Check.DEAD_LETTER] == []
    found = await letters(database)
    assert {(consumer, reason) for consumer, reason, _ in found} == {
        ("leaking", "SavepointLeft: the consumer left a savepoint of its own open")
    }
    assert len(found) == len(signals)


@pytest.mark.postgres
async def test_a_lost_connection_is_no_signals_fault(migrated_postgres_url: str) -> None:
    class Unlucky:
        name = "unlucky"

        async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async with Database(migrated_postgres_url) as database:
        with pytest.raises(Unavailable):
            await apply(database, Pipeline([Unlucky()]), told(1))
        assert await letters(database) == []


async def test_a_failing_listener_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(batch: Batch) -> None:
        raise RuntimeError("broken")

    Pipeline([], after_commit=broken).committed(Batch([], []))
    assert "committed signals could not be counted" in caplog.text
