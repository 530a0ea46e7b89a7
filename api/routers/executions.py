"""/v1/executions: start one and wait for it or follow it; look at it, its trace; stop it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api import documents
from api.answers import answers, json_answer, next_link, takes_body
from api.bodies import read_body
from api.bootstrap import Runtime
from api.cursors import read_cursor, write_cursor
from api.deps import OWNER, CallerDep, NoQueryDep, QueryModel, RuntimeDep
from api.edge import ids_of
from api.problems import Problem, ProblemDocument, internal_error, problem_of
from api.sse import EventStream, frames
from api.times import Time
from engine.errors import AlreadyFinished, NotFound, SpanloomError
from engine.graph import Document
from engine.request import ExecutionRequest
from engine.result import ExecutionResult, Status
from engine.store import control
from telemetry import queries

if TYPE_CHECKING:
    from engine.running import Execution

CLIENT_CLOSED_REQUEST = 499
"""What the log says of an answer that nobody was there to read."""

router = APIRouter(prefix="/v1/executions", tags=["executions"])
log = logging.getLogger(__name__)


Text = Annotated[str, Field(min_length=1, max_length=255)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


class StartQuery(QueryModel):
    """How long `wait` waits for the end; then the answer is 202, and the execution goes on."""

    wait_seconds: int = Field(60, ge=1, le=900)


class ListQuery(QueryModel):
    """Filters of the list; `from` and `to` bound `queued_at`, half-open."""

    status: list[Status] = Field([], max_length=6)
    error_type: list[Text] = Field([], max_length=20)
    source: Literal["template", "definition", "graph", "chat"] | None = None
    template: Text | None = None
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

    def wanted(self) -> queries.ExecutionFilter:
        """The filters, for this owner."""
        names = ListQuery.model_fields.keys() - {"order", "limit", "cursor"}
        return queries.ExecutionFilter(owner=OWNER, **{name: getattr(self, name) for name in names})


class TraceQuery(QueryModel):
    """Which part of a trace."""

    attempt: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    limit: int = Field(1_000, ge=1, le=5_000)
    cursor: Text | None = None


class CancelBody(Document):
    """Why an execution is to stop."""

    reason: str | None = Field(None, max_length=500)


_ID = {"X-Execution-ID": {"description": "The execution this is about.", "schema": {"type": "string"}}}
_ACCEPTED = {
    "description": "The execution goes on; look at `Location`.",
    "model": documents.Execution,
    "headers": _ID | {"Location": {"description": "Where to look.", "schema": {"type": "string"}}},
}
_STARTED = {
    "description": "`wait`: the result, whatever the status. `stream`: the events, closed by one with the result.",
    "model": ExecutionResult,
    "headers": _ID,
    "content": {
        "text/event-stream": {
            "schema": {"type": "string", "description": "Frames as `StreamFrame` describes them."},
            "x-itemSchema": {"$ref": "#/components/schemas/StreamFrame"},
        }
    },
}


@router.post(
    "",
    operation_id="executions_start",
    summary="Run a workflow, and wait for it or follow it",
    response_model=None,
    responses=answers(
        {200: _STARTED, 202: _ACCEPTED},
        "malformed_json",
        "not_found",
        "conversation_busy",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
        "invalid_workflow",
        "missing_extra",
        "draining",
    ),
    openapi_extra=takes_body("ExecutionRequest", required=True),
)
async def start(
    request: Request, runtime: RuntimeDep, caller: CallerDep, query: Annotated[StartQuery, Query()]
) -> Response:
    """From acceptance on the answer is 2xx, even if the execution fails: `status` says how it ended."""
    asked = await read_body(request, ExecutionRequest)
    execution = await runtime.engine.start(asked, caller, streaming=asked.mode == "stream")
    execution.join()
    if asked.mode == "stream":
        return await _stream(execution, request, runtime)
    return await _wait(execution, request, runtime, query.wait_seconds)


async def _stream(execution: "Execution", request: Request, runtime: Runtime) -> Response:
    """The first event is awaited before the answer begins."""
    ids = ids_of(request)

    def broken(error: SpanloomError | None) -> ProblemDocument:
        problem = problem_of(error, execution.id) if error else internal_error(execution.id)
        return problem.document(ids, request.url.path)

    def leave() -> None:
        execution.leave(runtime.settings.disconnect_seconds)

    try:
        async with aclosing(execution.events()) as events:
            first = await anext(events)
    except BaseException:
        leave()
        raise
    return EventStream(frames(execution, first, broken), leave, {"X-Execution-ID": execution.id})


async def _wait(execution: "Execution", request: Request, runtime: Runtime, seconds: float) -> Response:
    """The result; 202 if it takes longer; nobody is answered who has left."""
    result = asyncio.create_task(execution.result(), name=f"result of {execution.id}")
    gone = asyncio.create_task(_disconnected(request), name=f"client of {execution.id}")
    try:
        await asyncio.wait({result, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return _result_answer(result, execution)
        if gone.done():
            execution.leave(runtime.settings.disconnect_seconds)
            return Response(status_code=CLIENT_CLOSED_REQUEST)
    finally:
        result.cancel()
        gone.cancel()
    headers = {"X-Execution-ID": execution.id, "Location": f"/v1/executions/{execution.id}"}
    async with _about(execution.id):
        return json_answer(await _read(runtime, execution.id), 202, headers)


def _result_answer(result: "asyncio.Task[ExecutionResult]", execution: "Execution") -> Response:
    try:
        return json_answer(result.result(), headers={"X-Execution-ID": execution.id})
    except SpanloomError as error:
        raise problem_of(error, execution.id) from error


async def _disconnected(request: Request) -> None:
    """Ends when the client leaves: the server does not interrupt a handler."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.get(
    "",
    operation_id="executions_list",
    summary="List executions, newest first",
    response_model=None,
    responses=answers(
        {200: {"description": "A page.", "model": documents.ExecutionPage}}, "invalid_request", "invalid_cursor"
    ),
)
async def list_executions(request: Request, runtime: RuntimeDep, query: Annotated[ListQuery, Query()]) -> Response:
    """The records that fit all filters. There is no total: it would have to count them all."""
    after = _position(query)
    async with runtime.database.read() as connection:
        page = await queries.list_executions(
            connection, query.wanted(), limit=query.limit, after=after, oldest_first=query.order == "oldest"
        )
    items = [documents.summary(record, runtime.settings) for record in page.items]
    cursor = write_cursor([page.end.queued_at.isoformat(), page.end.id], query) if page.end else None
    return json_answer(documents.ExecutionPage(items=items, next_cursor=cursor), headers=next_link(request, cursor))


