"""F4: asked to stop under load, a process ends in time, and nothing that it has accepted is lost."""

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.faults.figures import Figure, Figures, on, short_or_long
from tests.faults.provider import Latency
from tests.faults.world import World, world

STOPS = short_or_long(2, 20)
WORKERS = 12
DRAIN_SECONDS = short_or_long(2, 20)
EXIT_SECONDS = 28.0
BETWEEN = 30
"""Calls of the model between two stops, at most."""


@pytest.mark.slow
@on("sqlite")
@pytest.mark.timeout(240)
async def test_a_process_that_is_asked_to_stop_ends_in_time_and_loses_nothing(
    migrated_url: str, tmp_path: Path, figures: Figures
) -> None:
    settings = {"SPANLOOM_DRAIN_SECONDS": f"{DRAIN_SECONDS}"}
    with figures("F4", stops=STOPS, executions_open_at_a_stop=STOPS) as figure:
        latency = Latency(figure.chance("models"), first_seconds=1.5 * DRAIN_SECONDS, word_seconds=0.1)
        async with world(migrated_url, tmp_path, figure, latency=latency, settings=settings) as around:
            longest = await under_load(around, figure)
            await around.settled()
            ends = await around.ends()
            figure.size("executions", len(ends))
            figure.reach("longest seconds to exit", longest, at_most=EXIT_SECONDS)
            figure.none("lost", [id_ for id_ in around.callers.accepted if id_ not in ends])
            lost = [f"{id_}: {end.error_type}" for id_, end in ends.items() if end.error_type == "engine_lost"]
            figure.none("counted as lost by a crash", lost)
            figure.none("violations", await around.violations())


async def under_load(around: World, figure: Figure) -> float:
    """Stop and start again while clients go on; the longest time until the process had ended."""
    chance, longest, over = figure.chance("stops"), 0.0, asyncio.Event()
    numbers = count()
    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(work(around, numbers, over), name="client")
        for stop in range(STOPS):
            await around.models.until_asked(chance.randint(1, BETWEEN))
            is_open = sum(end.finished_at is None for end in (await around.ends()).values())
            stopped = await around.server.stop()
            longest = max(longest, stopped.seconds)
            figure.hit("executions open at a stop", is_open)
            figure.hit("stops", stopped.exit_code == 0)
            if stop == STOPS - 1:
                over.set()
            await around.server.start()
    return longest


async def work(around: World, numbers: Iterator[int], over: asyncio.Event) -> None:
    """One execution after the other, of every source, half of them streamed."""
    for number in numbers:
        if over.is_set():
            return
        told = await around.callers.start(number=number, on_disconnect="continue")
        if told.was_unreachable or told.refused:
            await asyncio.sleep(0.2)
