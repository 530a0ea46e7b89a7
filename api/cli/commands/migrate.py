"""`spanloom migrate`: upgrade or check the database schema."""

import asyncio

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from api.cli import terminal
from api.cli.exit_codes import BAD_NEWS, DONE
from api.cli.rendering.formatting import plural
from engine.database import migrations
from engine.database.database import Database, parse_url, safe_name
from engine.store.tables import execution_control
from telemetry.store.tables import executions

_OF_CHECKPOINTS = frozenset({"checkpoints", "checkpoint_blobs", "checkpoint_writes", "checkpoint_migrations", "writes"})
"""Tables that LangGraph's savers create and change themselves."""
_COMPARED = {
    "compare_type": True,
    "compare_server_default": True,
    "include_name": lambda name, kind, parents: kind != "table" or name not in _OF_CHECKPOINTS,
}


def run_migration(*, check: bool, sql: bool, as_json: bool) -> int:
    """Upgrade the schema; or only check it, or only print its SQL."""
    url = terminal.begin().database_url
    if sql:
        print(migrations.sql(url))
        return DONE
    waiting = asyncio.run(migrations.pending(url))
    if not check and waiting:
        asyncio.run(migrations.upgrade(url))
    differences = asyncio.run(_differences(url)) if check and not waiting else []
    name = safe_name(parse_url(url))
    if as_json:
        terminal.show_json({"database": name, "pending" if check else "run": waiting, "differences": differences})
    elif check:
        print(_verdict(name, waiting, differences))
    else:
        print(f"{name}: {plural(len(waiting), 'migration')} applied." if waiting else f"{name} is up to date.")
    return BAD_NEWS if check and (waiting or differences) else DONE


def _verdict(name: str, waiting: list[str], differences: list[str]) -> str:
    if waiting:
        return f"{name} is not up to date: {', '.join(waiting)} not applied. Run `spanloom migrate`."
    if differences:
        return "\n".join([f"{name} differs from the schema of this version:", *(f"  {one}" for one in differences)])
    return f"{name} is up to date."


async def _differences(url: str) -> list[str]:
    async with Database(url) as database, database.read() as connection:
        return await connection.run_sync(_compare)


def _compare(connection: Connection) -> list[str]:
    """The differences between the tables of the database and those of this version."""
    metadata = executions.metadata
    assert execution_control.metadata is metadata, "the engine and telemetry share one metadata"
    context = MigrationContext.configure(connection, opts=dict(_COMPARED))
    return [str(difference) for difference in compare_metadata(context, metadata)]
