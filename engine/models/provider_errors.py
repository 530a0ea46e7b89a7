"""Translates the errors of model providers into `ModelFailure`s with a code that decides about retries."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

import anyio
import httpx2
from langchain_core.exceptions import (
    ContextOverflowError,
    LangChainException,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)

from engine.documents.retry_after import parse_retry_after
from engine.errors import ModelFailure
from engine.security.redaction import error_text, redact
from engine.usage import UsageReport


class AnswerRefused(Exception):
    """We do not take this answer; `code` is that of the failure, and the message ends a sentence on the provider."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


WIRE_ERRORS: tuple[type[Exception], ...] = (
    AnswerRefused,
    LangChainException,
    httpx2.HTTPError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    OSError,
    # a provider's malformed answer, seen by the code that takes it apart
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
)

_BY_CLASS: tuple[tuple[type[Exception], str], ...] = (
    (ContextOverflowError, "context_too_long"),
    (ModelRateLimitError, "rate_limited"),
    (ModelAuthenticationError, "auth"),
    (ModelPermissionDeniedError, "auth"),
    (ModelNotFoundError, "model_not_found"),
    (ModelInvalidRequestError, "bad_request"),
    (ModelTimeoutError, "timeout"),
    (TimeoutError, "timeout"),
    (httpx2.TimeoutException, "timeout"),
    (ModelConnectionError, "connection"),
    (httpx2.TransportError, "connection"),
    (anyio.BrokenResourceError, "connection"),
    (anyio.ClosedResourceError, "connection"),
    (anyio.EndOfStream, "connection"),
    (OSError, "connection"),
)
_BY_STATUS = {
    400: "bad_request",
    401: "auth",
    402: "auth",
    403: "auth",
    404: "model_not_found",
    408: "timeout",
    413: "context_too_long",
    422: "bad_request",
    429: "rate_limited",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}
_SAID = {
    "rate_limited": "is limiting the call rate",
    "overloaded": "is overloaded",
    "timeout": "did not answer in time",
    "connection": "could not be reached, or closed the connection",
    "auth": "refused the key; check the provider's API key and what it may use",
    "model_not_found": "does not know the model",
    "context_too_long": "refused the messages: they exceed the model's context window",
    "bad_request": "refused the request",
    "invalid_output": "sent an answer that is not taken",
    "provider_error": "failed or sent an unreadable response",
}
_SHORTEST_SECRET = 5
"""Shorter is the placeholder for a server that needs no key: a word of many messages."""

MAX_SAID = 300
"""Characters of a provider's own message that are kept: some repeat the whole request."""

_WRONG_KEY = re.compile(r"API_KEY_INVALID|API key not valid|invalid x-api-key", re.IGNORECASE)
_OVERLOADED = re.compile(r"overloaded", re.IGNORECASE)
_RETRY_DELAY = re.compile(r"""retryDelay\W+(\d+(?:\.\d+)?)s""")


@runtime_checkable
class _Response(Protocol):
    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


@runtime_checkable
class _WithResponse(Protocol):
    @property
    def response(self) -> object: ...


def failure_of(
    error: Exception,
    codes: Mapping[type[Exception], str | None],
    *,
    provider: str,
    model: str,
    secret: str | None,
    report: UsageReport | None = None,
) -> ModelFailure:
    """The failure for an exception of a provider's SDK, LangChain or the transport; its message never holds `secret`.

    `codes` are those of the SDK's own exceptions. `report` is what the provider had reported until then.
    """
    refused = next((link for link in _chain(error) if isinstance(link, AnswerRefused)), None)
    response, said = _response(error), str(refused or error)
    code = refused.code if refused else _code(error, codes, response, said)
    status = f" ({response.status_code})" if response is not None else ""
    secrets = (secret,) if secret and len(secret) >= _SHORTEST_SECRET else ()
    shown = redact(said, *secrets)
    shown = shown if len(shown) <= MAX_SAID else shown[:MAX_SAID] + "…"
    message = error_text(f"{provider} {_SAID[code]}{status}, model {model}: {shown}", *secrets)
    return ModelFailure(code, message, retry_after_seconds=_retry_after_seconds(response, said), report=report)


def _code(error: Exception, codes: Mapping[type[Exception], str | None], response: _Response | None, said: str) -> str:
    if _WRONG_KEY.search(said):
        return "auth"
    known = (*_BY_CLASS, *codes.items())
    for link in _chain(error):
        for kind, code in known:
            if code is not None and isinstance(link, kind):
                return code
    if response is not None and response.status_code in _BY_STATUS:
        return _BY_STATUS[response.status_code]
    return "overloaded" if _OVERLOADED.search(said) else "provider_error"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _response(error: Exception) -> _Response | None:
    """The provider's HTTP response, from the exception or its causes."""
    for link in _chain(error):
        if isinstance(link, _WithResponse) and isinstance(link.response, _Response):
            return link.response
    return None


def _retry_after_seconds(response: _Response | None, said: str) -> float | None:
    """The delay that the provider asks for: in the header, or in the message (Gemini)."""
    header = response.headers.get("retry-after") if response is not None else None
    if header is None and (delay := _RETRY_DELAY.search(said)) is not None:
        header = delay.group(1)
    return parse_retry_after(header, datetime.now(UTC))
