"""Opens the database and checks that its schema is current."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.settings import Settings
from engine.database import migrations
from engine.database.database import Database
from engine.errors import Unavailable


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The database, once its schema is current.

    A SQLite file is upgraded. An old schema on PostgreSQL raises `Unavailable`, which says what to do.
    """
    await _check_schema(settings.database_url)
    async with build_database(settings) as database:
        yield database


def build_database(settings: Settings) -> Database:
    """A database that is not open yet; its schema is not checked."""
    return Database(settings.database_url, synchronous=settings.sqlite_synchronous)


async def _check_schema(url: str) -> None:
    missing = await migrations.pending(url)
    if not missing:
        return
    if Database(url).dialect_name == "postgresql":
        raise Unavailable(
            f"the schema of the database is older than this program (it lacks {missing[-1]}); run `spanloom migrate`"
        )
    await migrations.upgrade(url)
