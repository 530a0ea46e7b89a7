"""`spanloom migrate`: the schema of the database."""

import asyncio

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from api.cli import terminal
from api.cli.errors import BAD_NEWS, DONE
from api.cli.rendering.formatting import plural
from engine.database import migrations
from engine.database.database import Database, parse_url, safe_name
from engine.store.tables import execution_control
from telemetry.store.tables import executions

_OF_CHECKPOINTS = frozenset({"checkpoints", "checkpoint_blobs", "checkpoint_writes", "checkpoint_migrations", "writes"})
"""Tables that LangGraph's savers make and change by themselves."""
_COMPARED = {
    "compare_type": True,
    "compare_server_default": True,
    "include_name": lambda name, kind, parents: kind != "table" or name not in _OF_CHECKPOINTS,
}


def run_migration(*, check: bool, sql: bool, as_json: bool) -> int:
    """Upgrade; or only look, or only print."""
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
        print(f"{name}: {plural(len(waiting), 'migration')} run." if waiting else f"{name} is up to date.")
    return BAD_NEWS if check and (waiting or differences) else DONE


def _verdict(name: str, waiting: list[str], differences: list[str]) -> str:
    if waiting:
        return f"{name} waits for {', '.join(waiting)}; run `spanloom migrate`."
    if differences:
        return "\n".join([f"{name} is not what this program expects:", *(f"  {one}" for one in differences)])
    return f"{name} is up to date."


async def _differences(url: str) -> list[str]:
    async with Database(url) as database, database.read() as connection:
        return await connection.run_sync(_compare)


def _compare(connection: Connection) -> list[str]:
    """Where the tables of the database and those of this program differ."""
    metadata = executions.metadata
    assert execution_control.metadata is metadata, "the engine's tables and the bookkeeper's hang on one"
    context = MigrationContext.configure(connection, opts=dict(_COMPARED))
    return [str(difference) for difference in compare_metadata(context, metadata)]
