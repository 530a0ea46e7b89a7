"""Anthropic's chat models. Requires the extra `anthropic`."""

from functools import cached_property
from typing import Any

import anthropic
from anthropic.types import RawMessageStreamEvent
from langchain_anthropic import ChatAnthropic
from langchain_anthropic.chat_models import _create_usage_metadata
from langchain_core.messages import AIMessageChunk
from pydantic import SecretStr

from engine.models.langchain import MESSAGE_START_USAGE, Dialect, LangChainModel, response_format

DIALECT = Dialect(
    settings={"max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p"},
    structured=response_format,
    errors={anthropic.AnthropicError: None},
)


class AnthropicModel(ChatAnthropic):
    """ChatAnthropic that keeps the usage in a stream's first event, and uses its own HTTP client.

    LangChain reads usage from the last event only. If a server reports the input tokens only in the first event
    (`message_start`), LangChain would report none.
    """

    @cached_property
    def _async_client(self) -> anthropic.AsyncClient:
        return anthropic.AsyncClient(**self._client_params)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._async_client.close()

    def _make_message_chunk_from_anthropic_event(
        self, event: RawMessageStreamEvent, **options: Any
    ) -> tuple[AIMessageChunk | None, RawMessageStreamEvent | None]:
        chunk, block = super()._make_message_chunk_from_anthropic_event(event, **options)
        if chunk is not None and event.type == "message_start":
            chunk.id = event.message.id
            chunk.response_metadata[MESSAGE_START_USAGE] = _create_usage_metadata(event.message.usage)
        return chunk, block


def build(model: str, *, provider: str, api_key: str, base_url: str, server_address: str | None) -> LangChainModel:
    """Build a model with its own HTTP client."""
    chat = AnthropicModel(
        model=model, anthropic_api_key=SecretStr(api_key), anthropic_api_url=base_url, max_retries=0, stream_usage=True
    )
    return LangChainModel(
        chat,
        provider=provider,
        model=model,
        server_address=server_address,
        dialect=DIALECT,
        secret=api_key,
        close=chat.aclose,
    )
