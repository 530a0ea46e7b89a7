"""/v1/executions: start an execution, list executions, get one, its trace and its content, forget its content."""

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.access.principal import MissingScope
from api.access.scopes import ALL
from api.http.dependencies import ExecutionId, IdempotencyKeyDep, NoQueryDep, QueryModel, RuntimeDep
from api.http.pagination import invalid_cursor, read_cursor, read_time, write_cursor
from api.http.principal import Principal, needs, needs_caller, require
from api.http.request_bodies import read_body
from api.http.responses import json_response, next_link, openapi_body, openapi_responses
from api.operations import start as starting
from api.operations.lookup import about, headers_of, read_execution
from api.schemas import executions as documents
from api.schemas.timestamps import Time
from engine.errors import NotFound
from engine.graph import JsonObject
from engine.request import Caller, ExecutionRequest, GraphSource
from engine.result import ErrorClass, ExecutionResult, Status
from engine.retention import call_content
from telemetry.reads import executions, traces

router = APIRouter(prefix="/v1/executions", tags=["executions"])

Text = Annotated[str, Field(min_length=1, max_length=255)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


class StartQuery(QueryModel):
    """How long mode `wait` waits for the result. After that the response is 202, and the execution continues."""

    wait_seconds: int = Field(60, ge=1, le=900)


class ListQuery(QueryModel):
    """Filters of the list; `from` and `to` select by `queued_at` (half-open).

    Another `owner`, or `*` for all, needs the scope owners:all.
    """

    owner: Text | None = None
    status: list[Status] = Field([], max_length=6)
    error_type: list[Text] = Field([], max_length=20)
    error_class: list[ErrorClass] = Field([], max_length=5)
    source: Literal["template", "definition", "graph", "chat"] | None = None
    template: Text | None = None
    workflow: Text | None = None
    template_version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    definition: Text | None = None
    conversation_id: Text | None = None
    correlation_id: Text | None = None
    trace_id: Text | None = None
    retry_of: Text | None = None
    since: Time | None = Field(None, alias="from")
    until: Time | None = Field(None, alias="to")
    duration_ms_min: Count | None = None
    duration_ms_max: Count | None = None
    cost_nano_usd_min: Count | None = None
    cost_nano_usd_max: Count | None = None
    unpriced: bool | None = None
    order: Literal["newest", "oldest"] = "newest"
    limit: int = Field(50, ge=1, le=200)
    cursor: Text | None = None

    def wanted(self, principal: Principal) -> executions.ExecutionFilter:
        """The filters, for the principal's owner if they name no other. Raises `MissingScope`."""
        owner = principal.owner if self.owner is None else self.owner
        if owner != principal.owner and not principal.may("owners:all"):
            raise MissingScope("owners:all")
        names = ListQuery.model_fields.keys() - {"owner", "order", "limit", "cursor"}
        filters = {name: getattr(self, name) for name in names}
        return executions.ExecutionFilter(owner=None if owner == ALL else owner, **filters)


class TraceQuery(QueryModel):
    """The attempt and the page of a trace."""

    attempt: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    limit: int = Field(1_000, ge=1, le=5_000)
    cursor: Text | None = None


class ContentQuery(QueryModel):
    """The page of a list of calls."""

    limit: int = Field(50, ge=1, le=200)
    cursor: Text | None = None


ID_HEADER = {"X-Execution-ID": {"description": "The id of the execution.", "schema": {"type": "string"}}}
STREAM_HEADERS = ID_HEADER | {
    "X-Accel-Buffering": {"description": "`no` for a stream: proxies pass each event on.", "schema": {"type": "string"}}
}
ACCEPTED_HEADERS = ID_HEADER | {
    "Location": {"description": "The path of the execution.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "`true` if an earlier request with this Idempotency-Key has started the execution.",
        "schema": {"type": "string"},
    },
}
EVENT_STREAM = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "contentMediaType": "text/event-stream",
            "contentSchema": {"$ref": "#/components/schemas/StreamFrame"},
        }
    }
}
"""OpenAPI 3.1 cannot say that a stream repeats its schema; the body is a text of frames."""

_ACCEPTED = {
    "description": "The execution was accepted and continues (`async`, or `wait_seconds` has passed); see `Location`.",
    "model": documents.Execution,
    "headers": ACCEPTED_HEADERS,
}
_STARTED = {
    "description": "`wait`: the result, whatever its status. `stream`: the events; the last event holds the result.",
    "model": ExecutionResult,
    "headers": ACCEPTED_HEADERS | STREAM_HEADERS,
    "content": EVENT_STREAM,
}

EXAMPLES: dict[str, JsonObject] = {
    "wait": {
        "summary": "Run a template and wait for its answer",
        "value": {"source": {"kind": "template", "template": "universal_chat"}, "input": {"message": "hi"}},
    },
    "async": {
        "summary": "Queue a template",
        "value": {
            "source": {"kind": "template", "template": "universal_chat"},
            "input": {"message": "hi"},
            "mode": "async",
            "tags": {"team": "support"},
        },
    },
}
"""Example requests for OpenAPI."""


