"""What each node type does beyond routing."""

import asyncio
from collections.abc import Callable

import pytest

from engine.graph import Json, JsonObject
from engine.resources import (
    Effect,
    Message,
    ModelRequest,
    Passage,
    RetrievalQuery,
    ToolCall,
    ToolContext,
    ToolSpec,
)
from engine.testing.models import Call, Fail, Hold, Say, ScriptedModel, Step
from tests.engine.harness import Harness, Run, graph

AGENT_EDGES = ["start -> ask", "ask -tool_calls-> tools", "tools -> ask", "ask -final-> end"]


class Echo:
    """A tool that gives its argument back."""

    def __init__(self, effect: Effect = "read", *, fails: int = 0, error: str = "broken") -> None:
        self.spec = ToolSpec(
            "echo",
            "Says what it is told.",
            {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
        )
        self.effect: Effect = effect
        self.keys: list[str] = []
        self._fails = fails
        self._error = error

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        self.keys.append(context.idempotency_key)
        if len(self.keys) <= self._fails:
            from engine.errors import ModelFailure

            raise ModelFailure(self._error, "the tool is down")
        return arguments["text"]


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
invoke_workflow custom  completed
  execute_node start
  execute_node model
    chat scripted-1
  execute_node tools
    execute_tool echo
  execute_node model
    chat scripted-1
  execute_node end
"""
    )


async def test_a_tool_that_fails_is_told_to_the_model() -> None:
    run = await Harness([Call("echo", {"text": "x"}), Say("sorry")], tools=[Echo(fails=1)]).run(agent())
    assert run.result.status == "completed"
    message = tool_messages(run)[0]
    assert (message["is_error"], message["content"]) == (True, "the tool is down")


async def test_a_tool_that_fails_may_end_the_run() -> None:
    harness = Harness([Call("echo", {"text": "x"})], tools=[Echo(fails=1)])
    run = await harness.run(agent({"on_tool_error": "fail"}))
    assert (run.result.status, run.result.error_type) == ("failed", "tool_failed")


@pytest.mark.parametrize(
    ("call", "problem"),
    [(Call("absent"), "there is no tool absent"), (Call("echo", {"text": 1}), "do not fit the tool's schema")],
)
async def test_a_call_that_cannot_be_made_counts_and_is_told(call: Call, problem: str) -> None:
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


async def test_calls_of_a_model_without_tools_are_dropped_and_counted() -> None:
    run = await Harness([Call("echo", {"text": "x"})]).run(
        graph([{"id": "ask", "type": "model"}], ["start -> ask", "ask -> end"])
    )
    assert run.result.status == "completed"
    assert run.span("execute_node model")["workflow.model.calls_dropped"] == 1


async def test_open_calls_in_the_history_are_answered_before_they_are_sent() -> None:
    from engine.nodes.model import answered

    call = {"id": "c1", "name": "echo", "arguments": {}}
    asked = Message(id="1", role="assistant", content="", tool_calls=[call])  # type: ignore[list-item]  # a tool call
    sent = answered([asked, Message(id="2", role="user", content="go on")])
    assert [message["role"] for message in sent] == ["assistant", "tool", "user"]
    assert sent[1]["content"] == "not executed"


class Library:
    """A retriever that finds what it was given."""

    options_schema: JsonObject = {"type": "object"}

    def __init__(self, *texts: str) -> None:
        self.queries: list[RetrievalQuery] = []
        self._texts = texts

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        self.queries.append(query)
        return [Passage(str(n), f"doc{n}.md", text, 1.0 - n / 10) for n, text in enumerate(self._texts)]


def rag(config: JsonObject | None = None) -> JsonObject:
    nodes: list[JsonObject] = [
        {"id": "find", "type": "retrieval", "config": {"retriever": "library", **(config or {})}},
        {"id": "ask", "type": "model"},
    ]
    return graph(nodes, ["start -> find", "find -> ask", "ask -> end"])


async def test_retrieved_texts_stand_in_front_of_the_question_and_not_in_the_system_message() -> None:
    harness = Harness([Say("Blue.")], retrievers={"library": Library("The sky is blue.")})
    run = await harness.run(rag(), {"message": "What colour is the sky?"})
    sent = harness.model.requests[0]
    assert "The sky is blue." in str(sent.messages[-1]["content"])
    assert str(sent.messages[-1]["content"]).endswith("What colour is the sky?")
    assert "blue" not in sent.system
    assert "retrieval library" in run.tree
    assert run.span("execute_node retrieval")["workflow.retrieval.documents"] == 1


async def test_an_empty_query_makes_no_call() -> None:
    library = Library("text")
    run = await Harness([Say("?")], retrievers={"library": library}).run(rag({"query": "  "}))
    assert (run.result.status, library.queries) == ("completed", [])


async def test_no_document_ids_at_all_are_not_all_documents() -> None:
    library = Library("text")
    await Harness([Say("?")], retrievers={"library": library}).run(rag({"document_ids": []}))
    assert library.queries == []


@pytest.mark.parametrize("config", [{"document_ids": "{{ input.message }}"}, {"filter": "{{ input.message }}"}])
async def test_a_restriction_that_cannot_be_read_does_not_search_everything(config: JsonObject) -> None:
    library = Library("text")
    run = await Harness([Say("?")], retrievers={"library": library}).run(rag(config))
    assert (run.result.status, run.result.error_type) == ("failed", "type_mismatch")
    assert library.queries == []


async def test_an_outage_is_never_an_empty_context() -> None:
    class Down(Library):
        async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
            raise ConnectionError("no route to the index")

    run = await Harness([Say("?")], retrievers={"library": Down()}).run(rag())
    assert (run.result.status, run.result.error_type) == ("failed", "ConnectionError")


async def test_memory_summarises_what_it_removes() -> None:
    nodes: list[JsonObject] = [
        {"id": "remember", "type": "memory", "config": {"memory_window": 1}},
        {"id": "ask", "type": "model"},
    ]
    document = graph(nodes, ["start -> first", "first -> remember", "remember -> ask", "ask -> end"])
    document_nodes = document["nodes"]
    assert isinstance(document_nodes, list)
    document_nodes.append({"id": "first", "type": "model"})
    harness = Harness([Say("first answer"), Say("a summary"), Say("second answer")])
    run = await harness.run(document)
    assert run.result.response == "second answer"
    assert "a summary" in str(harness.model.requests[2].messages[-1]["content"])
    memory = run.span("execute_node memory")
    assert (memory["workflow.memory.window"], memory["workflow.memory.summarized"]) == (1, 1)


async def test_a_summary_that_fails_truncates_and_marks_the_node_degraded() -> None:
    nodes: list[JsonObject] = [
        {"id": "first", "type": "model"},
        {"id": "remember", "type": "memory", "config": {"memory_window": 1}},
    ]
    run = await Harness([Say("first"), Fail("auth")]).run(
        graph(nodes, ["start -> first", "first -> remember", "remember -> end"])
    )
    assert run.result.status == "completed"
    assert run.result.metadata.degraded == ["remember"]


@pytest.mark.parametrize(("on_summary_error", "status"), [("truncate", "completed"), ("fail", "failed")])
async def test_a_summary_that_takes_too_long_is_one_that_failed(on_summary_error: str, status: str) -> None:
    config: JsonObject = {"memory_window": 1, "on_summary_error": on_summary_error}
    retry: JsonObject = {"max_attempts": 1}
    nodes: list[JsonObject] = [
        {"id": "first", "type": "model"},
        {"id": "remember", "type": "memory", "config": config, "timeout_seconds": 0.05, "retry": retry},
    ]
    document = graph(nodes, ["start -> first", "first -> remember", "remember -> end"])
    run = await Harness([Say("first"), Hold()]).run(document)
    assert run.result.status == status
    assert (run.result.metadata.degraded == ["remember"]) is (status == "completed")
    assert run.result.error_type == (None if status == "completed" else "timeout")


async def test_the_cut_does_not_part_a_tool_message_from_its_call() -> None:
    from engine.graph import Node
    from engine.nodes.memory import MemoryConfig, MemoryNode

    node = MemoryNode(Node(id="m", type="memory"), MemoryConfig(memory_window=1))
    messages = [
        Message(id="0", role="user", content="hi"),
        Message(id="1", role="assistant", content="", tool_calls=[]),
        Message(id="2", role="tool", content="x", tool_call_id="c"),
    ]
    assert node._cut(messages) == 1


@pytest.mark.parametrize(
    ("config", "start", "value"),
    [
        ({"operation": "set", "value": {"a": 1}}, None, {"a": 1}),
        ({"operation": "set", "expression": "1 + 2"}, None, 3),
        ({"operation": "set", "value": "{{ input.message }}!"}, None, "hello!"),
        ({"operation": "append", "value": 1}, None, [1]),
        ({"operation": "append", "value": 2}, [1], [1, 2]),
        ({"operation": "increment"}, None, 1),
        ({"operation": "decrement", "value": 2}, 5, 3),
        ({"operation": "get"}, 7, 7),
    ],
)
async def test_variables(config: JsonObject, start: Json, value: Json) -> None:
    nodes: list[JsonObject] = [
        {"id": "v", "type": "variable", "config": {"variable_name": "x", **config}},
        {"id": "end", "type": "end", "config": {"output": "{{ outputs.v.value }}"}},
    ]
    variables: JsonObject = {} if start is None else {"x": start}
    run = await Harness().run(graph(nodes, ["start -> v", "v -> end"], variables=variables))
    assert run.result.output == value


@pytest.mark.parametrize(("operation", "start"), [("append", 1), ("increment", "a"), ("increment", True)])
async def test_an_operation_on_the_wrong_type_is_a_type_mismatch(operation: str, start: Json) -> None:
    value: JsonObject = {"value": 1}
    config: JsonObject = {"variable_name": "x", "operation": operation, **value}
    nodes: list[JsonObject] = [{"id": "v", "type": "variable", "config": config}]
    run = await Harness().run(graph(nodes, ["start -> v", "v -> end"], variables={"x": start}))
    assert run.result.error_type == "type_mismatch"


async def test_a_variable_never_becomes_infinite() -> None:
    config: JsonObject = {"variable_name": "x", "operation": "increment", "value": 1e308}
    nodes: list[JsonObject] = [{"id": "v", "type": "variable", "config": config}]
    run = await Harness().run(graph(nodes, ["start -> v", "v -> end"], variables={"x": 1e308}))
    assert run.result.error_type == "type_mismatch"


async def test_an_end_may_fail_in_the_authors_words() -> None:
    fail: JsonObject = {"error_type": "not_allowed", "message": "No {{ input.message }} here."}
    run = await Harness().run(graph([{"id": "end", "type": "end", "config": {"fail": fail}}], ["start -> end"]))
    assert (run.result.error_type, run.result.error_message) == ("not_allowed", "No hello here.")


async def test_an_error_text_is_never_an_assistant_message() -> None:
    policy: JsonObject = {"policy": "continue"}
    run = await Harness([Fail("auth", "secret detail")]).run(
        graph([{"id": "ask", "type": "model", "on_error": policy}], ["start -> ask", "ask -> end"])
    )
    assert (run.result.response, run.result.messages) == ("", [])


async def test_model_settings_are_sent_exactly_as_given() -> None:
    config: JsonObject = {"temperature": 0.5, "stop": ["x"], "seed": 3}
    harness = Harness([Say("fine")])
    document = graph(
        [{"id": "ask", "type": "model", "config": config}],
        ["start -> ask", "ask -> end"],
        model_defaults={"temperature": 1.0, "max_tokens": 77},
    )
    await harness.run(document)
    settings = harness.model.requests[0].settings
    assert (settings.temperature, settings.max_tokens, settings.stop, settings.seed) == (0.5, 77, ("x",), 3)


async def test_a_node_names_its_own_model() -> None:
    first, second = ScriptedModel([Say("one")]), ScriptedModel([Say("two")], provider="other", model="m2")
    config: JsonObject = {"provider": "other", "model": "m2"}
    run = await Harness(models=[first, second]).run(
        graph([{"id": "ask", "type": "model", "config": config}], ["start -> ask", "ask -> end"])
    )
    assert run.result.response == "two"
    assert run.span("chat m2")["gen_ai.provider.name"] == "other"


class Fickle(Echo):
    """A tool that does what it is given."""

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
async def test_whatever_a_tool_does_its_span_ends_and_the_model_is_told(
    act: Callable[[JsonObject], Json], error_type: str
) -> None:
    run = await Harness([Call("echo", {"text": "x"}), Say("sorry")], tools=[Fickle(act)]).run(agent())
    assert (run.result.response, run.result.tool_calls) == ("sorry", 1)
    assert tool_messages(run)[0]["is_error"] is True
    assert f"execute_tool echo  {error_type}" in run.tree


@pytest.mark.parametrize(
    "call", [Call("echo", {"text": ["top secret"]}), Call("echo", {"text": "top secret"}), Call("top secret")]
)
async def test_what_a_model_says_to_a_tool_stays_out_of_the_spans(call: Call) -> None:
    run = await Harness([call, Say("sorry")], tools=[Fickle(raises(ValueError))]).run(agent())
    assert "top secret" in str(tool_messages(run)[0]["content"]), "the model is told"
    assert "top secret" not in str([span.to_json() for span in run.spans])


async def test_a_tool_cannot_change_the_call_it_is_given() -> None:
    tool = Fickle(lambda arguments: arguments.pop("text"))
    run = await Harness([Call("echo", {"text": "x"}), Say("done")], tools=[tool]).run(agent())
    assert run.result.messages[0]["tool_calls"] == [{"id": "call-1", "name": "echo", "arguments": {"text": "x"}}]


async def test_a_call_id_may_come_again_in_a_later_message() -> None:
    harness = Harness([Call("echo", {"text": "one"}), Call("echo", {"text": "two"}), Say("done")], tools=[Echo()])
    run = await harness.run(agent())
    assert run.result.tool_calls == 2
    sent = [message["content"] for message in harness.model.requests[2].messages if message["role"] == "tool"]
    assert sent == ["one", "two"]


async def test_answers_are_sent_right_behind_their_calls() -> None:
    from engine.nodes.model import answered

    first, second = ToolCall(id="c1", name="echo", arguments={}), ToolCall(id="c2", name="echo", arguments={})
    stray = Message(id="0", role="tool", content="nobody asked", tool_call_id="c9")
    asked = Message(id="1", role="assistant", content="", tool_calls=[first, second])
    other = Message(id="2", role="assistant", content="meanwhile")
    late = Message(id="3", role="tool", content="late", tool_call_id="c2")
    sent = answered([stray, asked, other, late])
    assert [message["content"] for message in sent] == ["", "not executed", "late", "meanwhile"]


def with_tools_node(document: JsonObject, **more: Json) -> JsonObject:
    nodes = document["nodes"]
    assert isinstance(nodes, list)
    tools = nodes[-1]
    assert isinstance(tools, dict)
    tools.update(more)
    return document


def calls_while_it_may(request: ModelRequest) -> Step:
    return Call("echo", {"text": "x"}) if request.tools else Say("done")


async def test_calls_of_a_tools_node_that_failed_count_all_the_same() -> None:
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


async def test_a_tools_node_says_which_errors_are_retried_and_each_retry_counts() -> None:
    for error, calls in (("timeout", 2), ("connection", 1)):
        retry: JsonObject = {"max_attempts": 3, "initial_delay_seconds": 0, "retry_on": ["timeout"]}
        document = with_tools_node(agent({"max_tool_calls": 2}), retry=retry)
        harness = Harness([Call("echo", {"text": "x"}), Say("done")], tools=[Echo("read", fails=3, error=error)])
        run = await harness.run(document)
        assert run.result.tool_calls == calls
        assert run.span("execute_node tools")["workflow.tools.calls"] == calls
        assert bool(harness.model.requests[1].tools) is (calls < 2), "nothing is left to bind"


async def test_messages_that_memory_removes_were_said_all_the_same() -> None:
    nodes: list[JsonObject] = [
        {"id": "first", "type": "model"},
        {"id": "second", "type": "model"},
        {"id": "remember", "type": "memory", "config": {"memory_window": 1, "strategy": "truncate"}},
    ]
    edges = ["start -> first", "first -> second", "second -> remember", "remember -> end"]
    run = await Harness([Say("one"), Say("two")]).run(graph(nodes, edges))
    assert [message["content"] for message in run.result.messages] == ["one", "two"]


async def test_files_stay_behind_the_retrieved_texts() -> None:
    from engine.nodes.model import _with_context
    from engine.runtime.state import initial_state

    parts: list[JsonObject] = [{"type": "text", "text": "see"}, {"type": "file", "media_type": "a/b", "uri": "x:"}]
    messages = [Message(id="1", role="user", content=parts)]
    state = initial_state(input={}, variables={}, messages=messages, summary={"text": "earlier", "covers": "0"})
    content = _with_context(messages, state)[0]["content"]
    assert isinstance(content, list)
    assert "earlier" in str(content[0]["text"])
    assert content[1:] == parts
