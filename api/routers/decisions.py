"""/v1/executions/{id}/cancel, /resume, /retry: decisions of a caller about an execution."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Request, Response

from api.http.dependencies import ExecutionId, IdempotencyKeyDep, NoQueryDep, RuntimeDep
from api.http.principal import Principal, needs, needs_caller
from api.http.request_bodies import NoBody, read_body
from api.http.responses import json_response, openapi_body, openapi_responses
from api.operations.approve import answer
from api.operations.lookup import about, headers_of, read_execution
from api.operations.retry import read_original
from api.operations.start import accepted
from api.routers.executions import ACCEPTED_HEADERS, ID_HEADER
from api.schemas import executions
from api.schemas.decisions import CancelBody, ResumeBody
from api.wiring.runtime import Runtime
from engine.errors import AlreadyFinished, Replayed
from engine.graph import JsonObject
from engine.request import Caller
from engine.result import Status
from engine.store import control

router = APIRouter(prefix="/v1/executions", tags=["executions"])


CANCEL_EXAMPLES: dict[str, JsonObject] = {"reason": {"summary": "With a reason", "value": {"reason": "enough"}}}
RESUME_EXAMPLES: dict[str, JsonObject] = {
    "approved": {
        "summary": "Approve, with data",
        "value": {
            "approval_id": "f2d6e2d8-3f0c-5a4e-9a51-0d3c7f0a9b11",
            "choice": "approved",
            "data": {"score": 0.9, "notes": "good"},
        },
    }
}


@router.post(
    "/{execution_id}/cancel",
    operation_id="executions_cancel",
    summary="Cancel an execution",
    response_model=None,
    responses=openapi_responses(
        {
            200: {
                "description": "The execution was already cancelled.",
                "model": executions.Execution,
                "headers": ID_HEADER,
            },
            202: {
                "description": "The execution was asked to stop, or is cancelled if no process runs it.",
                "model": executions.Execution,
                "headers": ID_HEADER,
            },
        },
        "malformed_json",
        "not_found",
        "already_finished",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
    ),
    openapi_extra=openapi_body("CancelBody", examples=CANCEL_EXAMPLES),
)
async def cancel(
    execution_id: ExecutionId,
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("executions:cancel")],
    query: NoQueryDep,
) -> Response:
    """A running execution is asked to stop; `status` is `cancelled` once it has. Others are cancelled at once."""
    body = await read_body(request, CancelBody, optional=True)
    async with about(execution_id):
        async with runtime.database.begin() as connection:
            row = await control.request_cancel(connection, execution_id, principal.owner, body.reason)
        if row is None:
            return await _cancel_pruned(runtime, execution_id, principal)
        if not row.status.is_terminal:
            if runtime.engine.running(execution_id) is not None:
                runtime.cancel(execution_id, row.cancel_reason)
            else:
                await runtime.sweeper.cancel(execution_id, principal.owner, row.cancel_reason)
            return json_response(await read_execution(runtime, execution_id, principal), 202, headers_of(execution_id))
        if row.status is not Status.CANCELLED:
            raise AlreadyFinished
        return json_response(await read_execution(runtime, execution_id, principal), 200, headers_of(execution_id))


async def _cancel_pruned(runtime: Runtime, execution_id: str, principal: Principal) -> Response:
    """Retention has deleted the control row, so the execution has ended; or it does not exist. Raises `NotFound`."""
    found = await read_execution(runtime, execution_id, principal)
    if found.status is not Status.CANCELLED:
        raise AlreadyFinished
    return json_response(found, 200, headers_of(execution_id))


@router.post(
    "/{execution_id}/resume",
    operation_id="executions_resume",
    summary="Answer the question of a paused execution",
    response_model=None,
    responses=openapi_responses(
        {202: {"description": "The execution continues.", "model": executions.Execution, "headers": ID_HEADER}},
        "malformed_json",
        "not_found",
        "not_paused",
        "already_answered",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
        "invalid_answer",
    ),
    openapi_extra=openapi_body("ResumeBody", examples=RESUME_EXAMPLES),
)
async def resume(
    execution_id: ExecutionId,
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("executions:approve")],
    query: NoQueryDep,
) -> Response:
    """The first answer counts; later ones are conflicts. A process with a free slot continues the execution."""
    body = await read_body(request, ResumeBody)
    async with about(execution_id):
        async with runtime.database.begin() as connection:
            answered_by = principal.key_name or principal.owner
            await answer(connection, execution_id, principal.owner, body, answered_by=answered_by)
        runtime.dispatcher.wake()
        return json_response(await read_execution(runtime, execution_id, principal), 202, headers_of(execution_id))


@router.post(
    "/{execution_id}/retry",
    operation_id="executions_retry",
    summary="Run a finished execution again",
    response_model=None,
    responses=openapi_responses(
        {
            202: {
                "description": "A new execution with the same graph and input; `retry_of` names the original.",
                "model": executions.Execution,
                "headers": ACCEPTED_HEADERS,
            }
        },
        "malformed_json",
        "invalid_header",
        "not_found",
        "not_finished",
        "input_gone",
        "conversation_busy",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
        "idempotency_mismatch",
        "queue_full",
        "draining",
    ),
    openapi_extra=openapi_body("NoBody", key=True),
)
async def retry(
    execution_id: ExecutionId,
    request: Request,
    runtime: RuntimeDep,
    caller: Annotated[Caller, needs_caller("executions:run")],
    key: IdempotencyKeyDep,
    query: NoQueryDep,
) -> Response:
    """The new execution is queued, whatever the mode of the original was."""
    await read_body(request, NoBody, optional=True)
    async with about(execution_id):
        await runtime.readiness.require_schema()
        async with runtime.database.read() as connection:
            asked = await read_original(connection, execution_id, caller.owner)
        try:
            again = await runtime.engine.enqueue_again(
                asked.identity,
                asked.request,
                asked.graph,
                replace(caller, idempotency_key=key),
                root=asked.first_root,
            )
        except Replayed as replayed:
            return await accepted(runtime, request, replayed.execution_id, caller.owner, replayed=True)
    runtime.dispatcher.wake()
    return await accepted(runtime, request, again, caller.owner)
