"""A signal stays in the outbox until everybody who is to have it has it."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from engine.database.database import Database
from telemetry.collector import outbox
from telemetry.collector.outbox import RECORDS, WEBHOOKS, Parcel
from telemetry.health import Health
from telemetry.journal.sinks import OutboxSink
from telemetry.signals.otlp import signal_id
from telemetry.signals.records import Batch, EventRecord, Signal
from telemetry.store.tables import outbox as table
from tests.telemetry.bookkeeper import SIGNER, Listener


def make_signals(executions: int = 1) -> list[Signal]:
    """Signals of some executions: two events, three spans each."""
    listener = Listener()
    listener.complete(executions)
    return listener.signals()


async def put(database: Database, signals: Sequence[Signal], consumers: Collection[str] = (RECORDS, WEBHOOKS)) -> None:
    """Keep the signals, as the journal does."""
    sink = OutboxSink(consumers, health=Health(), signer=SIGNER, on_commit=lambda: None)
    async with database.begin() as connection:
        await sink.apply(connection, Batch.of(signals))


async def owed(database: Database) -> dict[str, tuple[bool, bool]]:
    """The marks of each row: records, webhooks."""
    async with database.read() as connection:
        rows = await connection.execute(select(table))
        return {row.id: (row.owes_records, row.owes_webhooks) for row in rows}


async def claim(database: Database, *, are_events: bool = False, max_bytes: int = 1_000_000) -> list[Parcel]:
    """Claim signals, as the shipper does."""
    async with database.begin() as connection:
        return await outbox.claim(connection, are_events=are_events, max_bytes=max_bytes)


async def confirm(database: Database, consumer: str, ids: Collection[str]) -> int:
    """Confirm signals, as a consumer does."""
    async with database.begin() as connection:
        return await outbox.confirm(connection, consumer, ids)


async def test_spans_are_owed_by_the_records_alone_and_events_by_both(database: Database) -> None:
    signals = make_signals()
    await put(database, signals)
    assert await owed(database) == {signal_id(one): (True, isinstance(one, EventRecord)) for one in signals}


async def test_a_signal_that_is_kept_twice_has_one_row(database: Database) -> None:
    signals = make_signals()
    await put(database, [*signals, *signals])
    await put(database, signals)
    assert len(await owed(database)) == len(signals)


@pytest.mark.parametrize("order", [(RECORDS, WEBHOOKS), (WEBHOOKS, RECORDS)])
async def test_an_event_is_deleted_once_both_consumers_have_stored_it(
    database: Database, order: tuple[str, str]
) -> None:
    signals = make_signals()
    events = {signal_id(one) for one in signals if isinstance(one, EventRecord)}
    await put(database, signals)

    assert await confirm(database, order[0], events) == 2
    assert {id_ for id_, marks in (await owed(database)).items() if sum(marks) == 1} >= events
    assert await confirm(database, order[0], events) == 0
    assert await confirm(database, order[1], events) == 2

    assert not events & (await owed(database)).keys()


async def test_a_mark_is_cleared_only_with_its_transaction(database: Database) -> None:
    signals = make_signals()
    await put(database, signals)
    with pytest.raises(RuntimeError):
        async with database.begin() as connection:
            assert await outbox.confirm(connection, RECORDS, [signal_id(one) for one in signals]) == 5
            raise RuntimeError("after all")
    assert len(await owed(database)) == 5


async def test_more_signals_can_be_confirmed_than_a_statement_has_parameters(database: Database) -> None:
    signals = make_signals(500)
    await put(database, signals)
    assert await confirm(database, RECORDS, [signal_id(one) for one in signals]) == 2_500
    assert len(await owed(database)) == 1_000


async def test_a_claim_is_bounded_by_bytes_but_never_empty(database: Database) -> None:
    await put(database, make_signals(4))
    first = await claim(database, max_bytes=1)
    rest = await claim(database, max_bytes=4_000)
    assert (len(first), first[0].attempts) == (1, 1)
    assert 1 < len(rest) < 11
    assert sum(len(parcel.payload) for parcel in rest) <= 4_000


async def test_a_claimed_signal_is_not_claimed_again_until_it_is_released(database: Database) -> None:
    await put(database, make_signals(2))
    claimed = await claim(database)
    assert (len(claimed), await claim(database)) == (6, [])
    async with database.begin() as connection:
        await outbox.release(connection, [parcel.id for parcel in claimed[:2]])
    again = await claim(database)
    assert sorted(parcel.id for parcel in again) == sorted(parcel.id for parcel in claimed[:2])
    assert {parcel.attempts for parcel in again} == {2}


async def test_signals_with_the_fewest_attempts_are_claimed_first(database: Database) -> None:
    await put(database, make_signals())
    tried = await claim(database)
    async with database.begin() as connection:
        await outbox.release(connection, [parcel.id for parcel in tried])
    await put(database, make_signals())
    assert [parcel.attempts for parcel in await claim(database, max_bytes=1)] == [1]


async def test_events_and_spans_are_claimed_separately(database: Database) -> None:
    await put(database, make_signals())
    assert [parcel.is_event for parcel in await claim(database, are_events=True)] == [True, True]
    assert [parcel.is_event for parcel in await claim(database)] == [False] * 3


@pytest.mark.postgres
async def test_two_shippers_neither_wait_for_each_other_nor_take_the_same(migrated_postgres_url: str) -> None:
    async with Database(migrated_postgres_url) as database:
        await put(database, make_signals(4))
        async with database.begin() as one, database.begin() as other:
            first = await outbox.claim(one, are_events=False, max_bytes=4_000)
            second = await outbox.claim(other, are_events=False, max_bytes=1_000_000)
        assert first
        assert not {parcel.id for parcel in first} & {parcel.id for parcel in second}


async def test_only_signals_that_were_shipped_long_ago_are_unconfirmed(database: Database) -> None:
    await put(database, make_signals())
    claimed = {parcel.id for parcel in await claim(database)}
    assert await unconfirmed(database, after_seconds=30) == set()
    long_ago = datetime.now(UTC) - timedelta(seconds=60)
    async with database.begin() as connection:
        await connection.execute(update(table).where(table.c.id.in_(claimed)).values(shipped_at=long_ago))
    assert await unconfirmed(database, after_seconds=30) == claimed
    assert await unconfirmed(database, after_seconds=30, consumer=WEBHOOKS) == set()
    assert len(await unconfirmed(database, after_seconds=None)) == 5


async def unconfirmed(database: Database, *, after_seconds: float | None, consumer: str = RECORDS) -> set[str]:
    """The signals that would be served locally."""
    async with database.begin() as connection:
        return {parcel.id for parcel in await outbox.unconfirmed(connection, consumer, after_seconds)}


async def test_the_backlog_counts_signals_and_their_age(database: Database) -> None:
    async with database.read() as connection:
        assert await outbox.read_backlog(connection) == outbox.Backlog(0, 0, 0.0, 0.0)
    await put(database, make_signals())
    await claim(database)
    async with database.begin() as connection:
        before = datetime.now(UTC) - timedelta(seconds=90)
        await connection.execute(update(table).where(table.c.is_event).values(kept_at=before, owes_records=False))
    async with database.read() as connection:
        backlog = await outbox.read_backlog(connection)
    assert (backlog.waiting, backlog.unshipped) == (5, 2)
    assert backlog.oldest_seconds >= 90 > 60 > backlog.record_lag_seconds
