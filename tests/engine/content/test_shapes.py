"""The shapes of the GenAI conventions."""

from engine.content import shapes
from engine.resources import Message, ModelReply, Passage, ToolCall, ToolSpec

CALL = ToolCall(id="call-1", name="calculate", arguments={"expression": "6 * 7"})
CALL_PART = {"type": "tool_call", "id": "call-1", "name": "calculate", "arguments": {"expression": "6 * 7"}}


def test_messages_of_every_role() -> None:
    messages = [
        Message(id="1", role="user", content=[{"type": "text", "text": "What"}, {"type": "image", "url": "a.png"}]),
        Message(id="2", role="assistant", content="", tool_calls=[CALL]),
        Message(id="3", role="tool", content="42", tool_call_id="call-1"),
        Message(id="4", role="assistant", content="It is 42."),
    ]
    assert shapes.input_messages(messages) == [
        {"role": "user", "parts": [{"type": "text", "content": "What"}, {"type": "image", "url": "a.png"}]},
        {"role": "assistant", "parts": [CALL_PART]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call-1", "response": "42"}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "It is 42."}]},
    ]


def test_answers_with_the_reason_in_the_words_of_the_conventions() -> None:
    asked = shapes.output_messages(ModelReply("", tool_calls=(CALL,), finish_reason="tool_calls"))
    assert asked == [{"role": "assistant", "parts": [CALL_PART], "finish_reason": "tool_call"}]
    [said] = shapes.output_messages(ModelReply("hi"))
    assert said == {"role": "assistant", "parts": [{"type": "text", "content": "hi"}], "finish_reason": "stop"}


def test_instructions_tools_and_documents() -> None:
    assert shapes.system_instructions("Be short.") == [{"type": "text", "content": "Be short."}]
    assert shapes.system_instructions("") == []
    tool = ToolSpec("calculate", "Calculates.", {"type": "object"})
    assert shapes.tool_definitions([tool]) == [
        {"type": "function", "name": "calculate", "description": "Calculates.", "parameters": {"type": "object"}}
    ]
    passage = Passage("a.md#1", "a.md", "Zebras.", 0.5)
    assert shapes.documents([passage]) == [{"id": "a.md#1", "score": 0.5, "source": "a.md", "content": "Zebras."}]
    assert shapes.page_contents([passage]) == [
        {"page_content": "Zebras.", "metadata": {"id": "a.md#1", "source": "a.md", "score": 0.5}}
    ]
