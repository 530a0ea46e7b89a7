"""A model node: its messages, settings and model."""

from engine.graph import JsonObject
from engine.resources import (
    Message,
    ToolCall,
)
from engine.testing.models import Call, Fail, Say, ScriptedModel
from tests.engine.harness import Harness, graph


async def test_calls_of_a_model_without_tools_are_dropped_and_counted() -> None:
    run = await Harness([Call("echo", {"text": "x"})]).run(
        graph([{"id": "ask", "type": "model"}], ["start -> ask", "ask -> end"])
    )
    assert run.result.status == "completed"
    assert run.span("execute_node ask")["workflow.model.calls_dropped"] == 1


async def test_open_calls_in_the_history_are_answered_before_they_are_sent() -> None:
    from engine.nodes.model import answered

    call = {"id": "c1", "name": "echo", "arguments": {}}
    asked = Message(id="1", role="assistant", content="", tool_calls=[call])  # type: ignore[list-item]  # a tool call
    sent = answered([asked, Message(id="2", role="user", content="go on")])
    assert [message["role"] for message in sent] == ["assistant", "tool", "user"]
    assert sent[1]["content"] == "not executed"


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


async def test_answers_are_sent_right_behind_their_calls() -> None:
    from engine.nodes.model import answered

    first, second = ToolCall(id="c1", name="echo", arguments={}), ToolCall(id="c2", name="echo", arguments={})
    stray = Message(id="0", role="tool", content="nobody asked", tool_call_id="c9")
    asked = Message(id="1", role="assistant", content="", tool_calls=[first, second])
    other = Message(id="2", role="assistant", content="meanwhile")
    late = Message(id="3", role="tool", content="late", tool_call_id="c2")
    sent = answered([stray, asked, other, late])
    assert [message["content"] for message in sent] == ["", "not executed", "late", "meanwhile"]


async def test_files_follow_the_retrieved_texts() -> None:
    from engine.nodes.model import _with_context
    from engine.runtime.state import initial_state

    parts: list[JsonObject] = [{"type": "text", "text": "see"}, {"type": "file", "media_type": "a/b", "uri": "x:"}]
    messages = [Message(id="1", role="user", content=parts)]
    state = initial_state(input={}, variables={}, messages=messages, summary={"text": "earlier", "covers": "0"})
    content = _with_context(messages, state)[0]["content"]
    assert isinstance(content, list)
    assert "earlier" in str(content[0]["text"])
    assert content[1:] == parts