def _position(query: ListQuery) -> queries.Position | None:
    if query.cursor is None:
        return None
    queued_at, id_ = read_cursor(query.cursor, query)
    return queries.Position(datetime.fromisoformat(queued_at), id_)


@router.get(
    "/{execution_id}",
    operation_id="executions_get",
    summary="Look at one execution",
    response_model=None,
    responses=answers(
        {200: {"description": "The record, with its result.", "model": documents.Execution, "headers": _ID}},
        "not_found",
        "invalid_request",
    ),
)
async def get(execution_id: str, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """The record, what control knows, and the result as long as it is kept."""
    async with _about(execution_id):
        return json_answer(await _read(runtime, execution_id), headers={"X-Execution-ID": execution_id})


@router.get(
    "/{execution_id}/trace",
    operation_id="executions_trace",
    summary="Look at the spans of an execution",
    response_model=None,
    responses=answers(
        {200: {"description": "A page of spans.", "model": documents.TraceAnswer, "headers": _ID}},
        "not_found",
        "invalid_request",
        "invalid_cursor",
    ),
)
async def trace(
    execution_id: str, request: Request, runtime: RuntimeDep, query: Annotated[TraceQuery, Query()]
) -> Response:
    """The spans in depth-first order; while it runs those that have ended, and the root."""
    async with _about(execution_id):
        after = read_cursor(query.cursor, query)[0] if query.cursor else None
        async with runtime.database.read() as connection:
            found = await queries.get_trace(
                connection, execution_id, OWNER, attempt=query.attempt, limit=query.limit, after=after
            )
        if found is None:
            raise _unknown()
        cursor = write_cursor([found.end], query) if found.end else None
        answer = documents.trace(found, cursor, runtime.settings)
        return json_answer(answer, headers=next_link(request, cursor) | {"X-Execution-ID": execution_id})


@router.post(
    "/{execution_id}/cancel",
    operation_id="executions_cancel",
    summary="Ask an execution to stop",
    response_model=None,
    responses=answers(
        {
            200: {"description": "It was cancelled before.", "model": documents.Execution, "headers": _ID},
            202: {"description": "It is asked to stop.", "model": documents.Execution, "headers": _ID},
        },
        "malformed_json",
        "not_found",
        "already_finished",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
    ),
    openapi_extra=takes_body("CancelBody", required=False),
)
async def cancel(execution_id: str, request: Request, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """Asked for here, done when the engine confirms it: `status` is `cancelled` then."""
    body = await read_body(request, CancelBody, optional=True)
    headers = {"X-Execution-ID": execution_id}
    async with _about(execution_id):
        async with runtime.database.begin() as connection:
            row = await control.request_cancel(connection, execution_id, OWNER, body.reason)
        if row is not None and not row.status.is_terminal:
            runtime.cancel(execution_id, row.cancel_reason)
            return json_answer(await _read(runtime, execution_id), 202, headers)
        found = await _read(runtime, execution_id)
        if found.status is not Status.CANCELLED:
            raise AlreadyFinished
        return json_answer(found, 200, headers)


@asynccontextmanager
async def _about(execution_id: str) -> AsyncIterator[None]:
    """Problems inside say which execution they are about."""
    try:
        yield
    except SpanloomError as error:
        raise problem_of(error, execution_id) from error
    except Problem as problem:
        problem.execution_id = execution_id
        raise


async def _read(runtime: Runtime, execution_id: str) -> documents.Execution:
    async with runtime.database.read() as connection:
        record = await queries.get_execution(connection, execution_id, OWNER)
        row = await control.get(connection, execution_id, OWNER)
    if record is None:
        raise _unknown()
    return documents.execution(record, row, runtime.settings)


def _unknown() -> NotFound:
    return NotFound("There is no execution of this id.")
