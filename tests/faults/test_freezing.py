"""F2: a process stands still for longer than its leases, and comes back: it finds that it was taken off."""

import asyncio
import time
from pathlib import Path

import pytest
from sqlalchemy import select, text

from engine.database.database import IDLE_SECONDS, Database
from engine.errors import Unavailable
from engine.store.tables import execution_control
from tests.faults.figures import Figure, Figures, on, short_or_long
from tests.faults.provider import Latency
from tests.faults.world import World, world

FREEZES = short_or_long(2, 20)
IN_A_STATEMENT = short_or_long(1, 10)
AT_ONCE = 8
"""Executions that run when it is frozen."""


@pytest.mark.slow
@on("postgres")
@pytest.mark.timeout(240)
async def test_a_process_that_comes_back_decides_nothing_any_more(
    migrated_url: str, tmp_path: Path, figures: Figures
) -> None:
    with figures("F2", freezes=FREEZES, late_completions=FREEZES) as figure:
        latency = Latency(figure.chance("models"), first_seconds=2.0, word_seconds=0.2)
        async with world(migrated_url, tmp_path, figure, latency=latency, servers=2) as around:
            changed: list[str] = []
            for _ in range(FREEZES):
                changed += await freeze_once(around, figure)
            await around.settled()
            figure.size("executions", len(await around.ends()))
            figure.none("ends that were changed", changed)
            figure.none("violations", await around.violations())


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(240)
async def test_a_process_that_stands_still_in_a_statement_holds_nobody_up(
    migrated_postgres_url: str, tmp_path: Path, figures: Figures
) -> None:
    with figures("F2", freezes_in_a_statement=IN_A_STATEMENT) as figure:
        latency = Latency(figure.chance("models"), first_seconds=0.3, word_seconds=0.05)
        async with world(migrated_postgres_url, tmp_path, figure, latency=latency, servers=2) as around:
            waits: list[float] = []
            for _ in range(IN_A_STATEMENT):
                running = await freeze_in_a_statement(around)
                figure.hit("freezes in a statement")
                began = time.monotonic()
                await around.settled()
                waits.append(time.monotonic() - began)
                around.server.thaw()
                await asyncio.gather(*running)
                await around.server.until_ready()
            await around.settled()
            figure.size("executions", len(await around.ends()))
            figure.reach("seconds until nothing was open", max(waits), at_most=1.5 * IDLE_SECONDS)
            figure.none("violations", await around.violations())


async def freeze_in_a_statement(around: World) -> list["asyncio.Task[None]"]:
    """Freeze the first server where it has sent a statement in part, with locks that others need."""
    while True:
        running = [asyncio.create_task(begin(around), name="client") for _ in range(AT_ONCE)]
        while not all(task.done() for task in running):
            around.server.freeze()
            if await stands_in_a_statement(around):
                return running
            around.server.thaw()
            await asyncio.sleep(0.01)


async def stands_in_a_statement(around: World) -> bool:
    """It has begun one and waits in it, and holds executions that are open; the other one's waits are short."""
    await asyncio.sleep(0.02)
    begun = await begun_in_part(around)
    if not begun:
        return False
    await asyncio.sleep(0.5)
    return bool(begun & await begun_in_part(around) and await held(around))


async def begun_in_part(around: World) -> set[object]:
    """When the statements were begun that PostgreSQL waits for the rest of, in transactions."""
    statement = text(
        "SELECT query_start FROM pg_stat_activity"
        " WHERE state = 'active' AND wait_event = 'ClientRead' AND xact_start < query_start"
    )
    async with around.database.read() as connection:
        return set((await connection.execute(statement)).scalars())


async def held(around: World) -> set[str]:
    """Open executions whose rows somebody has locked."""
    is_open = select(execution_control.c.execution_id).where(execution_control.c.finished_at.is_(None))
    async with around.database.read() as connection:
        free = (await connection.execute(is_open.with_for_update(skip_locked=True))).scalars().all()
        return set((await connection.execute(is_open)).scalars()) - set(free)


async def freeze_once(around: World, figure: Figure) -> list[str]:
    """Freeze the first server in the midst of its work until the other one has ended that; then thaw it."""
    running = [asyncio.create_task(begin(around), name="client") for _ in range(AT_ONCE)]
    await around.models.until_asked(AT_ONCE)
    await freeze(around, migrated_url=around.server.environment["SPANLOOM_DATABASE_URL"])
    figure.hit("freezes")
    taken = [id_ for id_, end in (await around.ends()).items() if end.finished_at is None]
    await around.settled()
    before = await around.ends()
    figure.hit("late completions", sum(before[id_].error_type == "engine_lost" for id_ in taken))
    around.server.thaw()
    await asyncio.gather(*running)
    await around.server.until_ready()
    after = await around.ends()
    return [f"{id_}: {before[id_]}, then {after[id_]}" for id_ in before if after[id_] != before[id_]]


async def begin(around: World) -> None:
    """A streamed execution on the server that will be frozen."""
    await around.callers.start(streaming=True, on_disconnect="continue")


async def freeze(around: World, *, migrated_url: str) -> None:
    """Not while it holds the database's only write lock: then nobody could act until it is back."""
    async with Database(migrated_url, busy_seconds=0.2) as database:
        while True:
            around.server.freeze()
            try:
                async with database.begin() as connection:
                    await connection.execute(text("DELETE FROM graphs WHERE content_hash = 'nobody'"))
            except Unavailable:
                around.server.thaw()
                await asyncio.sleep(0.01)
            else:
                return
