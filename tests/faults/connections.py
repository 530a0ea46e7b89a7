"""Connections to PostgreSQL beside those of the service, and the end of those of the service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """A connection of asyncpg during the block."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def cut_connections(url: str) -> list[str]:
    """Cut every connection but our own, as a failover does. Returns the last statement of each."""
    async with connected(url) as connection:
        rows = await connection.fetch(
            "SELECT query, pg_terminate_backend(pid) AS is_cut FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    return [row["query"] for row in rows if row["is_cut"]]
