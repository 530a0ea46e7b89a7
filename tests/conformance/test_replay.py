"""Dead letters are stored by a later replay, and then the books are as if no error had happened."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import database_time
from engine.database.database import Database
from engine.errors import Unavailable
from engine.tracing import semconv
from telemetry.collector.refusals import SENTENCES, Reason
from telemetry.health import Health
from telemetry.journal.journal import Journal
from telemetry.journal.sinks import OutboxSink
from telemetry.pipeline.dead_letters import DeadLetters
from telemetry.pipeline.pipeline import Consumer, Pipeline
from telemetry.records.consumer import Records
from telemetry.recovery.replay import PAGE, WAITS_SECONDS, Replay, Replayed, group_dead_letters
from telemetry.sdk.providers import build_telemetry
from telemetry.signals.otlp import signal_id
from telemetry.signals.records import Batch, Signal, SpanRecord
from telemetry.store.tables import dead_letter
from tests.both_modes import add_endpoint, consumers, count, end, rows_of_books, tell
from tests.faults.test_consumers import Misdeed, hangs, hangs_in_a_write
from tests.telemetry.bookkeeper import SIGNER, Listener, begin

EXECUTIONS = 40
FIRST_SECONDS = 7_200.0
"""The first wait here, so that nothing is due before a test says so."""


@pytest.fixture(autouse=True)
def first_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that does not expire during any test."""
    monkeypatch.setattr("telemetry.pipeline.dead_letters.FIRST_WAIT_SECONDS", FIRST_SECONDS)


class Troubled:
    """A consumer that sometimes fails to store signals."""

    def __init__(self, consumer: Consumer, share: float) -> None:
        self.name = consumer.name
        self._consumer = consumer
        self._share = share
        self._random = Random(5)

    async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
        """Store the signals like the real consumer, or fail."""
        if self._random.random() < self._share:
            await connection.execute(text("SELECT no_such_column"))
        await self._consumer.apply(connection, batch)


class Listening:
    """A consumer that only remembers the signals it has received."""

    name = "records"

    def __init__(self) -> None:
        self.heard: list[Signal] = []

    async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
        """Remember the signals."""
        self.heard += batch.signals()


class Hanging:
    """A consumer that never finishes."""

    name = "records"

    def __init__(self, misdeed: Misdeed) -> None:
        self._misdeed = misdeed

    async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
        """Never return."""
        await self._misdeed(connection)


async def tell_in(databases: dict[Database, Sequence[Consumer]], executions: int = EXECUTIONS) -> None:
    """The same executions in journals over each database, with consumers of its own."""
    telemetry = build_telemetry()
    async with AsyncExitStack() as stack:
        journals = []
        for database, own in databases.items():
            await add_endpoint(database)
            journals.append(await stack.enter_async_context(Journal(database, Pipeline(own))))
            telemetry.add(journals[-1].spans, journals[-1].events)
        for number in range(executions):
            story = begin(telemetry, workflow_name=f"w{number % 3}")
            for journal in journals:
                await journal.accept(story.acceptance())
            tell(story, number)
            status = end(story, number)
            for journal in journals:
                assert await journal.finish(story.finish(status))
    telemetry.shutdown()


async def tell_in_vain(database: Database, executions: int) -> list[Signal]:
    """Executions whose signals the records do not take, so that all are kept aside; the signals."""
    listening = Listening()
    await tell_in({database: [listening, Troubled(Records(), 1.0)]}, executions)
    return listening.heard


def poisoned(signals: Sequence[Signal], number: int) -> list[Signal]:
    """So many spans that the records never take, of ids of their own."""
    spans = [signal for signal in signals if isinstance(signal, SpanRecord)]
    bad = [replace(span, status="no such status", span_id=f"{n:016x}") for n, span in enumerate(spans[:number], 1)]
    assert len(bad) == number
    return [*bad]


async def keep_aside(database: Database, signals: Sequence[Signal]) -> None:
    """Make the records fail to store them."""
    async with database.begin() as connection:
        await DeadLetters(Health()).keep(connection, "records", signals, "made up")


async def make_due(database: Database) -> None:
    """Make the dead letters due."""
    async with database.begin() as connection:
        now = await database_time(connection)
        await connection.execute(update(dead_letter).where(dead_letter.c.due_at.is_not(None)).values(due_at=now))


