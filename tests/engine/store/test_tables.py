"""The rows that the tables' constraints refuse."""

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from engine.database.base import now_sql
from engine.database.database import Database
from engine.store.tables import execution_control
from tests.engine.store.executions import PLAIN, STARTED, accept_all, of


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
