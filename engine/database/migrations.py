"""Migrates a database's schema to the version of this program, with alembic but without an ini file.

Alembic is large, so it is imported only if a migration is pending.
"""

import importlib.resources
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
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

_DROPPED = re.compile(r"DROP TABLE (\w+)|ALTER TABLE (\w+) DROP COLUMN (\w+)")

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
    if not set(current) <= set(_known()):
        raise _too_new(safe_name(url))
    return [revision for revision in _known() if revision > max(current, default="")]


@dataclass(frozen=True, slots=True)
class Move:
    """The way from the revision of a database to another one."""

    start: str
    """`base` is the empty database."""
    end: str
    revisions: list[str]
    """Those that run, or that are undone, in this order."""
    is_down: bool

    def sql(self, database_url: str) -> str:
        """The SQL that it runs on a database of this kind."""
        from alembic import command

        run = command.downgrade if self.is_down else command.upgrade
        return _sql(database_url, lambda config: run(config, f"{self.start}:{self.end}", sql=True))


@dataclass(frozen=True, slots=True)
class Loss:
    """Data that a downgrade deletes: the rows of a table, or the values of a column."""

    table: str
    column: str | None
    count: int

    def __str__(self) -> str:
        place = self.table if self.column is None else f"{self.table}.{self.column}"
        thing = "row" if self.column is None else "value"
        return f"{self.count:,} {thing}{'' if self.count == 1 else 's'} of {place}"


async def find_move(database_url: str, revision: str) -> Move:
    """The way to a revision, `base` or `head`. Raises `Unavailable`, also for a revision that this program lacks."""
    waiting = await pending(database_url)
    places = ["base", *_known()]
    wanted = places[-1] if revision == "head" else revision
    if wanted not in places:
        raise Unavailable(f"this program has no revision {revision}; it has {', '.join(places)}")
    now, then = len(_known()) - len(waiting), places.index(wanted)
    revisions = places[now + 1 : then + 1] if then >= now else places[then + 1 : now + 1][::-1]
    return Move(places[now], wanted, revisions, is_down=then < now)


async def losses(database_url: str, move: Move) -> list[Loss]:
    """What a downgrade deletes that is not empty."""
    dropped = [(table or of, column or None) for table, of, column in _DROPPED.findall(move.sql(database_url))]
    async with Database(database_url) as database, database.read() as connection:
        return await connection.run_sync(_count, dropped)


async def require_current(connection: AsyncConnection, name: str) -> None:
    """Raises `Unavailable` if the schema is not the one of this program. Cheaper than `pending`; `name` is shown."""
    current = await connection.run_sync(_current)
    if not set(current) <= set(_known()):
        raise _too_new(name)
    if current != [_known()[-1]]:
        raise Unavailable("the schema of the database is older than this program; run `spanloom migrate`")


def sql(database_url: str) -> str:
    """The SQL that `upgrade` runs on an empty database of this kind, for review."""
    from alembic import command

    return _sql(database_url, lambda config: command.upgrade(config, "head", sql=True))


def _sql(database_url: str, run: Callable[["Config"], None]) -> str:
    script = io.StringIO()
    config = _config(output=script)
    config.attributes["dialect_name"] = dialect_name(parse_url(database_url))
    run(config)
    return script.getvalue()


def scripts_folder() -> Path:
    """The folder of the migrations: inside an installed package, or at the root of a source tree."""
    package = importlib.resources.files("engine")
    installed = Path(str(package / "_migrations"))
    return installed if installed.is_dir() else Path(str(package)).parent / "migrations"


def _count(connection: Connection, dropped: Sequence[tuple[str, str | None]]) -> list[Loss]:
    """Count what is there now: a downgrade may drop a table or column that an earlier step of it has brought back."""
    tables = {table for table, column in dropped if column is None}
    there = inspect(connection).get_table_names()
    found: list[Loss] = []
    for table, column in dropped:
        if table not in there:
            continue
        defaults = {each["name"]: each["default"] for each in inspect(connection).get_columns(table)}
        if column is None:
            count = f"SELECT count(*) FROM {table}"
        elif column in defaults and table not in tables:
            beyond = f"WHERE {column} <> {defaults[column]}" if defaults[column] else ""
            count = f"SELECT count({column}) FROM {table} {beyond}"
        else:
            continue
        found.append(Loss(table, column, connection.execute(text(count)).scalar_one()))
    return [loss for loss in found if loss.count]


@cache
def _known() -> tuple[str, ...]:
    """The revisions of the scripts in their order, from their file names: each follows the one before."""
    files = (scripts_folder() / "versions").glob("[0-9]*.py")
    return tuple(sorted(file.name.partition("_")[0] for file in files))


def _too_new(name: str) -> Unavailable:
    return Unavailable(
        f"the database {name} has a newer schema than this program; install a newer one, or go back with "
        f"it: spanloom migrate --to {_known()[-1]}"
    )


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