async def waits(database: Database) -> set[tuple[int, float | None]]:
    """Return the attempts of each dead letter, and the seconds until it is due."""

    def seconds(due_at: datetime | None, now: datetime) -> float | None:
        return None if due_at is None else round((due_at - now) / timedelta(seconds=20)) * 20.0

    async with database.read() as connection:
        now = await database_time(connection)
        rows = await connection.execute(select(dead_letter.c.tries, dead_letter.c.due_at))
        return {(row.tries, seconds(row.due_at, now)) for row in rows}


@pytest.mark.parametrize("share", [0.3, 1.0])
async def test_the_books_are_as_if_nothing_had_happened(migrated_url: str, other_sqlite_url: str, share: float) -> None:
    async with Database(migrated_url) as database, Database(other_sqlite_url) as other:
        await tell_in({database: [Troubled(one, share) for one in consumers()], other: consumers()})
        kept = await count(database, dead_letter)
        assert kept > (PAGE if share == 1.0 else 10)

        health = Health()
        replay = Replay(database, consumers(), health)
        assert await replay.try_due() == Replayed()  # it is too early
        await make_due(database)
        assert await replay.try_due() == Replayed(stored=kept)

        assert await count(database, dead_letter) == 0
        assert health.dead_letters_stored.total() == kept
        assert await rows_of_books(database) == await rows_of_books(other)


async def test_a_replay_gives_the_stored_signals_again(migrated_url: str, books_left_open: None) -> None:
    async with Database(migrated_url) as database:
        heard, again = await tell_in_vain(database, 12), Listening()
        await Replay(database, [again]).try_all()
        assert sorted(again.heard, key=repr) == sorted(heard, key=repr)
        async with database.begin() as connection:  # so that the books agree
            await Records().apply(connection, Batch.of(heard))


async def test_a_replay_of_stored_signals_duplicates_nothing(migrated_url: str, other_sqlite_url: str) -> None:
    async with Database(migrated_url) as database, Database(other_sqlite_url) as other:
        listening = Listening()
        await tell_in({database: [listening, *consumers()], other: consumers()})
        for _ in range(2):
            await keep_aside(database, listening.heard)
        assert (await Replay(database, consumers()).try_all()).stored == 2 * len(listening.heard)
        assert await rows_of_books(database) == await rows_of_books(other)


