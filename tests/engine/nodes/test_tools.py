"""A tools node: which calls run, how often, and what the model is told."""

import asyncio
from collections.abc import Callable

import pytest

from engine.graph import Json, JsonObject
from engine.resources import (
    ModelRequest,
    ToolCall,
    ToolContext,
)
from engine.testing.models import Call, Say, ScriptedModel, Step
from tests.engine.harness import Harness, Run, graph
from tests.engine.nodes.echo import Echo

AGENT_EDGES = ["start -> ask", "ask -tool_calls-> tools", "tools -> ask", "ask -final-> end"]


def agent(tools: JsonObject | None = None, model: JsonObject | None = None) -> JsonObject:
    config: JsonObject = {"allowed_tools": ["echo"], **(tools or {})}
    nodes: list[JsonObject] = [
        {"id": "ask", "type": "model", "config": model or {}},
        {"id": "tools", "type": "tools", "config": config},
    ]
    return graph(nodes, AGENT_EDGES)


def tool_messages(run: Run) -> list[JsonObject]:
    return [message for message in run.result.messages if message["role"] == "tool"]


async def test_a_tool_agent_calls_and_then_answers() -> None:
    harness = Harness([Call("echo", {"text": "pong"}), Say("It said pong.")], tools=[Echo()])
    run = await harness.run(agent())
    assert run.result.response == "It said pong."
    assert (run.result.model_calls, run.result.tool_calls) == (2, 1)
    assert tool_messages(run)[0]["content"] == "pong"
    assert harness.model.requests[0].tools[0].name == "echo"
    assert (
        run.tree
        == """
invoke_workflow test  completed
  execute_node start
  execute_node ask
    chat scripted-1
  execute_node tools
    execute_tool echo
  execute_node ask
    chat scripted-1
  execute_node end
"""
    )


async def test_a_tool_failure_is_returned_to_the_model() -> None:
    run = await Harness([Call("echo", {"text": "x"}), Say("sorry")], tools=[Echo(fails=1)]).run(agent())
    assert run.result.status == "completed"
    message = tool_messages(run)[0]
    assert (message["is_error"], message["content"]) == (True, "the tool is down")


async def test_a_tool_failure_may_end_the_run() -> None:
    harness = Harness([Call("echo", {"text": "x"})], tools=[Echo(fails=1)])
    run = await harness.run(agent({"on_tool_error": "fail"}))
    assert (run.result.status, run.result.error_type) == ("failed", "tool_failed")


@pytest.mark.parametrize(
    ("call", "problem"),
    [(Call("absent"), "there is no tool absent"), (Call("echo", {"text": 1}), "do not fit the tool's schema")],
)
async def test_an_impossible_call_counts_and_is_returned_to_the_model(call: Call, problem: str) -> None:
    run = await Harness([call, Say("sorry")], tools=[Echo()]).run(agent())
    assert run.result.tool_calls == 1
    assert problem in str(tool_messages(run)[0]["content"])


async def test_a_tool_that_takes_too_long_is_cut_off() -> None:
    class Hang(Echo):
        async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
            await asyncio.Event().wait()
            return None

    run = await Harness([Call("echo", {"text": "x"}), Say("sorry")], tools=[Hang()]).run(
        agent({"tool_timeout_seconds": 0.1})
    )
    assert "took longer than 0.1 s" in str(tool_messages(run)[0]["content"])
    assert "execute_tool echo  timeout" in run.tree


async def test_read_tools_are_retried_and_write_tools_are_not() -> None:
    for effect, calls in (("read", 2), ("write", 1)):
        tool = Echo(effect, fails=1, error="connection")  # type: ignore[arg-type]  # both are effects
        document = agent()
        nodes = document["nodes"]
        assert isinstance(nodes, list)
        tools = nodes[-1]
        assert isinstance(tools, dict)
        tools["retry"] = {"max_attempts": 2, "initial_delay_seconds": 0}
        run = await Harness([Call("echo", {"text": "x"}), Say("done")], tools=[tool]).run(document)
        assert run.result.tool_calls == calls
        assert len(set(tool.keys)) == 1, "every attempt has the same idempotency key"


async def test_calls_over_the_limit_are_answered_and_the_tools_are_unbound() -> None:
    calls = tuple({"id": f"c{n}", "name": "echo", "arguments": {"text": str(n)}} for n in range(3))
    script = [Say(tool_calls=calls, finish_reason="tool_calls"), Say("done")]  # type: ignore[arg-type]  # tool calls
    harness = Harness(script, tools=[Echo()])
    document = agent({"max_tool_calls": 2})
    edges = document["edges"]
    assert isinstance(edges, list)
    run = await harness.run(document)
    assert [message["content"] for message in tool_messages(run)] == ["0", "1", "not executed: limit reached"]
    assert harness.model.requests[1].tools == []
    assert run.result.tool_calls == 2


class Fickle(Echo):
    """A tool whose call runs a given function."""

    def __init__(self, act: Callable[[JsonObject], Json]) -> None:
        super().__init__()
        self._act = act

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        return self._act(arguments)


def raises(make: Callable[[str], BaseException]) -> Callable[[JsonObject], Json]:
    def act(arguments: JsonObject) -> Json:
        raise make(str(arguments["text"]))

    return act


