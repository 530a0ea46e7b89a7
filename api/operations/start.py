"""Starts an execution in one of the three modes, or responds with the one that its Idempotency-Key has started."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request, Response

from api.http.middleware import ids_of
from api.http.principal import recheck
from api.http.problems import internal_error, problem_of
from api.http.request_spans import link_span, name_span, show_caller, show_end
from api.http.responses import json_response
from api.http.sse import EventStream, frames
from api.operations.follow import STORED_SECONDS, StreamPosition, follow, read_row
from api.operations.lookup import about, headers_of, read_whole
from api.schemas.problems import ProblemDocument
from api.wiring.runtime import Runtime
from engine.errors import Draining, Fenced, Replayed, SpanloomError
from engine.events import ExecutionEvent
from engine.request import Caller, ExecutionRequest
from engine.result import ExecutionResult, Status

if TYPE_CHECKING:
    from engine.execution.handle import Execution

CLIENT_CLOSED_REQUEST = 499
"""The status of a response to a client that has disconnected; only logs and traces see it."""

_REPLAYED = {"Idempotency-Replayed": "true"}


async def start(
    runtime: Runtime, request: Request, asked: ExecutionRequest, caller: Caller, wait_seconds: float
) -> Response:
    """Start the execution or find the one that the same request started, then respond as its mode says."""
    asked = _with_policy(asked, caller)
    await runtime.readiness.require_schema()
    try:
        if asked.mode == "async":
            return await _queue(runtime, request, asked, caller)
        execution = await runtime.engine.start(asked, caller, streaming=asked.mode == "stream")
    except Replayed as replayed:
        return await _replay(runtime, request, asked, replayed.execution_id, caller.owner, wait_seconds)
    name_span(request, execution.identity.workflow_name)
    show_caller(execution)
    execution.join()
    if asked.mode == "stream":
        return await _stream(execution, request, runtime)
    return await _wait(execution, request, runtime, wait_seconds, {})


async def accepted(
    runtime: Runtime, request: Request, execution_id: str, owner: str, *, replayed: bool = False
) -> Response:
    """202 with the execution as it is now; it continues. The span of the request links to it.

    Who may start it sees its content, with or without the scope content:read.
    """
    more = {"Location": f"/v1/executions/{execution_id}"} | (_REPLAYED if replayed else {})
    async with about(execution_id):
        document = await read_whole(runtime, execution_id, owner)
        name_span(request, document.source.workflow_name)
        link_span(document)
        return json_response(document, 202, headers_of(execution_id, **more))


def event_stream(
    runtime: Runtime,
    request: Request,
    execution_id: str,
    owner: str,
    position: StreamPosition,
    *,
    headers: dict[str, str] | None = None,
) -> EventStream:
    """The events after the position, over all attempts. Its reader never cancels the execution by leaving."""
    readers = runtime.readers
    readers[execution_id] += 1

    def leave() -> None:
        readers[execution_id] -= 1
        if readers[execution_id] <= 0:
            del readers[execution_id]

    def after(last: ExecutionEvent | None) -> AsyncGenerator[ExecutionEvent, None]:
        return follow(runtime, execution_id, owner, StreamPosition.of(last) if last else position)

    broken = _StreamError(request, execution_id)
    sent = frames(after, broken, recheck=partial(recheck, request))
    return EventStream(sent, leave, headers_of(execution_id) | (headers or {}))


class _StreamError:
    """Makes the problem document for a stream that ends without a closing event."""

    def __init__(self, request: Request, execution_id: str) -> None:
        self._ids = ids_of(request)
        self._path = request.url.path
        self._execution_id = execution_id

    def __call__(self, error: SpanloomError | None) -> ProblemDocument:
        if isinstance(error, Fenced):
            error = Draining("this process no longer runs the execution; another process continues it")
        problem = problem_of(error, self._execution_id) if error else internal_error(self._execution_id)
        return problem.document(self._ids, self._path)


def _with_policy(asked: ExecutionRequest, caller: Caller) -> ExecutionRequest:
    """The request with `on_disconnect`: `continue` for callers who may come back, as they sent a key or do not wait."""
    may_return = caller.idempotency_key is not None or asked.mode == "async"
    if asked.on_disconnect is None and may_return:
        return asked.model_copy(update={"on_disconnect": "continue"})
    return asked


async def _queue(runtime: Runtime, request: Request, asked: ExecutionRequest, caller: Caller) -> Response:
    execution_id = await runtime.engine.enqueue(asked, caller)
    runtime.dispatcher.wake()
    return await accepted(runtime, request, execution_id, caller.owner)


async def _stream(execution: "Execution", request: Request, runtime: Runtime) -> Response:
    """Stream the execution. The response starts with the first event: a refusal is still a problem document."""

    def leave() -> None:
        execution.leave(runtime.settings.disconnect_seconds)

    try:
        async with aclosing(execution.events()) as events:
            first = await anext(events)
    except BaseException:
        leave()
        raise
    sent = frames(
        lambda last: execution.events(last.seq if last else 0),
        _StreamError(request, execution.id),
        recheck=partial(recheck, request),
        first=first,
    )
    return EventStream(_shown_at_end(sent, execution), leave, headers_of(execution.id))


async def _shown_at_end(sent: AsyncGenerator[bytes, None], execution: "Execution") -> AsyncGenerator[bytes, None]:
    """The frames, with the end of the execution shown before the last one: the span ends with the response."""
    async with aclosing(sent):
        async for each in sent:
            show_end(execution)
            yield each


async def _wait(
    execution: "Execution", request: Request, runtime: Runtime, seconds: float, headers: dict[str, str]
) -> Response:
    """The result, or 202 if the execution takes longer or moves to another process. A client that has left gets 499."""
    result = asyncio.create_task(execution.result(), name=f"result of {execution.id}")
    gone = asyncio.create_task(_disconnected(request), name=f"client of {execution.id}")
    try:
        await asyncio.wait({result, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        show_end(execution)
        if result.done() and not isinstance(result.exception(), Draining | Fenced):
            return _result_answer(result, execution, headers)
        if gone.done() and not result.done():
            execution.leave(runtime.settings.disconnect_seconds)
            return Response(status_code=CLIENT_CLOSED_REQUEST)
    finally:
        result.cancel()
        gone.cancel()
    execution.come_back_later()
    return await accepted(runtime, request, execution.id, execution.identity.owner, replayed=bool(headers))


def _result_answer(
    result: "asyncio.Task[ExecutionResult]", execution: "Execution", headers: dict[str, str]
) -> Response:
    try:
        return json_response(result.result(), headers=headers_of(execution.id) | headers)
    except SpanloomError as error:
        raise problem_of(error, execution.id) from error


async def _replay(
    runtime: Runtime, request: Request, asked: ExecutionRequest, execution_id: str, owner: str, wait_seconds: float
) -> Response:
    """Respond with the execution that the key has started, in the mode of this request."""
    if asked.mode == "async":
        return await accepted(runtime, request, execution_id, owner, replayed=True)
    if asked.mode == "stream":
        return event_stream(runtime, request, execution_id, owner, StreamPosition(), headers=_REPLAYED)
    async with about(execution_id):
        return await _join(runtime, request, execution_id, owner, wait_seconds)


async def _join(runtime: Runtime, request: Request, execution_id: str, owner: str, seconds: float) -> Response:
    """Wait for an execution that another request started: for its result in this process, else for its control row."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    gone = asyncio.create_task(_disconnected(request), name=f"client of {execution_id}")
    try:
        while not gone.done():
            here = runtime.engine.running(execution_id)
            if here is not None and here.claim is None:
                gone.cancel()
                here.join()
                return await _wait(here, request, runtime, max(0.0, until - loop.time()), _REPLAYED)
            row = await read_row(runtime, execution_id, owner)
            if row.result is not None and (row.status.is_terminal or row.status is Status.PAUSED):
                result = ExecutionResult.model_validate(row.result, strict=False)
                return json_response(result, headers=headers_of(execution_id) | _REPLAYED)
            left = until - loop.time()
            if left <= 0 or runtime.is_draining:
                return await accepted(runtime, request, execution_id, owner, replayed=True)
            await asyncio.wait({gone}, timeout=min(STORED_SECONDS, left))
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client disconnects: the server itself does not interrupt a handler."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
