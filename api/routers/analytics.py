"""/v1/analytics: what executions used, from the roll-ups."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import Field

from api.http.dependencies import OWNER, QueryModel, RuntimeDep
from api.http.responses import answers, json_answer
from api.schemas import executions
from api.schemas.timestamps import Time
from telemetry.reads import cost as costs

router = APIRouter(prefix="/v1/analytics", tags=["analytics"])

Text = Annotated[str, Field(min_length=1, max_length=255)]


class CostQuery(QueryModel):
    """What to sum and how to group it; hours are the grain of `from` and `to` (half-open)."""

    group_by: list[costs.Dimension] = Field([], max_length=2)
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
    summary="What executions cost, per group",
    response_model=None,
    responses=answers(
        {200: {"description": "Dearest first, with the total.", "model": executions.CostAnswer}},
        "invalid_request",
        "too_many_groups",
    ),
)
async def cost(runtime: RuntimeDep, query: Annotated[CostQuery, Query()]) -> Response:
    """Unpriced calls cost nothing here and are counted beside."""
    names = CostQuery.model_fields.keys() - {"group_by"}
    wanted = costs.CostFilter(owner=OWNER, **{name: getattr(query, name) for name in names})
    async with runtime.database.read() as connection:
        report = await costs.cost(connection, wanted, list(dict.fromkeys(query.group_by)))
    return json_answer(executions.cost(report))
