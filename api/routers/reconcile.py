"""/v1/reconcile: the hourly comparisons of the books."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from api.http.dependencies import QueryModel, RuntimeDep
from api.http.pagination import read_cursor, write_cursor
from api.http.principal import Principal, needs
from api.http.responses import json_response, openapi_responses
from api.schemas.reconcile import ReconcileDocument, ReconcilePage
from api.schemas.timestamps import EARLIEST, Time, in_range
from telemetry.reconcile.job import ReconcileRun, list_runs

router = APIRouter(prefix="/v1/reconcile", tags=["operations"])


class ReconcileQuery(QueryModel):
    """Selects comparisons by the time at which they were due (half-open)."""

    since: Time | None = Field(None, alias="from")
    until: Time | None = Field(None, alias="to")
    limit: int = Field(50, ge=1, le=200)
    cursor: Annotated[str, Field(min_length=1, max_length=1_000)] | None = None


@router.get(
    "",
    operation_id="reconcile_list",
    summary="List the hourly comparisons of the books",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "A page of comparisons, newest first.", "model": ReconcilePage}},
        "invalid_request",
        "invalid_cursor",
    ),
)
async def runs(
    runtime: RuntimeDep, principal: Annotated[Principal, needs("ops")], query: Annotated[ReconcileQuery, Query()]
) -> Response:
    """The keeper compares the books once an hour."""
    before = read_cursor(query.cursor, query, _due)
    async with runtime.database.read() as connection:
        found = await list_runs(connection, since=query.since, until=query.until, before=before, limit=query.limit + 1)
    page = found[: query.limit]
    more = len(found) > query.limit
    return json_response(
        ReconcilePage(items=[_document(run) for run in page], next_cursor=_cursor(page[-1], query) if more else None)
    )


def _due(seconds: str) -> datetime:
    return in_range(EARLIEST + timedelta(seconds=int(seconds)))


def _cursor(last: ReconcileRun, query: ReconcileQuery) -> str:
    return write_cursor([f"{(last.scheduled_for - EARLIEST).total_seconds():.0f}"], query)


def _document(run: ReconcileRun) -> ReconcileDocument:
    return ReconcileDocument.of(run.report, run.differences, run.drift_nano_usd)
