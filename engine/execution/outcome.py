"""The outcome of an attempt, and the result built from it, for every status."""

from dataclasses import dataclass

from engine.errors import Failure, InvalidWorkflow
from engine.graph import Json, JsonObject
from engine.identity import ExecutionIdentity
from engine.pause import Paused
from engine.resources import Message, as_json
from engine.result import ExecutionResult, Status, result_of
from engine.runtime.context import ExecutionContext
from engine.runtime.state import text_of
from engine.security.redaction import error_text


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended and why."""

    status: Status
    failure: Failure | None = None
    """Why it failed; null for every other status."""
    failed_node_id: str | None = None
    """The node that failed, if one did."""
    cancel_reason: str | None = None
    paused: Paused | None = None
    """The pause, if the execution is paused."""


COMPLETED = Outcome(Status.COMPLETED)
HANDED_OVER = Outcome(Status.RUNNING)
"""This process stops, and another one continues the execution."""


def make_result(context: ExecutionContext, identity: ExecutionIdentity, outcome: Outcome) -> ExecutionResult:
    """The result of an execution that has ended; call it once the tracker has closed."""
    tracker, failure = context.tracker, outcome.failure
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
        error_type=failure.error_type if failure else None,
        error_message=error_text(failure.message) if failure else None,
        error_class=failure.error_class if failure else None,
        report=failure.report if isinstance(failure, InvalidWorkflow) else None,
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


def answer_of(context: ExecutionContext) -> Json:
    """What a completed execution answered: its text, or its output if it has none."""
    end = context.state["end"]
    return _response(context, end["response"] if end else None) or (end["output"] if end else None)


def _response(context: ExecutionContext, written: str | None) -> str:
    if written is not None:
        return written
    for message in reversed(new_messages(context)):
        if message["role"] == "assistant" and (text := text_of(message)):
            return text
    return ""
