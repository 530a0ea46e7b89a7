"""JSON responses of routes, and their descriptions for OpenAPI."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

from api.http.problems import RETRY_AFTER_SECONDS, TITLES
from engine.graph import JsonObject

IDEMPOTENCY_KEY = "Idempotency-Key"

RETRY_LATER = {"Retry-After": str(RETRY_AFTER_SECONDS)}
"""The header of a response that asks for another try."""

OpenapiResponses = dict[int | str, dict[str, Any]]
"""OpenAPI's description of each response, by status."""

PROBLEMS_EVERYWHERE = (
    "malformed_request",
    "invalid_header",
    "request_timeout",
    "host_not_allowed",
    "too_many_connections",
    "headers_too_large",
    "internal_error",
    "unavailable",
)


def json_response(document: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response with the document."""
    return Response(document.model_dump_json(by_alias=True), status, headers, media_type="application/json")


def next_link(request: Request, cursor: str | None) -> dict[str, str]:
    """The `Link` header with the path of the next page; no header on the last page."""
    if cursor is None:
        return {}
    url = request.url.include_query_params(cursor=cursor)
    return {"Link": f'<{url.path}?{url.query}>; rel="next"'}


def openapi_body(
    model: str, *, key: bool = False, examples: Mapping[str, JsonObject] | None = None
) -> dict[str, object]:
    """OpenAPI's description of a body that the route reads itself; `key` if the route accepts an Idempotency-Key."""
    content: dict[str, object] = {"schema": {"$ref": f"#/components/schemas/{model}"}}
    if examples:
        content["examples"] = examples
    body: dict[str, object] = {"requestBody": {"required": True, "content": {"application/json": content}}}
    return body | {"parameters": [_KEY_HEADER]} if key else body


def openapi_responses(
    good: OpenapiResponses, *codes: str, everywhere: Sequence[str] = PROBLEMS_EVERYWHERE
) -> OpenapiResponses:
    """OpenAPI's description of a route's responses: the successful ones, its own problems, and those of every route."""
    found: OpenapiResponses = {}
    for code in sorted({*codes, *everywhere}, key=list(TITLES).index):
        status, title = TITLES[code]
        if status in found:
            found[status]["description"] += f"; `{code}`: {title}"
        else:
            found[status] = {"description": f"`{code}`: {title}", "content": _PROBLEM_CONTENT}
    return found | good


_KEY_HEADER = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "required": False,
    "description": "A repeated request with the same key starts no second execution. Visible ASCII, unique per owner.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
