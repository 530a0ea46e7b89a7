"""Google's Gemini models over the Gemini API. Requires the extra `google`."""

import httpx  # Google's SDK uses it and lets its exceptions through
from google.genai.errors import APIError
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_google_genai._common import GoogleGenerativeAIError
from pydantic import SecretStr

from engine.models.langchain import Dialect, LangChainModel, response_format

DIALECT = Dialect(
    settings={
        "max_tokens": "max_output_tokens",
        "temperature": "temperature",
        "top_p": "top_p",
        "frequency_penalty": "frequency_penalty",
        "presence_penalty": "presence_penalty",
        "seed": "seed",
    },
    structured=response_format,
    errors={
        httpx.TimeoutException: "timeout",
        httpx.HTTPError: "connection",
        APIError: None,
        GoogleGenerativeAIError: None,
    },
)

_ONE_ATTEMPT = 1
"""With 0 the SDK would make several attempts, its own default."""


def build(model: str, *, provider: str, api_key: str, base_url: str, server_address: str | None) -> LangChainModel:
    """Build a model with its own HTTP client. The null temperature stops LangChain from sending its own default."""
    chat = ChatGoogleGenerativeAI(
        model=model,
        api_key=SecretStr(api_key),
        base_url=base_url,
        vertexai=False,
        temperature=None,
        max_retries=_ONE_ATTEMPT,
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
