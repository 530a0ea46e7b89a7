"""Adapter that turns any LangChain chat model into a `ChatModel`, and its errors into spanloom's error codes.

`invoke` and `stream` feed the same `Answer`, so they cannot disagree.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from traceback import clear_frames
from typing import Any, cast
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.runnables import Runnable, RunnableBinding
from langsmith.utils import tracing_is_enabled

from engine.documents.json_text import to_json
from engine.errors import ModelFailure
from engine.graph import JsonObject
from engine.models.answer import Answer, text_of_content
from engine.models.provider_errors import WIRE_ERRORS, failure_of
from engine.models.reports import listening
from engine.resources import AnswerLimits, Message, ModelReply, ModelRequest, ModelSettings, ToolSpec
from engine.usage import UsageReport

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
    service_tiers: Mapping[str, str] = field(default_factory=dict)
    """The provider's word by service tier, where it has words of its own; then it has no others."""
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
        base_url: str | None = None,
        dialect: Dialect = PLAIN,
        limits: AnswerLimits | None = None,
        secret: str | None = None,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._chat = chat
        self._provider = provider
        self._model = model
        self._server_address, self._server_port = _host_and_port(base_url)
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

    @property
    def server_port(self) -> int | None:
        """The port of the provider's endpoint."""
        return self._server_port

    async def invoke(self, request: ModelRequest) -> ModelReply:
        """Call the model without streaming. Raises `ModelFailure`."""
        answer = Answer(self._limits)
        try:
            model, keywords = self._bound(request)
            with listening(answer.reported):
                message = await model.ainvoke(_messages(request), **keywords)
            answer.add_whole(message)
        except self._errors as error:
            raise self._failure(error, answer) from error
        return answer.reply(request.settings.response_schema)

    async def stream(self, request: ModelRequest) -> AsyncIterator[str | UsageReport | ModelReply]:
        """Yield text as it arrives, or empty text, and usage; then the complete reply. Raises `ModelFailure`."""
        answer = Answer(self._limits)
        add = answer.add_chunk
        try:
            model, keywords = self._bound(request)
            async with aclosing(_chunks(model, _messages(request), keywords)) as chunks:
                with listening(answer.reported):  # the request is sent before the first chunk
                    chunk = await anext(chunks, None)
                while chunk is not None:
                    yield add(chunk)
                    if (news := answer.news()) is not None:
                        yield news
                    chunk = await anext(chunks, None)
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
            texts.append(text_of_content(content))
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
            "service_tier": self._tier(settings.service_tier),
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

    def _tier(self, tier: str | None) -> str | None:
        """The provider's word for a service tier. Raises `ModelFailure` if the provider has no such tier."""
        words = self._dialect.service_tiers
        if tier is None or not words:
            return tier
        if tier not in words:
            known = " or ".join(words)
            raise ModelFailure("bad_request", f"{self._provider} has no service tier {tier}; use {known}, or remove it")
        return words[tier]

    def _failure(self, error: Exception, answer: Answer) -> ModelFailure:
        """The failure for an exception, whose traceback no longer refers to what was read."""
        clear_frames(error.__traceback__)
        return failure_of(
            error,
            self._dialect.errors,
            provider=self._provider,
            model=self._model,
            secret=self._secret,
            report=answer.report(),
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
        return text_of_content(content)
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


def _host_and_port(url: str | None) -> tuple[str | None, int | None]:
    """Where a URL leads; the port is that of its scheme if it names none, and null if it names none that exists."""
    if url is None:
        return None, None
    parts = urlsplit(url)
    try:
        return parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return parts.hostname, None
