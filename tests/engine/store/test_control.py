"""Who is accepted, who is told to stop, and who may say that an execution has ended."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError

from engine.errors import ConversationBusy
from engine.ledger import Acceptance, Finish
from engine.result import Status
from engine.store.base import now_sql
from engine.store.control import ControlRow, accept, accept_many, cancel_requests, finish_many, get, request_cancel
from engine.store.conversations import StoredConversations
from engine.store.database import Database
from engine.store.tables import execution_control, graphs

STARTED = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
CHAT = Acceptance(
    execution_id="e1",
    owner="ann",
    attempt=1,
    request={"source": {"kind": "chat"}, "input": {"message": "Hi"}},
    source="chat",
    workflow_name="chat",
    graph_hash="sha256:1",
    graph=b'{"name":"\xc3\xbc"}',
    conversation_id="c1",
    user_message={"id": "m1", "role": "user", "content": "Hi"},
    correlation_id="r1",
    trace_id="t1",
    root_span_id="s1",
    root_started_at=STARTED,
    on_lost="fail",
)
PLAIN = replace(CHAT, source="template", workflow_name="rag", conversation_id=None, user_message=None)


def ended(execution_id: str, attempt: int = 1) -> Finish:
    return Finish(execution_id=execution_id, attempt=attempt, status=Status.COMPLETED, result={"response": "Hello"})


async def accept_all(database: Database, acceptances: Sequence[Acceptance]) -> frozenset[str]:
    async with database.begin() as connection:
        return await accept_many(connection, acceptances)


async def finish_all(database: Database, finishes: Sequence[Finish]) -> frozenset[str]:
    async with database.begin() as connection:
        return await finish_many(connection, finishes)


async def row_of(database: Database, execution_id: str, owner: str = "ann") -> ControlRow:
    async with database.read() as connection:
        row = await get(connection, execution_id, owner)
    assert row is not None
    return row


async def history_of(database: Database, conversation_id: str) -> list[object]:
    history = await StoredConversations(database).history(conversation_id, "ann", 50)
    return [message["content"] for message in history.messages] if history else []


async def test_an_accepted_execution_is_there_with_all_that_was_said(database: Database) -> None:
    assert await accept_all(database, [CHAT]) == frozenset()
    row = await row_of(database, "e1")
    assert row == ControlRow(
        execution_id="e1",
        owner="ann",
        status=Status.RUNNING,
        attempt=1,
        conversation_id="c1",
        correlation_id="r1",
        trace_id="t1",
        root_span_id="s1",
        root_started_at=STARTED,
        workflow_name="chat",
        source="chat",
        graph_hash="sha256:1",
        on_lost="fail",
        request={"source": {"kind": "chat"}, "input": {"message": "Hi"}},
        result=None,
        cancel_requested_at=None,
        cancel_reason=None,
        accepted_at=row.accepted_at,
        finished_at=None,
    )
    assert await history_of(database, "c1") == ["Hi"]


async def test_a_graph_is_kept_once_byte_for_byte(database: Database) -> None:
    await accept_all(database, [PLAIN, replace(PLAIN, execution_id="e2")])
    await accept_all(database, [replace(PLAIN, execution_id="e3")])
    async with database.read() as connection:
        stored = (await connection.execute(select(graphs.c.graph))).scalars().all()
    assert [graph.encode() for graph in stored] == [PLAIN.graph]


async def test_an_execution_without_a_graph_is_accepted(database: Database) -> None:
    await accept_all(database, [replace(PLAIN, graph=None, graph_hash=None)])
    assert (await row_of(database, "e1")).graph_hash is None


async def test_a_busy_conversation_refuses_a_second_execution_and_nobody_else(database: Database) -> None:
    await accept_all(database, [CHAT])
    second = replace(CHAT, execution_id="e2", user_message={"id": "m2", "role": "user", "content": "Me too"})
    other = replace(CHAT, execution_id="e3", conversation_id="c2")
    assert await accept_all(database, [second, other, replace(PLAIN, execution_id="e4")]) == {"e2"}
    assert await history_of(database, "c1") == ["Hi"]
    assert await history_of(database, "c2") == ["Hi"]
    assert (await row_of(database, "e4")).status is Status.RUNNING


async def test_of_two_executions_of_one_group_the_conversation_takes_one(database: Database) -> None:
    refused = await accept_all(database, [CHAT, replace(CHAT, execution_id="e2", user_message=None)])
    assert refused == {"e2"}


async def test_a_single_busy_acceptance_is_an_error(database: Database) -> None:
    await accept_all(database, [CHAT])
    with pytest.raises(ConversationBusy):
        async with database.begin() as connection:
            await accept(connection, replace(CHAT, execution_id="e2"))


async def test_a_conversation_is_free_again_when_its_execution_has_ended(database: Database) -> None:
    await accept_all(database, [CHAT])
    await finish_all(database, [ended("e1")])
    assert await accept_all(database, [replace(CHAT, execution_id="e2", user_message=None)]) == frozenset()


async def test_accepting_again_after_a_doubtful_commit_changes_nothing(database: Database) -> None:
    await accept_all(database, [CHAT, replace(PLAIN, execution_id="e2")])
    assert await accept_all(database, [CHAT, replace(PLAIN, execution_id="e2")]) == frozenset()
    assert await history_of(database, "c1") == ["Hi"]


async def test_concurrent_acceptances_of_one_conversation_have_one_winner(database: Database) -> None:
    tries = [replace(CHAT, execution_id=f"e{number}", user_message=None) for number in range(8)]
    refused = await asyncio.gather(*(accept_all(database, [item]) for item in tries))
    assert sum(len(ids) for ids in refused) == 7


async def test_a_large_group_is_accepted_and_finished(database: Database) -> None:
    group = [
        replace(
            CHAT,
            execution_id=f"e{number}",
            conversation_id=f"c{number}",
            user_message={"id": f"m{number}", "role": "user", "content": f"Question {number}"},
        )
        for number in range(300)
    ]
    assert await accept_all(database, group) == frozenset()
    assert await finish_all(database, [ended(item.execution_id) for item in group]) == frozenset()
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
    assert await finish_all(database, [finish]) == frozenset()
    row = await row_of(database, "e1")
    assert (row.status, row.result) == (Status.COMPLETED, {"response": "Hello"})
    assert row.finished_at is not None
    history = await StoredConversations(database).history("c1", "ann", 50)
    assert history is not None
    assert history.messages == finish.messages
    assert history.summary == finish.summary


async def test_an_older_attempt_is_fenced_off_and_writes_nothing(database: Database) -> None:
    await accept_all(database, [replace(CHAT, attempt=2)])
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
    await accept_all(database, [replace(PLAIN, execution_id=f"e{number}") for number in range(3)])
    await finish_all(database, [ended("e1")])
    assert await finish_all(database, [ended("e0"), ended("e1"), ended("e2"), ended("unknown")]) == {"e1", "unknown"}
    assert (await row_of(database, "e2")).status is Status.COMPLETED


async def test_concurrent_finishes_have_one_winner(database: Database) -> None:
    await accept_all(database, [PLAIN])
    fenced = await asyncio.gather(*(finish_all(database, [ended("e1")]) for _ in range(8)))
    assert sum(len(ids) for ids in fenced) == 7


async def test_groups_in_opposite_order_do_not_deadlock(database: Database) -> None:
    names = [f"e{number}" for number in range(20)]
    await accept_all(database, [replace(PLAIN, execution_id=name) for name in names])
    one, other = await asyncio.gather(
        finish_all(database, [ended(name) for name in names]),
        finish_all(database, [ended(name) for name in reversed(names)]),
    )
    assert len(one) + len(other) == len(names)


async def test_a_cancel_is_asked_once_and_the_first_reason_stays(database: Database) -> None:
    await accept_all(database, [PLAIN, replace(PLAIN, execution_id="e2")])
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
    assert await accept_all(database, []) == frozenset()
    assert await finish_all(database, []) == frozenset()


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
    await accept_all(
        database, [PLAIN, replace(PLAIN, execution_id="e2"), replace(PLAIN, execution_id="e3", owner="bob")]
    )

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
