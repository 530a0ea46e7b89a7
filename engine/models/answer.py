"""The answer of a LangChain model as it arrives: text, calls, usage and finish reason. Whole and streamed are one."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.ai import UsageMetadata, add_usage

from engine.documents.json_schema import compiled
from engine.documents.json_text import NotJson, check_nesting, size_of
from engine.errors import ModelFailure
from engine.graph import Json, JsonObject
from engine.models.reports import Reported
from engine.models.tool_calls import JoinedCalls
from engine.resources import CONTENT_FILTER, AnswerLimits, ModelReply, ToolCall
from engine.usage import CallUsage, UsageReport

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "completed": "stop",
    "model_context_window_exceeded": "length",
    "refusal": CONTENT_FILTER,
    "safety": CONTENT_FILTER,
    "recitation": CONTENT_FILTER,
    "blocklist": CONTENT_FILTER,
    "prohibited_content": CONTENT_FILTER,
    "spii": CONTENT_FILTER,
    "malformed_function_call": "invalid_output",
}
"""The finish reasons of Anthropic, Gemini and OpenAI's Responses, mapped to those of OpenAI's chat.

Reasons that are not listed stay unchanged.
"""

_COUNTED_PARTS = frozenset({"text", "tool_use", "input_json_delta", "function_call"})


class Answer:
    """The answer received so far. Text is kept as a list: adding up LangChain chunks costs tens of µs per token."""

    def __init__(self, limits: AnswerLimits) -> None:
        self._limits = limits
        self._bytes = 0
        self._chunks = 0
        self._texts: list[str] = []
        self._joined = JoinedCalls()
        self._tool_calls: list[LangChainToolCall] = []
        self._invalid_calls: list[InvalidToolCall] = []
        self.reported = Reported()
        """Filled by our own HTTP client."""
        self._seen = 0
        self._usage: UsageMetadata | None = None
        """What LangChain reads, for models with another client."""
        self._is_complete = False
        self._is_refused = False
        self._metadata: dict[str, Any] = {}
        self._id: str | None = None

    def add_chunk(self, chunk: AIMessage) -> str:
        """Add a chunk and return its text. Raises `ModelFailure` as soon as the answer is too large."""
        content = chunk.content
        text = content if type(content) is str else text_of_content(content)
        self._chunks += 1
        self._bytes += len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
        if text:
            self._texts.append(text)
        if isinstance(chunk, AIMessageChunk) and chunk.tool_call_chunks:
            self._bytes += self._joined.add(chunk.tool_call_chunks)
        if type(content) is not str or chunk.additional_kwargs:
            self._bytes += size_of(_reasoning(chunk), self._limits.max_bytes)
            self._is_refused = self._is_refused or _is_refusal(chunk)
        if chunk.usage_metadata is not None:
            self._usage = _newest(self._usage, chunk.usage_metadata)
        if chunk.response_metadata:
            self._add_metadata(chunk)
        self._check_size(len(self._joined))
        return text

    def add_whole(self, message: AIMessage) -> None:
        """Add a complete message. Raises `ModelFailure` if it is too large."""
        self.add_chunk(message)
        self._is_complete = True
        self._tool_calls, self._invalid_calls = message.tool_calls, message.invalid_tool_calls
        self._bytes += size_of([message.tool_calls, message.invalid_tool_calls], self._limits.max_bytes)
        self._check_size(len(message.tool_calls) + len(message.invalid_tool_calls))

    def end_of_stream(self, *, must_finish: bool) -> None:
        """Raises `ModelFailure` if the stream ended before the answer, `ValueError` if there was nothing in it."""
        if not self._chunks:
            raise ValueError("the stream was empty")
        self._tool_calls, self._invalid_calls = self._joined.parsed()
        if must_finish and self._finish_reason() is None and (self._texts or self._tool_calls):
            raise self._failure("connection", "the stream ended before the answer was complete")
        self._is_complete = True

    def reply(self, schema: JsonObject | None) -> ModelReply:
        """The complete reply. Raises `ModelFailure` if a call or the data in it are invalid."""
        text, finish = "".join(self._texts), self._finish_reason()
        report = self.report() or UsageReport()
        fingerprint = self._metadata.get("system_fingerprint")
        is_filtered = finish == CONTENT_FILTER  # what is left of the answer may be anything
        calls = () if is_filtered else self._checked_calls()
        has_data = schema is not None and bool(text) and not calls and not is_filtered
        data = self._data(text, schema or {}, finish) if has_data else None
        return ModelReply(
            text=text,
            tool_calls=calls,
            data=data,
            finish_reason="tool_calls" if calls and finish == "stop" else finish,
            model=self._metadata.get("model_name") or self._metadata.get("model"),
            response_id=self._metadata.get("id") or self._id,
            usage=report.usage,
            service_tier=report.service_tier,
            system_fingerprint=fingerprint if isinstance(fingerprint, str) else None,
            provider_cost_nano_usd=report.provider_cost_nano_usd,
            unread_usage_keys=report.unread_keys,
        )

    def news(self) -> UsageReport | None:
        """What the provider has reported so far, if it has reported since the last time."""
        if self.reported.number == self._seen:
            return None
        self._seen = self.reported.number
        return self.report()

    def _check_size(self, tool_calls: int) -> None:
        problem = self._limits.problem(self._bytes, tool_calls)
        if problem is not None:
            raise self._failure("invalid_output", problem)

    def _failure(self, code: str, message: str) -> ModelFailure:
        return ModelFailure(code, message, report=self.report())

    def _add_metadata(self, message: AIMessage) -> None:
        for key, value in message.response_metadata.items():
            if value is not None:
                self._metadata[key] = value
        if self._id is None and message.id and not message.id.startswith(("lc_", "run-")):
            self._id = message.id

    def _finish_reason(self) -> str | None:
        if self.reported.is_blocked or self._is_refused:
            return CONTENT_FILTER
        said = self._metadata
        reason = said.get("finish_reason") or said.get("stop_reason")
        if reason is None and said.get("object") == "response":  # OpenAI's Responses say it in two places
            reason = (said.get("incomplete_details") or {}).get("reason") or said.get("status")
        return _FINISH_REASONS.get(str(reason).lower(), str(reason).lower()) if reason else None

    def _checked_calls(self) -> tuple[ToolCall, ...]:
        if self._invalid_calls or self._finish_reason() == "invalid_output":
            raise self._failure("invalid_output", "the model called a tool with arguments that are not a JSON object")
        return tuple(
            ToolCall(id=call["id"] or f"call-{position}", name=call["name"], arguments=call["args"])
            for position, call in enumerate(self._tool_calls, start=1)
        )

    def _data(self, text: str, schema: JsonObject, finish: str | None) -> Json:
        problem, data = _parsed(text, schema)
        if problem is None:
            return data
        cut = ": it was cut off at max_tokens" if finish == "length" else ""
        raise self._failure("invalid_output", f"the answer {problem}{cut}")

    def report(self) -> UsageReport | None:
        """What the provider has reported so far; null if it has reported nothing."""
        return self.reported.report(is_partial=not self._is_complete) or self._langchain_report()

    def _langchain_report(self) -> UsageReport | None:
        """What LangChain has read. It writes 0 for a missing count, and every call has input."""
        usage = self._usage
        if usage is None or usage["input_tokens"] == 0:
            return None
        read, written = usage.get("input_token_details", {}), usage.get("output_token_details", {})
        an_hour = "ephemeral_1h_input_tokens"
        counts = {
            "input_tokens": usage["input_tokens"],
            "output_tokens": usage["output_tokens"],
            "cache_read_tokens": _detail(read, "cache_read"),
            "cache_write_tokens": _detail(read, "cache_creation", "ephemeral_5m_input_tokens", an_hour),
            "reasoning_tokens": _detail(written, "reasoning"),
            "cache_write_1h_tokens": _detail(read, an_hour),
            "input_audio_tokens": _detail(read, "audio"),
            "output_audio_tokens": _detail(written, "audio"),
        }
        tier = self._metadata.get("service_tier")
        return UsageReport(CallUsage.of_counts(counts), tier, is_partial=not self._is_complete)


def _newest(known: UsageMetadata | None, news: UsageMetadata) -> UsageMetadata:
    """The usage after another chunk.

    LangChain says that the usage of chunks adds up. Adapters that pass on what a server repeats break that: a report
    that counts the input again counts all from the start.
    """
    return news if news["input_tokens"] else add_usage(known, news)


def _detail(details: Mapping[str, Any], *names: str) -> int | None:
    """The sum of the counts under these names, with or without a tier prefix (`flex_cache_read`); null if none."""
    found = [count for key, count in details.items() if key.endswith(names) and count is not None]
    return sum(found) if found else None


def _reasoning(chunk: AIMessage) -> list[object]:
    """What is neither text nor a call; those are counted elsewhere."""
    content = chunk.content if isinstance(chunk.content, list) else []
    parts = [part for part in content if isinstance(part, dict) and part.get("type") not in _COUNTED_PARTS]
    return [parts, [value for key, value in chunk.additional_kwargs.items() if key.startswith("reasoning")]]


def text_of_content(content: str | Iterable[Any]) -> str:
    """The text of a message's content, without its other parts."""
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else part.get("text", "") for part in content if _is_text(part))


def _is_text(part: str | Mapping[str, Any]) -> bool:
    return isinstance(part, str) or part.get("type") == "text"


def _is_refusal(chunk: AIMessage) -> bool:
    """Whether OpenAI's model says why it does not answer, in the place of an answer."""
    parts = chunk.content if isinstance(chunk.content, list) else []
    is_part = any(isinstance(part, dict) and part.get("type") == "refusal" for part in parts)
    return is_part or bool(chunk.additional_kwargs.get("refusal"))


def _parsed(text: str, schema: JsonObject) -> tuple[str | None, Json]:
    """What is wrong with the text, as the end of a sentence, and its data."""
    try:
        data: Json = orjson.loads(text)
        check_nesting(data)
    except NotJson as error:
        return str(error), None
    except orjson.JSONDecodeError:
        return "is not JSON", None
    mismatch = compiled(schema).find_mismatch(data)
    if mismatch is None:
        return None, data
    place = "/".join(str(step) for step in mismatch.path) or "the answer"
    return f"does not fit response_schema at {place}", None
