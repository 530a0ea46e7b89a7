"""/v1/analytics: tokens and cost of executions, from the roll-ups."""

from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query, Response
from pydantic import BeforeValidator, Field

from api.http.dependencies import OWNER, QueryModel, RuntimeDep
from api.http.responses import json_response, openapi_responses
from api.schemas import executions
from api.schemas.timestamps import Time
from api.schemas.values import shown
from telemetry.reads import cost as costs

router = APIRouter(prefix="/v1/analytics", tags=["analytics"])

Text = Annotated[str, Field(min_length=1, max_length=255)]


def _check_group(value: object) -> object:
    valid = get_args(costs.Dimension)
    if value not in valid:
        raise ValueError(f"Cannot group by {shown(value) or 'this'}. Valid groups: {', '.join(valid)}")
    return value


class CostQuery(QueryModel):
    """Filters and groups of a cost report; `from` and `to` are rounded to whole hours (half-open)."""

    group_by: list[Annotated[costs.Dimension, BeforeValidator(_check_group)]] = Field([], max_length=2)
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
        "too_many_groups",
    ),
)
async def cost(runtime: RuntimeDep, query: Annotated[CostQuery, Query()]) -> Response:
    """Calls without a price add nothing to the cost; `unpriced_calls` counts them."""
    names = CostQuery.model_fields.keys() - {"group_by"}
    wanted = costs.CostFilter(owner=OWNER, **{name: getattr(query, name) for name in names})
    async with runtime.database.read() as connection:
        report = await costs.cost(connection, wanted, list(dict.fromkeys(query.group_by)))
    return json_response(executions.cost(report))
