"""Adapter that turns any LangChain chat model into a `ChatModel`, and its errors into spanloom's error codes.

`invoke` and `stream` feed the same `_Answer`, so they cannot disagree.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from traceback import clear_frames
from typing import Any, cast

import orjson
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.runnables import Runnable, RunnableBinding
from langsmith.utils import tracing_is_enabled

from engine.documents.json_schema import compiled
from engine.documents.json_text import NotJson, check_nesting, size_of, to_json
from engine.errors import ModelFailure
from engine.graph import Json, JsonObject
from engine.models.provider_errors import WIRE_ERRORS, failure_of
from engine.models.tool_calls import JoinedCalls
from engine.resources import AnswerLimits, Message, ModelReply, ModelRequest, ModelSettings, ToolCall, ToolSpec
from engine.usage import Usage

MESSAGE_START_USAGE = "message_start_usage"
"""Response metadata key under which `engine.models.anthropic` keeps the usage in the stream's first event."""

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "malformed_function_call": "invalid_output",
}
"""Anthropic's and Gemini's finish reasons, mapped to OpenAI's. Reasons that are not listed stay unchanged."""

_COUNTED_PARTS = frozenset({"text", "tool_use", "input_json_delta", "function_call"})

_BYTES_PER_TOKEN = 2
_TOKENS_PER_MESSAGE = 8
_TOKENS_PER_FILE = 2_000


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to call one provider's LangChain class."""

    settings: Mapping[str, str]
    """Keyword of the LangChain class by the name of our setting; other settings cannot be sent."""
    structured: Callable[[JsonObject], dict[str, object]]
    """Builds the keywords that request an answer which fits a JSON Schema."""
    errors: Mapping[type[Exception], str | None] = field(default_factory=dict)
    """Error code by exception of the provider's SDK, in addition to `WIRE_ERRORS`; null: the HTTP status decides."""
    says_finish: bool = False
    """Whether a stream without a finish reason was cut off."""


