"""The migration history makes exactly the declared schema, on both databases, and goes back from it."""

import asyncio
import importlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Connection, inspect, text
from sqlalchemy.types import TypeEngine

from engine.database import migrations
from engine.database.base import UtcTime, metadata
from engine.database.database import Database
from engine.errors import Unavailable
from engine.store.tables import execution_control
from telemetry.store.views import VIEWS
from tests.house.sources import modules

for _module in modules():
    if _module.endswith("tables.py"):
        importlib.import_module(_module.removesuffix(".py").replace("/", "."))


async def names(database: Database) -> set[str]:
    """Return the names of all tables and views."""

    def read(connection: Connection) -> set[str]:
        inspector = inspect(connection)
        return {*inspector.get_table_names(), *inspector.get_view_names()}

    async with database.read() as connection:
        return await connection.run_sync(read)


def differences(connection: Connection) -> list[object]:
    """Return the changes that alembic would still make."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, metadata))


def checks(connection: Connection) -> dict[str, set[str]]:
    """Return every CHECK by table, with its name and condition."""
    inspector = inspect(connection)
    return {
        table: {f"{check['name']}: {check['sqltext']}" for check in inspector.get_check_constraints(table)}
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


async def test_the_history_makes_the_declared_schema(database_url: str) -> None:
    await migrations.upgrade(database_url)
    async with Database(database_url) as database, database.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_history_makes_the_declared_checks(database_url: str) -> None:
    await migrations.upgrade(database_url)
    async with Database(database_url) as database:
        async with database.read() as connection:
            migrated = await connection.run_sync(checks)
        await migrations.downgrade(database_url, "base")
        async with database.begin() as connection:
            await connection.run_sync(metadata.create_all)
            declared = await connection.run_sync(checks)
    assert migrated == declared
    assert sum(map(len, declared.values())) > 20


def test_each_migration_follows_the_one_before_in_the_order_of_the_files() -> None:
    revisions = [script.revision for script in ScriptDirectory(str(migrations.scripts_folder())).walk_revisions()]
    assert revisions[::-1] == list(migrations._known())


async def test_the_history_makes_the_declared_views(database_url: str) -> None:
    await migrations.upgrade(database_url)
    async with Database(database_url) as database, database.read() as connection:
        for view in VIEWS:
            await connection.execute(text(f"SELECT * FROM {view}"))
    script = re.sub(r"\s+", "", migrations.sql(database_url))
    assert [view for view, statement in VIEWS.items() if _bare(statement) not in script] == []


def _bare(statement: str) -> str:
    return re.sub(r"\s+", "", statement)


async def test_a_downgrade_leaves_nothing_and_can_be_upgraded_again(database_url: str) -> None:
    await migrations.upgrade(database_url)
    await migrations.downgrade(database_url, "base")
    async with Database(database_url) as database:
        assert await names(database) == {"alembic_version"}
        await migrations.upgrade(database_url)
        assert {"execution_control", "executions", "template_analytics"} <= await names(database)


async def test_upgrade_and_downgrade_go_through_with_rows(database_url: str) -> None:
    await migrations.upgrade(database_url)
    async with Database(database_url) as database:
        async with database.begin() as connection:
            for table in metadata.sorted_tables:
                await connection.execute(table.insert().values(_row(table.name)))
        await migrations.upgrade(database_url)
        async with database.read() as connection:
            for table in metadata.sorted_tables:
                assert len((await connection.execute(table.select())).all()) == 1
        await migrations.downgrade(database_url, "base")
        assert await names(database) == {"alembic_version"}


def _row(table: str) -> dict[str, object]:
    """A row with a value of its type in every column that needs one."""
    special: dict[str, object] = {
        "status": "active" if table == "webhook_endpoints" else "completed",
        "state": "delivered",
        "source": "human" if table == "execution_scores" else "graph",
        "value": 5.0,
        "workflow_source": "graph",
        "on_lost": "fail",
        "kind": "node",
        "role": "user",
        "record_level": "full",
        "version": 1,
        "rating": 5,
        "attempt": 1,
        "operation": "chat",
        "reason": "forgotten",
        "is_builtin": True,
        "owner_id": "",
        "finished_at": datetime.now(UTC),
        "ended_at": datetime.now(UTC),
    }
    values: dict[str, object] = {}
    for column in metadata.tables[table].columns:
        if column.name in special:
            values[column.name] = special[column.name]
        elif not column.nullable:
            values[column.name] = _value(column.type)
    return values


def _value(kind: TypeEngine[Any]) -> object:
    if isinstance(kind, JSON):
        return {"key": ["value"]}
    return datetime.now(UTC) if isinstance(kind, UtcTime) else kind.python_type()


async def test_nothing_is_pending_after_an_upgrade(database_url: str) -> None:
    assert await migrations.pending(database_url) == [f"{number:04}" for number in range(1, 21)]
    await migrations.upgrade(database_url)
    await migrations.upgrade(database_url)
    assert await migrations.pending(database_url) == []


async def test_a_check_for_pending_migrations_creates_no_file(sqlite_url: str, tmp_path: Path) -> None:
    await migrations.pending(sqlite_url)
    assert list(tmp_path.iterdir()) == []


async def test_a_newer_schema_is_refused(database_url: str) -> None:
    await migrations.upgrade(database_url)
    async with Database(database_url) as database, database.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unavailable, match="newer schema"):
        await migrations.pending(database_url)


async def test_two_processes_that_start_together_both_get_the_schema(database_url: str) -> None:
    await asyncio.gather(*(migrations.upgrade(database_url) for _ in range(3)))
    assert await migrations.pending(database_url) == []


async def test_a_failing_migration_leaves_nothing_behind(database_url: str) -> None:
    async with Database(database_url) as database:
        async with database.begin() as connection:
            await connection.execute(text("CREATE TABLE workflow_templates (x INTEGER)"))
        with pytest.raises(Exception, match="already exists"):
            await migrations.upgrade(database_url)
        assert await names(database) == {"workflow_templates"}


@pytest.mark.postgres
async def test_a_migration_does_not_queue_behind_a_table_in_use(postgres_url: str) -> None:
    await migrations.upgrade(postgres_url)
    async with Database(postgres_url) as database, database.begin() as connection:
        await connection.execute(text("SELECT * FROM graphs"))
        with pytest.raises(Unavailable, match="locked by another session"):
            await migrations.downgrade(postgres_url, "base")


async def test_the_script_names_every_table(database_url: str) -> None:
    script = migrations.sql(database_url)
    assert execution_control.name in metadata.tables
    assert [table for table in metadata.tables if f"CREATE TABLE {table} (" not in script] == []
    assert ("JSONB" in script) == database_url.startswith("postgres")


async def test_an_unreachable_server_is_reported() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        await migrations.upgrade("postgresql://nobody@127.0.0.1:1/none")


def test_every_script_is_named_by_its_revision_and_the_last_name_is_the_newest() -> None:
    scripts = ScriptDirectory(str(migrations.scripts_folder()))
    names = {Path(script.path).name.partition("_")[0]: script.revision for script in scripts.walk_revisions()}
    assert all(name == revision for name, revision in names.items())
    assert max(names) == scripts.get_current_head()


@pytest.mark.postgres
async def test_autovacuum_comes_early_to_tables_whose_rows_are_deleted_all_the_time(postgres_url: str) -> None:
    """As long as retention is there, and no longer."""
    changed = text("SELECT relname FROM pg_class WHERE 'autovacuum_vacuum_scale_factor=0.02' = ANY (reloptions)")
    await migrations.upgrade(postgres_url)
    async with Database(postgres_url) as database:
        async with database.read() as connection:
            tables = set((await connection.execute(changed)).scalars())
        await migrations.downgrade(postgres_url, "0016")
        async with database.read() as connection:
            assert (await connection.execute(changed)).scalars().all() == []
    assert tables >= {"executions", "spans", "execution_control", "call_content", "conversation_messages", "outbox"}


async def test_ratings_of_templates_become_scores_and_go_back(database_url: str) -> None:
    await migrations.upgrade(database_url)
    await migrations.downgrade(database_url, "0017")
    rating = "INSERT INTO template_ratings VALUES ('ann', 't-1', 4, '2026-05-10 12:00:00.000000')"
    async with Database(database_url) as database:
        async with database.begin() as connection:
            await connection.execute(text(rating))
        await migrations.upgrade(database_url)
        async with database.read() as connection:
            score = (await connection.execute(text("SELECT owner_id, template_id, value FROM execution_scores"))).one()
        await migrations.downgrade(database_url, "0017")
        async with database.read() as connection:
            back = (await connection.execute(text("SELECT owner_id, template_id, rating FROM template_ratings"))).one()
    assert (tuple(score), tuple(back)) == (("ann", "t-1", 4.0), ("ann", "t-1", 4))
