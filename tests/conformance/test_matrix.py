"""The conformance matrix: every source, executed and streamed, through everything that can happen to an execution.

A cell runs the same request twice, once by `execute()` and once by `stream()`, and compares what is left of the two:
record, spans, events, tokens, conversation. `CASES` says what each of them must be.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field

import pytest
from sqlalchemy import select

from engine import semconv
from engine.execution import Execution
from engine.graph import Json, JsonObject
from engine.request import ExecutionRequest
from engine.store.tables import conversation_messages, execution_control
from engine.testing import Call, Fail, Hold, Say, Step
from engine.tools import function_tool
from telemetry.queries import ExecutionRecord
from tests.engine.harness import graph
from tests.workshop import WatchedEngine, Workshop, drawing, request, workshop

SECONDS = 20
RUN_SECONDS = 0.4
KEY = "case"
"""The key of the template and the slug of the definition that a cell runs."""


def broken(text: str) -> str:
    """Fails whatever it is asked."""
    raise RuntimeError("the tool is broken")


def chatter(**limits: Json) -> JsonObject:
    """A model with a tool. Nodes are called as their types, so that an ad-hoc graph's spans have the same names."""
    nodes: list[JsonObject] = [
        {"id": "model", "type": "model", "stream": True, "retry": {"max_attempts": 2, "initial_delay_seconds": 0}},
        {"id": "tools", "type": "tools", "config": {"allowed_tools": ["broken", "calculate"]}},
    ]
    edges = ["start -> model", "model -tool_calls-> tools", "tools -> model", "model -final-> end"]
    return graph(nodes, edges, limits=dict(limits))


DEAD_END = graph([{"id": "model", "type": "model"}], ["start -> model"])
"""Has the shape of a graph, but no way to an end."""


@dataclass(frozen=True)
class Case:
    """What happens to an execution, and what must be left of it. `tree` has the root's name as `{name}`."""

    status: str
    tree: str
    script: list[Step] = field(default_factory=list)
    error_type: str | None = None
    graph: JsonObject = field(default_factory=chatter)
    meddle: Callable[[WatchedEngine, asyncio.Task[None]], Awaitable[None]] | None = None
    """What somebody does while the model is asked."""
    on_disconnect: str = "cancel"
    tokens: str = ""
    calls: tuple[int, int] = (1, 0)
    """Model calls, tool calls."""
    cost_nano_usd: int | None = None
    unpriced_calls: int = 0


async def cancel(engine: WatchedEngine, reader: asyncio.Task[None]) -> None:
    """Somebody asks the engine to stop the execution."""
    assert engine.cancel(engine.started[0].id, "enough")


async def leave(engine: WatchedEngine, reader: asyncio.Task[None]) -> None:
    """The one who started the execution goes away."""
    reader.cancel()


async def leave_it_running(engine: WatchedEngine, reader: asyncio.Task[None]) -> None:
    """The one who started the execution goes away, and then the model answers."""
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
        unpriced_calls=2,
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
        unpriced_calls=1,
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
        unpriced_calls=1,
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
        unpriced_calls=1,
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
NAMES = {"template": KEY, "definition": KEY, "graph": "custom", "chat": "chat"}


@pytest.fixture
async def shop(migrated_url: str) -> AsyncIterator[Workshop]:
    async with workshop(migrated_url) as shop:
        yield shop


@pytest.mark.parametrize("source", list(SOURCES))
@pytest.mark.parametrize("name", list(CASES))
async def test_executed_and_streamed_leave_the_same(shop: Workshop, source: str, name: str) -> None:
    case = CASES[name]
    await shop.store_template(KEY, case.graph)
    await shop.store_definition(KEY, case.graph)
    wanted = request(SOURCES[source](case), on_disconnect=case.on_disconnect)

    executed = await observe(shop, case, await run(shop, case, wanted, execute))
    streamed = await observe(shop, case, await run(shop, case, wanted, stream))

    assert executed == streamed
    assert executed.tree == case.tree.format(name=NAMES[source])
    assert executed.tokens == case.tokens
    record = executed.record
    assert (record["status"], record["error_type"]) == (case.status, case.error_type)
    assert (record["model_calls"], record["tool_calls"]) == case.calls
    assert (record["cost_nano_usd"], record["unpriced_calls"]) == (case.cost_nano_usd, case.unpriced_calls)


async def execute(engine: WatchedEngine, wanted: ExecutionRequest) -> None:
    await engine.execute(wanted)


async def stream(engine: WatchedEngine, wanted: ExecutionRequest) -> None:
    """Read to the end; what the reader saw is what the execution said."""
    async with aclosing(engine.stream(wanted)) as events:
        seen = [event async for event in events]
    assert seen == [event async for event in engine.started[0].events()]


