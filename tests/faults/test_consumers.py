"""F20: a consumer that raises, hangs or leaks: the others keep their books as if it were not there."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from telemetry.journal.journal import Journal
from telemetry.pipeline.pipeline import Pipeline
from telemetry.sdk.providers import Telemetry, build_telemetry
from telemetry.signals.records import Batch
from telemetry.store.tables import dead_letter, executions, spans, webhook_events
from tests.both_modes import add_endpoint, consumers, count, end, tell
from tests.faults.figures import Figure, Figures, short_or_long
from tests.faults.invariants import Evidence, violations
from tests.telemetry.bookkeeper import begin

EXECUTIONS = short_or_long(60, 1_000)
AT_ONCE = 60
HANG_SECONDS = 2.0
"""How long a consumer may take where one hangs, and else; on a busy machine the others take their time, too."""
LONG_SECONDS = 30.0
LEAST_DEEDS = 2
"""Those that hang are met once per commit, and commits are shared."""

Misdeed = Callable[[AsyncConnection], Awaitable[None]]

_leaked: list[object] = []


class Bad:
    """A consumer that does what it must not."""

    name = "bad"

    def __init__(self, misdeed: Misdeed) -> None:
        self._misdeed = misdeed
        self.deeds = 0
        self.signals = 0

    async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
        """Do it."""
        self.deeds += 1
        self.signals += len(batch.signals())
        await self._misdeed(connection)


async def raises(connection: AsyncConnection) -> None:
    """An error of its own code."""
    raise ZeroDivisionError("a fault of ours")


async def raises_in_a_statement(connection: AsyncConnection) -> None:
    """An error that ends a transaction of PostgreSQL, if nobody is careful."""
    await connection.execute(text("SELECT no_such_column FROM executions"))


async def takes_others_rows_along(connection: AsyncConnection) -> None:
    """It fails after it has harmed the others."""
    for table in (spans, executions, webhook_events):
        await connection.execute(table.delete())
    raise ZeroDivisionError("a fault of ours")


async def hangs(connection: AsyncConnection) -> None:
    """It waits for something that does not come."""
    await asyncio.Event().wait()


async def hangs_in_a_statement(connection: AsyncConnection) -> None:
    """Cut off there, it takes the connection with it."""
    statement = "SELECT pg_sleep(30)" if connection.dialect.name == "postgresql" else _LONG
    await connection.execute(text(statement))


async def hangs_in_a_write(connection: AsyncConnection) -> None:
    """On SQLite that ends the whole transaction, when it is interrupted."""
    statement = "UPDATE executions SET seq = seq WHERE pg_sleep(30) IS NULL"
    await connection.execute(text(statement if connection.dialect.name == "postgresql" else _LONG_WRITE))


async def leaks(connection: AsyncConnection) -> None:
    """It leaves a savepoint open, a task behind, and memory taken."""
    await connection.begin_nested()
    _leaked.append(bytearray(1 << 20))
    _leaked.append(asyncio.create_task(asyncio.Event().wait(), name="leaked by a consumer"))


_LONG = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT max(n) FROM numbers"
_LONG_WRITE = f"UPDATE executions SET seq = ({_LONG})"

MISDEEDS: dict[str, Misdeed] = {
    "raises": raises,
    "raises in a statement": raises_in_a_statement,
    "takes rows along": takes_others_rows_along,
    "hangs": hangs,
    "hangs in a statement": hangs_in_a_statement,
    "hangs in a write": hangs_in_a_write,
    "leaks": leaks,
}


@pytest.fixture(autouse=True)
def nothing_leaks_on() -> Iterator[None]:
    """What was leaked ends with the test."""
    yield
    for one in _leaked:
        if isinstance(one, asyncio.Task):
            one.cancel()
    _leaked.clear()


@pytest.mark.slow
@pytest.mark.usefixtures("books_left_open")
@pytest.mark.parametrize("name", list(MISDEEDS))
async def test_a_bad_consumer_harms_nobody_else(migrated_url: str, figures: Figures, name: str) -> None:
    before, after = consumers()
    bad = Bad(MISDEEDS[name])
    with figures("F20", misdeeds=LEAST_DEEDS) as figure:
        async with Database(migrated_url) as database:
            await add_endpoint(database)
            seconds = HANG_SECONDS if name.startswith("hangs") else LONG_SECONDS
            await run(database, Pipeline([before, bad, after], timeout_seconds=seconds))
            figure.hit("misdeeds", bad.deeds)
            await look(database, figure)


async def run(database: Database, pipeline: Pipeline) -> None:
    """Executions of every end, several at a time."""
    telemetry, slots = build_telemetry(), asyncio.Semaphore(AT_ONCE)
    async with Journal(database, pipeline) as journal:
        telemetry.add(journal.spans, journal.events)

        async def one(number: int) -> None:
            async with slots:
                await keep(telemetry, journal, number)

        await asyncio.gather(*map(one, range(EXECUTIONS)))
    telemetry.shutdown()


async def keep(telemetry: Telemetry, journal: Journal, number: int) -> None:
    """One execution, from accept to finish."""
    story = begin(telemetry, workflow_name=f"w{number % 3}")
    await journal.accept(story.acceptance())
    tell(story, number)
    assert await journal.finish(story.finish(end(story, number)))


async def look(database: Database, figure: Figure) -> None:
    """The others have kept everything, and none of their signals is kept aside."""
    figure.size("executions", EXECUTIONS)
    figure.reach("records", await count(database, executions), at_least=EXECUTIONS)
    figure.reach("webhook events", await count(database, webhook_events), at_least=EXECUTIONS)
    async with database.read() as connection:
        kept_aside = select(func.count()).where(dead_letter.c.consumer != "bad")
        figure.reach("kept aside of others", (await connection.execute(kept_aside)).scalar_one(), at_most=0)
    figure.none("violations", await violations(database, Evidence(may_keep_aside=True)))
