"""OpenAI's chat models, and models of any server with an OpenAI-compatible API. Requires the extra `openai`."""

from typing import Any

import openai
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from engine.graph import JsonObject
from engine.models.client import ModelClient
from engine.models.langchain import Dialect, LangChainModel, response_format
from engine.models.reports import openai_usage
from engine.resources import AnswerLimits


def _structured(schema: JsonObject) -> dict[str, object]:
    """Put the schema into the body: LangChain's own parsing rejects tools beside it and raises on truncated answers."""
    return {"extra_body": response_format(schema)}


DIALECT = Dialect(
    settings={
        "max_tokens": "max_tokens",
        "temperature": "temperature",
        "top_p": "top_p",
        "frequency_penalty": "frequency_penalty",
        "presence_penalty": "presence_penalty",
        "seed": "seed",
        "service_tier": "service_tier",
    },
    structured=_structured,
    says_finish=True,
    errors={openai.OpenAIError: None},
)


class OpenAIModel(ChatOpenAI):
    """ChatOpenAI whose streamed chunks carry the response id, as complete responses do, reasoning and refusals.

    Other servers with OpenAI's protocol send `reasoning_content` or `reasoning`, which LangChain drops uncounted;
    a refusal is what OpenAI sends instead of text.
    Pieces of arguments are kept from LangChain, which would parse each of them as if it were all.
    """

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        delta = _delta(chunk)
        arguments = _take_arguments(delta)
        generation = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        if generation is None:
            return None
        message = generation.message
        message.id = chunk.get("id")
        if isinstance(message, AIMessageChunk):
            for call, piece in zip(message.tool_call_chunks, arguments, strict=False):
                call["args"] = piece
        for key in ("reasoning_content", "reasoning", "refusal"):
            if delta.get(key):
                message.additional_kwargs[key] = delta[key]
        return generation


def _delta(chunk: dict[str, Any]) -> dict[str, Any]:
    """What a chunk of a stream adds; empty if it has no choice."""
    choices = chunk.get("choices")
    return (choices[0].get("delta") if choices else None) or {}


def _take_arguments(delta: dict[str, Any]) -> list[str | None]:
    """Replace the arguments in the tool calls of a delta by empty ones, and return them."""
    taken: list[str | None] = []
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        taken.append(function.get("arguments"))
        function["arguments"] = ""
    return taken


def build(model: str, *, provider: str, api_key: str, base_url: str, limits: AnswerLimits) -> LangChainModel:
    """Build a model with its own HTTP client.

    LangChain's timeout for each chunk is off: it waits by `asyncio.wait_for`, which in Python 3.11 loses a cancellation
    that arrives together with a chunk. The node's timeout and the client's apply.
    """
    client = ModelClient(limits, openai_usage)
    chat = OpenAIModel(
        model_name=model,
        openai_api_key=SecretStr(api_key),
        openai_api_base=base_url,
        max_retries=0,
        stream_usage=True,
        http_async_client=client,
        stream_chunk_timeout=None,
    )
    return LangChainModel(
        chat,
        provider=provider,
        model=model,
        base_url=base_url,
        dialect=DIALECT,
        limits=limits,
        secret=api_key,
        close=client.aclose,
    )
