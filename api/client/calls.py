"""Requests of the client as data: what is sent, how the answer is read, and when the request may be repeated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from api.client.errors import ServerProblem
from api.schemas.problems import ProblemDocument
from engine.documents.retry_after import parse_retry_after

T = TypeVar("T")

QueryValue = str | int | bool | datetime | Sequence[str] | None

_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_OF_PROXIES = frozenset({502, 504})
_NOTHING_ACCEPTED = frozenset({429, 503})
_MAX_PATIENCE = 30.0
"""Seconds: a `Retry-After` beyond them is the caller's to wait for."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. `answers` maps each 2xx status to the document of its body; null where there is none."""

    method: str
    path: str
    answers: Mapping[int, type[BaseModel] | None]
    query: Mapping[str, QueryValue] = field(default_factory=dict)
    body: BaseModel | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    seconds: float = 30.0
    """How long an answer may take."""

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """The query as it is sent; what is null or empty is not."""
        return [(name, text) for name, value in self.query.items() for text in _texts(value)]

    @property
    def sent_headers(self) -> dict[str, str]:
        """The headers that have a value. The service takes no POST of another content type, with or without a body."""
        json = {"Content-Type": "application/json"} if self.method in ("POST", "PUT", "PATCH") else {}
        return json | {name: value for name, value in self.headers.items() if value is not None}

    @property
    def content(self) -> bytes | None:
        """The body as JSON: what the caller has set."""
        return None if self.body is None else self.body.model_dump_json(by_alias=True, exclude_unset=True).encode()

    def read(self, answer: httpx2.Response) -> T:
        """The document of an answer. Raises `ServerProblem`."""
        if answer.status_code not in self.answers:
            raise problem_of(answer)
        model: Any = self.answers[answer.status_code]
        try:
            # A newer service has fields that this client does not know.
            document: Any = model and model.model_validate_json(answer.content, extra="ignore")
        except ValidationError:
            raise problem_of(answer) from None
        return cast("T", document)

    def pause_before_repeating(self, error: Exception) -> float | bool:
        """Whether to send the request again after this error, or the seconds to wait before."""
        match error:
            case ServerProblem(status=status) if status in _NOTHING_ACCEPTED:
                seconds = error.retry_after_seconds
                return True if seconds is None else seconds <= _MAX_PATIENCE and seconds
            case ServerProblem(status=status):
                return status in _OF_PROXIES and self._is_repeatable
            case httpx2.TransportError():
                return isinstance(error, _UNSENT) or self._is_repeatable
            case _:
                return False

    @property
    def _is_repeatable(self) -> bool:
        """Whether the service sees that a second request is the first one again."""
        return self.method == "GET" or "Idempotency-Key" in self.sent_headers


def segment(text: str) -> str:
    """A value as one segment of a path."""
    return quote(text, safe="")


def problem_of(answer: httpx2.Response) -> ServerProblem:
    """The error for an answer that is none of the expected ones."""
    wait = parse_retry_after(answer.headers.get("retry-after"), datetime.now(UTC))
    try:
        document = ProblemDocument.model_validate_json(answer.content, extra="ignore")
    except ValidationError:
        message = f"The server answered {answer.status_code}, but not as a spanloom service does; check its address."
        return ServerProblem(answer.status_code, None, message, retry_after_seconds=wait)
    return problem_of_document(document, retry_after_seconds=wait)


def problem_of_document(document: ProblemDocument, *, retry_after_seconds: float | None = None) -> ServerProblem:
    """The error that a problem document says."""
    seconds = retry_after_seconds or document.retry_after_seconds
    return ServerProblem(document.status, document, document.detail, retry_after_seconds=seconds)


def _texts(value: QueryValue) -> list[str]:
    match value:
        case None:
            return []
        case bool():
            return [str(value).lower()]
        case datetime():
            return [value.isoformat()]
        case int() | str() | StrEnum():
            return [str(value)]
        case _:
            return [str(each) for each in value]
