"""Errors as RFC 9457 problem documents. They repeat no input except ids and plain names."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from opentelemetry import trace
from starlette.responses import Response

from api.access.principal import MissingScope, Unauthenticated
from api.schemas.problems import InputError, ProblemDocument
from engine.documents.json_text import to_json
from engine.errors import MalformedWorkflow, SpanloomError
from engine.report import ValidationReport

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 100
RETRY_AFTER_SECONDS = 5

TITLES: Mapping[str, tuple[int, str]] = {
    "malformed_request": (400, "The request is not HTTP"),
    "malformed_json": (400, "The request body is not valid JSON"),
    "invalid_cursor": (400, "The cursor cannot be used"),
    "invalid_header": (400, "A header cannot be used"),
    "unauthenticated": (401, "The request has no valid key"),
    "missing_scope": (403, "The key may not do this"),
    "scope_exceeded": (403, "A key cannot give more than it has"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "The path does not support this method"),
    "request_timeout": (408, "The request took too long to arrive"),
    "already_finished": (409, "The execution has already ended"),
    "not_finished": (409, "The execution has not ended yet"),
    "not_paused": (409, "The execution is not waiting for an answer"),
    "already_answered": (409, "The question has been answered before"),
    "input_gone": (409, "The input of the execution is no longer stored"),
    "conversation_busy": (409, "The conversation has an unfinished execution"),
    "endpoint_disabled": (409, "The endpoint is disabled"),
    "body_too_large": (413, "The body is too large"),
    "unsupported_media_type": (415, "The content type of the body is not JSON"),
    "host_not_allowed": (421, "The host name is not allowed"),
    "invalid_request": (422, "The request is not valid"),
    "invalid_workflow": (422, "The document is not a workflow graph"),
    "invalid_answer": (422, "The answer does not match the question"),
    "idempotency_mismatch": (422, "The Idempotency-Key was used for a different request"),
    "missing_extra": (422, "A provider's package is not installed"),
    "url_not_allowed": (422, "The URL is not allowed"),
    "too_many_connections": (429, "Too many connections come from one address"),
    "queue_full": (429, "Too many executions are queued"),
    "too_many_subscribers": (429, "Too many readers follow the execution"),
    "headers_too_large": (431, "The headers are too large"),
    "internal_error": (500, "Something went wrong in the service"),
    "unavailable": (503, "The service cannot take the request now"),
    "draining": (503, "The service is stopping"),
}
"""The status and title of every problem, by code."""


@dataclass(frozen=True, slots=True)
class RequestIds:
    """The ids of a request in the caller's logs, in our logs and in traces."""

    correlation_id: str
    trace_id: str
    span_id: str
    is_sampled: bool

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        """The ids of the server span; random ids, under which nothing is stored, if the request is not traced."""
        span = trace.get_current_span().get_span_context()
        trace_id = trace.format_trace_id(span.trace_id) if span.is_valid else secrets.token_hex(16)
        span_id = trace.format_span_id(span.span_id) if span.is_valid else secrets.token_hex(8)
        given = headers.get("x-correlation-id", "")
        correlation_id = given if _CORRELATION_ID.fullmatch(given) else trace_id
        return cls(correlation_id, trace_id, span_id, span.trace_flags.sampled)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that every response has, but for `Cache-Control`, which a route may set itself."""
        flags = "01" if self.is_sampled else "00"
        return {
            "X-Correlation-ID": self.correlation_id,
            "traceresponse": f"00-{self.trace_id}-{self.span_id}-{flags}",
            "X-Content-Type-Options": "nosniff",
        }

    @property
    def fields(self) -> dict[str, str]:
        """The ids as fields of a log line."""
        return {"correlation_id": self.correlation_id, "trace_id": self.trace_id}


class Problem(Exception):
    """A refused request. `code` is one of `TITLES`."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: list[InputError] | None = None,
        report: ValidationReport | None = None,
        execution_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.errors = errors or []
        self.report = report
        self.execution_id = execution_id
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return TITLES[self.code][0]

    def document(self, ids: RequestIds | None, instance: str | None = None) -> ProblemDocument:
        """The problem as a document."""
        status, title = TITLES[self.code]
        return ProblemDocument(
            type=f"urn:spanloom:problem:{self.code}",
            title=title,
            status=status,
            code=self.code,
            detail=self.detail,
            instance=instance,
            correlation_id=ids.correlation_id if ids else None,
            trace_id=ids.trace_id if ids else None,
            execution_id=self.execution_id,
            retry_after_seconds=RETRY_AFTER_SECONDS if status in (429, 503) else None,
            errors=self.errors[:MAX_ERRORS],
            report=self.report,
        )

    def response(self, ids: RequestIds, instance: str | None) -> Response:
        """The problem as an HTTP response."""
        document = self.document(ids, instance)
        headers = {**ids.headers, "Cache-Control": "no-store", **self.headers}
        if document.retry_after_seconds is not None:
            headers["Retry-After"] = str(document.retry_after_seconds)
        if document.execution_id is not None:
            headers["X-Execution-ID"] = document.execution_id
        body = to_json(document.model_dump(mode="json"))
        return Response(body, document.status, headers, media_type=MEDIA_TYPE)


def problem_of(error: SpanloomError, execution_id: str | None = None) -> Problem:
    """The problem for an error; errors that callers should not see become `internal_error`."""
    if error.code not in TITLES or error.code == "internal_error":
        return internal_error(execution_id)
    report = error.report if isinstance(error, MalformedWorkflow) else None
    return Problem(error.code, error.message, report=report, execution_id=execution_id, headers=_challenge(error))


def _challenge(error: SpanloomError) -> dict[str, str]:
    """The header that tells clients which key to send, by RFC 6750 section 3."""
    if isinstance(error, Unauthenticated):
        reason = ', error="invalid_token"' if error.is_invalid else ""
        return {"WWW-Authenticate": f'Bearer realm="spanloom"{reason}'}
    if isinstance(error, MissingScope):
        return {"WWW-Authenticate": f'Bearer realm="spanloom", error="insufficient_scope", scope="{error.scope}"'}
    return {}


def internal_error(execution_id: str | None = None) -> Problem:
    """The problem for a fault of the service; the log has the details."""
    return Problem("internal_error", "The log has the details under the correlation id.", execution_id=execution_id)
