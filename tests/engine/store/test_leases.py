"""Which process may decide about an execution."""

from dataclasses import replace

from engine.database.database import Database
from engine.result import Status
from engine.store.claims import lose
from engine.store.leases import Lease, expired, renew
from tests.engine.store.executions import (
    CHAT,
    HERE,
    PLAIN,
    THERE,
    accept_all,
    claim_all,
    ended,
    finish_all,
    history_of,
    of,
    row_of,
)


async def test_an_expired_lease_is_found_and_a_renewed_one_is_not(database: Database) -> None:
    await accept_all(database, [of(PLAIN, f"e{number}") for number in range(3)], lease=Lease("here", seconds=-1))
    async with database.begin() as connection:
        assert await renew(connection, Lease("here"), ["e0", "unknown"]) == {"e0"}
        assert await renew(connection, Lease("elsewhere"), ["e1"]) == frozenset()
        assert {row.execution_id for row in await expired(connection, 10)} == {"e1", "e2"}


async def test_an_older_attempt_is_fenced_off_and_writes_nothing(database: Database) -> None:
    await accept_all(database, [of(CHAT, "e1", attempt=2)])
    late = replace(
        ended("e1", attempt=1), conversation_id="c1", messages=[{"id": "x", "role": "assistant", "content": "late"}]
    )
    assert await finish_all(database, [late]) == {"e1"}
    assert (await row_of(database, "e1")).status is Status.RUNNING
    assert await history_of(database, "c1") == ["Hi"]


async def test_the_attempt_before_is_fenced_off_once_another_has_begun(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        await lose(connection, [await row_of(database, "e1")])
    assert await finish_all(database, [ended("e1")]) == {"e1"}
    await claim_all(database, THERE)
    assert await finish_all(database, [ended("e1")]) == {"e1"}
    assert await finish_all(database, [ended("e1", attempt=2)], HERE) == {"e1"}
    assert await finish_all(database, [ended("e1", attempt=2)], THERE) == set()
