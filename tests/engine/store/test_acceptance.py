"""Which executions are accepted, which are refused, and why."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from engine.database.database import Database
from engine.errors import ConversationBusy
from engine.ledger import Idempotency, SpanIds
from engine.result import Status
from engine.store.acceptance import Admission, accept
from engine.store.control import ControlRow
from engine.store.tables import execution_control, graphs
from tests.engine.store.executions import (
    CHAT,
    HERE,
    PLAIN,
    QUEUED,
    ROOT,
    STARTED,
    SUBJECT,
    accept_all,
    change,
    claim_all,
    ended,
    finish_all,
    history_of,
    of,
    row_of,
)


async def test_an_accepted_execution_is_stored_with_all_its_fields(database: Database) -> None:
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
        first_root=SpanIds("t1", "s1"),
        identity=SUBJECT,
        workflow_name="chat",
        source="chat",
        graph_hash="sha256:1",
        on_lost="fail",
        crashes=0,
        early_losses=0,
        is_leased=True,
        lease_age_seconds=row.lease_age_seconds,
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


async def test_empty_groups_do_nothing(database: Database) -> None:
    assert await accept_all(database, []) == {}
    assert await finish_all(database, []) == set()
    assert await claim_all(database) == []


async def test_an_owner_has_a_limit_of_queued_executions(database: Database) -> None:
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
