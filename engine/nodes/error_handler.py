"""The node type `error_handler`: retries a failed node, and continues or stops when the retries are used up."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from uuid_utils.compat import uuid7

from engine.errors import AuthorFailure
from engine.expressions.prompts import parse as parse_prompt
from engine.expressions.prompts import parse_json
from engine.graph import Json, Node
from engine.nodes.base import APPENDS_MESSAGES, JSON_PROMPT, SHOWN_PROMPT, NodeBase, NodeConfig, NodeResult
from engine.resources import Message
from engine.runtime.state import Change, Recovery, SentBack, WorkflowState
from engine.tracing import semconv

if TYPE_CHECKING:
    from engine.result import ErrorInfo
    from engine.runtime.visit import Visit

Action = Literal["retry", "continue", "clear_errors", "stop"]

NOTHING_FAILED = "stopped"
"""Error type of an execution that a handler stopped although no node had failed."""


class ErrorHandlerConfig(NodeConfig):
    """How often the failed node is retried, and what happens afterwards."""

    retry_count: int = Field(default=3, ge=0, le=10)
    """How often in a row the failed node is retried."""
    fallback_action: Literal["continue", "clear_errors", "stop"] = "continue"
    """After the last retry: continue, continue and forget all errors, or fail the execution."""
    message: Annotated[str | None, SHOWN_PROMPT] = None
    """Assistant message that the fallback appends; null appends none."""
    output: Annotated[Json, JSON_PROMPT] = None
    """Output that the fallback gives to the failed node."""


class ErrorHandlerNode(NodeBase[ErrorHandlerConfig]):
    """The target of error edges. The state counts the retries of a node until that node succeeds."""

    type = "error_handler"
    title = "Error handler"
    description = "Handles failures. Label `retry` while retries are left, then `fallback`, or it stops the execution."
    category = "flow"
    Config = ErrorHandlerConfig
    catches = False
    must_route = True
    bounds_cycle = True
    handles_errors = True
    output_schema = {
        "type": "object",
        "properties": {
            "node_id": {"type": ["string", "null"]},
            "error_type": {"type": ["string", "null"]},
            "retry": {"type": "integer"},
            "action": {"enum": ["retry", "continue", "clear_errors"]},
        },
    }

    def __init__(self, node: Node, config: ErrorHandlerConfig) -> None:
        super().__init__(node, config)
        self._message = parse_prompt(config.message) if config.message is not None else None
        self._output = parse_json(config.output) if config.output is not None else None

    @classmethod
    def labels(cls, config: ErrorHandlerConfig) -> tuple[str, ...]:
        retry = ("retry",) if config.retry_count > 0 else ()
        return retry if config.fallback_action == "stop" else (*retry, "fallback")

    @classmethod
    def ordered_writes(cls, config: ErrorHandlerConfig) -> tuple[str, ...]:
        return () if config.message is None else (APPENDS_MESSAGES,)

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        error = visit.arrival.error
        known = state["sent_back"].get(error.node_id, {}).get(self.id) if error is not None else None
        retries = known["count"] if known is not None else 0
        if error is not None and retries < self.config.retry_count:
            return self._retry(error, known, visit)
        self._describe(visit, error, self.config.fallback_action, retries)
        if self.config.fallback_action == "stop":
            raise self._failure(error, known, visit)
        return self._fall_back(error, retries, visit)

    def _retry(self, error: "ErrorInfo", known: SentBack | None, visit: "Visit") -> NodeResult:
        first = known or SentBack(count=0, error_type=error.error_type, message=error.message)
        sent_back = SentBack(count=first["count"] + 1, error_type=first["error_type"], message=first["message"])
        self._describe(visit, error, "retry", sent_back["count"])
        recovery = Recovery(error.node_id, sent_back=sent_back)
        return NodeResult(
            output=_output(error, "retry", sent_back["count"]), label="retry", change=Change(recovery=recovery)
        )

    def _fall_back(self, error: "ErrorInfo | None", retries: int, visit: "Visit") -> NodeResult:
        action = self.config.fallback_action
        recovery = Recovery(
            error.node_id if error is not None else None,
            output=self._output.render(visit.names) if self._output is not None else None,
            clears_errors=action == "clear_errors",
        )
        return NodeResult(
            output=_output(error, action, retries),
            label="fallback",
            change=Change(recovery=recovery, messages=self._messages(visit)),
        )

    def _messages(self, visit: "Visit") -> tuple[Message, ...]:
        if self._message is None:
            return ()
        text = self._message.render(visit.names)
        return (Message(id=str(uuid7()), role="assistant", content=text, node_id=self.id),)

    def _failure(self, error: "ErrorInfo | None", known: SentBack | None, visit: "Visit") -> AuthorFailure:
        """The failure of the execution: the first error of this series of retries, else the first of the execution."""
        if known is not None:
            return AuthorFailure(known["error_type"], known["message"])
        first = error or next(iter(visit.context.errors), None)
        if first is None:
            return AuthorFailure(NOTHING_FAILED, "the error handler stopped the execution, though nothing had failed")
        return AuthorFailure(first.error_type, first.message)

    @staticmethod
    def _describe(visit: "Visit", error: "ErrorInfo | None", action: Action, retries: int) -> None:
        visit.span.update({semconv.HANDLER_ACTION: action, semconv.HANDLER_RETRY: retries})
        if error is not None:
            visit.span.update({semconv.HANDLER_SOURCE: error.node_id, semconv.HANDLER_ERROR_TYPE: error.error_type})


def _output(error: "ErrorInfo | None", action: Action, retries: int) -> Json:
    return {
        "node_id": error.node_id if error is not None else None,
        "error_type": error.error_type if error is not None else None,
        "retry": retries,
        "action": action,
    }
