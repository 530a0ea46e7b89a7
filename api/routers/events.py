"""/v1/executions/{id}/events: follow an execution, also after a lost connection."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.http.dependencies import ExecutionId, QueryModel, RuntimeDep
from api.http.principal import Principal, needs
from api.http.problems import Problem
from api.http.responses import openapi_responses
from api.operations.follow import StreamPosition, has_received_all
from api.operations.lookup import about, headers_of
from api.operations.start import event_stream
from api.routers.executions import EVENT_STREAM, ID_HEADER, STREAM_HEADERS
from engine.errors import NotFound
from engine.store import control
from telemetry.reads import executions

MAX_READERS = 16
"""The most readers of one execution in one process, apart from the request that started it."""
LAST_EVENT_ID = "Last-Event-ID"

_ID = r"^[0-9]{1,10}-[0-9]{1,10}$"

router = APIRouter(prefix="/v1/executions", tags=["executions"])


class EventsQuery(QueryModel):
    """The id of the last event that was received; the header `Last-Event-ID` takes precedence."""

    after: Annotated[str, Field(pattern=_ID)] | None = None


_PARAMETER = {
    "name": LAST_EVENT_ID,
    "in": "header",
    "required": False,
    "description": "`<attempt>-<seq>` of the last event that was received. Browsers send it when they reconnect.",
    "schema": {"type": "string", "pattern": _ID},
}


@router.get(
    "/{execution_id}/events",
    operation_id="executions_events",
    summary="Follow an execution",
    response_model=None,
    responses=openapi_responses(
        {
            200: {"description": "The events after the given id.", "headers": STREAM_HEADERS, "content": EVENT_STREAM},
            204: {
                "description": "The execution has ended, and the client already has its closing event.",
                "headers": ID_HEADER,
            },
        },
        "invalid_header",
        "not_found",
        "invalid_request",
        "too_many_subscribers",
    ),
    openapi_extra={"parameters": [_PARAMETER]},
)
async def events(
    execution_id: ExecutionId,
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("executions:read", "content:read")],
    query: Annotated[EventsQuery, Query()],
) -> Response:
    """The events after the id. A `gap` event stands for events that are not known. A paused execution sends no more."""
    async with about(execution_id):
        position = _position(request, query)
        async with runtime.database.read() as connection:
            row = await control.get(connection, execution_id, principal.owner)
            if row is None and await executions.get_execution(connection, execution_id, principal.owner) is None:
                raise NotFound.of("execution", execution_id)
        if row is None or has_received_all(row, position):
            return Response(status_code=204, headers=headers_of(execution_id))
        if runtime.readers[execution_id] >= MAX_READERS:
            raise Problem(
                "too_many_subscribers",
                f"The execution already has {MAX_READERS} readers. Close one, or try again later.",
            )
        return event_stream(runtime, request, execution_id, principal.owner, position)


def _position(request: Request, query: EventsQuery) -> StreamPosition:
    given = request.headers.get(LAST_EVENT_ID)
    if given is not None and not re.fullmatch(_ID, given):
        raise Problem("invalid_header", f"Write {LAST_EVENT_ID} as <attempt>-<seq>.")
    attempt, _, seq = (given or query.after or "0-0").partition("-")
    return StreamPosition(int(attempt), int(seq))
