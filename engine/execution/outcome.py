"""How a run ended, and the one place where the result is made from it, for every status."""

from dataclasses import dataclass

from engine.errors import Failure, InvalidWorkflow
from engine.graph import JsonObject
from engine.identity import ExecutionIdentity
from engine.pause import Paused
from engine.report import ValidationReport
from engine.resources import Message, as_json
from engine.result import ErrorClass, ExecutionResult, ResultMetadata, Status
from engine.runtime.context import ExecutionContext
from engine.runtime.state import text_of
from engine.security.redaction import error_text


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended and why."""

    status: Status
    error_type: str | None = None
    error_message: str | None = None
    error_node_id: str | None = None
    error_class: ErrorClass | None = None
    report: ValidationReport | None = None
    """The findings about a document that is not valid."""
    cancel_reason: str | None = None
    paused: Paused | None = None
    """What a paused execution waits for."""


COMPLETED = Outcome(Status.COMPLETED)
HANDED_OVER = Outcome(Status.RUNNING)
"""The process stops, and another one goes on with the execution."""


def failed(failure: Failure, node_id: str | None = None) -> Outcome:
    """The outcome of an execution that failed; `node_id` names the node that failed it."""
    return Outcome(
        Status.FAILED,
        error_type=failure.error_type,
        error_message=failure.message,
        error_node_id=node_id,
        error_class=failure.error_class,
        report=failure.report if isinstance(failure, InvalidWorkflow) else None,
    )


def make_result(context: ExecutionContext, identity: ExecutionIdentity, outcome: Outcome) -> ExecutionResult:
    """The result of an execution that has ended; call it once the tracker has closed."""
    totals = context.tracker.totals
    end = context.state["end"] if outcome.status is Status.COMPLETED else None
    return ExecutionResult(
        execution_id=context.execution_id,
        status=outcome.status,
        error_type=outcome.error_type,
        error_message=error_text(outcome.error_message) if outcome.error_message is not None else None,
        error_class=outcome.error_class,
        report=outcome.report,
        response=_response(context, end["response"] if end else None),
        output=end["output"] if end else None,
        messages=[as_json(message) for message in new_messages(context)],
        duration_ms=round(context.tracker.duration_seconds * 1000),
        usage=totals.usage,
        cost_nano_usd=totals.cost_nano_usd,
        unpriced_calls=totals.unpriced_calls,
        waste_nano_usd=totals.waste_nano_usd,
        unfinished_calls=context.tracker.unfinished.calls,
        cost_upper_nano_usd=context.tracker.unfinished.upper_cost_nano_usd(totals.cost_nano_usd),
        model_calls=totals.model_calls,
        tool_calls=totals.tool_calls,
        node_executions=totals.nodes_total,
        errors=context.errors,
        approvals=list(outcome.paused.approvals) if outcome.paused else [],
        metadata=_metadata(context, identity, outcome),
    )


def new_messages(context: ExecutionContext) -> list[Message]:
    """The messages that this execution wrote, in order, also those that a memory node has removed."""
    state = context.state
    messages = state["removed_new_messages"] | {message["id"]: message for message in state["messages"]}
    return [messages[id_] for id_ in state["new_message_ids"]]


def new_summary(context: ExecutionContext, before: JsonObject | None) -> JsonObject | None:
    """The conversation's summary if this execution made a new one."""
    summary = context.state["conversation_summary"]
    return summary if summary != before else None


def _response(context: ExecutionContext, written: str | None) -> str:
    if written is not None:
        return written
    for message in reversed(new_messages(context)):
        if message["role"] == "assistant" and (text := text_of(message)):
            return text
    return ""


def _metadata(context: ExecutionContext, identity: ExecutionIdentity, outcome: Outcome) -> ResultMetadata:
    return ResultMetadata(
        source=identity.source,
        workflow_name=identity.workflow_name,
        template_id=identity.template_id,
        template_version=identity.template_version,
        definition_id=identity.definition_id,
        graph_hash=identity.graph_hash,
        conversation_id=identity.conversation_id,
        correlation_id=identity.correlation_id,
        trace_id=context.tracker.trace_id,
        degraded=context.degraded,
        cancel_reason=outcome.cancel_reason,
    )
