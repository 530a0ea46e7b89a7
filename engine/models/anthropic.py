"""Anthropic's chat models. Requires the extra `anthropic`."""

from functools import cached_property
from typing import Any

import anthropic
from anthropic.types import RawMessageStreamEvent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessageChunk
from pydantic import SecretStr

from engine.models.client import ModelClient
from engine.models.langchain import Dialect, LangChainModel, response_format
from engine.models.reports import anthropic_usage
from engine.resources import AnswerLimits

DIALECT = Dialect(
    settings={
        "max_tokens": "max_tokens",
        "temperature": "temperature",
        "top_p": "top_p",
        "service_tier": "service_tier",
    },
    service_tiers={"auto": "auto", "default": "standard_only"},
    structured=response_format,
    says_finish=True,
    errors={anthropic.AnthropicError: None},
)


class AnthropicModel(ChatAnthropic):
    """ChatAnthropic whose streams carry the response id, and that uses the HTTP client that it is given.

    Pieces of arguments are kept from LangChain, which would parse each of them as if it were all.
    """

    http_client: ModelClient

    @cached_property
    def _async_client(self) -> anthropic.AsyncClient:
        return anthropic.AsyncClient(**self._client_params, http_client=self.http_client)

    def _make_message_chunk_from_anthropic_event(
        self, event: RawMessageStreamEvent, **options: Any
    ) -> tuple[AIMessageChunk | None, RawMessageStreamEvent | None]:
        arguments = _take_arguments(event)
        chunk, block = super()._make_message_chunk_from_anthropic_event(event, **options)
        if chunk is not None and arguments:
            for call in chunk.tool_call_chunks:
                call["args"] = arguments
        if chunk is not None and event.type == "message_start":
            chunk.id = event.message.id
        return chunk, block


def _take_arguments(event: RawMessageStreamEvent) -> str:
    """Replace the piece of arguments in an event by an empty one, and return it."""
    if event.type != "content_block_delta" or event.delta.type != "input_json_delta":
        return ""
    piece, event.delta.partial_json = event.delta.partial_json, ""
    return piece


def build(model: str, *, provider: str, api_key: str, base_url: str, limits: AnswerLimits) -> LangChainModel:
    """Build a model with its own HTTP client."""
    client = ModelClient(limits, anthropic_usage)
    chat = AnthropicModel(
        model=model,
        anthropic_api_key=SecretStr(api_key),
        anthropic_api_url=base_url,
        max_retries=0,
        stream_usage=True,
        http_client=client,
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
