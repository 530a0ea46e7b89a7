"""Calls that nodes make to models, tools and retrievers. Each call has one span and counts towards the limits."""

import asyncio
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

from engine.documents.json_schema import compiled
from engine.documents.json_text import MAX_NESTING, NotJson, check_nesting, size_of, to_json
from engine.errors import Failure, ModelFailure, NodeTimeout, OutputInvalid, ResourceMissing
from engine.events import EventType
from engine.graph import Json, JsonObject
from engine.ledger import CallReservation
from engine.resources import (
    CONTENT_FILTER,
    ChatModel,
    ModelReply,
    ModelRequest,
    Passage,
    RetrievalQuery,
    Search,
    Tool,
    ToolCall,
    ToolContext,
)
from engine.runtime.visit import Visit, is_being_cancelled, is_cut_off
from engine.security.echo import mask_echo
from engine.security.redaction import error_text
from engine.tracing.semconv import Waste
from engine.tracing.spans import Bill, ModelCall
from engine.usage import UsageReport

UNKNOWN_TOOL = "unknown"
"""The name on the span if the model called a tool that does not exist."""
INVALID_ARGUMENTS = "the arguments do not fit the tool's schema"


async def call_model(visit: Visit, model: ChatModel, request: ModelRequest, *, stream_as: str | None) -> ModelReply:
    """Make one call to a provider. With `stream_as`, emit the tokens as parts of the message with that id.

    Raises `ModelFailure`, or `BudgetExceeded` and `LimitExceeded` before anything is sent.
    """
    reservation = visit.context.budget.reserve(model, request)
    call = visit.span.model_call(model, request, streams=stream_as is not None)
    try:
        await _store_reservation(visit, call, model, request)
    except BaseException:
        visit.settle(reservation, call.withdraw())
        raise
    try:
        reply = await (model.invoke(request) if stream_as is None else _stream(visit, call, model, request, stream_as))
        _check_size(visit, reply)
        check_reply(reply)
    except ModelFailure as failure:
        _mask(failure, request.system, *_said(request))
        waste = Waste.RETRIED if visit.can_retry(failure) else Waste.FAILED
        visit.settle(reservation, call.fail(failure.error_type, failure.message, waste, failure.report, failure))
        await visit.context.commit_soon()
        raise
    except (Exception, asyncio.CancelledError) as error:
        visit.settle(reservation, _close_broken_call(visit, call, error))
        raise
    bill = call.complete(reply)
    visit.settle(reservation, bill)
    await visit.context.commit_soon()
    return replace(reply, usage=bill.usage)


async def _store_reservation(visit: Visit, call: ModelCall, model: ChatModel, request: ModelRequest) -> None:
    """Store the most that a call may cost before it is made, so that its cost survives a crash.

    With `spend: at_end` one reservation stands for all calls of the attempt, stored when it began.
    """
    context = visit.context
    if context.ledger.is_durable and context.limits.spend == "each_call":
        tokens, nano_usd = context.budget.upper(model, request)
        await context.checkpoint(CallReservation(call.id, model.provider, model.model, tokens, nano_usd))


def _mask(failure: Failure, *content: Json) -> None:
    """Mask what the failure's message repeats of the content: it goes into spans, records and webhooks."""
    failure.args = (mask_echo(failure.message, content), *failure.args[1:])


def _said(request: ModelRequest) -> Iterator[Json]:
    """The content of the messages, and the arguments of their calls."""
    for message in request.messages:
        content = message.get("content", "")
        yield content if isinstance(content, str) else [*content]
        yield from (call["arguments"] for call in message.get("tool_calls", ()))


def _close_broken_call(visit: Visit, call: ModelCall, error: BaseException) -> Bill:
    """End the span of a call that was cut off, or whose adapter failed."""
    if not is_cut_off(error):
        return call.fail(type(error).__name__, "the model's adapter failed", Waste.FAILED, error=error)
    if not visit.is_out_of_time:
        return call.cancel()
    waste = Waste.RETRIED if visit.can_retry(NodeTimeout()) else Waste.FAILED
    return call.fail("timeout", "the call was cut off", waste, error=NodeTimeout())


