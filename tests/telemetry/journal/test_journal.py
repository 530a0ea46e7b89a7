"""The journal makes signals durable with the decision they belong to, and loses none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from engine.errors import ConversationBusy, Unavailable
from engine.ledger import Checkpoint
from engine.result import Status
from engine.store.control import request_cancel
from engine.store.leases import Lease
from engine.store.tables import execution_control
from telemetry.journal.journal import Journal
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reconcile.audit import check_books, find_differences
from telemetry.reconcile.findings import Check
from telemetry.records.consumer import Records
from telemetry.signals.records import Batch
from telemetry.store.tables import dead_letter, executions, spans
from tests.telemetry.bookkeeper import Bookkeeper, bookkeeper

SECONDS = 10


async def statuses(database: Database) -> dict[str, str]:
    """Status of every record by id."""
    async with database.read() as connection:
        return {row.id: row.status for row in await connection.execute(select(executions.c.id, executions.c.status))}


async def stored_spans(database: Database) -> int:
    """How many span rows there are."""
    async with database.read() as connection:
        return (await connection.execute(select(func.count()).select_from(spans))).scalar_one()


async def until(database: Database, wanted: int) -> None:
    """Wait until so many spans are stored."""
    async with asyncio.timeout(SECONDS):
        stored = await stored_spans(database)
        while stored < wanted:
            await asyncio.sleep(0.01)
            stored = await stored_spans(database)


class Failing(Database):
    """A database whose writes fail as often as it is told: before anything is done, or once all is committed."""

    refusals = 0
    lost_answers = 0

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("the database is down")
        async with super().begin() as connection:
            yield connection
        if self.lost_answers:
            self.lost_answers -= 1
            raise Unavailable("the answer was lost")


@pytest.fixture
async def failing(migrated_url: str) -> AsyncIterator[Failing]:
    """A migrated database that can be told to fail."""
    async with Failing(migrated_url) as opened:
        yield opened


async def test_a_finished_execution_can_be_read_at_once(keeper: Bookkeeper) -> None:
    story = await keeper.completed()

    async with keeper.database.read() as connection:
        row = (await connection.execute(select(executions))).one()
    assert (row.id, row.status, row.spans_expected, row.spans_stored) == (
        story.identity.execution_id,
        "completed",
        6,
        6,
    )
    assert await stored_spans(keeper.database) == 6
    assert await check_books(keeper.database) == []


async def test_an_accepted_execution_is_running_in_the_records(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    assert await statuses(keeper.database) == {story.identity.execution_id: "running"}


async def test_a_checkpoint_makes_ended_spans_durable(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    story.answer()
    await keeper.journal.checkpoint(Checkpoint(story.identity.execution_id, 1))
    assert await stored_spans(keeper.database) == 2


@pytest.mark.parametrize("is_sure", [True, False])
async def test_a_checkpoint_that_can_wait_commits_only_if_the_lease_may_be_lost(
    database: Database, is_sure: bool
) -> None:
    lease = Lease("me", seconds=3_600 if is_sure else 0)
    async with bookkeeper(database, flush_seconds=60, lease=lease) as keeper:
        story = keeper.begin()
        await keeper.journal.accept(story.acceptance())
        story.answer()
        await keeper.journal.checkpoint(Checkpoint(story.identity.execution_id, 1, can_wait=True))
        assert await stored_spans(keeper.database) == (0 if is_sure else 2)
        story.tracker.complete()
        await keeper.journal.finish(story.finish())
        assert await stored_spans(keeper.database) == 3


async def test_buffered_signals_become_durable_without_being_asked_for(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    story.answer()
    await until(keeper.database, 2)


async def test_signals_of_a_refused_execution_are_forgotten(keeper: Bookkeeper) -> None:
    busy = keeper.begin(conversation_id="talk")
    await keeper.journal.accept(busy.acceptance())
    refused = keeper.begin(conversation_id="talk")

    with pytest.raises(ConversationBusy):
        await keeper.journal.accept(refused.acceptance())
    keeper.journal.abandon(refused.identity.execution_id)
    refused.tracker.cancel(None)
    keeper.journal.abandon(refused.identity.execution_id)

    assert list(await statuses(keeper.database)) == [busy.identity.execution_id]


async def test_one_refused_execution_does_not_harm_the_others_of_its_group(keeper: Bookkeeper) -> None:
    stories = [keeper.begin(conversation_id="talk" if number < 2 else None) for number in range(10)]
    outcomes = await asyncio.gather(
        *(keeper.journal.accept(story.acceptance()) for story in stories), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [ConversationBusy]
    assert len(await statuses(keeper.database)) == 9


async def test_many_executions_share_commits_and_none_is_lost(keeper: Bookkeeper) -> None:
    slots = asyncio.Semaphore(64)

    async def one(number: int) -> None:
        async with slots:
            await keeper.completed(streaming=number % 2 == 0, workflow_name=f"w{number % 3}")

    await asyncio.gather(*(one(number) for number in range(200)))

    assert await stored_spans(keeper.database) == 200 * 6
    assert set((await statuses(keeper.database)).values()) == {"completed"}
    assert await check_books(keeper.database) == []
    assert keeper.journal.health.decisions == 400
    assert keeper.journal.health.commits < 200


async def test_a_newer_attempt_fences_off_the_older_one(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    async with keeper.database.begin() as connection:
        await connection.execute(update(execution_control).values(attempt=2))
    story.answer()
    story.tracker.complete()

    assert not await keeper.journal.finish(story.finish())

    assert await statuses(keeper.database) == {story.identity.execution_id: "running"}
    assert await stored_spans(keeper.database) == 0


async def test_only_one_of_two_finishes_is_stored(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    assert not await keeper.journal.finish(story.finish(Status.FAILED))
    assert await statuses(keeper.database) == {story.identity.execution_id: "completed"}


async def test_without_a_database_nothing_is_accepted(failing: Failing) -> None:
    async with bookkeeper(failing) as keeper:
        failing.refusals = 2
        story = keeper.begin()
        with pytest.raises(Unavailable):
            await keeper.journal.accept(story.acceptance())
        keeper.journal.abandon(story.identity.execution_id)
        assert await statuses(failing) == {}

        await keeper.completed()
        assert len(await statuses(failing)) == 1


async def test_a_finish_waits_for_the_database_to_come_back(failing: Failing) -> None:
    async with bookkeeper(failing, flush_seconds=60) as keeper:
        story = keeper.begin()
        await keeper.journal.accept(story.acceptance())
        story.answer()
        story.tracker.complete()
        failing.refusals = 2
        assert await keeper.journal.finish(story.finish())
        assert failing.refusals == 0
    assert await check_books(failing) == []


async def test_a_finish_gives_up_after_its_time(failing: Failing) -> None:
    async with bookkeeper(failing, retry_seconds=0.2) as keeper:
        story = keeper.begin()
        await keeper.journal.accept(story.acceptance())
        story.tracker.complete()
        failing.refusals = 1_000
        with pytest.raises(Unavailable):
            await keeper.journal.finish(story.finish())
        failing.refusals = 0


@pytest.mark.parametrize("together", [1, 5])
async def test_a_commit_whose_answer_was_lost_counts_once(failing: Failing, together: int) -> None:
    async with bookkeeper(failing, flush_seconds=60) as keeper:
        stories = [keeper.begin() for _ in range(together)]
        for story in stories:
            await keeper.journal.accept(story.acceptance())
            story.answer()
            story.tracker.complete()
        failing.lost_answers = 1
        assert all(await asyncio.gather(*(keeper.journal.finish(story.finish()) for story in stories)))
    assert set((await statuses(failing)).values()) == {"completed"}
    assert await check_books(failing) == []


@pytest.mark.parametrize("together", [1, 5])
async def test_an_acceptance_whose_commit_answer_was_lost_counts_as_accepted(failing: Failing, together: int) -> None:
    async with bookkeeper(failing, flush_seconds=60) as keeper:
        stories = [keeper.begin() for _ in range(together)]
        failing.lost_answers = 1
        await asyncio.gather(*(keeper.journal.accept(story.acceptance()) for story in stories))
        for story in stories:
            story.tracker.complete()
            assert await keeper.journal.finish(story.finish())
    assert await check_books(failing) == []


async def test_closing_writes_the_buffered_signals(database: Database) -> None:
    async with bookkeeper(database, flush_seconds=60) as keeper:
        story = keeper.begin()
        await keeper.journal.accept(story.acceptance())
        story.answer()
    assert await stored_spans(database) == 2


async def test_a_closed_journal_refuses(database: Database) -> None:
    async with bookkeeper(database) as keeper:
        story = keeper.begin()
    with pytest.raises(Unavailable):
        await keeper.journal.accept(story.acceptance())


async def test_when_the_writer_dies_nobody_waits_for_ever(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: object) -> None:
        raise AssertionError("a bug in the journal")

    with pytest.raises(AssertionError, match="a bug in the journal"):
        async with bookkeeper(database, flush_seconds=60) as keeper:
            monkeypatch.setattr(keeper.journal, "_commit", broken)
            stories = [keeper.begin() for _ in range(500)]
            outcomes = await asyncio.gather(
                *(keeper.journal.accept(story.acceptance()) for story in stories), return_exceptions=True
            )
            assert {type(outcome) for outcome in outcomes} == {Unavailable}


async def test_a_cancel_request_is_passed_on_until_it_is_acknowledged(database: Database) -> None:
    asked: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue()
    deaf = [True, True]

    def listen(execution_id: str, reason: str | None) -> bool:
        if deaf:
            return not deaf.pop()
        asked.put_nowait((execution_id, reason))
        return True

    async with bookkeeper(database, poll_seconds=0.01) as keeper:
        keeper.journal.listen_for_cancel(listen)
        for reason in ("not needed", None):
            story = keeper.begin()
            await keeper.journal.accept(story.acceptance())
            async with database.begin() as connection:
                await request_cancel(connection, story.identity.execution_id, "default", reason)
            async with asyncio.timeout(SECONDS):
                assert await asked.get() == (story.identity.execution_id, reason)
        assert asked.empty()


async def test_a_consumer_that_fails_changes_no_decision(database: Database) -> None:
    class Broken:
        name = "broken"

        async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
            await connection.execute(dead_letter.delete())
            raise RuntimeError("this consumer is broken")

    async with bookkeeper(database, [Broken(), Records()]) as keeper:
        story = await keeper.completed()

    assert await statuses(database) == {story.identity.execution_id: "completed"}
    async with database.read() as connection:
        letters = (await connection.execute(select(dead_letter))).all()
    assert len(letters) == 2 + 6
    assert {letter.consumer for letter in letters} == {"broken"}
    assert letters[0].reason == "RuntimeError: this consumer is broken"
    assert keeper.journal.health.dead_letters == {"broken": 8, "records": 0}


class Hanging:
    """A consumer that never comes back, from its own code or from a statement."""

    name = "hanging"

    def __init__(self, statement: str | None = None) -> None:
        self._statement = statement

    async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
        if self._statement is not None:
            await connection.execute(text(self._statement))
        await asyncio.Event().wait()


async def decision_stands_beside(hanging: Hanging, database: Database) -> None:
    """An execution is recorded, and the signals that the hanging consumer missed are dead letters."""
    async with bookkeeper(database, [hanging, Records()], timeout_seconds=0.2) as keeper:
        story = await keeper.completed()
    assert await statuses(database) == {story.identity.execution_id: "completed"}
    others = [each for each in await find_differences(database) if each.check is not Check.DEAD_LETTER]
    assert others == []
    async with database.read() as connection:
        letters = (await connection.execute(select(dead_letter.c.consumer))).scalars().all()
    assert letters == ["hanging"] * 8
    assert keeper.journal.health.dead_letters["hanging"] == 8


async def test_a_consumer_that_hangs_changes_no_decision(database: Database) -> None:
    await decision_stands_beside(Hanging(), database)


@pytest.mark.postgres
async def test_a_consumer_that_hangs_in_a_statement_changes_no_decision(migrated_postgres_url: str) -> None:
    async with Database(migrated_postgres_url) as database:
        await decision_stands_beside(Hanging("SELECT pg_sleep(30)"), database)


async def test_a_malformed_signal_becomes_a_dead_letter(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    story.tracker._common.pop("workflow.owner.id")
    story.answer()
    story.tracker.complete()
    assert await keeper.journal.finish(story.finish())

    async with keeper.database.read() as connection:
        letters = (await connection.execute(select(dead_letter))).all()
    assert {(letter.consumer, letter.execution_id) for letter in letters} == {("journal", story.identity.execution_id)}
    assert len(letters) == 2


async def test_signals_of_a_database_that_is_gone_stay_buffered_until_it_is_back(migrated_sqlite_url: str) -> None:
    async with Failing(migrated_sqlite_url) as failing, bookkeeper(failing) as keeper:
        story = keeper.begin()
        await keeper.journal.accept(story.acceptance())
        failing.refusals = 2
        story.answer()
        await until(failing, 2)
        assert failing.refusals == 0
        assert keeper.journal.health.is_writable


def test_the_journal_needs_no_event_loop_to_be_made(tmp_path: Path) -> None:
    journal = Journal(Database(f"sqlite:///{tmp_path / 'x.db'}"), Pipeline([]))
    assert journal.health.commits == 0
