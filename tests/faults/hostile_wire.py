"""The answers of OpenAI, Anthropic and Gemini as bytes: events of a stream and whole replies, with any counts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

MODEL = "hostile-1"


@dataclass(frozen=True, slots=True)
class Counts:
    """What an answer says of its tokens, as JSON literals, which may be none: `NaN`, `-5`, `"many"`."""

    input: str = "100"
    output: str = "50"


@dataclass(frozen=True, slots=True)
class Called:
    """A call of a tool: its name, and its arguments as JSON."""

    name: str
    arguments: str = "{}"


class Dialect(Protocol):
    """How one provider writes an answer. Counts null: the answer has no usage."""

    def opening(self, counts: Counts | None) -> bytes:
        """The events before all others."""

    def text(self, text: str) -> bytes:
        """An event with a piece of text."""

    def reasoning(self, text: str) -> bytes:
        """An event with a piece of reasoning."""

    def nothing(self) -> bytes:
        """An event that says nothing."""

    def call(self, index: int, name: str) -> bytes:
        """The event with which the call of a tool begins."""

    def arguments(self, index: int, piece: str) -> bytes:
        """An event with a piece of its arguments."""

    def closing(self, counts: Counts | None, *, calls: bool) -> bytes:
        """The events after all others."""

    def whole(self, text: str, calls: Sequence[Called], counts: Counts | None) -> bytes:
        """The answer in one document."""


def _event(document: str, kind: str = "") -> bytes:
    return f"{f'event: {kind}' + chr(10) if kind else ''}data: {document}\n\n".encode()


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class OpenAI:
    """`/chat/completions`."""

    def opening(self, counts: Counts | None) -> bytes:
        return self._delta('{"role": "assistant", "content": ""}')

    def text(self, text: str) -> bytes:
        return self._delta(f'{{"content": {_text(text)}}}')

    def reasoning(self, text: str) -> bytes:
        return self._delta(f'{{"reasoning_content": {_text(text)}}}')

    def nothing(self) -> bytes:
        return self._delta("{}")

    def call(self, index: int, name: str) -> bytes:
        function = f'{{"name": {_text(name)}, "arguments": ""}}'
        call = f'{{"index": {index}, "id": "call-{index}", "type": "function", "function": {function}}}'
        return self._delta(f'{{"tool_calls": [{call}]}}')

    def arguments(self, index: int, piece: str) -> bytes:
        return self._delta(f'{{"tool_calls": [{{"index": {index}, "function": {{"arguments": {_text(piece)}}}}}]}}')

    def closing(self, counts: Counts | None, *, calls: bool) -> bytes:
        reason = "tool_calls" if calls else "stop"
        ended = self._chunk(f'[{{"index": 0, "delta": {{}}, "finish_reason": "{reason}"}}]')
        said = self._chunk("[]", f', "usage": {self._usage(counts)}') if counts else b""
        return ended + said + b"data: [DONE]\n\n"

    def whole(self, text: str, calls: Sequence[Called], counts: Counts | None) -> bytes:
        functions = [
            f'{{"id": "call-{number}", "type": "function", "function": '
            f'{{"name": {_text(call.name)}, "arguments": {_text(call.arguments)}}}}}'
            for number, call in enumerate(calls)
        ]
        called = f', "tool_calls": [{", ".join(functions)}]' if calls else ""
        message = f'{{"role": "assistant", "content": {_text(text)}{called}}}'
        choice = f'{{"index": 0, "message": {message}, "finish_reason": "{"tool_calls" if calls else "stop"}"}}'
        usage = f', "usage": {self._usage(counts)}' if counts else ""
        return f'{{{self._head("chat.completion")}, "choices": [{choice}]{usage}}}'.encode()

    def _delta(self, delta: str) -> bytes:
        return self._chunk(f'[{{"index": 0, "delta": {delta}, "finish_reason": null}}]')

    def _chunk(self, choices: str, more: str = "") -> bytes:
        return _event(f'{{{self._head("chat.completion.chunk")}, "choices": {choices}{more}}}')

    @staticmethod
    def _head(kind: str) -> str:
        return f'"id": "chatcmpl-1", "object": "{kind}", "created": 1, "model": "{MODEL}"'

    @staticmethod
    def _usage(counts: Counts) -> str:
        return f'{{"prompt_tokens": {counts.input}, "completion_tokens": {counts.output}, "total_tokens": 150}}'


class Anthropic:
    """`/v1/messages`."""

    def opening(self, counts: Counts | None) -> bytes:
        message = self._message("[]", "null", counts)
        block = '{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}'
        start = f'{{"type": "message_start", "message": {message}}}'
        return _event(start, "message_start") + _event(block, "content_block_start")

    def text(self, text: str) -> bytes:
        return self._delta(0, f'{{"type": "text_delta", "text": {_text(text)}}}')

    def reasoning(self, text: str) -> bytes:
        return self._delta(0, f'{{"type": "thinking_delta", "thinking": {_text(text)}}}')

    def nothing(self) -> bytes:
        return _event('{"type": "ping"}', "ping")

    def call(self, index: int, name: str) -> bytes:
        block = f'{{"type": "tool_use", "id": "call-{index}", "name": {_text(name)}, "input": {{}}}}'
        start = f'{{"type": "content_block_start", "index": {index + 1}, "content_block": {block}}}'
        return _event(start, "content_block_start")

    def arguments(self, index: int, piece: str) -> bytes:
        return self._delta(index + 1, f'{{"type": "input_json_delta", "partial_json": {_text(piece)}}}')

    def closing(self, counts: Counts | None, *, calls: bool) -> bytes:
        reason = "tool_use" if calls else "end_turn"
        usage = self._usage(counts) if counts else '{"output_tokens": 0}'
        delta = f'{{"stop_reason": "{reason}", "stop_sequence": null}}'
        ended = f'{{"type": "message_delta", "delta": {delta}, "usage": {usage}}}'
        return _event(ended, "message_delta") + _event('{"type": "message_stop"}', "message_stop")

    def whole(self, text: str, calls: Sequence[Called], counts: Counts | None) -> bytes:
        blocks = [f'{{"type": "text", "text": {_text(text)}}}'] if text else []
        blocks += [
            f'{{"type": "tool_use", "id": "call-{number}", "name": {_text(call.name)}, "input": {call.arguments}}}'
            for number, call in enumerate(calls)
        ]
        reason = '"tool_use"' if calls else '"end_turn"'
        return self._message(f"[{', '.join(blocks)}]", reason, counts).encode()

    def _message(self, content: str, reason: str, counts: Counts | None) -> str:
        usage = self._usage(counts) if counts else '{"input_tokens": 0, "output_tokens": 0}'
        return (
            f'{{"id": "msg_1", "type": "message", "role": "assistant", "model": "{MODEL}", "content": {content}, '
            f'"stop_reason": {reason}, "stop_sequence": null, "usage": {usage}}}'
        )

    @staticmethod
    def _delta(index: int, delta: str) -> bytes:
        return _event(f'{{"type": "content_block_delta", "index": {index}, "delta": {delta}}}', "content_block_delta")

    @staticmethod
    def _usage(counts: Counts) -> str:
        return f'{{"input_tokens": {counts.input}, "output_tokens": {counts.output}}}'


class Gemini:
    """`:generateContent` and `:streamGenerateContent`. Arguments arrive in one piece here, with the call."""

    def opening(self, counts: Counts | None) -> bytes:
        return b""

    def text(self, text: str) -> bytes:
        return self._part(f'{{"text": {_text(text)}}}')

    def reasoning(self, text: str) -> bytes:
        return self._part(f'{{"text": {_text(text)}, "thought": true}}')

    def nothing(self) -> bytes:
        return self._part('{"text": ""}')

    def call(self, index: int, name: str) -> bytes:
        return self._part(f'{{"functionCall": {{"name": {_text(name)}, "args": {{}}}}}}')

    def arguments(self, index: int, piece: str) -> bytes:
        return self._part(f'{{"functionCall": {{"name": "calculate", "args": {{"x": {_text(piece)}}}}}}}')

    def closing(self, counts: Counts | None, *, calls: bool) -> bytes:
        return _event(self._document("", counts, '"finishReason": "STOP", '))

    def whole(self, text: str, calls: Sequence[Called], counts: Counts | None) -> bytes:
        parts = [f'{{"text": {_text(text)}}}'] if text else []
        parts += [f'{{"functionCall": {{"name": {_text(call.name)}, "args": {call.arguments}}}}}' for call in calls]
        return self._document(", ".join(parts), counts, '"finishReason": "STOP", ').encode()

    def _part(self, part: str) -> bytes:
        return _event(self._document(part, None, ""))

    @staticmethod
    def _document(parts: str, counts: Counts | None, finish: str) -> str:
        usage = ""
        if counts:
            usage = (
                f', "usageMetadata": {{"promptTokenCount": {counts.input}, "candidatesTokenCount": {counts.output}, '
            )
            usage += '"totalTokenCount": 150}'
        content = f'{{"role": "model", "parts": [{parts}]}}'
        candidate = f'{{{finish}"index": 0, "content": {content}}}'
        return f'{{"candidates": [{candidate}]{usage}, "modelVersion": "{MODEL}"}}'
