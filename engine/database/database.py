"""The database behind a URL: connections for reading and writing, and errors that say what to do.

SQLite has one writer connection, which takes the write lock when its transaction begins, and a few read-only ones that
see a snapshot. PostgreSQL has one pool for both.
"""

import logging
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import aiosqlite
import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types
import orjson
from sqlalchemy import URL, Connection, Dialect, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from engine.database.base import json_text
from engine.database.failures import unavailable
from engine.errors import Unavailable

Synchronous = Literal["NORMAL", "FULL"]
DialectName = Literal["sqlite", "postgresql"]

log = logging.getLogger(__name__)

APPLICATION_NAME = "spanloom"
"""The application name of our connections in PostgreSQL."""
IDLE_SECONDS = 30.0
"""How long a transaction on PostgreSQL may be idle."""
_LOCK_SHARE = 0.4
"""The share of `IDLE_SECONDS` that a statement on PostgreSQL waits for a lock.

Otherwise a frozen process could get a row that it waited for, and keep it for another `IDLE_SECONDS`. Less than a half,
since a statement waits for a row up to twice: first for its turn to wait, and PostgreSQL limits each wait by itself.
"""
COMMAND_SECONDS = 60.0
"""How long a statement on PostgreSQL may take, including its result."""

SECURE_DELETE = "PRAGMA secure_delete = ON"
"""SQLite overwrites what is deleted with zeros, except for copies in pages that it has rebuilt (`Database.scrub`).
Every connection that deletes must say so."""

MAX_REBUILT_BYTES = 128 * 1024 * 1024
"""A larger file is not rebuilt to overwrite deleted rows: that takes seconds, in which nobody can write."""

_PAGE_BYTES = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"

_BUSY_SECONDS = 5.0
_CONNECT_SECONDS = 5.0
_POOL_WAIT_SECONDS = 10.0


