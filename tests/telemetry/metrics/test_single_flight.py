"""Concurrent callers share one result, and none gets an old one."""

import asyncio

import pytest

from telemetry.metrics.single_flight import SingleFlight


class Work:
    """Counts how often it is done; each takes until `go`."""

    def __init__(self) -> None:
        self.begun = 0
        self.most_at_once = 0
        self.at_once = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        number = self.begun
        await self.go.wait()
        self.at_once -= 1
        return number


async def rest() -> None:
    """Let every task go on as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_ask_while_it_is_done_share_the_next_one() -> None:
    flight, work = SingleFlight[int](), Work()
    first = asyncio.create_task(flight("a", work))
    await rest()
    later = [asyncio.create_task(flight("a", work)) for _ in range(50)]
    await rest()
    assert work.begun == 1
    work.go.set()
    assert await first == 1
    assert await asyncio.gather(*later) == [2] * 50
    assert work.begun == 2


async def test_different_keys_run_in_turn() -> None:
    flight, work = SingleFlight[int](), Work()
    asked = [asyncio.create_task(flight(key, work)) for key in "abc"]
    await rest()
    work.go.set()
    assert await asyncio.gather(*asked) == [1, 2, 3]
    assert work.most_at_once == 1


async def test_a_cancelled_caller_does_not_affect_the_others() -> None:
    flight, work = SingleFlight[int](), Work()
    leaving, staying = (asyncio.create_task(flight("a", work)) for _ in range(2))
    await rest()
    leaving.cancel()
    await rest()
    work.go.set()
    assert await staying == 1
    assert leaving.cancelled()


async def test_an_error_is_raised_to_all_callers_and_the_next_call_runs_anew() -> None:
    async def fail() -> int:
        raise ValueError("no")

    flight = SingleFlight[int]()
    found = await asyncio.gather(flight("a", fail), flight("a", fail), return_exceptions=True)
    assert [str(error) for error in found] == ["no", "no"]
    with pytest.raises(ValueError, match="no"):
        await flight("a", fail)