async def _stream(
    visit: Visit, call: ModelCall, model: ChatModel, request: ModelRequest, message_id: str
) -> ModelReply:
    tracker, events = visit.context.tracker, visit.context.events
    reply: ModelReply | None = None
    first, size = True, 0
    async for piece in model.stream(request):
        if is_being_cancelled():
            raise asyncio.CancelledError  # the provider's code has swallowed it
        call.answer_has_begun = True
        if isinstance(piece, UsageReport):
            call.heard = replace(piece, is_partial=True)
            continue
        if isinstance(piece, ModelReply):
            reply = piece
            continue
        if piece:
            if first:
                call.first_chunk()
                tracker.first_token()
                first = False
            visit.emit(EventType.TOKEN, {"message_id": message_id, "text": piece})
            size += len(piece)
            _refuse(visit.context.resources.answer_limits.problem(size, 0), None)
        await events.breathe()
    if reply is None:
        raise ModelFailure("connection", "the stream ended before the answer was complete")
    return reply


def _check_size(visit: Visit, reply: ModelReply) -> None:
    """Raises `ModelFailure` for an answer that is too large. A model that reads from a provider stops before."""
    limits = visit.context.resources.answer_limits
    size = size_of([reply.text, [*reply.tool_calls]], limits.max_bytes)
    _refuse(limits.problem(size, len(reply.tool_calls)), reply.report)


def _refuse(problem: str | None, report: UsageReport | None) -> None:
    if problem is not None:
        raise ModelFailure("invalid_output", problem, report=report)


def check_reply(reply: ModelReply) -> None:
    """Raises `ModelFailure` for an answer that is filtered, empty, or no JSON for the state. It is paid for."""
    if reply.finish_reason == CONTENT_FILTER:
        message = "the provider's content filter, or the model itself, refused an answer"
        raise ModelFailure("content_filter", message, report=reply.report)
    if not reply.text and not reply.tool_calls and reply.data is None:
        raise ModelFailure("empty_response", _empty_reason(reply.finish_reason), report=reply.report)
    try:
        check_nesting(reply.data)
        for call in reply.tool_calls:
            check_nesting(call["arguments"])
    except NotJson as error:
        raise ModelFailure("invalid_output", f"the model's answer {error}", report=reply.report) from error


def _empty_reason(finish_reason: str | None) -> str:
    if finish_reason == "length":
        return "the model used up max_tokens before it wrote any text; raise max_tokens"
    return "the model answered with neither text nor tool calls"


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """The outcome of a tool call. `attempts` counts towards the limits."""

    ok: bool
    text: str
    """The result or error message that is sent to the model."""
    error_type: str | None = None
    problem: str = ""
    """The error message for the span, without content such as arguments and results."""
    attempts: int = 1


async def call_tool(
    visit: Visit,
    tool: Tool | None,
    call: ToolCall,
    *,
    timeout_seconds: float,
    max_result_bytes: int,
    is_streamed: bool = False,
) -> ToolOutcome:
    """Make one attempt of a tool call. With `is_streamed`, its events hold the arguments and the result.

    Raises only on cancellation; other failures are returned to the model as the tool's result.
    """
    asked: JsonObject = {"call_id": call["id"], "tool": call["name"]}
    visit.emit(EventType.TOOL_CALL, asked | ({"arguments": call["arguments"]} if is_streamed else {}))
    loop = asyncio.get_running_loop()
    began = loop.time()
    name, description = (tool.spec.name, tool.spec.description) if tool else (UNKNOWN_TOOL, "")
    span = visit.span.tool_call(name, call["id"], call["arguments"], description)
    try:
        outcome = await _run_tool(visit, tool, call, timeout_seconds, max_result_bytes)
    except asyncio.CancelledError as error:
        if is_cut_off(error):
            if visit.is_out_of_time:
                span.fail("timeout", "the call was cut off")
            else:
                span.cancel()
            raise
        outcome = _failed_outcome(error)
    span.answered(outcome.text)
    if outcome.ok:
        span.complete()
    else:
        span.fail(outcome.error_type or "tool_failed", outcome.problem)
    told: JsonObject = {
        "call_id": call["id"],
        "ok": outcome.ok,
        "error_type": outcome.error_type,
        "duration_ms": round((loop.time() - began) * 1000),
    }
    visit.emit(EventType.TOOL_RESULT, told | ({"result": outcome.text} if is_streamed else {}))
    return outcome


