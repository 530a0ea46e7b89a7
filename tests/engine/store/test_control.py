"""Reads of a control row, and cancel requests."""

from engine.database.database import Database
from engine.result import Status
from engine.store.control import cancel_requests, get, request_cancel
from tests.engine.store.executions import PLAIN, accept_all, ended, finish_all, of


async def test_a_cancel_request_keeps_its_first_reason(database: Database) -> None:
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
