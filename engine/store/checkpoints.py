"""Stores checkpoints of runs with LangGraph's official savers: one thread for each attempt of an execution.

The savers commit by themselves, so each attempt has its own thread: an attempt that no longer owns its execution may
still write checkpoints, but no other attempt reads them. A checkpoint holds one channel, the snapshot as JSON bytes.
Only the newest checkpoints of a thread are kept.
"""

import asyncio
import importlib.util
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    empty_checkpoint,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from engine.database.database import APPLICATION_NAME, SECURE_DELETE, create_private, dialect_name, parse_url, safe_name
from engine.database.failures import unavailable
from engine.database.retry import RETRY_SECONDS, insist
from engine.errors import MissingExtra, SpanloomError, Unavailable
from engine.store import langgraph_private

SNAPSHOT = "snapshot"
"""The channel with the snapshot of a run that continues."""
STOPPED = "stopped"
"""The channel with the snapshot of a run that has ended or paused."""
INSTALL = "pip install 'spanloom[postgres-checkpoints]'"
PRUNE_EVERY = 16
"""Steps after which the older checkpoints of a thread are deleted."""
_BUSY_SECONDS = 5.0
_POOL_CONNECTIONS = 10
_POOL_WAIT_SECONDS = 10.0
_SETUP_ATTEMPTS = 5

log = logging.getLogger(__name__)

T = TypeVar("T")
Saver = BaseCheckpointSaver[str]


class LenientCheckpoints(SpanloomError):
    """Reading checkpoints could run code: set LANGGRAPH_STRICT_MSGPACK=true before langgraph is first imported."""

    code = "lenient_checkpoints"


