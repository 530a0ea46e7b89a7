"""OpenAI's chat models, and models of any server with an OpenAI-compatible API. Requires the extra `openai`."""

from typing import Any

import openai
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from engine.graph import JsonObject
from engine.models.langchain import Dialect, LangChainModel, response_format


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
    },
    structured=_structured,
    errors={openai.OpenAIError: None},
)


class OpenAIModel(ChatOpenAI):
    """ChatOpenAI whose streamed chunks carry the response id, as complete responses do."""

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        generation = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        if generation is not None:
            generation.message.id = chunk.get("id")
        return generation


def build(model: str, *, provider: str, api_key: str, base_url: str, server_address: str | None) -> LangChainModel:
    """Build a model with its own HTTP client."""
    client = openai.DefaultAsyncHttpxClient()
    chat = OpenAIModel(
        model_name=model,
        openai_api_key=SecretStr(api_key),
        openai_api_base=base_url,
        max_retries=0,
        stream_usage=True,
        http_async_client=client,
    )
    return LangChainModel(
        chat,
        provider=provider,
        model=model,
        server_address=server_address,
        dialect=DIALECT,
        secret=api_key,
        close=client.aclose,
    )
