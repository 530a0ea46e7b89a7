"""Gives the free pages of a SQLite file back to the file system, a few per transaction."""

import asyncio
import time

import aiosqlite
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database

PAGES_AT_ONCE = 256
"""A megabyte: each page may have to be moved from the end of the file."""
KEPT_SHARE = 0.1
"""The share of the file that stays free for the next rows: the file would only grow again."""


async def give_back(database: Database) -> int:
    """Shorten the file; returns how many pages were given back: none on PostgreSQL, or where not `can_shrink`."""
    if database.dialect_name != "sqlite" or not await can_shrink(database):
        return 0
    given = 0
    while True:
        began = time.monotonic()
        async with database.begin() as connection:
            number = await _give_some_back(connection)
        if number <= 0:
            return given
        given += number
        await asyncio.sleep(time.monotonic() - began)


async def _give_some_back(connection: AsyncConnection) -> int:
    before = await _read(connection, "page_count")
    wanted = min(PAGES_AT_ONCE, await _read(connection, "freelist_count") - int(before * KEPT_SHARE))
    if wanted <= 0:
        return 0
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, aiosqlite.Connection)
    # A page for each step of the statement, and `execute` takes a single one. A script is a transaction of its own.
    await driver.executescript(f"PRAGMA incremental_vacuum({wanted})")
    return before - await _read(connection, "page_count")


async def can_shrink(database: Database) -> bool:
    """Whether the database gives free pages back; a SQLite file that another program made needs a VACUUM first."""
    if database.dialect_name != "sqlite":
        return True
    async with database.read() as connection:
        return await _read(connection, "auto_vacuum") == _INCREMENTAL


_INCREMENTAL = 2


async def _read(connection: AsyncConnection, pragma: str) -> int:
    value: int = (await connection.execute(text(f"PRAGMA {pragma}"))).scalar_one()
    return value