def response_format(schema: JsonObject) -> dict[str, object]:
    """Request structured output in OpenAI's format, which LangChain translates for the other providers."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


PLAIN = Dialect(
    settings={name: name for name in ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty")}
    | {"seed": "seed"},
    structured=response_format,
)


class LangChainModel:
    """One LangChain chat model of one provider. `secret` is removed from error messages."""

    def __init__(
        self,
        chat: BaseChatModel,
        *,
        provider: str,
        model: str,
        server_address: str | None = None,
        dialect: Dialect = PLAIN,
        limits: AnswerLimits | None = None,
        secret: str | None = None,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._chat = chat
        self._provider = provider
        self._model = model
        self._server_address = server_address
        self._dialect = dialect
        self._limits = limits or AnswerLimits()
        self._errors = (*WIRE_ERRORS, *dialect.errors)
        self._secret = secret
        self._close = close

    @property
    def provider(self) -> str:
        """The provider's name, as the span attribute `gen_ai.provider.name`."""
        return self._provider

    @property
    def model(self) -> str:
        """The provider's name for the model."""
        return self._model

    @property
    def server_address(self) -> str | None:
        """The host of the provider's endpoint."""
        return self._server_address

    async def invoke(self, request: ModelRequest) -> ModelReply:
        """Call the model without streaming. Raises `ModelFailure`."""
        answer = _Answer(self._limits)
        try:
            model, keywords = self._bound(request)
            answer.add_whole(await model.ainvoke(_messages(request), **keywords))
        except self._errors as error:
            raise self._failure(error, answer) from error
        return answer.reply(request.settings.response_schema)

    async def stream(self, request: ModelRequest) -> AsyncIterator[str | ModelReply]:
        """Yield text as it arrives, empty for a chunk without text, then the complete reply. Raises `ModelFailure`."""
        answer = _Answer(self._limits)
        add = answer.add_chunk
        try:
            model, keywords = self._bound(request)
            async with aclosing(_chunks(model, _messages(request), keywords)) as chunks:
                async for chunk in chunks:
                    yield add(chunk)
            answer.end_of_stream(must_finish=self._dialect.says_finish)
        except self._errors as error:
            raise self._failure(error, answer) from error
        yield answer.reply(request.settings.response_schema)

    def estimate_input_tokens(self, request: ModelRequest) -> int:
        """Estimate one token per two bytes of the request, plus a flat amount per message and file."""
        texts = [request.system, *(to_json(tool.parameters).decode() + tool.description for tool in request.tools)]
        tokens = _TOKENS_PER_MESSAGE * (len(request.messages) + 1 + len(request.tools))
        for message in request.messages:
            content = message.get("content", "")
            if not isinstance(content, str):
                tokens += _TOKENS_PER_FILE * sum(part["type"] == "file" for part in content)
            texts.append(_text(content))
            texts += [to_json(call).decode() for call in message.get("tool_calls", ())]
        return tokens + sum(len(text.encode()) for text in texts) // _BYTES_PER_TOKEN

    async def aclose(self) -> None:
        """Close the model's own connections."""
        if self._close is not None:
            await self._close()

    def _bound(self, request: ModelRequest) -> tuple[Runnable[LanguageModelInput, AIMessage], dict[str, Any]]:
        """The runnable to call and its keywords. Wrappers are removed, because every layer costs time per token."""
        keywords = self._keywords(request.settings)
        if not request.tools:
            return self._chat, keywords
        bound = self._chat.bind_tools([_tool(spec) for spec in request.tools], **keywords)
        if isinstance(bound, RunnableBinding):
            return bound.bound, dict(bound.kwargs)
        return bound, {}

    def _keywords(self, settings: ModelSettings) -> dict[str, Any]:
        given = {
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "frequency_penalty": settings.frequency_penalty,
            "presence_penalty": settings.presence_penalty,
            "seed": settings.seed,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if unknown := sorted(given.keys() - self._dialect.settings.keys()):
            raise ModelFailure(
                "bad_request",
                f"{self._provider} does not support {' or '.join(unknown)}; remove it from the node's config",
            )
        keywords: dict[str, Any] = {self._dialect.settings[name]: value for name, value in given.items()}
        if settings.stop:
            keywords["stop"] = list(settings.stop)
        if settings.response_schema is not None:
            keywords |= self._dialect.structured(settings.response_schema)
        return keywords

    def _failure(self, error: Exception, answer: "_Answer") -> ModelFailure:
        """The failure for an exception, whose traceback no longer refers to what was read."""
        clear_frames(error.__traceback__)
        return failure_of(
            error,
            self._dialect.errors,
            provider=self._provider,
            model=self._model,
            secret=self._secret,
            usage=answer.usage(),
        )


async def _chunks(
    model: Runnable[LanguageModelInput, AIMessage], messages: list[BaseMessage], keywords: dict[str, Any]
) -> AsyncGenerator[AIMessage]:
    """Read a stream without keeping it.

    LangChain's `astream` keeps every chunk and joins them when the stream ends or is cancelled, which is quadratic.
    Only with tracing by LangSmith, which wants the joined answer, it is used all the same.
    """
    if (
        not isinstance(model, BaseChatModel)
        or tracing_is_enabled()
        or not model._should_stream(async_api=True, stream=True, **keywords)
    ):
        async for whole_chunk in model.astream(messages, **keywords):
            yield whole_chunk
        return
    async for chunk in model._astream(messages, **keywords):
        message = cast("AIMessageChunk", chunk.message)
        message.response_metadata = {**(chunk.generation_info or {}), **message.response_metadata}
        yield message


class _Answer:
    """The answer received so far. Text is kept as a list: adding up LangChain chunks costs tens of µs per token."""

    def __init__(self, limits: AnswerLimits) -> None:
        self._limits = limits
        self._bytes = 0
        self._chunks = 0
        self._texts: list[str] = []
        self._joined = JoinedCalls()
        self._tool_calls: list[LangChainToolCall] = []
        self._invalid_calls: list[InvalidToolCall] = []
        self._usage: UsageMetadata | None = None
        self._metadata: dict[str, Any] = {}
        self._id: str | None = None

    def add_chunk(self, chunk: AIMessage) -> str:
        """Add a chunk and return its text. Raises `ModelFailure` as soon as the answer is too large."""
        content = chunk.content
        text = content if type(content) is str else _text(content)
        self._chunks += 1
        self._bytes += len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
        if text:
            self._texts.append(text)
        if isinstance(chunk, AIMessageChunk) and chunk.tool_call_chunks:
            self._bytes += self._joined.add(chunk.tool_call_chunks)
        if type(content) is not str or chunk.additional_kwargs:
            self._bytes += size_of(_reasoning(chunk), self._limits.max_bytes)
        if chunk.usage_metadata is not None:
            self._usage = add_usage(self._usage, chunk.usage_metadata)
        if chunk.response_metadata:
            self._add_metadata(chunk)
        self._check_size(len(self._joined))
        return text

    def add_whole(self, message: AIMessage) -> None:
        """Add a complete message. Raises `ModelFailure` if it is too large."""
        self.add_chunk(message)
        self._tool_calls, self._invalid_calls = message.tool_calls, message.invalid_tool_calls
        self._bytes += size_of([message.tool_calls, message.invalid_tool_calls], self._limits.max_bytes)
        self._check_size(len(message.tool_calls) + len(message.invalid_tool_calls))

    def end_of_stream(self, *, must_finish: bool) -> None:
        """Raises `ModelFailure` if the stream ended before the answer, `ValueError` if there was nothing in it."""
        if not self._chunks:
            raise ValueError("the stream was empty")
        self._tool_calls, self._invalid_calls = self._joined.parsed()
        if must_finish and self._finish_reason() is None and (self._texts or self._tool_calls):
            raise ModelFailure("connection", "the stream ended before the answer was complete", usage=self.usage())

    def reply(self, schema: JsonObject | None) -> ModelReply:
        """The complete reply. Raises `ModelFailure` if it is empty, was filtered or does not fit the schema."""
        text, calls, finish = "".join(self._texts), self._checked_calls(), self._finish_reason()
        if finish == "content_filter":
            raise ModelFailure("content_filter", "the provider's content filter stopped the answer")
        if not text and not calls:
            raise ModelFailure("empty_response", _empty_reason(finish))
        return ModelReply(
            text=text,
            tool_calls=calls,
            data=None if schema is None or calls else _parsed(text, schema, finish),
            finish_reason="tool_calls" if calls and finish == "stop" else finish,
            model=self._metadata.get("model_name") or self._metadata.get("model"),
            response_id=self._metadata.get("id") or self._id,
            usage=self.usage(),
        )

    def _check_size(self, tool_calls: int) -> None:
        problem = self._limits.problem(self._bytes, tool_calls)
        if problem is not None:
            raise ModelFailure("invalid_output", problem, usage=self.usage())

    def _add_metadata(self, message: AIMessage) -> None:
        for key, value in message.response_metadata.items():
            if value is not None:
                self._metadata[key] = value
        if self._id is None and message.id and not message.id.startswith(("lc_", "run-")):
            self._id = message.id

    def _finish_reason(self) -> str | None:
        reason = self._metadata.get("finish_reason") or self._metadata.get("stop_reason")
        return _FINISH_REASONS.get(str(reason).lower(), str(reason).lower()) if reason else None

    def _checked_calls(self) -> tuple[ToolCall, ...]:
        if self._invalid_calls or self._finish_reason() == "invalid_output":
            raise ModelFailure("invalid_output", "the model called a tool with arguments that are not a JSON object")
        return tuple(
            ToolCall(id=call["id"] or f"call-{position}", name=call["name"], arguments=call["args"])
            for position, call in enumerate(self._tool_calls, start=1)
        )

    def usage(self) -> Usage | None:
        """The usage so far, or null if it is unknown. Every call has input, so 0 means that nobody counted.

        Of a stream that broke off after Anthropic's first event the input is known, and the output is not.
        """
        usage, started = self._usage, self._metadata.get(MESSAGE_START_USAGE)
        inputs = usage if started is None or (usage is not None and usage["input_tokens"] != 0) else started
        if inputs is None or inputs["input_tokens"] == 0:
            return None
        output_tokens = None if usage is None else usage["output_tokens"]
        read = inputs.get("input_token_details", {})
        written = {} if usage is None else usage.get("output_token_details", {})
        return Usage(
            input_tokens=inputs["input_tokens"],
            output_tokens=output_tokens,
            total_tokens=None if output_tokens is None else inputs["input_tokens"] + output_tokens,
            cache_read_tokens=_detail(read, "cache_read"),
            cache_write_tokens=_detail(
                read, "cache_creation", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"
            ),
            reasoning_tokens=_detail(written, "reasoning"),
        )


def _detail(details: Mapping[str, Any], *names: str) -> int | None:
    """The sum of the counts under these names, with or without a tier prefix (`flex_cache_read`); null if none."""
    found = [count for key, count in details.items() if key.endswith(names) and count is not None]
    return sum(found) if found else None


def _reasoning(chunk: AIMessage) -> list[object]:
    """What is neither text nor a call; those are counted elsewhere."""
    content = chunk.content if isinstance(chunk.content, list) else []
    parts = [part for part in content if isinstance(part, dict) and part.get("type") not in _COUNTED_PARTS]
    return [parts, [value for key, value in chunk.additional_kwargs.items() if key.startswith("reasoning")]]


def _text(content: str | Iterable[Any]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else part.get("text", "") for part in content if _is_text(part))


def _is_text(part: str | Mapping[str, Any]) -> bool:
    return isinstance(part, str) or part.get("type") == "text"


def _empty_reason(finish: str | None) -> str:
    if finish == "length":
        return "the model used up max_tokens before it wrote any text; raise max_tokens"
    return "the model answered with neither text nor tool calls"


def _parsed(text: str, schema: JsonObject, finish: str | None) -> Json:
    try:
        data: Json = orjson.loads(text)
        check_nesting(data)
    except NotJson as error:
        raise ModelFailure("invalid_output", f"the answer {error}") from error
    except orjson.JSONDecodeError as error:
        cut = ": it was cut off at max_tokens" if finish == "length" else ""
        raise ModelFailure("invalid_output", f"the answer is not JSON{cut}") from error
    mismatch = compiled(schema).find_mismatch(data)
    if mismatch is not None:
        place = "/".join(str(step) for step in mismatch.path) or "the answer"
        raise ModelFailure("invalid_output", f"the answer does not fit response_schema at {place}")
    return data


def _tool(spec: ToolSpec) -> dict[str, Any]:
    function = {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
    return {"type": "function", "function": function}


def _messages(request: ModelRequest) -> list[BaseMessage]:
    system: list[BaseMessage] = [SystemMessage(request.system)] if request.system else []
    return system + [_message(message) for message in request.messages]


def _message(message: Message) -> BaseMessage:
    content = _content(message.get("content", ""))
    if message["role"] == "user":
        return HumanMessage(content=content)
    if message["role"] == "assistant":
        calls = [
            LangChainToolCall(name=call["name"], args=call["arguments"], id=call["id"], type="tool_call")
            for call in message.get("tool_calls", ())
        ]
        return AIMessage(content=content, tool_calls=calls)
    status = "error" if message.get("is_error") else "success"
    return ToolMessage(content=content, tool_call_id=message["tool_call_id"], status=status)


def _content(content: str | list[JsonObject]) -> str | list[Any]:
    """Send plain text as one string: not every server accepts a list."""
    if isinstance(content, str) or all(part["type"] == "text" for part in content):
        return _text(content)
    return [_part(part) for part in content]


def _part(part: JsonObject) -> dict[str, object]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    media_type, uri = str(part["media_type"]), str(part["uri"])
    kind = media_type.partition("/")[0]
    block: dict[str, object] = {
        "type": kind if kind in {"image", "audio", "video"} else "file",
        "mime_type": media_type,
    }
    if uri.startswith("data:"):
        return block | {"base64": uri.partition(",")[2]}
    return block | {"url": uri}
