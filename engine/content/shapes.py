"""The content of calls in the JSON shapes of the GenAI conventions, which trace stores show.

The shapes are those of `gen-ai-input-messages.json`, `-output-messages.json`, `-system-instructions.json`,
`-tool-definitions.json` and `-retrieval-documents.json` in OpenTelemetry's conventions for GenAI.
"""

from collections.abc import Iterator, Sequence

from engine.graph import Json, JsonObject
from engine.resources import Message, ModelReply, Passage, ToolCall, ToolSpec

_FINISH_REASONS = {"tool_calls": "tool_call"}
"""Our words for why a model stopped, where the conventions have another one."""


def input_messages(messages: Sequence[Message]) -> list[JsonObject]:
    """The messages that were sent to a model, oldest first."""
    return [{"role": message["role"], "parts": [*_parts(message)]} for message in messages]


def output_messages(reply: ModelReply) -> list[JsonObject]:
    """The answer of a model, as the only item of a list."""
    parts: list[Json] = [*_text_parts(reply.text), *map(_call_part, reply.tool_calls)]
    reason = reply.finish_reason or "stop"
    return [{"role": "assistant", "parts": parts, "finish_reason": _FINISH_REASONS.get(reason, reason)}]


def system_instructions(text: str) -> list[JsonObject]:
    """The system message."""
    return list(_text_parts(text))


def tool_definitions(tools: Sequence[ToolSpec]) -> list[JsonObject]:
    """The tools that a model could call."""
    return [
        {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters}
        for tool in tools
    ]


def documents(passages: Sequence[Passage]) -> list[JsonObject]:
    """The passages that a retriever found, best first."""
    return [{"id": p.id, "score": p.score, "source": p.source, "content": p.text} for p in passages]


def page_contents(passages: Sequence[Passage]) -> list[JsonObject]:
    """The same passages as Phoenix and MLflow show them."""
    return [{"page_content": p.text, "metadata": {"id": p.id, "source": p.source, "score": p.score}} for p in passages]


def _parts(message: Message) -> Iterator[JsonObject]:
    content = message.get("content", "")
    if message["role"] == "tool":
        response: Json = content if isinstance(content, str) else [*content]
        yield {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": response}
        return
    if isinstance(content, str):
        yield from _text_parts(content)
    else:
        for part in content:
            yield {"type": "text", "content": part["text"]} if part.get("type") == "text" else part
    yield from map(_call_part, message.get("tool_calls", ()))


def _text_parts(text: str) -> Iterator[JsonObject]:
    if text:
        yield {"type": "text", "content": text}


def _call_part(call: ToolCall) -> JsonObject:
    return {"type": "tool_call", "id": call["id"], "name": call["name"], "arguments": call["arguments"]}
