"""Which executions a process can claim, and the content of a claim."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from engine.database.base import now_sql
from engine.database.database import Database
from engine.ledger import CallReservation, Claim, Release, Root, SpanIds
from engine.result import Status
from engine.store import unfinished
from engine.store.claims import begin_roots, lose, may_be_held_back, release_many, was_lost_early
from engine.store.control import request_cancel
from engine.store.leases import Lease, renew
from engine.usage import Totals, Usage
from tests.engine.store.executions import (
    OLD,
    PLAIN,
    QUEUED,
    ROOT,
    STARTED,
    accept_all,
    change,
    claim_all,
    of,
    pause,
    row_of,
)


async def test_a_queued_execution_is_claimed_once_as_its_first_attempt(database: Database) -> None:
    await accept_all(database, [QUEUED])
    assert not (await row_of(database, "e1")).is_leased
    claims = await asyncio.gather(*(claim_all(database, Lease(f"worker {number}")) for number in range(4)))
    [claim] = [claim for found in claims for claim in found]
    assert (claim.identity, claim.reason, claim.graph) == (QUEUED.identity, "queued", QUEUED.graph)
    assert claim.carried.span_ids == []
    row = await row_of(database, "e1")
    assert (row.status, row.attempt, row.is_leased) == (Status.RUNNING, 1, True)


async def test_the_oldest_are_claimed_first_and_no_more_than_asked_for(database: Database) -> None:
    await accept_all(database, [of(QUEUED, f"e{number}") for number in range(5)])
    for number in range(5):
        await change(database, f"e{number}", accepted_at=STARTED - timedelta(minutes=number))
    assert [claim.identity.execution_id for claim in await claim_all(database, limit=2)] == ["e4", "e3"]


async def test_a_running_execution_is_claimed_by_nobody(database: Database) -> None:
    await accept_all(database, [PLAIN])
    assert await claim_all(database) == []


async def test_an_execution_with_a_cancel_request_is_not_claimed(database: Database) -> None:
    await accept_all(database, [QUEUED])
    async with database.begin() as connection:
        await request_cancel(connection, "e1", "ann", "enough")
    assert await claim_all(database) == []


async def test_the_attempt_after_a_crash_carries_on_the_books(database: Database) -> None:
    await accept_all(database, [PLAIN])
    part = Totals(usage=Usage(input_tokens=5, total_tokens=5), priced_nano_usd=7, priced_calls=1, model_calls=1)
    async with database.begin() as connection:
        await unfinished.keep(connection, [unfinished.Part("e1", 1, 1, ["00000000000000aa"], part)])
        await unfinished.keep(connection, [unfinished.Part("e1", 1, 2, ["00000000000000ab"], part)])
        calls = [("e1", 1, CallReservation(f"{n:016x}", "p", "m", 10, upper)) for n, upper in ((1, 3), (2, 4))]
        await unfinished.reserve(connection, calls)
        await unfinished.settle(connection, [("e1", f"{2:016x}")])
        await lose(connection, [await row_of(database, "e1")])
    [claim] = await claim_all(database)
    assert (claim.identity.attempt, claim.reason, claim.previous_root) == (2, "crash", ROOT)
    assert claim.carried.totals == part + part
    assert claim.carried.span_ids == [0xAA, 0xAB]
    assert (claim.carried.unfinished.calls, claim.carried.unfinished.upper_nano_usd) == (1, 3)
    assert (await row_of(database, "e1")).crashes == 1


def young() -> Lease:
    """A process that has just started."""
    return Lease("young")


async def test_an_execution_whose_young_process_died_is_claimed_after_a_wait_that_doubles(database: Database) -> None:
    await accept_all(database, [PLAIN], lease=young())
    for losses, at_least in ((1, 0.5), (2, 1.0), (3, 2.0)):
        lost = await row_of(database, "e1")
        async with database.begin() as connection:
            await lose(connection, [lost])
            now = (await connection.execute(select(now_sql()))).scalar_one()
        row = await row_of(database, "e1")
        assert (row.crashes, row.early_losses, row.claim_reason, row.lease_age_seconds) == (0, losses, "crash", None)
        assert row.not_before is not None
        assert at_least - 0.1 <= (row.not_before - now).total_seconds() <= 3 * at_least
        assert await claim_all(database, young()) == [], "not yet"
        await change(database, "e1", not_before=now - timedelta(seconds=1))
        [claim] = await claim_all(database, young())
        assert (claim.identity.attempt, claim.reason) == (losses + 1, "crash")
    assert (await row_of(database, "e1")).not_before is None


async def test_executions_that_were_lost_together_do_not_wait_equally_long(database: Database) -> None:
    await accept_all(database, [of(PLAIN, f"e{number}") for number in range(8)], lease=young())
    lost = [await row_of(database, f"e{number}") for number in range(8)]
    async with database.begin() as connection:
        await lose(connection, lost)
    due = [(await row_of(database, f"e{number}")).not_before for number in range(8)]
    times = sorted(each for each in due if each is not None)
    assert (times[-1] - times[0]).total_seconds() > 0.1


async def test_a_process_that_has_run_for_long_or_says_nothing_of_its_age_counts_as_a_crash(
    database: Database,
) -> None:
    await accept_all(database, [PLAIN], lease=young())
    row = await row_of(database, "e1")
    assert was_lost_early(row)
    assert not was_lost_early(replace(row, lease_age_seconds=None)), "an older version has claimed it"
    async with database.begin() as connection:
        await renew(connection, young(), ["e1"])
    assert was_lost_early(await row_of(database, "e1"))
    async with database.begin() as connection:
        await renew(connection, Lease("young", began=OLD), ["e1"])
    old = await row_of(database, "e1")
    assert not was_lost_early(old)
    async with database.begin() as connection:
        await lose(connection, [replace(old, early_losses=2)])
    row = await row_of(database, "e1")
    assert (row.crashes, row.early_losses, row.not_before) == (1, 0, None)


@pytest.mark.parametrize(
    ("early_losses", "run_seconds", "may"), [(1, 1, True), (2, 6, False), (2, 7, True), (8, 900, True), (9, 900, False)]
)
async def test_the_waits_of_an_execution_fit_into_its_run_time(
    database: Database, early_losses: int, run_seconds: float, may: bool
) -> None:
    await accept_all(database, [PLAIN], lease=young())
    row = replace(await row_of(database, "e1"), early_losses=early_losses)
    assert may_be_held_back(row, run_seconds) is may


async def test_a_pause_whose_time_has_come_goes_on_without_an_answer(database: Database) -> None:
    await pause(database, due_at=STARTED)
    [claim] = await claim_all(database)
    assert (claim.identity.attempt, claim.reason, claim.answers) == (2, "timer", [])


async def test_the_time_in_pauses_is_added_up_by_the_clock_of_the_database(database: Database) -> None:
    await pause(database, due_at=STARTED)
    async with database.begin() as connection:
        now = (await connection.execute(select(now_sql()))).scalar_one()
    await change(database, "e1", paused_at=now - timedelta(seconds=90), paused_seconds=10)
    [claim] = await claim_all(database)
    assert 100 <= claim.paused_seconds < 130
    assert (await row_of(database, "e1")).paused_seconds == pytest.approx(claim.paused_seconds)


async def test_an_execution_released_at_shutdown_continues_elsewhere_without_a_crash(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        await release_many(connection, [Release("e1", 1)])
    [claim] = await claim_all(database)
    assert (claim.identity.attempt, claim.reason) == (2, "shutdown")
    assert (await row_of(database, "e1")).crashes == 0


async def test_a_claimed_attempt_keeps_its_own_root(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        await lose(connection, [await row_of(database, "e1")])
    [claim] = await claim_all(database)
    assert (await row_of(database, "e1")).root is None
    root = Root("t1", "s2", "s1", STARTED)
    async with database.begin() as connection:
        await begin_roots(connection, [(claim.identity, root)])
    row = await row_of(database, "e1")
    assert (row.root, row.identity.attempt) == (root, 2)


async def crash(database: Database) -> Claim:
    """The process of the execution dies, and another one claims it."""
    async with database.begin() as connection:
        await lose(connection, [await row_of(database, "e1")])
    [claim] = await claim_all(database)
    return claim


async def test_every_attempt_knows_the_root_of_the_first_also_after_one_that_never_began(database: Database) -> None:
    await accept_all(database, [PLAIN])
    second = await crash(database)
    assert (second.first_root, second.previous_root) == (SpanIds("t1", "s1"), ROOT)
    third = await crash(database)
    assert (third.first_root, third.previous_root) == (SpanIds("t1", "s1"), None), "the second had no root span"
    begun = Root("t1", "s3", "s1", STARTED)
    async with database.begin() as connection:
        await begin_roots(connection, [(third.identity, begun)])
    fourth = await crash(database)
    assert (fourth.first_root, fourth.previous_root) == (SpanIds("t1", "s1"), begun)
    assert (await row_of(database, "e1")).trace_id == "t1"


async def test_a_queued_execution_keeps_the_root_of_its_acceptance_through_a_crash_before_it_began(
    database: Database,
) -> None:
    await accept_all(database, [replace(QUEUED, root=replace(ROOT, parent_span_id=None))])
    [claim] = await claim_all(database)
    assert (claim.identity.attempt, claim.first_root, claim.previous_root) == (1, SpanIds("t1", "s1"), None)
    assert (await row_of(database, "e1")).root == replace(ROOT, parent_span_id=None), "the sweeper can write it"
    again = await crash(database)
    assert (again.identity.attempt, again.first_root) == (2, SpanIds("t1", "s1"))


async def test_a_row_of_an_older_version_goes_on_below_its_last_root(database: Database) -> None:
    """Its later attempts had traces of their own, without a parent."""
    await accept_all(database, [PLAIN])
    await change(database, "e1", attempt=3, trace_id="t3", root_span_id="s3", root_parent_span_id=None)
    claim = await crash(database)
    assert claim.first_root == SpanIds("t3", "s3")
    assert claim.previous_root == Root("t3", "s3", None, STARTED)
    assert (await crash(database)).first_root == SpanIds("t3", "s3")


async def test_an_execution_that_an_older_version_queued_joins_its_caller(database: Database) -> None:
    await accept_all(database, [QUEUED])
    caller = f"00-{'a' * 32}-{'b' * 16}-01"
    await change(database, "e1", caller_trace=caller)
    [claim] = await claim_all(database)
    assert (claim.first_root, claim.previous_root, claim.caller_trace) == (None, None, caller)
