"""F16: executions that are stopped at any point whatever: each ends once, as it was stopped, and never as a success."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import pytest

from engine.execution.handle import Execution
from engine.resources import ModelRequest
from engine.result import ExecutionResult
from engine.testing.models import Call, Fail, Hold, Say, Step
from tests.conformance.cases import TOOLS, chatter
from tests.faults.figures import Figure, Figures, short_or_long
from tests.faults.invariants import violations
from tests.workflow_runner import WatchedEngine, request, workflow_runner

EXECUTIONS = short_or_long(300, 3_000)
AT_ONCE = 64
LONGEST_SECONDS = 0.15
"""Until somebody acts; about as long as an execution takes among so many others."""
FEWEST = EXECUTIONS // 30
"""Of each way to be stopped in the middle, or the points were not spread."""
HOLDS = "hold"


@dataclass(frozen=True, slots=True)
class Stopped:
    """How an execution ended, and how it had to: null if it was free to end by itself."""

    execution: Execution
    result: ExecutionResult
    must_be: str | None

    @property
    def is_wrong(self) -> bool:
        """It was stopped and says something else."""
        return self.must_be is not None and self.must_be != told(self.result)


def told(result: ExecutionResult) -> str:
    """Its status; of a failure also the reason."""
    return str(result.status) if result.error_type is None else f"{result.status} {result.error_type}"


@pytest.mark.slow
async def test_executions_that_are_stopped_anywhere_end_once_and_as_they_were_stopped(
    migrated_url: str, figures: Figures
) -> None:
    with figures("F16", cancels=FEWEST, leavings=FEWEST, timeouts=FEWEST) as figure:
        async with workflow_runner(migrated_url, keep_signals=False) as runner:
            engine = runner.engine(answer, TOOLS)
            stopped = await stop_all(engine, figure)
            records = {one.execution.id: await runner.record(one.execution.id) for one in stopped}
            closings = [await closing_events(one.execution) for one in stopped]
            figure.none("violations", await violations(runner.runtime.database))
            assert engine.active == 0

        figure.size("executions", len(stopped))
        figure.none("wrong statuses", [one for one in stopped if one.is_wrong])
        figure.none(
            "records that differ", [one for one in stopped if records[one.execution.id].status != one.result.status]
        )
        figure.none(
            "closings that differ", [c for c, one in zip(closings, stopped, strict=True) if c != [one.result.status]]
        )
        assert {one.result.status == "cancelled" for one in stopped if one.result.metadata.cancel_reason} == {True}
        ends = Counter(str(one.result.status) for one in stopped)
        assert min(ends["completed"], ends["failed"], ends["cancelled"]) >= FEWEST, ends


async def stop_all(engine: WatchedEngine, figure: Figure) -> list[Stopped]:
    """All of them, many at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Stopped:
        chance = figure.chance(f"{number}")
        async with gate:
            return await WAYS[chance.choice(list(WAYS))](engine, chance, figure)

    return await asyncio.gather(*map(one, range(EXECUTIONS)))


async def cancel(engine: WatchedEngine, chance: Random, figure: Figure) -> Stopped:
    """Somebody asks it to stop; from then on it may not end otherwise."""
    execution = await begin(engine, chance, f"{chance.randrange(10)}")
    await asyncio.sleep(moment(chance))
    was_stopped = execution.cancel("enough")
    result = await execution.result()
    figure.hit("cancels", was_stopped)
    return Stopped(execution, result, "cancelled" if was_stopped else None)


async def leave(engine: WatchedEngine, chance: Random, figure: Figure) -> Stopped:
    """The one who started it goes away."""
    execution = await begin(engine, chance, f"{chance.randrange(10)}")
    execution.join()
    await asyncio.sleep(moment(chance))
    had_ended = execution.ended
    execution.leave(0)
    with suppress(asyncio.CancelledError):
        await execution.result()
    figure.hit("leavings", not had_ended)
    result = await execution.result()
    return Stopped(execution, result, "cancelled" if result.metadata.cancel_reason else None)


async def run_out_of_time(engine: WatchedEngine, chance: Random, figure: Figure) -> Stopped:
    """Its model does not answer, or not in time; or it is quick enough."""
    never = chance.random() < 0.5
    limit = max(0.001, moment(chance))
    execution = await begin(engine, chance, HOLDS if never else f"{chance.randrange(10)}", run_seconds=limit)
    result = await execution.result()
    figure.hit("timeouts", result.error_type == "timeout")
    return Stopped(execution, result, "failed timeout" if never else None)


async def be_let(engine: WatchedEngine, chance: Random, figure: Figure) -> Stopped:
    """Nobody stops it."""
    text = f"{chance.randrange(10)}"
    execution = await begin(engine, chance, text)
    return Stopped(execution, await execution.result(), "failed auth" if text in ("3", "4") else "completed")


WAYS: dict[str, Callable[[WatchedEngine, Random, Figure], Awaitable[Stopped]]] = {
    "cancel": cancel,
    "leave": leave,
    "run out of time": run_out_of_time,
    "be let": be_let,
}


async def begin(engine: WatchedEngine, chance: Random, text: str, **limits: float) -> Execution:
    """An execution, streamed or not."""
    wanted = request({"kind": "graph", "graph": chatter(**limits)}, text)
    return await engine.start(wanted, streaming=chance.random() < 0.5)


def moment(chance: Random) -> float:
    """When something happens: at once, soon, or any time."""
    return chance.choice([0, 0.1, 1]) * chance.uniform(0, LONGEST_SECONDS)


def answer(asked: ModelRequest) -> Step:
    """A tool that works or does not, an error, an answer, or none."""
    text = str(asked.messages[-1]["content"])
    if text == HOLDS:
        return Hold()
    if text in ("1", "2"):
        return Call("calculate" if text == "1" else "broken", {"expression": "6 * 7"})
    return Fail("auth") if text in ("3", "4") else Say("This is the answer.")


async def closing_events(execution: Execution) -> list[str]:
    """Of the execution; there must be one."""
    return [str(event.type) async for event in execution.events() if event.type.is_closing]
