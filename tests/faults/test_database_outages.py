"""F9: PostgreSQL crashes, is away, and its answers to COMMIT are lost, under four writers: no wrong row, no double."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import pytest
from sqlalchemy import select

from engine.database import migrations
from engine.database.database import Database
from engine.errors import SpanloomError
from engine.store.tables import execution_control
from engine.testing.models import Say
from telemetry.store.tables import executions
from tests.both_modes import add_endpoint
from tests.conftest import found
from tests.faults.clients import ASK
from tests.faults.driver import losing_answers
from tests.faults.figures import Figure, Figures, short_or_long
from tests.faults.invariants import Violation, violations
from tests.services.postgres import server as postgres_service
from tests.services.postgres.server import Cluster
from tests.workflow_runner import WatchedEngine, WorkflowRunner, request, workflow_runner

WRITERS = 4
WORKERS = 4
"""Of each writer."""

CRASHES = short_or_long(2, 5)
OUTAGES = short_or_long(1, 2)
OUTAGE_SECONDS = short_or_long(2.0, 30.0)
LOST_SHARE = 0.02
LEAST_LOST = short_or_long(3, 50)
BETWEEN = short_or_long(100, 1_000)
"""Executions that end between two faults."""

SECONDS = short_or_long(100, 2_400)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL of the test's own, which waits for the disk."""
    with ExitStack() as stack:
        yield found(lambda: stack.enter_context(postgres_service.cluster()))


@dataclass(slots=True)
class Load:
    """Executions that begin and end on several writers at once, each with a number of its own."""

    shops: list[WorkflowRunner]
    told: dict[str, str] = field(default_factory=dict)
    """Status by id, as the callers heard it."""
    refused: Counter[str] = field(default_factory=Counter)
    numbers: "count[int]" = field(default_factory=count)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: bool = False

    @property
    def failed_commits(self) -> int:
        """Of all writers."""
        return sum(runner.runtime.journal.health.failed_commits for runner in self.shops)

    async def work(self, engine: WatchedEngine) -> None:
        """One execution after the other."""
        while not self.is_over:
            number = next(self.numbers)
            try:
                wanted = request({"kind": "graph", "graph": ASK}, f"run {number}", tags={"number": f"{number}"})
                result = await engine.execute(wanted)
            except SpanloomError as error:
                self.refused[error.code] += 1
                await asyncio.sleep(0.02)
            else:
                self.told[result.execution_id] = str(result.status)
            self.news.set()

    async def more(self, ended: int) -> None:
        """So many more have ended."""
        wanted = len(self.told) + ended
        while len(self.told) < wanted:
            await self._news()

    async def troubled(self, since: int) -> None:
        """A commit has failed."""
        while self.failed_commits <= since:
            await self._news()

    async def _news(self) -> None:
        self.news.clear()
        await self.news.wait()


@asynccontextmanager
async def loaded(url: str) -> AsyncIterator[Load]:
    """Writers at work while the block runs; when it has ended, all that they began has ended, too."""
    async with AsyncExitStack() as stack:
        shops = [await stack.enter_async_context(workflow_runner(url, keep_signals=False)) for _ in range(WRITERS)]
        load = Load(shops)
        engines = [runner.engine(lambda asked: Say(f"echo {asked.messages[-1]['content']}")) for runner in shops]
        workers = [asyncio.create_task(load.work(engine), name="writer") for engine in engines for _ in range(WORKERS)]
        try:
            async with asyncio.timeout(SECONDS):
                yield load
        finally:
            load.is_over = True
            await asyncio.gather(*workers)


@pytest.mark.slow
@pytest.mark.postgres
async def test_a_database_that_crashes_and_loses_answers_holds_no_wrong_row(cluster: Cluster, figures: Figures) -> None:
    url = cluster.server.create_database()
    await migrations.upgrade(url)
    async with Database(url) as database:
        await add_endpoint(database)
        with figures("F9", crashes=CRASHES, outages=OUTAGES, lost_answers=LEAST_LOST) as figure:
            async with loaded(url) as load:
                with losing_answers(figure.chance("commits"), LOST_SHARE) as lost:
                    for _ in range(CRASHES):
                        await load.more(BETWEEN)
                        before = load.failed_commits
                        await asyncio.to_thread(cluster.crash)
                        await load.troubled(before)
                        figure.hit("crashes")
                        await asyncio.to_thread(cluster.start)
                    for _ in range(OUTAGES):
                        await load.more(BETWEEN)
                        before = load.failed_commits
                        await asyncio.to_thread(cluster.stop)
                        await asyncio.sleep(OUTAGE_SECONDS)
                        await load.troubled(before)
                        figure.hit("outages")
                        await asyncio.to_thread(cluster.start)
                    await load.more(BETWEEN)
            figure.hit("lost answers", lost.lost)
            await look(database, load, figure)


@pytest.mark.slow
@pytest.mark.usefixtures("books_left_open")
async def test_a_file_whose_commits_seem_to_fail_holds_no_wrong_row(migrated_sqlite_url: str, figures: Figures) -> None:
    async with Database(migrated_sqlite_url) as database:
        await add_endpoint(database)
        with figures("F9", lost_answers=LEAST_LOST) as figure:
            async with loaded(migrated_sqlite_url) as load:
                with losing_answers(figure.chance("commits"), LOST_SHARE) as lost:
                    while lost.lost < LEAST_LOST:
                        await load.more(1)
                await load.more(BETWEEN)
            figure.hit("lost answers", lost.lost)
            await look(database, load, figure)


async def look(database: Database, load: Load, figure: Figure) -> None:
    """What was told is what was decided, once; what nobody was told of may be open, and nothing else."""
    left = await left_open(database)
    figure.size("executions", len(load.told))
    figure.size("refused", load.refused.total())
    figure.size("left to the sweeper", len(left))
    figure.none("violations", [one for one in await violations(database) if not is_left_open(one, left)])
    figure.none("left open, and the caller was told", left & load.told.keys())
    figure.none("told otherwise than decided", await told_otherwise(database, load.told))
    figure.none("doubled", await doubled(database))


def is_left_open(violation: Violation, left: set[str]) -> bool:
    """An attempt whose engine could not say how it ended is no wrong row; a lease runs out, and it is ended."""
    return violation.invariant == "I2" and violation.execution_id in left


async def left_open(database: Database) -> set[str]:
    """What has not ended."""
    control = execution_control.c
    async with database.read() as connection:
        rows = await connection.execute(select(control.execution_id).where(control.finished_at.is_(None)))
        return set(rows.scalars())


async def told_otherwise(database: Database, told: dict[str, str]) -> list[str]:
    """Executions whose callers were told something that was not decided."""
    control = execution_control.c
    async with database.read() as connection:
        rows = await connection.execute(select(control.execution_id, control.status))
        decided = {row.execution_id: row.status for row in rows}
    return [
        f"{id_}: told {status}, decided {decided.get(id_)}"
        for id_, status in told.items()
        if decided.get(id_) != status
    ]


async def doubled(database: Database) -> list[str]:
    """Numbers that ran more than once."""
    async with database.read() as connection:
        tags = (await connection.execute(select(executions.c.tags))).scalars().all()
    numbers = Counter(str(each["number"]) for each in tags)
    return [number for number, times in numbers.items() if times > 1]
