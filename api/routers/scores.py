"""/v1/executions/{id}/scores: judge an execution, and read its scores."""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from api.http.dependencies import ExecutionId, NoQueryDep, RuntimeDep
from api.http.principal import Principal, needs
from api.http.request_bodies import read_body
from api.http.responses import json_response, openapi_body, openapi_responses
from api.operations.lookup import about, headers_of
from api.routers.executions import ID_HEADER
from api.schemas import scores
from engine.errors import NotFound
from engine.graph import JsonObject
from telemetry.reads.executions import get_execution
from telemetry.reads.scores import list_scores

router = APIRouter(prefix="/v1/executions", tags=["executions"])

EXAMPLES: dict[str, JsonObject] = {
    "rating": {
        "summary": "A person rates the answer",
        "value": {"name": "rating", "value": 4, "source": "human", "comment": "Right, but long."},
    },
    "label": {"summary": "Code checks the answer", "value": {"name": "format", "value": "valid", "source": "code"}},
}


@router.post(
    "/{execution_id}/scores",
    operation_id="executions_score",
    summary="Give an execution a score",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "The score.", "model": scores.ScoreAnswer, "headers": ID_HEADER}},
        "malformed_json",
        "not_found",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
    ),
    openapi_extra=openapi_body("ScoreBody", examples=EXAMPLES),
)
async def give(
    execution_id: ExecutionId,
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("executions:score")],
    query: NoQueryDep,
) -> Response:
    """Also long after its end, as long as its record is kept. A second score of the same name and source replaces the
    first, so a request can be repeated.
    """
    body = await read_body(request, scores.ScoreBody)
    async with about(execution_id):
        score = await runtime.scoring.give(execution_id, principal.owner, body.given())
        return json_response(scores.score(score), headers=headers_of(execution_id))


@router.get(
    "/{execution_id}/scores",
    operation_id="executions_scores",
    summary="Get the scores of an execution",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "The scores, by name and source.", "model": scores.ScoreList, "headers": ID_HEADER}},
        "not_found",
        "invalid_request",
    ),
)
async def read(
    execution_id: ExecutionId,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("executions:read")],
    query: NoQueryDep,
) -> Response:
    """With the Collector a score is there once it has come back, within seconds."""
    async with about(execution_id), runtime.database.read() as connection:
        if await get_execution(connection, execution_id, principal.owner) is None:
            raise NotFound.of("execution", execution_id)
        found = await list_scores(connection, execution_id)
        return json_response(scores.ScoreList(items=list(map(scores.score, found))), headers=headers_of(execution_id))
