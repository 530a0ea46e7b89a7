"""A deploy that crashes again and again soon after its start ends no work in flight, nor does a poisoned workflow."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from engine.database.database import Database
from engine.graph import JsonObject
from engine.store import langgraph_private
from engine.store.claims import MAX_CRASHES
from tests.engine.harness import graph
from tests.faults.figures import Figures, on, short_or_long
from tests.faults.provider import Answer, Asked, Latency
from tests.faults.world import FAST, End, World, world

LOSSES = short_or_long(MAX_CRASHES, MAX_CRASHES + 2)
"""Of each execution, at least: so many crashes would end it."""
LIFE_SECONDS = 8.0
"""From the start of a process to its death, at most: less than the time after which a crash counts."""
EXECUTIONS = 6
POISON = "poison"
POISON_RUN_SECONDS = 7
MOST_POISONED = 4 + MAX_CRASHES
"""Deaths that the poison can cause: after 1, 2 and 4 s its run time is over, and later deaths of a process count."""
SECONDS = short_or_long(150, 300)

ASK: JsonObject = graph(
    [
        {"id": "first", "type": "model"},
        {"id": "fork", "type": "variable", "config": {"variable_name": "n", "value": 1}},
        {"id": "left", "type": "model", "config": {"append_to_messages": False}},
        {"id": "right", "type": "model", "config": {"append_to_messages": False}},
        {"id": "both", "type": "variable", "config": {"variable_name": "n", "value": 2}},
    ],
    [
        "start -> first",
        "first -> fork",
        "fork -> left",
        "fork -> right",
        "left -> both",
        "right -> both",
        "both -> end",
    ],
    durability="step",
)


class Held(Latency):
    """A model that answers nobody until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = asyncio.Event()

    async def first(self) -> None:
        await self.is_open.wait()


async def queue(around: World, number: int, message: str, **overrides: object) -> str:
    """Queue an execution that survives its process; returns its id."""
    told = await around.callers.start(
        number=number,
        mode="async",
        source={"kind": "graph", "graph": ASK},
        message=message,
        overrides={"on_lost": ("retry", "resume")[number % 2], **overrides},
    )
    assert told.execution_id is not None, told
    return told.execution_id


@pytest.mark.slow
@on("postgres")
@pytest.mark.timeout(SECONDS + 60)
async def test_a_deploy_that_crashes_in_a_loop_ends_no_work_in_flight(
    migrated_url: str, tmp_path: Path, figures: Figures
) -> None:
    with figures("F1", early_crashes=LOSSES, attempts_lost=LOSSES * EXECUTIONS) as figure:
        held = Held()
        async with world(migrated_url, tmp_path, figure, latency=held, settings=FAST) as around:
            async with asyncio.timeout(SECONDS):
                for number in range(EXECUTIONS):
                    await queue(around, number, f"work {number}")
                await around.server.kill()
                while any(end.attempt <= LOSSES for end in (await around.ends()).values()):
                    await crash_soon(around)
                    figure.hit("early crashes")
                held.is_open.set()
                await around.server.start()
                await around.settled()
            ends = await around.ends()
            figure.hit("attempts lost", sum(end.attempt - 1 for end in ends.values()))
            figure.none(
                "not completed", [described(id_, end) for id_, end in ends.items() if end.status != "completed"]
            )
            figure.none("violations", await around.violations())
            figure.none("checkpoints of ended executions", await checkpointed(around.database))


async def crash_soon(around: World) -> None:
    """Start the server, let it claim what it can, and kill it while it is young."""
    around.server.launch()
    with suppress(TimeoutError):
        async with asyncio.timeout(LIFE_SECONDS):
            await around.models.until_asked(EXECUTIONS)
    await around.server.kill()


@pytest.mark.slow
@on("sqlite")
@pytest.mark.timeout(SECONDS + 60)
async def test_a_workflow_that_kills_its_process_takes_no_other_down_and_is_given_up(
    migrated_url: str, tmp_path: Path, figures: Figures
) -> None:
    with figures("F1", deaths=MAX_CRASHES) as figure:
        latency = Latency(figure.chance("models"), first_seconds=0.3)
        async with world(migrated_url, tmp_path, figure, latency=latency, settings=FAST) as around:

            def answer(asked: Asked) -> Answer:
                if asked.text == POISON and around.server.is_running:
                    os.kill(around.server.pid, signal.SIGKILL)
                    figure.hit("deaths")
                return Answer()

            around.models.answer = answer
            limits: JsonObject = {"limits": {"run_seconds": POISON_RUN_SECONDS}}
            async with supervised(around), asyncio.timeout(SECONDS):
                others = [await queue(around, number, f"work {number}") for number in range(EXECUTIONS)]
                poison = await queue(around, EXECUTIONS, POISON, **limits)
                await around.settled()
            ends = await around.ends()
            figure.none("taken down", [described(id_, ends[id_]) for id_ in others if ends[id_].status != "completed"])
            assert (ends[poison].status, ends[poison].error_type) == ("failed", "engine_lost")
            figure.reach("deaths of a process", figure.hits["deaths"], at_most=MOST_POISONED)
            figure.none("violations", await around.violations())
            figure.none("checkpoints of ended executions", await checkpointed(around.database))


@asynccontextmanager
async def supervised(around: World) -> AsyncIterator[None]:
    """Start the server again whenever it has died, as an orchestrator does."""

    async def watch() -> None:
        while True:
            if not around.server.is_running:
                around.server.launch()
            await asyncio.sleep(0.1)

    task = asyncio.create_task(watch(), name="supervisor")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def checkpointed(database: Database) -> list[str]:
    """The threads of LangGraph that are left once all has ended, after time for the keeper to find them."""
    deadline = time.monotonic() + 15
    while True:
        async with database.read() as connection:
            threads = (await connection.execute(text(langgraph_private.THREADS))).scalars().all()
        if not threads or time.monotonic() > deadline:
            return list(threads)
        await asyncio.sleep(0.2)


def described(id_: str, end: End) -> str:
    """How it ended."""
    return f"{id_}: {end.status} {end.error_type} at attempt {end.attempt}, on_lost {end.on_lost}"
