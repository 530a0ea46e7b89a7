"""Migrates a database's schema to the version of this program, with alembic but without an ini file.

Alembic is large, so it is imported only if a migration is pending.
"""

import importlib.resources
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database, connected, dialect_name, migration_engine, parse_url, safe_name
from engine.errors import Unavailable

if TYPE_CHECKING:
    from alembic.config import Config

_VERSIONS = "alembic_version"
"""The table in which alembic keeps the revision of the database."""

_MIGRATION_LOCK = 0x5350_4C4D
"""Any fixed number: of two processes that start together the second waits for the first."""


async def upgrade(database_url: str, revision: str = "head") -> None:
    """Run the pending migrations in one transaction. Harmless when repeated. Raises `Unavailable`."""
    from alembic import command

    await _migrate(database_url, lambda config: command.upgrade(config, revision))


async def downgrade(database_url: str, revision: str) -> None:
    """Go back to a revision; `base` is the empty database. Raises `Unavailable`."""
    from alembic import command

    await _migrate(database_url, lambda config: command.downgrade(config, revision))


async def pending(database_url: str) -> list[str]:
    """The revisions that `upgrade` would run, in order; a missing SQLite file is not created.

    Raises `Unavailable`, also for a schema newer than this program.
    """
    url = parse_url(database_url)
    current: list[str] = []
    if _may_exist(url):
        async with Database(database_url) as database, database.read() as connection:
            current = await connection.run_sync(_current)
    if current == [_newest()]:
        return []
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(scripts_folder()))
    known = [script.revision for script in scripts.walk_revisions()]
    if not set(current) <= set(known):
        raise Unavailable(f"the database {safe_name(url)} has a newer schema than this program; install a newer one")
    applied = {script.revision for head in current for script in scripts.iterate_revisions(head, "base")}
    return [revision for revision in reversed(known) if revision not in applied]


def sql(database_url: str) -> str:
    """The SQL that `upgrade` runs on an empty database of this kind, for review."""
    from alembic import command

    script = io.StringIO()
    config = _config(output=script)
    config.attributes["dialect_name"] = dialect_name(parse_url(database_url))
    command.upgrade(config, "head", sql=True)
    return script.getvalue()


def scripts_folder() -> Path:
    """The folder of the migrations: inside an installed package, or at the root of a source tree."""
    package = importlib.resources.files("engine")
    installed = Path(str(package / "_migrations"))
    return installed if installed.is_dir() else Path(str(package)).parent / "migrations"


def _newest() -> str:
    """The revision of the newest script, from its file name."""
    return max(script.name for script in (scripts_folder() / "versions").glob("[0-9]*.py")).partition("_")[0]


def _may_exist(url: URL) -> bool:
    return dialect_name(url) == "postgresql" or Path(str(url.database)).exists()


async def _migrate(database_url: str, run: Callable[["Config"], None]) -> None:
    engine = migration_engine(database_url)
    try:
        async with connected(engine, safe_name(parse_url(database_url))) as connection, connection.begin():
            await _lock(connection)
            await connection.run_sync(lambda sync_connection: run(_config(connection=sync_connection)))
    finally:
        await engine.dispose()


async def _lock(connection: AsyncConnection) -> None:
    """Allow one migration at a time. A table in use fails the migration, so that it does not block other sessions."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        await connection.execute(text("SET LOCAL lock_timeout = '2s'"))


def _config(*, connection: Connection | None = None, output: io.StringIO | None = None) -> "Config":
    from alembic.config import Config

    config = Config(output_buffer=output) if output is not None else Config()
    config.set_main_option("script_location", str(scripts_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _current(connection: Connection) -> list[str]:
    """The revisions that the database is at: one, or none before the first."""
    if not inspect(connection).has_table(_VERSIONS):
        return []
    return list(connection.execute(text(f"SELECT version_num FROM {_VERSIONS}")).scalars())
