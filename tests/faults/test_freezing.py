"""F2: a process stands still for longer than its leases, and comes back: it finds that it was taken off."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from engine.errors import Unavailable
from engine.store.database import Database
from tests.faults.figures import Figure, Figures, on, short_or_long
from tests.faults.provider import Latency
from tests.faults.world import World, world

FREEZES = short_or_long(2, 20)
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
