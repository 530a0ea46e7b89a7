"""Executions that are stopped at any point whatever: each ends once, and the books say how."""

import asyncio
import random
from collections import Counter
from contextlib import suppress

import pytest

from engine.execution import Execution, ExecutionEngine
from engine.resources import ModelRequest
from engine.testing import Call, Fail, Say, Step
from tests.conformance.cases import TOOLS, chatter
from tests.workshop import request, streamed, workshop

EXECUTIONS = 300
AT_ONCE = 64
LONGEST_SECONDS = 0.15
"""Until somebody acts; about as long as an execution takes among so many others."""
FEWEST = 10
"""Of each end, or the points were not spread."""


@pytest.mark.slow
async def test_executions_that_are_stopped_anywhere_end_once(migrated_url: str) -> None:
    chance, gate = random.Random(4), asyncio.Semaphore(AT_ONCE)
    async with workshop(migrated_url, keep_signals=False) as shop:
        engine = shop.engine(answer, TOOLS)

        async def one() -> None:
            async with gate:
                await stop_somewhere(engine, chance)

        await asyncio.gather(*(one() for _ in range(EXECUTIONS)))
        await engine.close()
        results = [await execution.result() for execution in engine.started]
        records = [await shop.record(execution.id) for execution in engine.started]
        closings = [await closing_events(execution) for execution in engine.started]
        assert engine.active == 0

    assert [record.status for record in records] == [result.status for result in results]
    assert [record.unpriced_calls for record in records] == [result.unpriced_calls for result in results]
    assert closings == [[result.status] for result in results]
    assert [record.id for record in records if not record.seal.complete] == []
    assert {result.status == "cancelled" for result in results if result.metadata.cancel_reason} == {True}
    ends = Counter(str(result.status) for result in results)
    assert min(ends["completed"], ends["failed"], ends["cancelled"]) >= FEWEST, ends


async def stop_somewhere(engine: ExecutionEngine, chance: random.Random) -> None:
    """Start an execution and, a moment later, cancel it, leave it, or let it be."""
    wanted = request({"kind": "graph", "graph": chatter()}, f"{chance.randrange(10)}")
    streaming = chance.random() < 0.5
    moment = chance.choice([0, 0.1, 1]) * chance.uniform(0, LONGEST_SECONDS)
    match chance.choice(["cancel", "leave", "nothing"]):
        case "cancel":
            execution = await engine.start(wanted, streaming=streaming)
            await asyncio.sleep(moment)
            execution.cancel("enough")
            await execution.result()
        case "leave":
            reader = asyncio.create_task((streamed if streaming else ExecutionEngine.execute)(engine, wanted))
            await asyncio.sleep(moment)
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
        case _:
            await engine.execute(wanted)


def answer(asked: ModelRequest) -> Step:
    """A tool that works or does not, an error, or an answer."""
    text = str(asked.messages[-1]["content"])
    if text in ("1", "2"):
        return Call("calculate" if text == "1" else "broken", {"expression": "6 * 7"})
    return Fail("auth") if text in ("3", "4") else Say("This is the answer.")


async def closing_events(execution: Execution) -> list[str]:
    """Of the execution; there must be one."""
    return [str(event.type) async for event in execution.events() if event.type.is_closing]
