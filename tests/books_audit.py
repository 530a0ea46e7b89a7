"""The audit after each test that ran workflows: the books agree and nothing was lost.

`tests/<folder>/conftest.py` imports the fixture `books_agree` where tests run workflows.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from engine.database import migrations
from engine.database.database import Database
from engine.store.tables import execution_control
from telemetry.reconcile.audit import check_books
from telemetry.store.tables import dead_letter, executions

DATABASE_FIXTURES = ("migrated_url", "migrated_sqlite_url", "migrated_postgres_url", "database_url", "postgres_url")


@pytest.fixture(autouse=True)
async def books_agree(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[None]:
    """Audit every database that a test used, from its fixtures and in `tmp_path`.

    A test that leaves an execution open on purpose uses the fixture `books_left_open`.
    """
    used = [name for name in DATABASE_FIXTURES if name in request.fixturenames]
    urls = {str(request.getfixturevalue(name)) for name in used}
    yield
    if "books_left_open" in request.fixturenames:
        return
    urls |= {f"sqlite:///{file}" for file in tmp_path.rglob("*.db")}
    problems = [problem for url in sorted(urls) for problem in await audit(url)]
    assert problems == [], "\n".join(problems)


@pytest.fixture
def books_left_open() -> None:
    """Marks a test that prevents the end of an execution from being written."""


async def audit(url: str) -> list[str]:
    """Every difference in the books of a database, as a sentence; empty without a schema."""
    if await migrations.pending(url):
        return []
    async with Database(url) as database:
        return [*await check_books(database), *await _undecided(database), *await _kept_aside(database)]


async def _undecided(database: Database) -> list[str]:
    """Check that control and records have the same executions with the same terminal status."""
    async with database.read() as connection:
        control = await connection.execute(select(_control.execution_id, _control.status))
        records = await connection.execute(select(executions.c.id, executions.c.status))
        decided = {row.execution_id: row.status for row in control}
        recorded = {row.id: row.status for row in records}
    return [
        f"execution {id_}: decided {decided.get(id_)}, recorded {recorded.get(id_)}"
        for id_ in sorted(decided.keys() | recorded.keys())
        if decided.get(id_) not in TERMINAL or decided.get(id_) != recorded.get(id_)
    ]


async def _kept_aside(database: Database) -> list[str]:
    async with database.read() as connection:
        count = (await connection.execute(select(func.count()).select_from(dead_letter))).scalar_one()
    return [f"{count} dead letters"] if count else []


_control = execution_control.c
TERMINAL = ("completed", "failed", "cancelled")
