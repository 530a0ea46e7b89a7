"""The outcome of an attempt, and the result built from it, for every status."""

from dataclasses import dataclass

from engine.errors import Failure, InvalidWorkflow
from engine.graph import JsonObject
from engine.identity import ExecutionIdentity
from engine.pause import Paused
from engine.report import ValidationReport
from engine.resources import Message, as_json
from engine.result import ErrorClass, ExecutionResult, Status, result_of
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
    """The findings, if the graph is not valid."""
    cancel_reason: str | None = None
    paused: Paused | None = None
    """The pause, if the execution is paused."""


COMPLETED = Outcome(Status.COMPLETED)
HANDED_OVER = Outcome(Status.RUNNING)
"""This process stops, and another one continues the execution."""


def failed(failure: Failure, node_id: str | None = None) -> Outcome:
    """The outcome of a failed execution; `node_id` is the node that failed, if any."""
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
    tracker = context.tracker
    end = context.state["end"] if outcome.status is Status.COMPLETED else None
    return result_of(
        identity,
        tracker.totals,
        tracker.unfinished,
        status=outcome.status,
        duration_seconds=tracker.duration_seconds,
        trace_id=tracker.trace_id,
        cancel_reason=outcome.cancel_reason,
        degraded=context.degraded,
        error_type=outcome.error_type,
        error_message=error_text(outcome.error_message) if outcome.error_message is not None else None,
        error_class=outcome.error_class,
        report=outcome.report,
        response=_response(context, end["response"] if end else None),
        output=end["output"] if end else None,
        messages=[as_json(message) for message in new_messages(context)],
        errors=context.errors,
        approvals=list(outcome.paused.approvals) if outcome.paused else [],
    )


def new_messages(context: ExecutionContext) -> list[Message]:
    """The messages that this execution added, in order, including those that a memory node removed."""
    state = context.state
    messages = state["removed_new_messages"] | {message["id"]: message for message in state["messages"]}
    return [messages[id_] for id_ in state["new_message_ids"]]


def new_summary(context: ExecutionContext, before: JsonObject | None) -> JsonObject | None:
    """The conversation's new summary; null if this execution did not change it."""
    summary = context.state["conversation_summary"]
    return summary if summary != before else None


def _response(context: ExecutionContext, written: str | None) -> str:
    if written is not None:
        return written
    for message in reversed(new_messages(context)):
        if message["role"] == "assistant" and (text := text_of(message)):
            return text
    return ""
