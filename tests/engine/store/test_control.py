"""Who is accepted, who is told to stop, and who may say that an execution has ended."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError

from engine.database.base import now_sql
from engine.database.database import Database
from engine.errors import ConversationBusy
from engine.identity import ExecutionIdentity
from engine.ledger import Acceptance, CallReservation, Claim, Finish, GivenAnswer, Idempotency, Pause, Release, Root
from engine.result import Approval, Status, Usage
from engine.store import approvals, unfinished
from engine.store.control import (
    Admission,
    ControlRow,
    Lease,
    accept,
    accept_many,
    begin_roots,
    cancel_requests,
    claim_many,
    expired,
    finish_many,
    get,
    lose,
    make_answered,
    owned,
    pause_many,
    release_many,
    renew,
    request_cancel,
)
from engine.store.conversations import StoredConversations
from engine.store.tables import approvals as approvals_table
from engine.store.tables import call_reservations, execution_control, graphs, journalled
from engine.usage import Totals

STARTED = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
ROOT = Root("t1", "s1", "p1", STARTED)
SUBJECT = ExecutionIdentity(
    execution_id="e1",
    attempt=1,
    owner="ann",
    workflow_name="chat",
    source="chat",
    trigger="api",
    streaming=False,
    queued_ns=1_800_000_000_000_000_000,
    started_ns=1_800_000_000_000_000_000,
    correlation_id="r1",
    graph_hash="sha256:1",
    conversation_id="c1",
)
CHAT = Acceptance(
    identity=SUBJECT,
    status=Status.RUNNING,
    request={"source": {"kind": "chat"}, "input": {"message": "Hi"}},
    graph=b'{"name":"\xc3\xbc"}',
    user_message={"id": "m1", "role": "user", "content": "Hi"},
    root=ROOT,
    on_lost="fail",
)
PLAIN = replace(
    CHAT, identity=replace(SUBJECT, source="template", workflow_name="rag", conversation_id=None), user_message=None
)
QUEUED = replace(PLAIN, status=Status.QUEUED, root=None)
HERE, THERE, ADMISSION = Lease("here"), Lease("there"), Admission()


def of(acceptance: Acceptance, execution_id: str, **identity: object) -> Acceptance:
    """The same for another execution."""
    return replace(acceptance, identity=replace(acceptance.identity, execution_id=execution_id, **identity))  # type: ignore[arg-type]  # the callers name the fields


def ended(execution_id: str, attempt: int = 1) -> Finish:
    return Finish(execution_id=execution_id, attempt=attempt, status=Status.COMPLETED, result={"response": "Hello"})


async def accept_all(
    database: Database, acceptances: Sequence[Acceptance], admission: Admission = ADMISSION, lease: Lease = HERE
) -> dict[str, str]:
    """Why those were refused that were."""
    async with database.begin() as connection:
        refused = await accept_many(connection, acceptances, lease, admission)
    return {id_: refusal.code for id_, refusal in refused.items()}


async def finish_all(database: Database, finishes: Sequence[Finish], lease: Lease = HERE) -> set[str]:
    """As the journal does: those that do not own their execution are fenced off."""
    async with database.begin() as connection:
        own = await owned(connection, {item.execution_id for item in finishes}, lease.owner)
        winners = [item for item in finishes if own.get(item.execution_id) == item.attempt]
        await finish_many(connection, winners, with_traces=[item.execution_id for item in winners])
    return {item.execution_id for item in finishes} - {item.execution_id for item in winners}


async def claim_all(database: Database, lease: Lease = THERE, limit: int = 100) -> list[Claim]:
    async with database.begin() as connection:
        return await claim_many(connection, lease, limit)


async def change(database: Database, execution_id: str, **values: object) -> None:
    """Let time pass, or something else happen to the row."""
    async with database.begin() as connection:
        await connection.execute(
            execution_control.update().where(execution_control.c.execution_id == execution_id).values(**values)
        )


async def row_of(database: Database, execution_id: str, owner: str = "ann") -> ControlRow:
    async with database.read() as connection:
        row = await get(connection, execution_id, owner)
    assert row is not None
    return row


async def history_of(database: Database, conversation_id: str) -> list[object]:
    history = await StoredConversations(database).history(conversation_id, "ann", 50)
    return [message["content"] for message in history.messages] if history else []


async def test_an_accepted_execution_is_there_with_all_that_was_said(database: Database) -> None:
    assert await accept_all(database, [CHAT]) == {}
    row = await row_of(database, "e1")
    assert row == ControlRow(
        execution_id="e1",
        owner="ann",
        status=Status.RUNNING,
        attempt=1,
        conversation_id="c1",
        correlation_id="r1",
        trace_id="t1",
        root=ROOT,
        identity=SUBJECT,
        workflow_name="chat",
        source="chat",
        graph_hash="sha256:1",
        on_lost="fail",
        crashes=0,
        is_leased=True,
        claim_reason=None,
        request={"source": {"kind": "chat"}, "input": {"message": "Hi"}},
        result=None,
        last_seq=None,
        not_before=None,
        paused_at=None,
        paused_seconds=0,
        cancel_requested_at=None,
        cancel_reason=None,
        accepted_at=row.accepted_at,
        finished_at=None,
    )
    assert await history_of(database, "c1") == ["Hi"]


async def test_a_graph_is_kept_once_byte_for_byte(database: Database) -> None:
    await accept_all(database, [PLAIN, of(PLAIN, "e2")])
    await accept_all(database, [of(PLAIN, "e3")])
    async with database.read() as connection:
        stored = (await connection.execute(select(graphs.c.graph))).scalars().all()
    assert [graph.encode() for graph in stored] == [PLAIN.graph]


async def test_an_execution_without_a_graph_is_accepted(database: Database) -> None:
    await accept_all(database, [replace(of(PLAIN, "e1", graph_hash=None), graph=None)])
    assert (await row_of(database, "e1")).graph_hash is None


async def test_a_busy_conversation_refuses_a_second_execution_and_nobody_else(database: Database) -> None:
    await accept_all(database, [CHAT])
    second = replace(of(CHAT, "e2"), user_message={"id": "m2", "role": "user", "content": "Me too"})
    other = of(CHAT, "e3", conversation_id="c2")
    assert await accept_all(database, [second, other, of(PLAIN, "e4")]) == {"e2": "conversation_busy"}
    assert await history_of(database, "c1") == ["Hi"]
    assert await history_of(database, "c2") == ["Hi"]
    assert (await row_of(database, "e4")).status is Status.RUNNING


async def test_of_two_executions_of_one_group_the_conversation_takes_one(database: Database) -> None:
    refused = await accept_all(database, [CHAT, replace(of(CHAT, "e2"), user_message=None)])
    assert refused == {"e2": "conversation_busy"}


async def test_a_single_busy_acceptance_is_an_error(database: Database) -> None:
    await accept_all(database, [CHAT])
    with pytest.raises(ConversationBusy):
        async with database.begin() as connection:
            await accept(connection, of(CHAT, "e2"), HERE)


async def test_a_conversation_is_free_again_when_its_execution_has_ended(database: Database) -> None:
    await accept_all(database, [CHAT])
    await finish_all(database, [ended("e1")])
    assert await accept_all(database, [replace(of(CHAT, "e2"), user_message=None)]) == {}


async def test_accepting_again_after_a_doubtful_commit_changes_nothing(database: Database) -> None:
    await accept_all(database, [CHAT, of(PLAIN, "e2")])
    assert await accept_all(database, [CHAT, of(PLAIN, "e2")]) == {}
    assert await history_of(database, "c1") == ["Hi"]


async def test_concurrent_acceptances_of_one_conversation_have_one_winner(database: Database) -> None:
    tries = [replace(of(CHAT, f"e{number}"), user_message=None) for number in range(8)]
    refused = await asyncio.gather(*(accept_all(database, [item]) for item in tries))
    assert sum(len(ids) for ids in refused) == 7


async def test_a_large_group_is_accepted_and_finished(database: Database) -> None:
    group = [
        replace(
            of(CHAT, f"e{number}", conversation_id=f"c{number}"),
            user_message={"id": f"m{number}", "role": "user", "content": f"Question {number}"},
        )
        for number in range(300)
    ]
    assert await accept_all(database, group) == {}
    assert await finish_all(database, [ended(item.identity.execution_id) for item in group]) == set()
    async with database.read() as connection:
        done = select(func.count()).select_from(execution_control).where(execution_control.c.status == "completed")
        assert (await connection.execute(done)).scalar_one() == 300
    assert await history_of(database, "c299") == ["Question 299"]


async def test_a_finish_writes_status_result_messages_and_summary(database: Database) -> None:
    await accept_all(database, [CHAT])
    finish = replace(
        ended("e1"),
        conversation_id="c1",
        messages=[
            {"id": "m2", "role": "assistant", "content": "", "tool_calls": [{"id": "k", "name": "f", "arguments": {}}]},
            {"id": "m3", "role": "tool", "content": "42", "tool_call_id": "k", "is_error": False, "node_id": "tools"},
            {"id": "m4", "role": "assistant", "content": [{"type": "text", "text": "It is 42"}], "node_id": "answer"},
        ],
        summary={"text": "Greeting", "covers": "m1"},
    )
    assert await finish_all(database, [finish]) == set()
    row = await row_of(database, "e1")
    assert (row.status, row.result) == (Status.COMPLETED, {"response": "Hello"})
    assert row.finished_at is not None
    history = await StoredConversations(database).history("c1", "ann", 50)
    assert history is not None
    assert history.messages == finish.messages
    assert history.summary == finish.summary


async def test_an_older_attempt_is_fenced_off_and_writes_nothing(database: Database) -> None:
    await accept_all(database, [of(CHAT, "e1", attempt=2)])
    late = replace(
        ended("e1", attempt=1), conversation_id="c1", messages=[{"id": "x", "role": "assistant", "content": "late"}]
    )
    assert await finish_all(database, [late]) == {"e1"}
    assert (await row_of(database, "e1")).status is Status.RUNNING
    assert await history_of(database, "c1") == ["Hi"]


async def test_a_terminal_status_is_decided_once(database: Database) -> None:
    await accept_all(database, [PLAIN])
    await finish_all(database, [ended("e1")])
    failed = replace(ended("e1"), status=Status.FAILED, result={"response": "too late"})
    assert await finish_all(database, [failed]) == {"e1"}
    row = await row_of(database, "e1")
    assert (row.status, row.result) == (Status.COMPLETED, {"response": "Hello"})


async def test_losers_do_not_stop_winners(database: Database) -> None:
    await accept_all(database, [of(PLAIN, f"e{number}") for number in range(3)])
    await finish_all(database, [ended("e1")])
    assert await finish_all(database, [ended("e0"), ended("e1"), ended("e2"), ended("unknown")]) == {"e1", "unknown"}
    assert (await row_of(database, "e2")).status is Status.COMPLETED


async def test_concurrent_finishes_have_one_winner(database: Database) -> None:
    await accept_all(database, [PLAIN])
    fenced = await asyncio.gather(*(finish_all(database, [ended("e1")]) for _ in range(8)))
    assert sum(len(ids) for ids in fenced) == 7


async def test_groups_in_opposite_order_do_not_deadlock(database: Database) -> None:
    names = [f"e{number}" for number in range(20)]
    await accept_all(database, [of(PLAIN, name) for name in names])
    one, other = await asyncio.gather(
        finish_all(database, [ended(name) for name in names]),
        finish_all(database, [ended(name) for name in reversed(names)]),
    )
    assert len(one) + len(other) == len(names)


async def test_a_cancel_is_asked_once_and_the_first_reason_stays(database: Database) -> None:
    await accept_all(database, [PLAIN, of(PLAIN, "e2")])
    async with database.begin() as connection:
        asked = await request_cancel(connection, "e1", "ann", "enough")
        again = await request_cancel(connection, "e1", "ann", "really")
        assert await cancel_requests(connection, ["e1", "e2"]) == {"e1": "enough"}
    assert asked is not None
    assert asked.cancel_requested_at is not None
    assert again == asked


async def test_a_cancel_of_an_ended_execution_changes_nothing(database: Database) -> None:
    await accept_all(database, [PLAIN])
    await finish_all(database, [ended("e1")])
    async with database.begin() as connection:
        row = await request_cancel(connection, "e1", "ann", "too late")
        assert await cancel_requests(connection, ["e1"]) == {}
    assert row is not None
    assert (row.status, row.cancel_requested_at) == (Status.COMPLETED, None)


async def test_another_owner_neither_sees_nor_cancels(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        assert await get(connection, "e1", "bob") is None
        assert await request_cancel(connection, "e1", "bob", None) is None
        assert await cancel_requests(connection, ["e1"]) == {}


async def test_empty_groups_do_nothing(database: Database) -> None:
    assert await accept_all(database, []) == {}
    assert await finish_all(database, []) == set()
    assert await claim_all(database) == []


@pytest.mark.parametrize(
    "wrong", [{"status": "done"}, {"source": "mail"}, {"on_lost": "panic"}, {"attempt": 0}, {"status": "completed"}]
)
async def test_the_database_itself_refuses_a_wrong_row(database: Database, wrong: dict[str, object]) -> None:
    row = {
        "execution_id": "e1",
        "owner_id": "ann",
        "status": "running",
        "attempt": 1,
        "correlation_id": "r1",
        "root_started_at": STARTED,
        "workflow_name": "x",
        "source": "graph",
        "on_lost": "fail",
        "request": {},
    }
    with pytest.raises(IntegrityError):
        async with database.begin() as connection:
            await connection.execute(insert(execution_control).values({**row, "accepted_at": now_sql()} | wrong))


async def test_an_idempotency_key_is_unique_per_owner(database: Database) -> None:
    await accept_all(database, [PLAIN, of(PLAIN, "e2"), of(PLAIN, "e3", owner="bob")])

    async def give_key(execution_id: str) -> None:
        async with database.begin() as connection:
            await connection.execute(
                execution_control.update()
                .where(execution_control.c.execution_id == execution_id)
                .values(idempotency_key="k", idempotency_digest="d")
            )

    await give_key("e1")
    await give_key("e3")
    with pytest.raises(IntegrityError):
        await give_key("e2")


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


async def test_one_that_is_asked_to_stop_is_not_claimed(database: Database) -> None:
    await accept_all(database, [QUEUED])
    async with database.begin() as connection:
        await request_cancel(connection, "e1", "ann", "enough")
    assert await claim_all(database) == []


async def test_a_crashed_attempt_is_followed_by_another_that_carries_on_its_books(database: Database) -> None:
    await accept_all(database, [PLAIN])
    part = Totals(usage=Usage(input_tokens=5, total_tokens=5), priced_nano_usd=7, priced_calls=1, model_calls=1)
    async with database.begin() as connection:
        await unfinished.keep(connection, [unfinished.Part("e1", 1, 1, ["00000000000000aa"], part)])
        await unfinished.keep(connection, [unfinished.Part("e1", 1, 2, ["00000000000000ab"], part)])
        calls = [("e1", 1, CallReservation(f"{n:016x}", "p", "m", 10, upper)) for n, upper in ((1, 3), (2, 4))]
        await unfinished.reserve(connection, calls)
        await unfinished.settle(connection, [("e1", f"{2:016x}")])
        await lose(connection, ["e1"])
    [claim] = await claim_all(database)
    assert (claim.identity.attempt, claim.reason, claim.previous_root) == (2, "crash", ROOT)
    assert claim.carried.totals == part + part
    assert claim.carried.span_ids == [0xAA, 0xAB]
    assert (claim.carried.unfinished.calls, claim.carried.unfinished.upper_nano_usd) == (1, 3)
    assert (await row_of(database, "e1")).crashes == 1


async def test_an_unknown_price_makes_the_upper_bound_unknown(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        calls = [("e1", 1, CallReservation(f"{n:016x}", "p", "m", 10, upper)) for n, upper in ((1, None), (2, 4))]
        await unfinished.reserve(connection, calls)
        carried = (await unfinished.carried(connection, ["e1"]))["e1"]
    assert (carried.unfinished.calls, carried.unfinished.upper_nano_usd) == (2, None)
    assert carried.unfinished.upper_cost_nano_usd(100) is None


async def test_a_part_that_is_kept_again_replaces_the_first(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        for ids in (["00000000000000aa"], ["00000000000000aa", "00000000000000ab"]):
            totals = Totals(model_calls=len(ids))
            await unfinished.keep(connection, [unfinished.Part("e1", 1, 1, ids, totals)])
        carried = (await unfinished.carried(connection, ["e1"]))["e1"]
    assert (carried.span_ids, carried.totals.model_calls) == ([0xAA, 0xAB], 2)


async def test_the_attempt_before_is_fenced_off_once_another_has_begun(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        await lose(connection, ["e1"])
    assert await finish_all(database, [ended("e1")]) == {"e1"}
    await claim_all(database, THERE)
    assert await finish_all(database, [ended("e1")]) == {"e1"}
    assert await finish_all(database, [ended("e1", attempt=2)], HERE) == {"e1"}
    assert await finish_all(database, [ended("e1", attempt=2)], THERE) == set()


async def test_a_lease_that_is_over_is_found_and_one_that_was_renewed_is_not(database: Database) -> None:
    await accept_all(database, [of(PLAIN, f"e{number}") for number in range(3)], lease=Lease("here", seconds=-1))
    async with database.begin() as connection:
        assert await renew(connection, Lease("here"), ["e0", "unknown"]) == {"e0"}
        assert await renew(connection, Lease("elsewhere"), ["e1"]) == frozenset()
        assert {row.execution_id for row in await expired(connection, 10)} == {"e1", "e2"}


async def test_an_end_drops_what_was_kept_while_it_ran(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        await unfinished.keep(connection, [unfinished.Part("e1", 1, 1, ["00000000000000aa"], Totals())])
        await unfinished.reserve(connection, [("e1", 1, CallReservation("1", "p", "m", 10, 3))])
        await approvals.ask(connection, [("e1", question())])
    await finish_all(database, [ended("e1")])
    async with database.read() as connection:
        for table in (journalled, call_reservations, approvals_table):
            assert (await connection.execute(select(func.count()).select_from(table))).scalar_one() == 0


def question(**changes: object) -> Approval:
    document = {
        "approval_id": "a1",
        "node_id": "ask",
        "path": "ask",
        "prompt": "Pay?",
        "choices": ["yes", "no"],
        "expires_at": STARTED,
    }
    return Approval.model_validate(document | changes)


async def pause(database: Database, **changes: object) -> None:
    await accept_all(database, [PLAIN])
    waiting = Pause("e1", 1, {"status": "paused"}, [question()], STARTED + timedelta(days=36_500))
    async with database.begin() as connection:
        await pause_many(connection, [replace(waiting, **changes)])  # type: ignore[arg-type]  # the callers name them


async def test_a_paused_execution_waits_for_the_first_answer(database: Database) -> None:
    await pause(database)
    row = await row_of(database, "e1")
    assert (row.status, row.is_leased, row.result) == (Status.PAUSED, False, {"status": "paused"})
    assert await claim_all(database) == []
    given = GivenAnswer("a1", "yes", {"limit": 5}, "ann")
    async with database.begin() as connection:
        assert await approvals.open_of(connection, "e1") == [question()]
        assert await approvals.answer(connection, given)
        assert not await approvals.answer(connection, replace(given, choice="no"))
        assert await make_answered(connection, "e1")
        assert not await make_answered(connection, "e1")
        assert await approvals.open_of(connection, "e1") == []
    [claim] = await claim_all(database)
    assert (claim.identity.attempt, claim.reason, claim.answers) == (2, "answer", [given])
    assert (await row_of(database, "e1")).crashes == 0


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


async def test_what_a_stopping_process_releases_goes_on_elsewhere_and_is_no_crash(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        await release_many(connection, [Release("e1", 1)])
    [claim] = await claim_all(database)
    assert (claim.identity.attempt, claim.reason) == (2, "shutdown")
    assert (await row_of(database, "e1")).crashes == 0


async def test_a_claimed_attempt_keeps_its_own_root(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        await lose(connection, ["e1"])
    [claim] = await claim_all(database)
    assert (await row_of(database, "e1")).root is None
    root = Root("t2", "s2", None, STARTED)
    async with database.begin() as connection:
        await begin_roots(connection, [(claim.identity, root)])
    row = await row_of(database, "e1")
    assert (row.root, row.identity.attempt) == (root, 2)


async def test_an_owner_has_room_for_so_many_queued_executions(database: Database) -> None:
    few = Admission(max_queued=2)
    await accept_all(database, [of(QUEUED, "e1")], few)
    refused = await accept_all(database, [of(QUEUED, f"e{number}") for number in range(2, 5)], few)
    assert refused == {"e3": "queue_full", "e4": "queue_full"}
    assert await accept_all(database, [of(QUEUED, "e5", owner="bob"), of(PLAIN, "e6")], few) == {}
    await claim_all(database, limit=1)
    assert await accept_all(database, [of(QUEUED, "e7")], few) == {}


async def test_owners_who_queue_at_the_same_time_are_counted_exactly(database: Database) -> None:
    few = Admission(max_queued=3)
    refused = await asyncio.gather(*(accept_all(database, [of(QUEUED, f"e{number}")], few) for number in range(8)))
    assert sum(map(len, refused)) == 5


async def test_a_repeated_key_starts_nothing_again(database: Database) -> None:
    keyed = replace(PLAIN, idempotency=Idempotency("k", "digest"))
    await accept_all(database, [keyed])
    assert await accept_all(database, [of(keyed, "e2")]) == {"e2": "replayed"}
    other = replace(of(keyed, "e3"), idempotency=Idempotency("k", "another"))
    assert await accept_all(database, [other]) == {"e3": "idempotency_mismatch"}
    assert await accept_all(database, [of(keyed, "e4", owner="bob"), keyed]) == {}


async def test_repetitions_at_the_same_time_start_one_execution(database: Database) -> None:
    keyed = replace(PLAIN, idempotency=Idempotency("k", "digest"))
    refused = await asyncio.gather(*(accept_all(database, [of(keyed, f"e{number}")]) for number in range(8)))
    assert [code for each in refused for code in each.values()] == ["replayed"] * 7


async def test_a_key_can_be_used_again_once_its_time_is_over(database: Database) -> None:
    keyed = replace(PLAIN, idempotency=Idempotency("k", "digest"))
    await accept_all(database, [keyed])
    await change(database, "e1", accepted_at=STARTED - timedelta(days=400))
    assert await accept_all(database, [of(keyed, "e2")]) == {"e2": "replayed"}, "it runs still"
    await finish_all(database, [ended("e1")])
    assert await accept_all(database, [of(keyed, "e2")]) == {}
