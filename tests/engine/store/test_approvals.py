"""The questions of paused executions, and their first answers."""

from dataclasses import replace

from engine.database.database import Database
from engine.ledger import GivenAnswer
from engine.result import Status
from engine.store import approvals
from engine.store.claims import make_answered
from tests.engine.store.executions import claim_all, pause, question, row_of


async def test_a_paused_execution_waits_for_the_first_answer(database: Database) -> None:
    await pause(database)
    row = await row_of(database, "e1")
    assert (row.status, row.is_leased, row.result) == (Status.PAUSED, False, {"status": "paused"})
    assert await claim_all(database) == []
    given = GivenAnswer("a1", "yes", {"limit": 5}, "ann")
    async with database.begin() as connection:
        assert await approvals.list_open(connection, "e1") == [question()]
        assert await approvals.answer(connection, given)
        assert not await approvals.answer(connection, replace(given, choice="no"))
        assert await make_answered(connection, "e1")
        assert not await make_answered(connection, "e1")
        assert await approvals.list_open(connection, "e1") == []
    [claim] = await claim_all(database)
    assert (claim.identity.attempt, claim.reason, claim.answers) == (2, "answer", [given])
    assert (await row_of(database, "e1")).crashes == 0
