"""The executions of the API. Generated from its routes by `python -m docs.generate`."""

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from api.client.calls import Call, segment
from api.client.connection import AsyncConnection, Connection
from api.schemas.decisions import CancelBody, ResumeBody
from api.schemas.executions import ContentAnswer, Execution, ExecutionPage, TraceAnswer
from api.schemas.scores import ScoreAnswer, ScoreBody, ScoreList
from engine.request import ExecutionRequest
from engine.result import ExecutionResult


def start_call(
    body: ExecutionRequest, *, wait_seconds: int | None = None, idempotency_key: str | None = None
) -> Call[ExecutionResult | Execution]:
    """The call of `start`."""
    return Call(
        "POST",
        "/v1/executions",
        {200: ExecutionResult, 202: Execution},
        query={"wait_seconds": wait_seconds},
        body=body,
        headers={"Idempotency-Key": idempotency_key or str(uuid4())},
        seconds=(wait_seconds or 60) + 30,
    )


def list_call(
    *,
    owner: str | None = None,
    status: Sequence[str] | None = None,
    error_type: Sequence[str] | None = None,
    error_class: Sequence[str] | None = None,
    source: str | None = None,
    template: str | None = None,
    workflow: str | None = None,
    template_version: int | None = None,
    definition: str | None = None,
    conversation_id: str | None = None,
    correlation_id: str | None = None,
    trace_id: str | None = None,
    retry_of: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    duration_ms_min: int | None = None,
    duration_ms_max: int | None = None,
    cost_nano_usd_min: int | None = None,
    cost_nano_usd_max: int | None = None,
    unpriced: bool | None = None,
    order: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[ExecutionPage]:
    """The call of `list`."""
    return Call(
        "GET",
        "/v1/executions",
        {200: ExecutionPage},
        query={
            "owner": owner,
            "status": status,
            "error_type": error_type,
            "error_class": error_class,
            "source": source,
            "template": template,
            "workflow": workflow,
            "template_version": template_version,
            "definition": definition,
            "conversation_id": conversation_id,
            "correlation_id": correlation_id,
            "trace_id": trace_id,
            "retry_of": retry_of,
            "from": since,
            "to": until,
            "duration_ms_min": duration_ms_min,
            "duration_ms_max": duration_ms_max,
            "cost_nano_usd_min": cost_nano_usd_min,
            "cost_nano_usd_max": cost_nano_usd_max,
            "unpriced": unpriced,
            "order": order,
            "limit": limit,
            "cursor": cursor,
        },
    )


def get_call(execution_id: str) -> Call[Execution]:
    """The call of `get`."""
    return Call("GET", f"/v1/executions/{segment(execution_id)}", {200: Execution})


def trace_call(
    execution_id: str, *, attempt: int | None = None, limit: int | None = None, cursor: str | None = None
) -> Call[TraceAnswer]:
    """The call of `trace`."""
    return Call(
        "GET",
        f"/v1/executions/{segment(execution_id)}/trace",
        {200: TraceAnswer},
        query={"attempt": attempt, "limit": limit, "cursor": cursor},
    )


def content_call(execution_id: str, *, limit: int | None = None, cursor: str | None = None) -> Call[ContentAnswer]:
    """The call of `content`."""
    return Call(
        "GET",
        f"/v1/executions/{segment(execution_id)}/content",
        {200: ContentAnswer},
        query={"limit": limit, "cursor": cursor},
    )


def forget_call(execution_id: str) -> Call[None]:
    """The call of `forget`."""
    return Call("DELETE", f"/v1/executions/{segment(execution_id)}/content", {204: None})


def cancel_call(execution_id: str, body: CancelBody | None = None) -> Call[Execution]:
    """The call of `cancel`."""
    return Call("POST", f"/v1/executions/{segment(execution_id)}/cancel", {200: Execution, 202: Execution}, body=body)


def resume_call(execution_id: str, body: ResumeBody) -> Call[Execution]:
    """The call of `resume`."""
    return Call("POST", f"/v1/executions/{segment(execution_id)}/resume", {202: Execution}, body=body)


def retry_call(execution_id: str, *, idempotency_key: str | None = None) -> Call[Execution]:
    """The call of `retry`."""
    return Call(
        "POST",
        f"/v1/executions/{segment(execution_id)}/retry",
        {202: Execution},
        headers={"Idempotency-Key": idempotency_key or str(uuid4())},
    )


def score_call(execution_id: str, body: ScoreBody) -> Call[ScoreAnswer]:
    """The call of `score`."""
    return Call("POST", f"/v1/executions/{segment(execution_id)}/scores", {200: ScoreAnswer}, body=body)


def scores_call(execution_id: str) -> Call[ScoreList]:
    """The call of `scores`."""
    return Call("GET", f"/v1/executions/{segment(execution_id)}/scores", {200: ScoreList})


class Executions:
    """Executions, as methods of a client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(
        self, body: ExecutionRequest, *, wait_seconds: int | None = None, idempotency_key: str | None = None
    ) -> ExecutionResult | Execution:
        """Start an execution and wait for it, follow it, or queue it."""
        return self._connection.send(start_call(body, wait_seconds=wait_seconds, idempotency_key=idempotency_key))

    def list(
        self,
        *,
        owner: str | None = None,
        status: Sequence[str] | None = None,
        error_type: Sequence[str] | None = None,
        error_class: Sequence[str] | None = None,
        source: str | None = None,
        template: str | None = None,
        workflow: str | None = None,
        template_version: int | None = None,
        definition: str | None = None,
        conversation_id: str | None = None,
        correlation_id: str | None = None,
        trace_id: str | None = None,
        retry_of: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        duration_ms_min: int | None = None,
        duration_ms_max: int | None = None,
        cost_nano_usd_min: int | None = None,
        cost_nano_usd_max: int | None = None,
        unpriced: bool | None = None,
        order: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> ExecutionPage:
        """List executions, newest first."""
        return self._connection.send(
            list_call(
                owner=owner,
                status=status,
                error_type=error_type,
                error_class=error_class,
                source=source,
                template=template,
                workflow=workflow,
                template_version=template_version,
                definition=definition,
                conversation_id=conversation_id,
                correlation_id=correlation_id,
                trace_id=trace_id,
                retry_of=retry_of,
                since=since,
                until=until,
                duration_ms_min=duration_ms_min,
                duration_ms_max=duration_ms_max,
                cost_nano_usd_min=cost_nano_usd_min,
                cost_nano_usd_max=cost_nano_usd_max,
                unpriced=unpriced,
                order=order,
                limit=limit,
                cursor=cursor,
            )
        )

    def get(self, execution_id: str) -> Execution:
        """Get an execution."""
        return self._connection.send(get_call(execution_id))

    def trace(
        self, execution_id: str, *, attempt: int | None = None, limit: int | None = None, cursor: str | None = None
    ) -> TraceAnswer:
        """Get the spans of an execution."""
        return self._connection.send(trace_call(execution_id, attempt=attempt, limit=limit, cursor=cursor))

    def content(self, execution_id: str, *, limit: int | None = None, cursor: str | None = None) -> ContentAnswer:
        """Get what the calls of an execution said."""
        return self._connection.send(content_call(execution_id, limit=limit, cursor=cursor))

    def forget(self, execution_id: str) -> None:
        """Forget the content of an ended execution."""
        return self._connection.send(forget_call(execution_id))

    def cancel(self, execution_id: str, body: CancelBody | None = None) -> Execution:
        """Cancel an execution."""
        return self._connection.send(cancel_call(execution_id, body))

    def resume(self, execution_id: str, body: ResumeBody) -> Execution:
        """Answer the question of a paused execution."""
        return self._connection.send(resume_call(execution_id, body))

    def retry(self, execution_id: str, *, idempotency_key: str | None = None) -> Execution:
        """Run a finished execution again."""
        return self._connection.send(retry_call(execution_id, idempotency_key=idempotency_key))

    def score(self, execution_id: str, body: ScoreBody) -> ScoreAnswer:
        """Give an execution a score."""
        return self._connection.send(score_call(execution_id, body))

    def scores(self, execution_id: str) -> ScoreList:
        """Get the scores of an execution."""
        return self._connection.send(scores_call(execution_id))


class AsyncExecutions:
    """Executions, as methods of a client."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def start(
        self, body: ExecutionRequest, *, wait_seconds: int | None = None, idempotency_key: str | None = None
    ) -> ExecutionResult | Execution:
        """Start an execution and wait for it, follow it, or queue it."""
        return await self._connection.send(start_call(body, wait_seconds=wait_seconds, idempotency_key=idempotency_key))

    async def list(
        self,
        *,
        owner: str | None = None,
        status: Sequence[str] | None = None,
        error_type: Sequence[str] | None = None,
        error_class: Sequence[str] | None = None,
        source: str | None = None,
        template: str | None = None,
        workflow: str | None = None,
        template_version: int | None = None,
        definition: str | None = None,
        conversation_id: str | None = None,
        correlation_id: str | None = None,
        trace_id: str | None = None,
        retry_of: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        duration_ms_min: int | None = None,
        duration_ms_max: int | None = None,
        cost_nano_usd_min: int | None = None,
        cost_nano_usd_max: int | None = None,
        unpriced: bool | None = None,
        order: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> ExecutionPage:
        """List executions, newest first."""
        return await self._connection.send(
            list_call(
                owner=owner,
                status=status,
                error_type=error_type,
                error_class=error_class,
                source=source,
                template=template,
                workflow=workflow,
                template_version=template_version,
                definition=definition,
                conversation_id=conversation_id,
                correlation_id=correlation_id,
                trace_id=trace_id,
                retry_of=retry_of,
                since=since,
                until=until,
                duration_ms_min=duration_ms_min,
                duration_ms_max=duration_ms_max,
                cost_nano_usd_min=cost_nano_usd_min,
                cost_nano_usd_max=cost_nano_usd_max,
                unpriced=unpriced,
                order=order,
                limit=limit,
                cursor=cursor,
            )
        )

    async def get(self, execution_id: str) -> Execution:
        """Get an execution."""
        return await self._connection.send(get_call(execution_id))

    async def trace(
        self, execution_id: str, *, attempt: int | None = None, limit: int | None = None, cursor: str | None = None
    ) -> TraceAnswer:
        """Get the spans of an execution."""
        return await self._connection.send(trace_call(execution_id, attempt=attempt, limit=limit, cursor=cursor))

    async def content(self, execution_id: str, *, limit: int | None = None, cursor: str | None = None) -> ContentAnswer:
        """Get what the calls of an execution said."""
        return await self._connection.send(content_call(execution_id, limit=limit, cursor=cursor))

    async def forget(self, execution_id: str) -> None:
        """Forget the content of an ended execution."""
        return await self._connection.send(forget_call(execution_id))

    async def cancel(self, execution_id: str, body: CancelBody | None = None) -> Execution:
        """Cancel an execution."""
        return await self._connection.send(cancel_call(execution_id, body))

    async def resume(self, execution_id: str, body: ResumeBody) -> Execution:
        """Answer the question of a paused execution."""
        return await self._connection.send(resume_call(execution_id, body))

    async def retry(self, execution_id: str, *, idempotency_key: str | None = None) -> Execution:
        """Run a finished execution again."""
        return await self._connection.send(retry_call(execution_id, idempotency_key=idempotency_key))

    async def score(self, execution_id: str, body: ScoreBody) -> ScoreAnswer:
        """Give an execution a score."""
        return await self._connection.send(score_call(execution_id, body))

    async def scores(self, execution_id: str) -> ScoreList:
        """Get the scores of an execution."""
        return await self._connection.send(scores_call(execution_id))