class Database:
    """The database behind a URL: `sqlite:///./spanloom.db` or `postgresql://user@host/name`; the driver is added here.

    Nothing is opened before the first use. `synchronous` and `busy_seconds` are for SQLite: NORMAL survives a crash of
    the process, FULL one of the machine. `idle_seconds` is for PostgreSQL: a transaction that is idle for longer is
    rolled back, so that a frozen process keeps no locks. Raises `Unavailable` if the URL is neither form.
    """

    def __init__(
        self,
        url: str,
        *,
        synchronous: Synchronous = "NORMAL",
        busy_seconds: float = _BUSY_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        parsed = parse_url(url)
        self.dialect_name: DialectName = dialect_name(parsed)
        self.name = safe_name(parsed)
        if self.dialect_name == "sqlite":
            self._writer = _sqlite_writer(parsed, synchronous, busy_seconds)
            self._reader = _sqlite_reader(parsed, busy_seconds)
        else:
            self._writer = self._reader = _postgres(url, command_seconds=COMMAND_SECONDS, idle_seconds=idle_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Harmless when repeated."""
        await self._reader.dispose()
        await self._writer.dispose()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes: committed at the end, rolled back on any error. Raises `Unavailable`."""
        async with connected(self._writer, self.name) as connection, connection.begin():
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads. On SQLite writing in it fails. Raises `Unavailable`."""
        async with connected(self._reader, self.name) as connection:
            yield connection

    async def scrub(self) -> None:
        """Overwrite what SQLite has left of deleted rows: copies in pages that it has rebuilt, and its log.

        Writers wait for it, so a large file is not rebuilt; a warning then says what to do. A reader that holds an old
        snapshot keeps the log from being emptied until the next call. PostgreSQL's own vacuum does all this. Raises
        `Unavailable`.
        """
        if self.dialect_name != "sqlite":
            return
        async with connected(self._writer, self.name) as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            if await _number(driver, _PAGE_BYTES) > MAX_REBUILT_BYTES:
                log.warning("pages of %s may hold copies of deleted rows; stop the service and VACUUM it", self.name)
            else:
                await driver.execute("VACUUM")
            if await _number(driver, "PRAGMA wal_checkpoint(TRUNCATE)"):
                log.warning("the log of %s is being read, and is emptied later", self.name)


async def _number(driver: aiosqlite.Connection, statement: str) -> int:
    """The first column of the only row."""
    async with driver.execute(statement) as rows:
        [row] = await rows.fetchall()
    return int(row[0])


@asynccontextmanager
async def connected(engine: AsyncEngine, name: str) -> AsyncIterator[AsyncConnection]:
    """A connection for the length of a block. Raises `Unavailable` for database trouble, also inside the block."""
    connection = await _connect(engine, name)
    try:
        async with AsyncExitStack() as stack:
            stack.push_async_exit(connection)
            yield connection
    except DBAPIError as error:
        raise unavailable(error, name) or error from error


async def _connect(engine: AsyncEngine, name: str) -> AsyncConnection:
    try:
        return await engine.connect().start()
    except PoolTimeout as error:
        raise Unavailable(f"the database {name} has no free connection; try again") from error
    except (DBAPIError, sqlite3.Error, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise unavailable(error, name) or Unavailable(f"the database {name} cannot be used: {error}") from error


def parse_url(url: str) -> URL:
    """The parsed URL. Raises `Unavailable` if the database is not supported."""
    help_text = "use sqlite:///./spanloom.db or postgresql://user@host/name in SPANLOOM_DATABASE_URL"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise Unavailable(f"the database URL cannot be read; {help_text}") from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql", "postgres"):
        raise Unavailable(f"databases of the kind {parsed.get_backend_name()} are not supported; {help_text}")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise Unavailable(f"SQLite needs a file here; {help_text}")
    return parsed


def dialect_name(url: URL) -> DialectName:
    """Which of the two databases the URL names."""
    return "sqlite" if url.get_backend_name() == "sqlite" else "postgresql"


def safe_name(url: URL) -> str:
    """The name of the database in messages: a file, or host, port and name; never the password."""
    if dialect_name(url) == "sqlite":
        return str(url.database)
    return f"{url.host or url.query.get('host', 'localhost')}:{url.port or 5432}/{url.database or ''}"


def migration_engine(url: str) -> AsyncEngine:
    """An engine for one migration run: no time limit on a statement or a lock. The caller disposes of it."""
    parsed = parse_url(url)
    if dialect_name(parsed) == "postgresql":
        return _postgres(url, command_seconds=None, idle_seconds=0)
    return _sqlite_writer(parsed, "FULL", _BUSY_SECONDS)


def _sqlite_writer(url: URL, synchronous: Synchronous, busy_seconds: float) -> AsyncEngine:
    engine = _sqlite_engine(url, busy_seconds, pool_size=1)
    _on_connect(
        engine,
        "PRAGMA auto_vacuum = INCREMENTAL",  # counts for a new file only, and only before WAL
        "PRAGMA journal_mode = WAL",
        f"PRAGMA synchronous = {synchronous}",
        "PRAGMA foreign_keys = ON",
        SECURE_DELETE,
        "PRAGMA wal_autocheckpoint = 4000",  # each move of the log into the file waits for the disk: every 16 MB, not 4
    )
    _begin_with(engine, "BEGIN IMMEDIATE")
    return engine


def _sqlite_reader(url: URL, busy_seconds: float) -> AsyncEngine:
    engine = _sqlite_engine(url, busy_seconds, pool_size=4)
    _on_connect(engine, "PRAGMA query_only = ON")
    _begin_with(engine, "BEGIN")
    return engine


def _sqlite_engine(url: URL, busy_seconds: float, pool_size: int) -> AsyncEngine:
    """`isolation_level` None: the driver starts no transaction of its own, so savepoints and BEGIN IMMEDIATE work."""
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite"),
        connect_args={"isolation_level": None, "timeout": busy_seconds},
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_POOL_WAIT_SECONDS,
        json_serializer=json_text,
        json_deserializer=_loads,
    )
    event.listen(engine.sync_engine, "do_connect", _open_once)
    return engine


def _open_once(dialect: Dialect, entry: ConnectionPoolEntry, arguments: list[str], named: dict[str, object]) -> None:
    """Fail here if the file cannot be opened: aiosqlite would leave a thread that reports to a closed loop."""
    if not named.get("uri"):
        create_private(arguments[0])
    sqlite3.connect(arguments[0], uri=bool(named.get("uri"))).close()


def create_private(file: str) -> None:
    """Create an empty database file that only its owner can read; an existing file stays as it is.

    SQLite gives its log and its shared memory the rights of the file. Closing an existing file here would drop the
    locks that SQLite holds on it.
    """
    with suppress(OSError):  # it exists, or SQLite says why it cannot
        os.close(os.open(os.path.realpath(file), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _on_connect(engine: AsyncEngine, *statements: str) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        with ExitStack() as on_error:
            on_error.callback(connection.close)
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            cursor.close()
            on_error.pop_all()


def _begin_with(engine: AsyncEngine, statement: str) -> None:
    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)


def _postgres(url: str, *, command_seconds: float | None, idle_seconds: float) -> AsyncEngine:
    """The driver reads the URL itself, so that `sslmode`, `sslrootcert` and `host=/socket` mean what they say."""
    dsn, connect_seconds = _dsn(url)

    async def open_connection() -> object:
        return await asyncpg.connect(
            dsn,
            timeout=connect_seconds,
            command_timeout=command_seconds,
            server_settings={
                "application_name": APPLICATION_NAME,
                "timezone": "UTC",
                "jit": "off",
                "idle_in_transaction_session_timeout": f"{idle_seconds * 1000:.0f}",
                "lock_timeout": f"{idle_seconds * 1000 * _LOCK_SHARE:.0f}",
            },
        )

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=open_connection,
        hide_parameters=True,
        pool_size=10,
        max_overflow=10,
        pool_timeout=_POOL_WAIT_SECONDS,
        pool_pre_ping=True,
        json_serializer=json_text,
        json_deserializer=_loads,
    )
    event.listen(engine.sync_engine, "handle_error", _give_up_confused)
    return engine


def _give_up_confused(context: ExceptionContext) -> None:
    """Discard a connection after an internal error of asyncpg: the server died, though the connection seems open."""
    if isinstance(getattr(context.original_exception, "__cause__", None), asyncpg.InternalClientError):
        context.is_disconnect = True


def _dsn(url: str) -> tuple[str, float]:
    """The URL for asyncpg, and `connect_timeout`, the one libpq parameter that asyncpg does not know."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    connect_seconds = float(query.pop("connect_timeout", _CONNECT_SECONDS))
    return urlunsplit(parts._replace(scheme="postgresql", query=urlencode(query))), connect_seconds


def _loads(value: str | bytes | float) -> object:
    """Parse a JSON column; SQLite returns JSON numbers as numbers already."""
    return orjson.loads(value) if isinstance(value, str | bytes) else value
