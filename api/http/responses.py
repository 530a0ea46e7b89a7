"""How routes answer: JSON from a model, and what OpenAPI says of it."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

from api.http.problems import TITLES
from engine.graph import JsonObject

IDEMPOTENCY_KEY = "Idempotency-Key"

Answers = dict[int | str, dict[str, Any]]
"""Status to what OpenAPI says of the answer."""

PROBLEMS_EVERYWHERE = ("host_not_allowed", "internal_error", "unavailable")


def json_answer(document: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The document as JSON."""
    return Response(document.model_dump_json(by_alias=True), status, headers, media_type="application/json")


def next_link(request: Request, cursor: str | None) -> dict[str, str]:
    """The header that leads to the next page, relative to this service; nothing on the last one."""
    if cursor is None:
        return {}
    url = request.url.include_query_params(cursor=cursor)
    return {"Link": f'<{url.path}?{url.query}>; rel="next"'}


def takes_body(
    model: str, *, required: bool = True, key: bool = False, examples: Mapping[str, JsonObject] | None = None
) -> dict[str, object]:
    """What OpenAPI says of a body that the route reads itself; `key`: it may come under an Idempotency-Key."""
    content: dict[str, object] = {"schema": {"$ref": f"#/components/schemas/{model}"}}
    if examples:
        content["examples"] = examples
    body: dict[str, object] = {"requestBody": {"required": required, "content": {"application/json": content}}}
    return body | takes_key() if key else body


def takes_key() -> dict[str, object]:
    """What OpenAPI says of a route that may be called under an Idempotency-Key."""
    meaning = "Repeated under the same key, a request starts nothing again. Visible ASCII, unique per owner."
    schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
    return {
        "parameters": [
            {"name": IDEMPOTENCY_KEY, "in": "header", "required": False, "description": meaning, "schema": schema}
        ]
    }


def answers(good: Answers, *codes: str) -> Answers:
    """The answers of a route for OpenAPI: the good ones, its problems by reference, and those that every route has."""
    found: Answers = {}
    for code in sorted((*codes, *PROBLEMS_EVERYWHERE), key=lambda code: TITLES[code][0]):
        status, title = TITLES[code]
        if status in found:
            found[status]["description"] += f"; `{code}`: {title}"
        else:
            found[status] = {"description": f"`{code}`: {title}", "content": _PROBLEM_CONTENT}
    return found | good


_PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