class Checkpoints:
    """Stores the snapshots of runs and finds the newest. Tables are created on first use."""

    def __init__(
        self,
        saver: Saver,
        *,
        setup: Callable[[], Awaitable[None]],
        prune: Callable[[str], Awaitable[None]],
        threads: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self.saver = saver
        self._setup = setup
        self._prune = prune
        self._threads = threads
        self._is_set_up = False

    async def setup(self) -> None:
        """Create the saver's tables if they are missing. Repeating it is harmless."""
        if not self._is_set_up:
            await self._setup()
            self._is_set_up = True

    async def newest(self, execution_id: str, attempts: Sequence[int]) -> bytes | None:
        """Return the last snapshot of the first attempt in this list that has a snapshot; null if none has."""
        await self.setup()
        for attempt in attempts:
            found = await self.saver.aget_tuple(thread(execution_id, attempt))
            values = found.checkpoint["channel_values"] if found is not None else {}
            for channel in (STOPPED, SNAPSHOT):
                if isinstance(snapshot := values.get(channel), bytes):
                    return snapshot
        return None

    async def keep(self, execution_id: str, attempt: int, snapshot: bytes) -> None:
        """Store a snapshot as the last one of an attempt."""
        await self.setup()
        checkpoint = empty_checkpoint()
        versions: dict[str, str | int | float] = {STOPPED: self.saver.get_next_version(None, None)}
        checkpoint["channel_values"] = {STOPPED: snapshot}
        checkpoint["channel_versions"] = versions
        await self.saver.aput(thread(execution_id, attempt), checkpoint, CheckpointMetadata(source="update"), versions)

    async def prune(self, execution_id: str, attempt: int) -> None:
        """Delete all checkpoints of an attempt but the newest; it is tried again with a later one."""
        try:
            await self._prune(thread_id(execution_id, attempt))
        except Unavailable as error:
            log.warning("older checkpoints could not be deleted: %s", error)

    async def attempts(self) -> dict[str, list[int]]:
        """Return the attempts that have checkpoints, by execution id. Raises `Unavailable`."""
        await self.setup()
        found: dict[str, list[int]] = {}
        for name in await self._threads():
            execution_id, _, attempt = name.rpartition(":")
            if attempt.isdecimal():  # other applications may keep their threads in the same tables
                found.setdefault(execution_id, []).append(int(attempt))
        return found

    async def delete_thread(self, execution_id: str, attempts: Iterable[int]) -> None:
        """Delete the checkpoints of these attempts of an ended execution."""
        await self.setup()
        for attempt in attempts:
            await self.saver.adelete_thread(thread_id(execution_id, attempt))

    async def forget(self, execution_id: str, attempts: int) -> None:
        """Delete all checkpoints of an ended execution. Failures are logged only: the keeper finds what is left."""
        try:
            await self.delete_thread(execution_id, range(1, attempts + 1))
        except Exception as error:
            log.warning("checkpoints of execution %s could not be deleted: %s", execution_id, error)


def thread_id(execution_id: str, attempt: int) -> str:
    """Return LangGraph's thread id for one attempt."""
    return f"{execution_id}:{attempt}"


def thread(execution_id: str, attempt: int) -> RunnableConfig:
    """Return the LangGraph configuration that selects the thread of one attempt."""
    return {"configurable": {"thread_id": thread_id(execution_id, attempt), "checkpoint_ns": ""}}


def problem(database_url: str) -> str | None:
    """Explain why checkpoints cannot be stored in this database and how to fix it; null if they can."""
    if dialect_name(parse_url(database_url)) == "sqlite" or _has_postgres_saver():
        return None
    return f"checkpoints in PostgreSQL need an optional dependency: {INSTALL}"


def in_memory() -> Checkpoints:
    """Keep checkpoints in the memory of this process, for library use without a database."""
    saver = _InMemorySaver(serde=_serializer())

    async def nothing() -> None:
        pass

    async def prune(thread_id: str) -> None:
        langgraph_private.delete_older_in_memory(saver, thread_id)

    async def threads() -> list[str]:
        return list(saver.storage)

    return Checkpoints(saver, setup=nothing, prune=prune, threads=threads)


@asynccontextmanager
async def open_checkpoints(database_url: str) -> AsyncIterator[Checkpoints]:
    """Open checkpoints in the database at this URL. On PostgreSQL it connects on first use.

    Raises `MissingExtra` with the install command, or `LenientCheckpoints`.
    """
    if not langgraph_private.reads_strictly():
        raise LenientCheckpoints
    if (missing := problem(database_url)) is not None:
        raise MissingExtra(missing)
    parsed = parse_url(database_url)
    if dialect_name(parsed) == "sqlite":
        async with _sqlite(str(parsed.database)) as checkpoints:
            yield checkpoints
    else:
        async with _postgres(urlunsplit(urlsplit(database_url)._replace(scheme="postgresql"))) as checkpoints:
            yield checkpoints


def _serializer() -> JsonPlusSerializer:
    """Return a serializer that restores LangGraph's safe types only, whatever the environment sets."""
    return JsonPlusSerializer(allowed_msgpack_modules=None)


class _WithoutPendingWrites:
    """Savers that skip pending writes. A step has one task, which either has its checkpoint or runs again."""

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store nothing."""


class _InsistentSaver(_WithoutPendingWrites, Saver):
    """Savers in a database, which try again while it has trouble. Repeating a write changes nothing.

    Each method raises `Unavailable`: what an attempt needs after the retries, what the keeper repeats at once.
    """

    database: str
    """The name of the database in messages."""
    trouble: tuple[type[Exception], ...]
    """The errors that a retry may overcome: of the driver, and of the time limit."""
    retry_seconds = RETRY_SECONDS
    answer_seconds = 10.0

    async def insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do this work, with the retries of the journal."""
        return await insist(lambda _: self.once(work), seconds=self.retry_seconds)

    async def once(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do this work without a retry. It takes no longer than `answer_seconds`: a failover may leave a dead peer."""
        try:
            async with asyncio.timeout(self.answer_seconds):
                return await work()
        except self.trouble as error:
            reason = f"the checkpoints in {self.database} cannot be read or written: {error}"
            raise unavailable(error, self.database) or Unavailable(reason) from error

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint."""
        return await self.insist(partial(super().aput, config, checkpoint, metadata, new_versions))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return a checkpoint of a thread, the newest if the configuration names none."""
        return await self.insist(partial(super().aget_tuple, config))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete all checkpoints of a thread."""
        await self.once(partial(super().adelete_thread, thread_id))


class _InMemorySaver(_WithoutPendingWrites, InMemorySaver):
    """The saver without a database."""


class _SqliteSaver(_InsistentSaver, AsyncSqliteSaver):
    """The saver of one SQLite connection."""

    trouble = (sqlite3.OperationalError, TimeoutError)


@asynccontextmanager
async def _sqlite(file: str) -> AsyncIterator[Checkpoints]:
    """Open a second connection to the ledger's file, with the same lock timeout.

    Each statement commits by itself: a transaction that could not get the lock would stay open, with its old snapshot.
    """
    create_private(file)
    async with aiosqlite.connect(file, timeout=_BUSY_SECONDS, isolation_level=None) as connection:
        await connection.execute("PRAGMA synchronous = NORMAL")
        await connection.execute(SECURE_DELETE)
        saver = _SqliteSaver(connection, serde=_serializer())
        saver.database = file

        async def prune(thread_id: str) -> None:
            await saver.once(partial(langgraph_private.delete_older_in_sqlite, saver, thread_id))

        threads = partial(saver.once, partial(langgraph_private.threads_in_sqlite, saver))
        yield Checkpoints(saver, setup=partial(saver.insist, saver.setup), prune=prune, threads=threads)


def _has_postgres_saver() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("psycopg", "langgraph.checkpoint.postgres"))


@asynccontextmanager
async def _postgres(url: str) -> AsyncIterator[Checkpoints]:
    """Open a separate connection pool: this saver uses psycopg, the ledger uses asyncpg.

    The pool replaces a broken connection once it was used, so that a retry gets another. It does not check connections
    before use: then it would wait a second and more after each broken one, and the saver's lock with it.
    """
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg import AsyncConnection, InterfaceError, OperationalError, errors
    from psycopg.rows import DictRow, dict_row
    from psycopg_pool import AsyncConnectionPool

    class PostgresSaver(_InsistentSaver, AsyncPostgresSaver):
        """The saver of one pool."""

        trouble = (OperationalError, InterfaceError, TimeoutError, errors.ReadOnlySqlTransaction)

    settings = {
        "autocommit": True,
        "prepare_threshold": 0,
        "row_factory": dict_row,
        "application_name": APPLICATION_NAME,
    }
    pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
        url,
        min_size=0,
        max_size=_POOL_CONNECTIONS,
        open=False,
        kwargs=settings,
        timeout=_POOL_WAIT_SECONDS,
    )
    async with pool:
        saver = PostgresSaver(pool, serde=_serializer())
        saver.database = safe_name(parse_url(url))

        async def setup() -> None:
            """Retry when other processes create the tables at the same time."""
            for _ in range(_SETUP_ATTEMPTS - 1):
                with suppress(errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateColumn):
                    return await saver.setup()
            return await saver.setup()

        async def prune(thread_id: str) -> None:
            await saver.once(partial(saver.aprune, [thread_id], strategy="keep_latest"))

        async def threads() -> list[str]:
            async with pool.connection() as connection, connection.cursor() as cursor:
                await cursor.execute(langgraph_private.THREADS)
                return [row["thread_id"] for row in await cursor.fetchall()]

        yield Checkpoints(saver, setup=partial(saver.insist, setup), prune=prune, threads=partial(saver.once, threads))