@pytest.mark.usefixtures("books_left_open")
async def test_a_failing_letter_waits_longer_each_time_and_the_others_are_stored(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        heard = await tell_in_vain(database, 3)
        await keep_aside(database, poisoned(heard, 1))
        assert await waits(database) == {(0, FIRST_SECONDS)}

        replay = Replay(database, [Records()])
        await make_due(database)
        assert await replay.try_due() == Replayed(stored=len(heard), kept=1)
        for tries, seconds in enumerate(WAITS_SECONDS[1:], start=1):
            assert await waits(database) == {(tries, seconds)}
            await make_due(database)
            assert await replay.try_due() == Replayed(kept=1)
        assert await waits(database) == {(len(WAITS_SECONDS), None)}
        assert await replay.try_due() == Replayed()
        async with database.read() as connection:
            [pile] = await group_dead_letters(connection)
        assert (pile.consumer, pile.letters, pile.next_try_at) == ("records", 1, None)
        assert "Error" in pile.reason

        assert await replay.try_all() == Replayed(kept=1)  # who asks for it gets it, and the next ones by themselves
        assert await waits(database) == {(1, WAITS_SECONDS[1])}


@pytest.mark.usefixtures("books_left_open")
async def test_many_failing_letters_do_not_delay_a_good_one(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        heard = await tell_in_vain(database, 12)
        await keep_aside(database, poisoned(heard, 40))
        async with database.begin() as connection:
            own, common = func.substr(dead_letter.c.id, 30), func.substr(dead_letter.c.id, 1, 29)
            await connection.execute(update(dead_letter).values(id=own.concat(common)))  # in any order
        assert await Replay(database, [Records()]).try_all() == Replayed(stored=len(heard), kept=40)


@pytest.mark.usefixtures("books_left_open")
@pytest.mark.parametrize("misdeed", [hangs, hangs_in_a_write])
async def test_the_letters_of_a_hanging_consumer_are_replayed_later(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch, misdeed: Misdeed
) -> None:
    """On SQLite, cancelling the consumer during a write rolls back the whole transaction."""
    for name in ("TIMEOUT_SECONDS", "LETTER_SECONDS"):
        monkeypatch.setattr(f"telemetry.recovery.replay.{name}", 0.1)
    async with Database(migrated_url) as database:
        listening = Listening()
        await tell_in({database: [listening, Records()]}, executions=2)
        await keep_aside(database, listening.heard)
        assert await Replay(database, [Hanging(misdeed)]).try_all() == Replayed(kept=len(listening.heard))
        assert {tries for tries, _ in await waits(database)} == {1}


@pytest.mark.usefixtures("books_left_open")
async def test_letters_without_signal_or_consumer_stay_until_a_replay_is_requested(migrated_url: str) -> None:
    listener = Listener()
    listener.begin()
    async with Database(migrated_url) as database:
        async with database.begin() as connection:
            letters = DeadLetters(Health())
            await letters.keep(connection, "records", listener.signals(), "made up")
            await letters.keep_documents(connection, "records", [(None, {"type": "bytes", "size": 3})], "no protobuf")
            await letters.keep_documents(connection, "records", [(None, {"type": "span", "name": 3})], "no signal")
        assert (await Replay(database, [Records()]).try_all()).stored == 0
        async with database.read() as connection:
            found = {pile.reason: pile for pile in await group_dead_letters(connection)}
        assert {reason: pile.letters for reason, pile in found.items()} == {
            SENTENCES[Reason.UNKNOWN_EXECUTION]: 1,
            "no protobuf": 1,
            "no signal": 1,
        }
        assert all(pile.next_try_at is None for pile in found.values())


@pytest.mark.usefixtures("books_left_open")
async def test_signals_that_otlp_cannot_encode_are_kept_for_each_consumer(migrated_url: str) -> None:
    listener = Listener()
    listener.begin().tracker.complete()
    early = [
        replace(signal, start_ns=-1) if isinstance(signal, SpanRecord) else replace(signal, at_ns=-1)
        for signal in listener.signals()
    ]
    sink = OutboxSink(["records", "webhooks"], health=Health(), signer=SIGNER, on_commit=lambda: None)
    async with Database(migrated_url) as database:
        async with database.begin() as connection:
            await sink.apply(connection, Batch.of(early))
        async with database.read() as connection:
            letters = {(pile.consumer, pile.letters) for pile in await group_dead_letters(connection)}
    events = [signal for signal in early if not isinstance(signal, SpanRecord)]
    assert letters == {("records", len(early)), ("webhooks", len(events))}


async def test_two_concurrent_replays_duplicate_nothing(migrated_url: str, other_sqlite_url: str) -> None:
    async with Database(migrated_url) as database, Database(other_sqlite_url) as other:
        await tell_in({database: [Troubled(one, 1.0) for one in consumers()], other: consumers()})
        kept = await count(database, dead_letter)
        await make_due(database)
        first, second = await asyncio.gather(*(Replay(database, consumers()).try_due() for _ in range(2)))
        assert first + second == Replayed(stored=kept)
        assert await count(database, dead_letter) == 0
        assert await rows_of_books(database) == await rows_of_books(other)


async def test_errors_do_not_stop_the_replay_loop(migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = asyncio.Semaphore(0)

    async def is_away(self: Replay) -> Replayed:
        tried.release()
        raise Unavailable("the database is away")

    monkeypatch.setattr(Replay, "try_due", is_away)
    async with Database(migrated_sqlite_url) as database, asyncio.timeout(10):
        running = asyncio.create_task(Replay(database, []).run(look_seconds=0.01))
        for _ in range(3):
            await tried.acquire()
        running.cancel()


async def test_letters_of_an_older_program_are_given_under_the_names_of_this_one(
    migrated_url: str, books_left_open: None
) -> None:
    async with Database(migrated_url) as database:
        heard, again = await tell_in_vain(database, 4), Listening()
        await age(database)
        await Replay(database, [again]).try_all()
        assert sorted(again.heard, key=signal_id) == sorted(heard, key=signal_id)
        async with database.begin() as connection:  # so that the books agree
            await Records().apply(connection, Batch.of(heard))


async def age(database: Database) -> None:
    """Make all dead letters those of a program that knew the former names alone."""
    former = {each.name: each.former for each in semconv.RENAMED_ATTRIBUTES}
    async with database.begin() as connection:
        for letter in (await connection.execute(select(dead_letter.c.id, dead_letter.c.signal))).all():
            parts = [part for part in ("fields", "attributes") if part in letter.signal]
            aged = {part: {former.get(key, key): value for key, value in letter.signal[part].items()} for part in parts}
            aged["attributes"][semconv.OPENINFERENCE_KIND] = "CHAIN"
            changed = update(dead_letter).where(dead_letter.c.id == letter.id)
            await connection.execute(changed.values(signal=letter.signal | aged))
