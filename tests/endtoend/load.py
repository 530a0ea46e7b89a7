"""Executions of every source and outcome, streamed and not; an execution's number decides everything about it."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from engine.graph import JsonObject
from engine.resources import ModelRequest
from engine.result import ExecutionResult
from engine.testing.models import Call, Fail, Hold, Say, Step
from tests.engine.harness import graph
from tests.workflow_runner import WatchedEngine, WorkflowRunner, request, streamed

AT_ONCE = 16
NAMED = "helper"
"""The template's key and the definition's slug."""

AGENT: JsonObject = graph(
    [
        {"id": "look", "type": "retrieval", "config": {"retriever": "files", "options": {"path": "."}}},
        {"id": "answer", "type": "model", "stream": True, "retry": {"max_attempts": 2, "initial_delay_seconds": 0}},
        {"id": "tools", "type": "tools", "config": {"allowed_tools": ["calculate"]}},
    ],
    [
        "start -> look",
        "look -found-> answer",
        "look -empty-> answer",
        "answer -tool_calls-> tools",
        "tools -> answer",
        "answer -final-> end",
    ],
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a graph comes from, and what its executions are called in spans."""

    source: JsonObject
    name: str


SOURCES = (
    Source({"kind": "template", "template": NAMED}, NAMED),
    Source({"kind": "definition", "definition": NAMED}, NAMED),
    Source({"kind": "graph", "graph": AGENT}, "test"),
    Source({"kind": "chat", "template": NAMED}, "chat"),
)

_BEGIN = """
invoke_workflow {name}
  execute_node start
  execute_node look
    retrieval files
"""
GOLDEN = {
    "completed": f"""{_BEGIN}  execute_node answer
    chat scripted-1
  execute_node tools
    execute_tool calculate
  execute_node answer
    chat scripted-1
  execute_node end
""",
    "tool fails": f"""{_BEGIN}  execute_node answer
    chat scripted-1
  execute_node tools
    execute_tool calculate  expression_error
  execute_node answer
    chat scripted-1
  execute_node end
""",
    "refused": f"""{_BEGIN.replace("{name}", "{name}  auth")}  execute_node answer  auth
    chat scripted-1  auth
""",
    "cut off": f"""{_BEGIN.replace("{name}", "{name}  connection")}  execute_node answer  connection
    chat scripted-1  connection
  execute_node answer  connection
    chat scripted-1  connection
""",
    "cancelled": f"""{_BEGIN}  execute_node answer
    chat scripted-1
""",
}
"""How the trace of each story is drawn: names, and error types."""


def source_of(number: int) -> Source:
    """The source of an execution; all sources take turns."""
    return SOURCES[number % len(SOURCES)]


def is_streamed(number: int) -> bool:
    """Whether it is streamed: every other round of the sources is."""
    return number // len(SOURCES) % 2 == 1


def story_of(number: int) -> str:
    """The outcome, a key of `GOLDEN`; most executions complete."""
    match number % 25:
        case 3 | 12:
            return "refused"
        case 6:
            return "cut off"
        case 9:
            return "cancelled"
        case 15:
            return "tool fails"
    return "completed"


def golden(number: int) -> str:
    """The expected drawing of its trace."""
    source = source_of(number)
    return GOLDEN[story_of(number)].format(name=source.name)


async def run_all(runner: WorkflowRunner, numbers: Iterable[int]) -> dict[int, ExecutionResult]:
    """Run these executions concurrently; returns the results by number."""
    engine, slots = runner.engine(answer), asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> tuple[int, ExecutionResult]:
        async with slots:
            return number, await run(runner, engine, number)

    return dict(await asyncio.gather(*map(one, numbers)))


async def run_until(runner: WorkflowRunner, stop: asyncio.Event, *, workers: int = 4, pause: float = 0.02) -> list[str]:
    """Run executions until `stop` is set; returns the ids of all accepted ones."""
    engine, ids, number = runner.engine(answer), list[str](), 0

    async def work() -> None:
        nonlocal number
        while not stop.is_set():
            number += 1
            ids.append((await run(runner, engine, number)).execution_id)
            await asyncio.sleep(pause)

    await asyncio.gather(*(work() for _ in range(workers)))
    return ids


async def run(runner: WorkflowRunner, engine: WatchedEngine, number: int) -> ExecutionResult:
    """Run one execution; its number is one of its tags."""
    wanted = request(source_of(number).source, f"run {number}", tags={"number": f"{number}"})
    if story_of(number) == "cancelled":
        holding = runner.engine([Hold(after="It is ")])
        execution = await holding.start(wanted, streaming=is_streamed(number))
        await holding.model.entered.wait()
        execution.cancel("enough")
        return await execution.result()
    return await (streamed(engine, wanted) if is_streamed(number) else engine.execute(wanted))


def answer(asked: ModelRequest) -> Step:
    """The model's step, which depends on the number in the user's message."""
    first = next(str(message["content"]) for message in asked.messages if "run " in str(message["content"]))
    story = story_of(int(first.split("run ")[-1].split()[0]))
    if story == "refused":
        return Fail("auth", "the key is wrong")
    if story == "cut off":
        return Fail("connection", "cut", after="It ")
    if asked.messages[-1]["role"] == "user":
        return Call("calculate", {"expression": "6 *" if story == "tool fails" else "6 * 7"})
    return Say("It is 42.")
