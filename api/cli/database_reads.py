"""What the commands that only read share: the database, and executions by the beginning of their id. No LangGraph."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from api.settings import Settings
from api.wiring.database import open_database
from engine.database.database import dialect_name, parse_url
from engine.errors import NotFound, Unavailable
from telemetry.reads.executions import ExecutionFilter, ExecutionRecord, find_ids, get_execution, list_executions

LAST = "last"
_SHOWN = 5

T = TypeVar("T")


def read(settings: Settings, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """The answer of a query. Raises `Unavailable`; a SQLite file that is not there is not made."""
    check_exists(settings)

    async def ask() -> T:
        async with open_database(settings) as database, database.read() as connection:
            return await query(connection)

    return asyncio.run(ask())


def check_exists(settings: Settings) -> None:
    """Raises `Unavailable` for a SQLite file that is not there: nothing has run yet, or it is another folder."""
    url = parse_url(settings.database_url)
    if dialect_name(url) == "sqlite" and not Path(str(url.database)).exists():
        raise Unavailable(
            f"there is no database at {Path(str(url.database)).absolute()}; "
            "`spanloom run` makes it, or set SPANLOOM_DATABASE_URL to where yours is"
        )


async def find_execution(connection: AsyncConnection, wanted: str) -> ExecutionRecord:
    """The execution of an id, of the beginning of one, or the `last`. Raises `NotFound`."""
    if wanted == LAST:
        newest = (await list_executions(connection, ExecutionFilter(), limit=1)).items
        if not newest:
            raise NotFound("there are no executions yet; start one: spanloom run universal_chat -m 'hi'")
        return newest[0]
    ids = await find_ids(connection, wanted.lower(), None, limit=_SHOWN + 1)
    if len(ids) > 1:
        shown = ", ".join(ids[:_SHOWN]) + (", …" if len(ids) > _SHOWN else "")
        raise NotFound(f"several executions begin with {wanted}: {shown}; give more of the id")
    record = await get_execution(connection, ids[0], None) if ids else None
    if record is None:
        raise NotFound(f"there is no execution {wanted}; `spanloom executions` lists them")
    return record
