"""Attempts store leases, parts and reservations; a fenced-off attempt stores nothing."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from engine.database.database import Database
from engine.errors import Fenced
from engine.ledger import CallReservation, Checkpoint, Pause, Release
from engine.pause import Paused
from engine.result import Status
from engine.store import unfinished
from engine.store.claims import lose
from engine.store.control import get
from engine.store.leases import Lease, expired
from engine.store.tables import call_reservations, execution_control, journalled
from engine.testing.models import ScriptedModel
from engine.tracing.attributes import seal_hash
from engine.usage import Carried, Totals, Unfinished
from telemetry.reads.executions import get_execution
from telemetry.reads.traces import get_trace
from telemetry.records.totals import totals_of
from telemetry.signals.records import EventRecord, SpanRecord
from tests.telemetry.bookkeeper import REQUEST, Bookkeeper, Listener, Story, bookkeeper


async def carried(database: Database, story: Story) -> Carried:
    async with database.read() as connection:
        return (await unfinished.carried(connection, [story.identity.execution_id]))[story.identity.execution_id]


async def rows(database: Database, story: Story) -> tuple[int, int]:
    """How many parts and how many reservations are kept."""
    async with database.read() as connection:
        parts = await connection.execute(
            select(journalled).where(journalled.c.execution_id == story.identity.execution_id)
        )
        calls = await connection.execute(
            select(call_reservations).where(call_reservations.c.execution_id == story.identity.execution_id)
        )
        return len(parts.all()), len(calls.all())


def checkpoint(story: Story, **more: object) -> Checkpoint:
    return replace(Checkpoint(story.identity.execution_id, story.identity.attempt), **more)  # type: ignore[arg-type]  # the callers name the fields


def comparable(totals: Totals) -> Totals:
    """Without what only one side knows: how long ended calls took, and a total that the provider did not report."""
    usage = totals.usage.model_copy(update={"total_tokens": None})
    return replace(totals, usage=usage, model_seconds=0, tool_seconds=0)


async def take_away(database: Database, story: Story) -> None:
    """Somebody finds the lease over and lets another process go on."""
    async with database.begin() as connection:
        row = await get(connection, story.identity.execution_id, story.identity.owner)
        assert row is not None
        await lose(connection, [replace(row, lease_age_seconds=None)])


async def test_a_running_execution_is_leased_until_it_ends(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    async with keeper.database.begin() as connection:
        assert await expired(connection, 10) == []
        row = (await connection.execute(select(execution_control))).one()
    assert row.lease_owner == keeper.journal.lease.owner
    assert 25 < (row.lease_until - row.accepted_at).total_seconds() < 35
    assert keeper.journal.running() == [(story.identity.execution_id, 1)]
    story.tracker.complete()
    await keeper.journal.finish(story.finish())
    async with keeper.database.read() as connection:
        row = (await connection.execute(select(execution_control))).one()
    assert (row.lease_owner, row.lease_until) == (None, None)
    assert keeper.journal.running() == []


async def test_a_checkpoint_stores_the_totals_that_a_later_attempt_continues_from(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    story.answer()
    await keeper.journal.checkpoint(checkpoint(story))
    story.answer(wasted=True)
    story.answer(usage=None)
    story.tool()
    await keeper.journal.checkpoint(checkpoint(story))
    found = await carried(keeper.database, story)
    assert sorted(found.span_ids) == sorted(story.tracker._span_ids)
    told, kept = story.tracker.totals, found.totals
    assert comparable(kept) == comparable(told)
    assert kept.model_seconds > 0
    assert await rows(keeper.database, story) == (2, 0)
    story.tracker.complete()
    await keeper.journal.finish(story.finish())
    assert await rows(keeper.database, story) == (0, 0)


async def test_a_reservation_stays_until_the_span_of_its_call_is_durable(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    node = story.node("model")
    call = node.model_call(ScriptedModel([], model="small"), REQUEST)
    await keeper.journal.checkpoint(checkpoint(story, begins=CallReservation(call.id, "scripted", "small", 10, 77)))
    found = await carried(keeper.database, story)
    assert found.unfinished == Unfinished(calls=1, upper_nano_usd=77, upper_tokens=10)
    call.cancel()
    node.cancel()
    await keeper.journal.checkpoint(checkpoint(story))
    found = await carried(keeper.database, story)
    assert (found.unfinished.calls, found.totals.unmetered_calls) == (0, 1)
    story.tracker.complete()
    assert await keeper.journal.finish(story.finish())


async def test_a_call_that_was_given_up_while_it_was_written_down_leaves_no_reservation(keeper: Bookkeeper) -> None:
    """The caller is cancelled and does not wait: the checkpoint and the end are in one commit."""
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    reservation = CallReservation("f" * 16, "scripted", "scripted-1", 5, 5)
    story.tracker.cancel("enough")
    writing = asyncio.create_task(keeper.journal.checkpoint(checkpoint(story, begins=reservation)))
    assert all(await asyncio.gather(keeper.journal.finish(story.finish(Status.CANCELLED)), return_exceptions=True))
    await asyncio.gather(writing, return_exceptions=True)
    assert await rows(keeper.database, story) == (0, 0)


async def test_a_fenced_attempt_writes_nothing_more(keeper: Bookkeeper) -> None:
    told: list[tuple[str, int]] = []
    keeper.journal.listen_for_fencing(lambda id_, attempt: told.append((id_, attempt)))
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    await take_away(keeper.database, story)
    story.answer()
    with pytest.raises(Fenced):
        await keeper.journal.checkpoint(checkpoint(story))
    assert told == [(story.identity.execution_id, 1)]
    story.answer()
    story.tracker.complete()
    assert not await keeper.journal.finish(story.finish())
    assert not await keeper.journal.pause(Pause(story.identity.execution_id, 1, {}))
    assert not await keeper.journal.release(Release(story.identity.execution_id, 1))
    async with keeper.database.read() as connection:
        trace = await get_trace(connection, story.identity.execution_id, "default")
        record = await get_execution(connection, story.identity.execution_id, "default")
    assert trace is not None
    assert record is not None
    assert [span.name for span in trace.spans if span.kind != "workflow"] == []
    assert record.status == "running"
    await close(keeper, story)


async def close(keeper: Bookkeeper, story: Story) -> Story:
    """Claim what was left and bring it to its end."""
    [claim] = await keeper.journal.claim(10)
    later = Story(type(story.tracker)(story.tracker._tracing, story.tracker.prices, claim.carried), claim.identity)
    later.tracker.start(claim.identity)
    await keeper.journal.checkpoint(checkpoint(later, root=later.tracker.root, identity=later.identity))
    later.answer()
    later.tracker.complete()
    assert await keeper.journal.finish(later.finish())
    return later


async def test_late_signals_of_a_fenced_attempt_are_not_written_by_the_attempt_that_follows_here(
    keeper: Bookkeeper,
) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    await take_away(keeper.database, story)
    story.answer()
    later = await close(keeper, story)
    async with keeper.database.read() as connection:
        trace = await get_trace(connection, story.identity.execution_id, "default")
    assert trace is not None
    assert trace.seal.complete
    assert {span.attempt for span in trace.spans} == {2}
    assert later.identity.attempt == 2


async def test_the_seal_and_totals_of_a_later_attempt_are_of_all_attempts(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    story.answer()
    await keeper.journal.checkpoint(checkpoint(story))
    await take_away(keeper.database, story)
    await close(keeper, story)
    async with keeper.database.read() as connection:
        record = await get_execution(connection, story.identity.execution_id, "default")
        trace = await get_trace(connection, story.identity.execution_id, "default")
    assert record is not None
    assert trace is not None
    assert (record.status, record.attempt, record.model_calls) == ("completed", 2, 2)
    assert record.seal.complete
    assert record.spans_stored == 2 + 3
    calls = [span for span in trace.spans if span.kind == "model"]
    assert record.cost_nano_usd == sum(span.cost_nano_usd or 0 for span in calls)


async def test_a_pause_is_recorded_and_a_later_attempt_says_that_it_goes_on(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    story.answer()
    due = datetime.now(UTC) - timedelta(seconds=1)
    story.tracker.pause(Paused([], due))
    assert await keeper.journal.pause(Pause(story.identity.execution_id, 1, {"status": "paused"}, due_at=due))
    async with keeper.database.read() as connection:
        record = await get_execution(connection, story.identity.execution_id, "default")
        row = await get(connection, story.identity.execution_id, "default")
    assert record is not None
    assert row is not None
    assert (record.status, row.status, record.model_calls) == ("paused", Status.PAUSED, 1)
    later = await close(keeper, story)
    async with keeper.database.read() as connection:
        record = await get_execution(connection, story.identity.execution_id, "default")
    assert record is not None
    assert (record.status, record.model_calls, record.seal.complete) == ("completed", 2, True)
    assert record.time_human_ms is not None
    assert later.tracker.totals.model_calls == 2


async def test_a_pause_whose_answer_was_lost_counts_once(database: Database) -> None:
    async with bookkeeper(database) as keeper:
        story = keeper.begin()
        await keeper.journal.accept(story.acceptance())
        pause = Pause(story.identity.execution_id, 1, {"status": "paused"}, due_at=datetime.now(UTC))
        assert await keeper.journal.pause(pause)
        assert not await keeper.journal.pause(pause)
        await close(keeper, story)


async def test_a_journal_that_cannot_renew_its_lease_is_found_by_others(database: Database) -> None:
    async with bookkeeper(database, lease=Lease("dead", -1)) as keeper:
        story = keeper.begin()
        await keeper.journal.accept(story.acceptance())
        async with database.begin() as connection:
            assert [row.execution_id for row in await expired(connection, 10)] == [story.identity.execution_id]
        story.tracker.complete()
        assert await keeper.journal.finish(story.finish()), "nobody has taken it away yet"


def test_the_totals_of_spans_equal_those_of_the_tracker() -> None:
    listener = Listener()
    story = listener.begin()
    story.answer()
    story.answer(wasted=True)
    story.cancelled_call()
    story.tool()
    story.node("model").fail("no_route", "nothing fits", unhandled=None)
    spans = [signal for signal in listener.signals() if isinstance(signal, SpanRecord)]
    assert comparable(totals_of(spans)) == comparable(story.tracker.totals)
    story.tracker.complete()
    assert seal_hash(story.tracker._span_ids) == seal_hash(
        [int(span.span_id, 16) for span in listener.signals() if isinstance(span, SpanRecord)]
    )


def test_an_event_that_is_emitted_again_has_the_same_id() -> None:
    told = [Listener(), Listener()]
    for listener in told:
        story = listener.begin(execution_id="01a21f98-7d9d-753e-9852-5d365816d992")
        story.answer(wasted=True)
        story.tracker.complete()
    once, again = ([each.id for each in listener.signals() if isinstance(each, EventRecord)] for listener in told)
    assert once == again
    assert len(set(once)) == len(once) == 3
