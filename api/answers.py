"""How routes answer: JSON from a model, and what OpenAPI says of it."""

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

from api.problems import TITLES

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


def takes_body(model: str, *, required: bool = True) -> dict[str, object]:
    """What OpenAPI says of a body that the route reads itself."""
    schema = {"$ref": f"#/components/schemas/{model}"}
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


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
