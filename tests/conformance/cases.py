"""The cases of the conformance matrix: everything that can happen to an execution, and the sources it can come from."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from engine.graph import Json, JsonObject
from engine.testing.models import Call, Fail, Hold, Say, Step
from engine.tools.function import function_tool
from tests.engine.harness import graph
from tests.workflow_runner import WatchedEngine

RUN_SECONDS = 1.0
KEY = "case"
"""The key of the template and the slug of the definition that a cell runs."""


def broken(text: str) -> str:
    """A tool that always fails."""
    raise RuntimeError("the tool is broken")


TOOLS = [function_tool(broken, effect="read")]


def chatter(**limits: Json) -> JsonObject:
    """A model with a tool."""
    nodes: list[JsonObject] = [
        {"id": "model", "type": "model", "stream": True, "retry": {"max_attempts": 2, "initial_delay_seconds": 0}},
        {"id": "tools", "type": "tools", "config": {"allowed_tools": ["broken", "calculate"]}},
    ]
    edges = ["start -> model", "model -tool_calls-> tools", "tools -> model", "model -final-> end"]
    return graph(nodes, edges, limits=dict(limits))


DEAD_END = graph([{"id": "model", "type": "model"}], ["start -> model"])
"""A graph whose shape is valid but which has no path to an end."""


@dataclass(frozen=True)
class Case:
    """One case: the script of an execution and its expected records. `tree` contains the root's name as `{name}`."""

    status: str
    tree: str
    script: list[Step] = field(default_factory=list)
    error_type: str | None = None
    graph: JsonObject = field(default_factory=chatter)
    meddle: Callable[[WatchedEngine, asyncio.Task[None]], Awaitable[None]] | None = None
    """An action during the model call, such as a cancellation."""
    on_disconnect: str = "cancel"
    tokens: str = ""
    calls: tuple[int, int] = (1, 0)
    """Model calls, tool calls."""
    cost_nano_usd: int | None = None
    unmetered_calls: int = 0


async def cancel(engine: WatchedEngine, reader: asyncio.Task[None]) -> None:
    """Cancel the execution through the engine."""
    assert engine.cancel(engine.started[0].id, "enough")


async def leave(engine: WatchedEngine, reader: asyncio.Task[None]) -> None:
    """Disconnect the caller of the execution."""
    reader.cancel()


async def leave_it_running(engine: WatchedEngine, reader: asyncio.Task[None]) -> None:
    """Disconnect the caller of the execution, then let the model answer."""
    reader.cancel()
    await asyncio.wait([reader])
    engine.model.release.set()


A_CALL = 12 * 1_000 + 7 * 2_000

CASES = {
    "ok": Case(
        "completed",
        """
invoke_workflow {name}  completed
  execute_node start
  execute_node model
    chat scripted-1
  execute_node tools
    execute_tool calculate
  execute_node model
    chat scripted-1
  execute_node end
""",
        script=[Call("calculate", {"expression": "6 * 7"}), Say("It is 42.")],
        tokens="It is 42.",
        calls=(2, 1),
        cost_nano_usd=2 * A_CALL,
    ),
    "model error": Case(
        "failed",
        """
invoke_workflow {name}  failed  auth
  execute_node start
  execute_node model  failed  auth
    chat scripted-1  failed  auth
""",
        script=[Fail("auth", "wrong key")],
        error_type="auth",
        cost_nano_usd=0,
    ),
    "model error mid-stream": Case(
        "failed",
        """
invoke_workflow {name}  failed  connection
  execute_node start
  execute_node model  retrying  connection
    chat scripted-1  failed  connection
  execute_node model  failed  connection
    chat scripted-1  failed  connection
""",
        script=[Fail("connection", "cut", after="It is "), Fail("connection", "cut again", after="It ")],
        error_type="connection",
        tokens="It is It ",
        calls=(2, 0),
        unmetered_calls=2,
    ),
    "tool error": Case(
        "completed",
        """
invoke_workflow {name}  completed
  execute_node start
  execute_node model
    chat scripted-1
  execute_node tools
    execute_tool broken  failed  RuntimeError
  execute_node model
    chat scripted-1
  execute_node end
""",
        script=[Call("broken", {"text": "x"}), Say("I could not look it up.")],
        tokens="I could not look it up.",
        calls=(2, 1),
        cost_nano_usd=2 * A_CALL,
    ),
    "invalid graph": Case(
        "failed",
        """
invoke_workflow {name}  failed  invalid_workflow
""",
        error_type="invalid_workflow",
        graph=DEAD_END,
        calls=(0, 0),
        cost_nano_usd=0,
    ),
    "timeout": Case(
        "failed",
        """
invoke_workflow {name}  failed  timeout
  execute_node start
  execute_node model  failed  timeout
    chat scripted-1  failed  timeout
""",
        script=[Hold(after="It is ")],
        error_type="timeout",
        graph=chatter(run_seconds=RUN_SECONDS),
        tokens="It is ",
        unmetered_calls=1,
    ),
    "cancel": Case(
        "cancelled",
        """
invoke_workflow {name}  cancelled
  execute_node start
  execute_node model  cancelled
    chat scripted-1  cancelled
""",
        script=[Hold(after="It is ")],
        meddle=cancel,
        tokens="It is ",
        unmetered_calls=1,
    ),
    "client leaves": Case(
        "cancelled",
        """
invoke_workflow {name}  cancelled
  execute_node start
  execute_node model  cancelled
    chat scripted-1  cancelled
""",
        script=[Hold(after="It is ")],
        meddle=leave,
        tokens="It is ",
        unmetered_calls=1,
    ),
    "client leaves, run goes on": Case(
        "completed",
        """
invoke_workflow {name}  completed
  execute_node start
  execute_node model
    chat scripted-1
  execute_node end
""",
        script=[Hold(then=Say("42."), after="It is ")],
        meddle=leave_it_running,
        on_disconnect="continue",
        tokens="It is 42.",
        cost_nano_usd=A_CALL,
    ),
}

SOURCES: dict[str, Callable[[Case], JsonObject]] = {
    "template": lambda case: {"kind": "template", "template": KEY},
    "definition": lambda case: {"kind": "definition", "definition": KEY},
    "graph": lambda case: {"kind": "graph", "graph": case.graph},
    "chat": lambda case: {"kind": "chat", "template": KEY},
}
NAMES = {"template": KEY, "definition": KEY, "graph": "test", "chat": "chat"}