async def _run_tool(
    visit: Visit, tool: Tool | None, call: ToolCall, timeout_seconds: float, max_result_bytes: int
) -> ToolOutcome:
    if tool is None:
        text = f"there is no tool {call['name']}"
        return ToolOutcome(False, text, "resource_missing", "there is no tool with this name")
    context = ToolContext(
        execution_id=visit.context.execution_id,
        owner=visit.context.owner,
        idempotency_key=f"{visit.idempotency_key}:{call['id']}",
        deadline_seconds=min(timeout_seconds, visit.context.seconds_left),
        search=bound_search(visit),
    )
    timeout = asyncio.timeout(timeout_seconds)
    try:
        problem = _arguments_problem(tool.spec.parameters, call["arguments"])
        if problem is not None:
            return ToolOutcome(False, f"{INVALID_ARGUMENTS}: {problem}", "invalid_arguments", INVALID_ARGUMENTS)
        async with timeout:
            result = await tool.call(deepcopy(call["arguments"]), context)
        return ToolOutcome(True, _result_text(result, max_result_bytes))
    except Failure as failure:
        text = error_text(failure.message)
        return ToolOutcome(False, text, failure.error_type, mask_echo(text, [call["arguments"]]))
    except Exception as error:
        if not timeout.expired():
            return _failed_outcome(error)
        text = f"{tool.spec.name} took longer than {timeout_seconds:g} s"
        return ToolOutcome(False, text, "timeout", text)


def _failed_outcome(error: BaseException) -> ToolOutcome:
    name = type(error).__name__
    return ToolOutcome(False, error_text(str(error)) or name, name, "the tool failed")


def _result_text(result: Json, max_bytes: int) -> str:
    try:
        text = result if isinstance(result, str) else to_json(result, levels=MAX_NESTING).decode()
    except NotJson as error:
        raise OutputInvalid(f"the tool's result {error}") from error
    data = text.encode("utf-8", "replace")
    return text if len(data) <= max_bytes else data[:max_bytes].decode("utf-8", "ignore") + " [cut]"


def _arguments_problem(schema: JsonObject, arguments: JsonObject) -> str | None:
    mismatch = compiled(schema).find_mismatch(arguments)
    return None if mismatch is None else error_text(mismatch.message)


async def retrieve(visit: Visit, name: str, query: RetrievalQuery) -> list[Passage]:
    """Query a retriever. Raises `ResourceMissing` if no retriever has this name, or the retriever's own failure."""
    retriever = visit.context.resources.retrievers.get(name)
    if retriever is None:
        raise ResourceMissing(f"there is no retriever {name}")
    span = visit.span.retrieval(name, query.text, query.max_documents)
    try:
        passages = await retriever.retrieve(query)
    except Failure as failure:
        _mask(failure, query.text)
        span.fail(failure.error_type, failure.message)
        raise
    except (Exception, asyncio.CancelledError) as error:
        if not is_cut_off(error):
            span.fail(type(error).__name__, "the retriever failed")
        elif visit.is_out_of_time:
            span.fail("timeout", "the search was cut off")
        else:
            span.cancel()
        raise
    span.complete(passages)
    return passages


def bound_search(visit: Visit) -> Search | None:
    """Return the search of the tool `search_docs` for this node; null if its retriever does not exist.

    The graph's retrieval node chooses the retriever; without such a node the server's default applies.
    """
    use, context = visit.node.searched, visit.context
    retriever = context.resources.retrievers.get(use.name)
    if retriever is None:
        return None

    async def search(query: str, max_documents: int) -> list[Passage]:
        return await retriever.retrieve(
            RetrievalQuery(
                text=query,
                owner=context.owner,
                max_documents=max_documents,
                options=use.options,
                any_folder=context.any_folder,
            )
        )

    return search
