"""F1: the process that runs executions is killed at random: each of them ends, and the books say how."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.store.claims import MAX_CRASHES
from tests.faults.clients import Told
from tests.faults.figures import Figure, Figures, on, short_or_long
from tests.faults.provider import Latency
from tests.faults.world import TERMINAL_SECONDS, End, World, p95, seconds_to_end, world

KILLS = short_or_long(3, 20)
EXECUTIONS = short_or_long(120, 1_000)
WORKERS = 16
RETRIED = 5
"""Every so-manieth execution asks to be retried if its process is lost."""

SECONDS = short_or_long(110, 1_200)


@pytest.mark.slow
@on("postgres")
@pytest.mark.timeout(240)
async def test_a_process_that_is_killed_leaves_no_execution_without_an_end(
    migrated_url: str, tmp_path: Path, figures: Figures
) -> None:
    with figures("F1", kills=KILLS, executions_cut_off=KILLS) as figure:
        latency = Latency(figure.chance("models"), first_seconds=0.2, word_seconds=0.05)
        async with world(migrated_url, tmp_path, figure, latency=latency) as around:
            around.hooks.failing = 0.1
            async with asyncio.timeout(SECONDS):
                told, crashes = await under_fire(around, figure)
            await around.settled()
            ends = await around.ends()
            waits = seconds_to_end(ends, crashes)
            figure.size("executions", len(ends))
            figure.hit("executions cut off", len(waits))
            figure.none("without a terminal record", [id_ for id_, end in ends.items() if end.finished_at is None])
            given_up = [id_ for id_, end in ends.items() if end.attempt > 1 and end.error_type == "engine_lost"]
            figure.size("given up after three crashes", len(given_up))
            figure.none("wrong statuses", wrong_statuses(told, ends, crashes))
            figure.reach("p95 seconds from the crash to the end", p95(waits), at_most=TERMINAL_SECONDS)
            figure.none("violations", await around.violations())


async def under_fire(around: World, figure: Figure) -> tuple[list[Told], list[datetime]]:
    """Run the executions while the process is killed again and again. What clients were told, and when it died."""
    told: list[Told] = []
    crashes: list[datetime] = []
    numbers, stop = iter(range(EXECUTIONS)), asyncio.Event()
    async with asyncio.TaskGroup() as readers:
        readers.create_task(around.callers.watch(stop, figure.chance("reads")), name="reader")
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(work(around, numbers, told), name="client")
            await kill_again_and_again(around, figure, crashes)
        stop.set()
    return told, crashes


async def kill_again_and_again(around: World, figure: Figure, crashes: list[datetime]) -> None:
    """Each time after some more calls of the model."""
    chance = figure.chance("kills")
    for _ in range(KILLS):
        await around.models.until_asked(chance.randint(1, EXECUTIONS // KILLS))
        crashes.append(datetime.now(UTC))
        await around.server.kill()
        figure.hit("kills")
        await around.server.start()


async def work(around: World, numbers: Iterator[int], told: list[Told]) -> None:
    """One execution after the other, of every source, half of them streamed."""
    for number in numbers:
        on_lost = "retry" if number % RETRIED == 0 else "fail"
        wanted = {"on_lost": on_lost}
        one = await around.callers.start(number=number, overrides=wanted, on_disconnect="continue")
        while one.was_unreachable:
            await asyncio.sleep(0.2)
            one = await around.callers.start(number=number, overrides=wanted, on_disconnect="continue")
        told.append(one)


def wrong_statuses(told: list[Told], ends: dict[str, End], crashes: list[datetime]) -> list[str]:
    """A client was told something else, or it ended in a way that nothing here explains."""
    wrong = [
        f"{one.execution_id}: told {one.status}, decided {ends[one.execution_id].status}"
        for one in told
        if one.execution_id and one.status and ends[one.execution_id].status != one.status
    ]
    for id_, end in ends.items():
        if end.status == "completed":
            continue
        least, most = (MAX_CRASHES, len(end.during(crashes))) if end.on_lost == "retry" else (1, 1)
        is_lost = end.status == "failed" and end.error_type == "engine_lost"
        if not (is_lost and end.during(crashes) and least <= end.attempt <= most):
            wrong.append(f"{id_}: {end.status} {end.error_type} at attempt {end.attempt}")
    return wrong
