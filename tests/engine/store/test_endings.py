"""Terminal statuses: decided once, by the owner."""

import asyncio
from dataclasses import replace

from sqlalchemy import func, select

from engine.database.database import Database
from engine.ledger import CallReservation
from engine.result import Status
from engine.store import approvals, unfinished
from engine.store.conversations import StoredConversations
from engine.store.tables import approvals as approvals_table
from engine.store.tables import call_reservations, journalled
from engine.usage import Totals
from tests.engine.store.executions import CHAT, PLAIN, accept_all, ended, finish_all, of, question, row_of


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


async def test_an_end_deletes_the_rows_of_unfinished_executions(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        await unfinished.keep(connection, [unfinished.Part("e1", 1, 1, ["00000000000000aa"], Totals())])
        await unfinished.reserve(connection, [("e1", 1, CallReservation("1", "p", "m", 10, 3))])
        await approvals.ask(connection, [("e1", question())])
    await finish_all(database, [ended("e1")])
    async with database.read() as connection:
        for table in (journalled, call_reservations, approvals_table):
            assert (await connection.execute(select(func.count()).select_from(table))).scalar_one() == 0


async def test_a_conversation_is_free_again_when_its_execution_has_ended(database: Database) -> None:
    await accept_all(database, [CHAT])
    await finish_all(database, [ended("e1")])
    assert await accept_all(database, [replace(of(CHAT, "e2"), user_message=None)]) == {}
