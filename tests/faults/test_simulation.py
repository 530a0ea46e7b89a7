"""The simulation: the same seed is the same run, time costs nothing, and orders nobody thought of are tried."""

import asyncio
import time
from random import Random

import pytest

from tests.faults.simulation import EPOCH_SECONDS, Deadlocked, Fate, SimulatedLoop, explore, simulate


async def three_workers() -> list[str]:
    """Who came when."""
    came: list[str] = []

    async def work(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            came.append(name)

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(work(name), name=name)
    return came


def test_the_same_seed_is_the_same_run() -> None:
    runs = {seed: ["".join(simulate(three_workers, seed)) for _ in range(2)] for seed in range(10)}
    assert all(first == again for first, again in runs.values())
    assert len({first for first, _ in runs.values()}) > 5


def test_a_fair_loop_is_as_asyncio_is() -> None:
    assert "".join(simulate(three_workers, 1, is_fair=True)) == "".join(asyncio.run(three_workers()))


def test_hours_pass_at_once_on_every_clock() -> None:
    async def wait() -> tuple[float, float, float]:
        await asyncio.sleep(36_000)
        return time.monotonic(), time.time(), asyncio.get_running_loop().time()

    began = time.perf_counter()
    assert simulate(wait, 1) == (36_000, EPOCH_SECONDS + 36_000, 36_000)
    assert time.perf_counter() - began < 5


def test_timeouts_work_in_simulated_time() -> None:
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return time.monotonic()

    assert simulate(wait, 1) == 30


def test_a_deadlock_is_found_at_once() -> None:
    with pytest.raises(Deadlocked):
        simulate(asyncio.Event().wait, 1)


async def read_and_write_back(random: Random) -> list[str]:
    """Two that count up by what they read a moment ago: one of them may be forgotten."""
    count = 0

    async def count_up() -> None:
        nonlocal count
        seen = count
        await asyncio.sleep(random.choice([0, 0.001]))
        count = seen + 1

    await asyncio.gather(count_up(), count_up())
    return [] if count == 2 else [f"counted to {count}"]


async def read_and_write_at_once(random: Random) -> list[str]:
    """The same under a lock."""
    lock, count = asyncio.Lock(), 0

    async def count_up() -> None:
        nonlocal count
        async with lock:
            seen = count
            await asyncio.sleep(random.choice([0, 0.001]))
            count = seen + 1

    await asyncio.gather(count_up(), count_up())
    return [] if count == 2 else [f"counted to {count}"]


def test_a_race_is_found_and_its_absence_too() -> None:
    broken = explore(read_and_write_back, range(50))
    assert broken
    assert explore(read_and_write_back, range(broken[0].seed, broken[0].seed + 1)) == broken[:1]
    assert explore(read_and_write_at_once, range(50)) == []


def test_what_crashes_is_told_with_its_seed() -> None:
    async def crash(random: Random) -> list[str]:
        if random.random() < 0.5:
            raise ZeroDivisionError("a fault of ours")
        return []

    broken = explore(crash, range(20))
    assert 0 < len(broken) < 20
    assert broken[0].what == "ZeroDivisionError: a fault of ours"


def test_there_are_no_threads() -> None:
    async def ask_a_thread() -> None:
        await asyncio.to_thread(time.sleep, 0)

    with pytest.raises(AssertionError, match="no thread"):
        simulate(ask_a_thread, 1)


def test_troubles_come_as_often_as_they_are_likely() -> None:
    fate = Fate(Random(1), {"always": 1.0, "now and then": 0.3})
    strikes = [fate.strikes(trouble) for _ in range(100) for trouble in ("always", "now and then", "never")]
    assert fate.hits["always"] == 100
    assert 15 < fate.hits["now and then"] < 45
    assert sum(strikes) == sum(fate.hits.values())


def test_the_loop_says_who_ran() -> None:
    loop = SimulatedLoop(1)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(three_workers())
    assert {"a", "b", "c"} <= set(loop.trace)
