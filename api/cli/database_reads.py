"""Database access of commands: one read or one write, all pages of a list, executions by the start of their id."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from api.cli import interrupts
from api.settings import Settings
from api.wiring.database import open_database
from engine.database.database import dialect_name, parse_url
from engine.errors import NotFound, Unavailable
from telemetry.reads.executions import ExecutionFilter, ExecutionRecord, find_ids, get_execution, list_executions

LAST = "last"
_SHOWN = 5

T = TypeVar("T")
C = TypeVar("C")


def read(settings: Settings, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run a query. Raises `Unavailable`; a missing SQLite file is not created."""
    check_exists(settings)

    async def ask() -> T:
        async with open_database(settings) as database, database.read() as connection:
            return await query(connection)

    return interrupts.run(ask())


def write(settings: Settings, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run `work` in one transaction, creating the SQLite file if it does not exist."""

    async def run() -> T:
        async with open_database(settings) as database, database.begin() as connection:
            return await work(connection)

    return interrupts.run(run())


async def every(page: Callable[[C | None], Awaitable[tuple[list[T], C | None]]]) -> list[T]:
    """All items of a list; `page` gives those after a cursor, and the next cursor, null on the last page."""
    found, end = await page(None)
    while end is not None:
        more, end = await page(end)
        found += more
    return found


def check_exists(settings: Settings) -> None:
    """Raises `Unavailable` if the SQLite file does not exist: nothing has run yet, or this is another folder."""
    url = parse_url(settings.database_url)
    if dialect_name(url) == "sqlite" and not Path(str(url.database)).exists():
        raise Unavailable(
            f"There is no database at {Path(str(url.database)).absolute()}. "
            "`spanloom run` creates it; for another one set SPANLOOM_DATABASE_URL."
        )


async def find_execution(connection: AsyncConnection, wanted: str) -> ExecutionRecord:
    """The execution with this id or first characters of an id, or the newest for `last`. Raises `NotFound`."""
    if wanted == LAST:
        newest = (await list_executions(connection, ExecutionFilter(), limit=1)).items
        if not newest:
            raise NotFound("There are no executions yet. Start one: spanloom run universal_chat -m 'hi'")
        return newest[0]
    ids = await find_ids(connection, wanted.lower(), None, limit=_SHOWN + 1)
    if len(ids) > 1:
        shown = ", ".join(ids[:_SHOWN]) + (", …" if len(ids) > _SHOWN else "")
        raise NotFound(f"Several executions begin with {wanted!r}: {shown}. Give more characters of the id.")
    record = await get_execution(connection, ids[0], None) if ids else None
    if record is None:
        raise NotFound(f"There is no execution {wanted!r}. To list them: spanloom executions")
    return record