@pytest.mark.parametrize(
    ("act", "error_type"),
    [
        (lambda arguments: 2**70, "output_invalid"),
        (raises(ValueError), "ValueError"),
        (raises(asyncio.CancelledError), "CancelledError"),
        (raises(TimeoutError), "TimeoutError"),
    ],
)
async def test_the_span_of_a_misbehaving_tool_ends_and_the_model_gets_a_result(
    act: Callable[[JsonObject], Json], error_type: str
) -> None:
    run = await Harness([Call("echo", {"text": "x"}), Say("sorry")], tools=[Fickle(act)]).run(agent())
    assert (run.result.response, run.result.tool_calls) == ("sorry", 1)
    assert tool_messages(run)[0]["is_error"] is True
    assert f"execute_tool echo  {error_type}" in run.tree


@pytest.mark.parametrize(
    "call", [Call("echo", {"text": ["top secret"]}), Call("echo", {"text": "top secret"}), Call("top secret")]
)
async def test_arguments_of_tool_calls_stay_out_of_the_spans(call: Call) -> None:
    run = await Harness([call, Say("sorry")], tools=[Fickle(raises(ValueError))]).run(agent())
    assert "top secret" in str(tool_messages(run)[0]["content"]), "the model is told"
    assert "top secret" not in str([span.to_json() for span in run.spans])


async def test_a_tool_cannot_change_the_call_it_is_given() -> None:
    tool = Fickle(lambda arguments: arguments.pop("text"))
    run = await Harness([Call("echo", {"text": "x"}), Say("done")], tools=[tool]).run(agent())
    assert run.result.messages[0]["tool_calls"] == [{"id": "call-1", "name": "echo", "arguments": {"text": "x"}}]


async def test_a_call_id_may_repeat_in_a_later_message() -> None:
    harness = Harness([Call("echo", {"text": "one"}), Call("echo", {"text": "two"}), Say("done")], tools=[Echo()])
    run = await harness.run(agent())
    assert run.result.tool_calls == 2
    sent = [message["content"] for message in harness.model.requests[2].messages if message["role"] == "tool"]
    assert sent == ["one", "two"]


def with_tools_node(document: JsonObject, **more: Json) -> JsonObject:
    nodes = document["nodes"]
    assert isinstance(nodes, list)
    tools = nodes[-1]
    assert isinstance(tools, dict)
    tools.update(more)
    return document


def calls_while_it_may(request: ModelRequest) -> Step:
    return Call("echo", {"text": "x"}) if request.tools else Say("done")


async def test_calls_of_a_failed_tools_node_still_count() -> None:
    config: JsonObject = {"on_tool_error": "fail", "max_tool_calls": 2}
    document = with_tools_node(agent(config), on_error={"policy": "continue"})
    harness = Harness(models=[ScriptedModel(calls_while_it_may)], tools=[Echo(fails=9)])
    run = await harness.run(document)
    assert (run.result.response, run.result.tool_calls) == ("done", 2)


async def test_the_limit_of_tool_calls_holds_over_all_branches() -> None:
    def answer(request: ModelRequest) -> Step:
        calls = tuple(ToolCall(id=f"c{n}", name="echo", arguments={"text": "x"}) for n in range(3))
        return Say("done") if request.messages[-1]["role"] == "tool" else Say(tool_calls=calls)

    nodes: list[JsonObject] = [{"id": "join", "type": "model"}]
    edges = ["join -> end"]
    for name in ("a", "b"):
        config: JsonObject = {"allowed_tools": ["echo"]}
        nodes += [{"id": name, "type": "model"}, {"id": f"{name}_tools", "type": "tools", "config": config}]
        edges += [f"start -> {name}", f"{name} -tool_calls-> {name}_tools", f"{name}_tools -> {name}"]
        edges += [f"{name} -final-> join"]
    document = graph(nodes, edges, limits={"max_tool_calls": 4})
    run = await Harness(models=[ScriptedModel(answer)], tools=[Echo()]).run(document)
    assert run.result.tool_calls == 4
    said = [message["content"] for message in tool_messages(run)]
    assert sorted(map(str, said)) == ["not executed: limit reached"] * 2 + ["x"] * 4


async def test_a_tools_node_sets_the_retried_errors_and_each_retry_counts() -> None:
    for error, calls in (("timeout", 2), ("connection", 1)):
        retry: JsonObject = {"max_attempts": 3, "initial_delay_seconds": 0, "retry_on": ["timeout"]}
        document = with_tools_node(agent({"max_tool_calls": 2}), retry=retry)
        harness = Harness([Call("echo", {"text": "x"}), Say("done")], tools=[Echo("read", fails=3, error=error)])
        run = await harness.run(document)
        assert run.result.tool_calls == calls
        assert run.span("execute_node tools")["workflow.tools.calls"] == calls
        assert bool(harness.model.requests[1].tools) is (calls < 2), "nothing is left to bind"


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_events_hold_arguments_and_result_where_the_node_streams(is_streamed: bool) -> None:
    """As for tokens: without `stream` no inner text reaches the reader of a stream."""
    harness = Harness(
        [Call("echo", {"text": "pong"}), Call("lost", {"a": 1}, id="call-2"), Say("done")], tools=[Echo()]
    )
    document = agent()
    tools = next(node for node in document["nodes"] if node["id"] == "tools")  # type: ignore[union-attr,index,call-overload]  # JSON
    tools["stream"] = is_streamed  # type: ignore[index,call-overload]  # JSON
    run = await harness.run(document)
    said = [event.data for event in run.events if event.type.value in ("tool_call", "tool_result")]
    shown = [{key: value for key, value in data.items() if key in ("arguments", "result")} for data in said]
    there: list[JsonObject] = [
        {"arguments": {"text": "pong"}},
        {"result": "pong"},
        {"arguments": {"a": 1}},
        {"result": "there is no tool lost"},
    ]
    assert shown == (there if is_streamed else [{}] * 4)
    assert [data["call_id"] for data in said] == ["call-1", "call-1", "call-2", "call-2"]
