"""Google's Gemini models over the Gemini API. Requires the extra `google`."""

import httpx2
from google.genai import Client
from google.genai.errors import APIError
from google.genai.types import HttpOptions
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_google_genai._common import GoogleGenerativeAIError
from pydantic import SecretStr

from engine.models.client import ModelClient
from engine.models.langchain import Dialect, LangChainModel, response_format
from engine.models.reports import gemini_usage
from engine.resources import AnswerLimits

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
    says_finish=True,
    errors={APIError: None, GoogleGenerativeAIError: None},
)

_ONE_ATTEMPT = 1
"""With 0 the SDK would make several attempts, its own default."""


def build(model: str, *, provider: str, api_key: str, base_url: str, limits: AnswerLimits) -> LangChainModel:
    """Build a model with its own HTTP client, which LangChain has no parameter for.

    The null temperature stops LangChain from sending its own default. Making a TLS context takes long, so there is one.
    """
    tls = httpx2.create_ssl_context()
    client = ModelClient(limits, gemini_usage, tls)
    unused: dict[str, object] = {"verify": tls}
    chat = ChatGoogleGenerativeAI(
        model=model,
        api_key=SecretStr(api_key),
        base_url=base_url,
        vertexai=False,
        temperature=None,
        max_retries=_ONE_ATTEMPT,
        client_args=unused,
    )
    chat.client = Client(
        api_key=api_key,
        http_options=HttpOptions(base_url=base_url, client_args=unused, httpx_async_client=client),
    )

    async def close() -> None:
        await chat.aclose()
        await client.aclose()

    return LangChainModel(
        chat,
        provider=provider,
        model=model,
        base_url=base_url,
        dialect=DIALECT,
        limits=limits,
        secret=api_key,
        close=close,
    )
