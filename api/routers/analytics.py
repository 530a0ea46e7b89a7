"""/v1/analytics: tokens and cost of executions, from the roll-ups, and their scores."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BeforeValidator, Field, WithJsonSchema

from api.http.dependencies import QueryModel, RuntimeDep
from api.http.principal import Principal, needs
from api.http.responses import json_response, openapi_responses
from api.schemas import executions, scores
from api.schemas.timestamps import Time
from api.schemas.values import shown
from telemetry.reads import cost as costs
from telemetry.reads.cost_query import DIMENSIONS, MAX_TAG_KEY, OF_RECORDS, OF_ROLLUPS, TAG, CostFilter, is_dimension
from telemetry.reads.scores import ScoreFilter, mean_scores

router = APIRouter(prefix="/v1/analytics", tags=["analytics"])

Text = Annotated[str, Field(min_length=1, max_length=255)]


def _check_group(value: object) -> object:
    if not isinstance(value, str) or not is_dimension(value):
        raise ValueError(f"Cannot group by {shown(value) or 'this'}. Valid groups: {', '.join(DIMENSIONS)}")
    return value


Group = Annotated[
    str,
    BeforeValidator(_check_group),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": [*OF_ROLLUPS, *OF_RECORDS]},
                {"type": "string", "pattern": f"^{TAG}.", "maxLength": len(TAG) + MAX_TAG_KEY},
            ]
        }
    ),
]


class CostQuery(QueryModel):
    """Filters and groups of a cost report; `from` and `to` are rounded to whole hours (half-open).

    `group_by=tag:team` groups by a tag. Groups by tag, `outcome`, `error_type` or `node` are read from records and
    count executions that have ended, by default those of the last 30 days. `template` takes the name of a workflow
    that has none.
    """

    group_by: list[Group] = Field([], max_length=2)
    since: Time | None = Field(None, alias="from")
    until: Time | None = Field(None, alias="to")
    template: Text | None = None
    workflow: Text | None = None
    source: Literal["template", "definition", "graph", "chat"] | None = None
    provider: Text | None = None
    model: Text | None = None


@router.get(
    "/cost",
    operation_id="analytics_cost",
    summary="Get the cost of executions, per group",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "The groups, highest cost first, and the total.", "model": executions.CostAnswer}},
        "invalid_request",
    ),
)
async def cost(
    runtime: RuntimeDep, principal: Annotated[Principal, needs("analytics:read")], query: Annotated[CostQuery, Query()]
) -> Response:
    """Calls of unknown cost add nothing to it, but are counted. Beyond 1,000 rows the cheapest are one, `_other`."""
    names = CostQuery.model_fields.keys() - {"group_by"}
    wanted = CostFilter(owner=principal.owner, **{name: getattr(query, name) for name in names})
    async with runtime.database.read() as connection:
        report = await costs.cost(connection, wanted, list(dict.fromkeys(query.group_by)))
    return json_response(executions.cost(report))


class ScoresQuery(QueryModel):
    """Filters of scores; `from` and `to` select by the time of the score (half-open), `source` by who gave it."""

    since: Time | None = Field(None, alias="from")
    until: Time | None = Field(None, alias="to")
    template: Text | None = None
    workflow: Text | None = None
    name: Text | None = None
    source: scores.Source | None = None


@router.get(
    "/scores",
    operation_id="analytics_scores",
    summary="Get the mean scores of workflows, per version of their templates",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "Means and counts per name, workflow and version.", "model": scores.ScoresAnswer}},
        "invalid_request",
    ),
)
async def mean(
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("analytics:read")],
    query: Annotated[ScoresQuery, Query()],
) -> Response:
    """Numbers have a mean; labels are counted, each by itself. Of more than 1,000 groups those with the most scores."""
    wanted = ScoreFilter(owner=principal.owner, **{name: getattr(query, name) for name in ScoresQuery.model_fields})
    async with runtime.database.read() as connection:
        return json_response(scores.means(await mean_scores(connection, wanted)))
