"""A time limit for work on a connection that also interrupts the running statement.

Cancelling a PostgreSQL statement closes its connection, and a cancelled SQLite statement continues in its thread with
the write lock held. So the statement is interrupted in the database: it fails, and the connection stays usable.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field

import aiosqlite
import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

GRACE_SECONDS = 1.0
"""How long an interrupted statement may take to end before its connection is discarded."""

LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL's code for a lock that was not free in time."""

_AGAIN_SECONDS = 0.05
"""The interval between interruptions: one that arrives just before a statement begins is lost."""


async def within(connection: AsyncConnection, seconds: float, work: Awaitable[None]) -> None:
    """Do the work. Raises `TimeoutError`, also if a wait for a lock reaches the database's own limit.

    Then `is_in_transaction` says whether the transaction is still open.
    """
    interruption = _Interruption(connection)
    timer = asyncio.get_running_loop().call_later(seconds, interruption.begin)
    try:
        async with asyncio.timeout(seconds + GRACE_SECONDS):
            await work
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
            raise TimeoutError("a statement waited too long for a lock") from error
        if interruption.task is not None and not connection.invalidated:
            raise TimeoutError(f"a statement took longer than {seconds:g} s") from error
        raise
    finally:
        timer.cancel()
        await interruption.over()


def is_in_transaction(connection: AsyncConnection) -> bool:
    """Whether the transaction is still open. SQLite rolls it back when it interrupts a writing statement."""
    if connection.invalidated:
        return False
    return connection.dialect.name != "sqlite" or _sqlite(connection).in_transaction


@dataclass(slots=True)
class _Interruption:
    """Interrupts the statements on a connection, one after another, until the work is over."""

    connection: AsyncConnection
    task: "asyncio.Task[None] | None" = None
    _is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self) -> None:
        interrupt = self._on_sqlite if self.connection.dialect.name == "sqlite" else self._on_postgres
        self.task = asyncio.create_task(interrupt(), name="interrupt a statement")

    async def over(self) -> None:
        """Wait for the last interruption, so that none reaches a later statement."""
        self._is_over.set()
        if self.task is not None:
            await asyncio.gather(self.task, return_exceptions=True)

    async def _on_sqlite(self) -> None:
        driver = _sqlite(self.connection)
        while not self._is_over.is_set():
            await driver.interrupt()
            await self._pause()

    async def _on_postgres(self) -> None:
        cancel = select(func.pg_cancel_backend(_server_pid(self.connection)))
        async with asyncio.timeout(2 * GRACE_SECONDS), self.connection.engine.connect() as another:
            while not self._is_over.is_set():
                await another.execute(cancel)
                await self._pause()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_AGAIN_SECONDS):
                await self._is_over.wait()


def _sqlite(connection: AsyncConnection) -> aiosqlite.Connection:
    driver = _driver(connection)
    assert isinstance(driver, aiosqlite.Connection)
    return driver


def _server_pid(connection: AsyncConnection) -> int:
    driver = _driver(connection)
    assert isinstance(driver, asyncpg.Connection)
    pid: int = driver.get_server_pid()
    return pid


def _driver(connection: AsyncConnection) -> object:
    sync_connection = connection.sync_connection
    assert sync_connection is not None
    return sync_connection.connection.driver_connection
