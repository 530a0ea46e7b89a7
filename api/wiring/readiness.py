"""Whether the database answers, has the schema of this program, and can be written."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import text

from engine.database import migrations
from engine.database.base import insert, now_sql
from engine.database.database import Database
from engine.errors import Unavailable
from engine.store.tables import write_probes

PROBE_SECONDS = 2.0
"""How long a good answer counts. A bad one is not kept, so that a recovery shows at once."""
ANSWER_SECONDS = 3.0
"""How long an answer is waited for."""

_ROW = "readiness"


class Readiness:
    """Asks the database; questions that arrive together share one answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._probes = {
            "database": _Probe("database", self._reach),
            "schema": _Probe("schema", self._compare_schema),
            "journal": _Probe("journal", self._write),
        }

    async def troubles(self) -> dict[str, str | None]:
        """For each check what is wrong and what to do, or null."""
        found = await asyncio.gather(*(probe.trouble() for probe in self._probes.values()))
        return dict(zip(self._probes, found, strict=True))

    async def require_schema(self) -> None:
        """Raises `Unavailable` if the database does not answer soon, or another program has changed its schema."""
        trouble = await self._probes["schema"].trouble()
        if trouble is not None:
            raise Unavailable(trouble)

    async def close(self) -> None:
        """Leave what the database has not answered."""
        await asyncio.gather(*(probe.close() for probe in self._probes.values()))

    async def _reach(self) -> None:
        async with self._database.read() as connection:
            await connection.execute(text("SELECT 1"))

    async def _compare_schema(self) -> None:
        async with self._database.read() as connection:
            await migrations.require_current(connection, self._database.name)

    async def _write(self) -> None:
        """Change a row: a statement without effect needs no disk."""
        async with self._database.begin() as connection:
            statement = insert(connection.dialect, write_probes).values(name=_ROW, written_at=now_sql())
            changes = {"written_at": statement.excluded.written_at}
            await connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changes))


class _Probe:
    """One question to the database."""

    def __init__(self, name: str, ask: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._ask = ask
        self._running: asyncio.Task[str | None] | None = None
        self._good_until = 0.0

    async def trouble(self) -> str | None:
        """What is wrong, or null. A question that has no answer yet is not asked again."""
        if time.monotonic() < self._good_until:
            return None
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._answer(), name=f"probe {self._name}")
        done, _ = await asyncio.wait({self._running}, timeout=ANSWER_SECONDS)
        if not done:
            return f"the database has not answered for {ANSWER_SECONDS:g} s; check that it runs and is not overloaded"
        return self._running.result()

    async def _answer(self) -> str | None:
        try:
            await self._ask()
        except Unavailable as error:
            return error.message
        self._good_until = time.monotonic() + PROBE_SECONDS
        return None

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