@router.post(
    "",
    operation_id="executions_start",
    summary="Start an execution and wait for it, follow it, or queue it",
    response_model=None,
    responses=openapi_responses(
        {200: _STARTED, 202: _ACCEPTED},
        "malformed_json",
        "invalid_header",
        "not_found",
        "conversation_busy",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
        "invalid_workflow",
        "missing_extra",
        "idempotency_mismatch",
        "queue_full",
        "draining",
    ),
    openapi_extra=openapi_body("ExecutionRequest", key=True, examples=EXAMPLES),
)
async def start(
    request: Request,
    runtime: RuntimeDep,
    caller: Annotated[Caller, needs_caller("executions:run")],
    key: IdempotencyKeyDep,
    query: Annotated[StartQuery, Query()],
) -> Response:
    """An accepted execution gets a 2xx response even if it fails: `status` says how it ended.

    A graph in the request, or changed nodes, need the scope graphs:run too.
    """
    asked = await read_body(request, ExecutionRequest)
    if isinstance(asked.source, GraphSource) or asked.overrides.nodes:
        await require(request, "graphs:run")
    return await starting.start(runtime, request, asked, replace(caller, idempotency_key=key), query.wait_seconds)


@router.get(
    "",
    operation_id="executions_list",
    summary="List executions, newest first",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "A page of executions.", "model": documents.ExecutionPage}},
        "invalid_request",
        "invalid_cursor",
    ),
)
async def list_executions(
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("executions:read")],
    query: Annotated[ListQuery, Query()],
) -> Response:
    """The executions that match all filters. There is no total, as that would mean counting all of them."""
    after = _position(query)
    async with runtime.database.read() as connection:
        page = await executions.list_executions(
            connection,
            query.wanted(principal),
            limit=query.limit,
            after=after,
            oldest_first=query.order == "oldest",
        )
    items = [documents.summary(record, runtime.settings) for record in page.items]
    cursor = write_cursor([page.end.queued_at.isoformat(), page.end.id], query) if page.end else None
    return json_response(documents.ExecutionPage(items=items, next_cursor=cursor), headers=next_link(request, cursor))


def _position(query: ListQuery) -> executions.ExecutionCursor | None:
    def read(queued_at: str, id_: str) -> executions.ExecutionCursor:
        return executions.ExecutionCursor(read_time(queued_at), id_)

    return read_cursor(query.cursor, query, read)


@router.get(
    "/{execution_id}",
    operation_id="executions_get",
    summary="Get an execution",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "The execution, with its result.", "model": documents.Execution, "headers": ID_HEADER}},
        "not_found",
        "invalid_request",
    ),
)
async def get(
    execution_id: ExecutionId,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("executions:read")],
    query: NoQueryDep,
) -> Response:
    """The record, the open questions, and the result as long as it is kept."""
    async with about(execution_id):
        return json_response(await read_execution(runtime, execution_id, principal), headers=headers_of(execution_id))


@router.get(
    "/{execution_id}/trace",
    operation_id="executions_trace",
    summary="Get the spans of an execution",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "A page of spans.", "model": documents.TraceAnswer, "headers": ID_HEADER}},
        "not_found",
        "invalid_request",
        "invalid_cursor",
    ),
)
async def trace(
    execution_id: ExecutionId,
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("executions:read")],
    query: Annotated[TraceQuery, Query()],
) -> Response:
    """The spans in depth-first order. A running execution shows its root span and the spans that have ended."""
    async with about(execution_id):
        after = read_cursor(query.cursor, query, str)
        try:
            async with runtime.database.read() as connection:
                found = await traces.get_trace(
                    connection, execution_id, principal.owner, attempt=query.attempt, limit=query.limit, after=after
                )
        except traces.UnknownCursor:
            raise invalid_cursor() from None
        if found is None:
            raise NotFound.of("execution", execution_id)
        cursor = write_cursor([found.end], query) if found.end else None
        answer = documents.trace(found, cursor, runtime.settings)
        return json_response(answer, headers=next_link(request, cursor) | headers_of(execution_id))


@router.get(
    "/{execution_id}/content",
    operation_id="executions_content",
    summary="Get what the calls of an execution said",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "A page of calls.", "model": documents.ContentAnswer, "headers": ID_HEADER}},
        "not_found",
        "invalid_request",
        "invalid_cursor",
    ),
)
async def content(
    execution_id: ExecutionId,
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("content:read")],
    query: Annotated[ContentQuery, Query()],
) -> Response:
    """Messages, tool calls and retrievals, oldest first. They are kept with `SPANLOOM_CONTENT=full` only."""
    async with about(execution_id):
        after = read_cursor(query.cursor, query, lambda at, call_id: (read_time(at), call_id))
        async with runtime.database.read() as connection:
            if await executions.get_execution(connection, execution_id, principal.owner) is None:
                raise NotFound.of("execution", execution_id)
            calls = await call_content.read(connection, execution_id, limit=query.limit + 1, after=after)
        page = calls[: query.limit]
        cursor = write_cursor([page[-1].at.isoformat(), page[-1].call_id], query) if len(calls) > len(page) else None
        answer = documents.content(execution_id, page, cursor)
        return json_response(answer, headers=next_link(request, cursor) | headers_of(execution_id))


@router.delete(
    "/{execution_id}/content",
    operation_id="executions_forget",
    summary="Forget the content of an ended execution",
    response_model=None,
    status_code=204,
    responses=openapi_responses(
        {
            204: {
                "description": "Its content is deleted; its numbers stay.",
                "headers": ID_HEADER,
            }
        },
        "not_found",
        "not_finished",
        "conversation_busy",
        "invalid_request",
    ),
)
async def forget_content(
    execution_id: ExecutionId,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("content:delete")],
    query: NoQueryDep,
) -> Response:
    """Delete its input, answer, messages, and what its calls said. It cannot be retried afterwards."""
    async with about(execution_id):
        async with runtime.database.read() as connection:
            if await executions.get_execution(connection, execution_id, principal.owner) is None:
                raise NotFound.of("execution", execution_id)
        await runtime.eraser.erase([execution_id], "forgotten")
        runtime.engine.forget_events(execution_id)
        return Response(status_code=204, headers=headers_of(execution_id))