async def run(
    shop: Workshop,
    case: Case,
    wanted: ExecutionRequest,
    way: Callable[[WatchedEngine, ExecutionRequest], Coroutine[None, None, None]],
) -> Execution:
    """One execution of the case, to its end."""
    tools = [function_tool(broken, effect="read")]
    engine = shop.engine(list(case.script), tools)
    reader = asyncio.create_task(way(engine, wanted), name="reader")
    async with asyncio.timeout(SECONDS):
        if case.meddle is not None:
            await engine.model.entered.wait()
            await case.meddle(engine, reader)
        with contextlib.suppress(asyncio.CancelledError):
            await reader
        (execution,) = engine.started
        await execution.result()
    return execution


@dataclass(frozen=True)
class Observed:
    """What an execution left behind, without what differs from one to the next."""

    record: dict[str, object]
    tree: str
    spans: list[tuple[int, dict[str, object]]]
    said: list[tuple[str, dict[str, object]]]
    events: list[JsonObject]
    tokens: str
    conversation: list[tuple[str, str]]


async def observe(shop: Workshop, case: Case, execution: Execution) -> Observed:
    """Look everywhere, and hold what must be true of every single execution."""
    record, trace = await shop.record(execution.id), await shop.trace(execution.id)
    events = [event async for event in execution.events()]
    said = shop.said(execution.id)
    result = await execution.result()

    assert record.status == result.status == await decided(shop, execution.id)
    assert [event.type.is_closing for event in events] == [False] * (len(events) - 1) + [True]
    assert [one.event_name in semconv.TERMINAL_EVENTS for one in said] == [False] * (len(said) - 1) + [True]
    assert record.seal.complete
    assert record.spans_expected == len(trace.spans)
    assert (record.cost_nano_usd, record.unpriced_calls) == (result.cost_nano_usd, result.unpriced_calls)
    assert (record.time_to_first_token_ms is None) == (case.tokens == "")
    return Observed(
        record=stable_record(record),
        tree=drawing(trace.spans),
        spans=[(span.depth, stable({"name": span.name, **(span.attributes or {})})) for span in trace.spans],
        said=[(str(one.event_name), stable(one.attributes or {})) for one in said],
        events=[stable_json(event.document()) for event in events],
        tokens="".join(str(event.data["text"]) for event in events if event.type == "token"),
        conversation=await conversation(shop, record.conversation_id),
    )


async def decided(shop: Workshop, execution_id: str) -> str:
    control = execution_control.c
    async with shop.runtime.database.read() as connection:
        rows = await connection.execute(select(control.status).where(control.execution_id == execution_id))
        return str(rows.scalar_one())


async def conversation(shop: Workshop, conversation_id: str | None) -> list[tuple[str, str]]:
    messages = conversation_messages.c
    query = select(messages.role, messages.content).where(messages.conversation_id == conversation_id)
    async with shop.runtime.database.read() as connection:
        rows = await connection.execute(query.order_by(messages.position))
        return [(row.role, str(row.content)) for row in rows]


OWN_TO_A_RECORD = {
    "id",
    "streaming",
    "conversation_id",
    "correlation_id",
    "trace_id",
    "root_span_id",
    "queued_at",
    "started_at",
    "completed_at",
    "duration_ms",
    "time_to_first_token_ms",
    *(f"time_{part}_ms" for part in ("queue", "model", "tool", "retry", "human", "engine")),
}
OWN_TO_A_SIGNAL = {
    semconv.EXECUTION_ID,
    semconv.STREAMING,
    semconv.CONVERSATION_ID,
    semconv.CORRELATION_ID,
    semconv.QUEUED_AT,
    semconv.STARTED_AT,
    semconv.DURATION_MS,
    semconv.TIME_TO_FIRST_TOKEN,
    semconv.TIME_TO_FIRST_CHUNK,
    semconv.SPANS_HASH,
    semconv.EVENT_ID,
    *(f"workflow.time.{part}" for part in ("queue", "model", "tool", "retry", "human", "engine")),
}
OWN_TO_AN_EVENT = {
    "id",
    "execution_id",
    "message_id",
    "conversation_id",
    "correlation_id",
    "trace_id",
    "at",
    "duration_ms",
}


def stable_record(record: ExecutionRecord) -> dict[str, object]:
    return {name: value for name, value in asdict(record).items() if name not in OWN_TO_A_RECORD}


def stable(attributes: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in attributes.items() if key not in OWN_TO_A_SIGNAL}


def stable_json(document: JsonObject) -> JsonObject:
    return {key: _stable_value(value) for key, value in document.items() if key not in OWN_TO_AN_EVENT}


def _stable_value(value: Json) -> Json:
    if isinstance(value, dict):
        return stable_json(value)
    return [_stable_value(each) for each in value] if isinstance(value, list) else value
