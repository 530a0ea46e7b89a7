"""Everything that can go wrong, as one tree.

    SpanloomError
    ├── Refusal                 the caller gets the error; nothing is accepted or recorded
    │   ├── InvalidRequest      ├── NotFound        ├── ConversationBusy    ├── AlreadyFinished
    │   ├── MalformedWorkflow   ├── MissingExtra    ├── Unavailable         ├── Draining
    │   ├── QueueFull           ├── NotFinished     ├── IdempotencyMismatch ├── Replayed
    │   └── NotPaused           ├── AlreadyAnswered ├── InvalidAnswer       └── InputGone
    ├── Fenced                  a newer attempt owns the execution
    │   └── AttemptLost         this attempt could not be made durable
    └── Failure                 an accepted execution fails; `error_type` and `error_class` go on span, event and record
        ├── ExecutionFailure    nothing inside the graph can catch it
        │   ├── InvalidWorkflow ├── InvalidParams   ├── InvalidInput        ├── NoEnd
        │   └── RunTimeout      ├── LimitExceeded   ├── BudgetExceeded      └── AuthorFailure
        └── NodeFailure         the node's `on_error` policy may catch it
            ├── NoRoute         ├── ExpressionError ├── TemplateError       ├── NodeTimeout
            └── ModelFailure    ├── ToolFailed      ├── ResourceMissing     └── TypeMismatch …

A class's docstring is its default message; `code` is stable.
"""

from __future__ import annotations

from typing import ClassVar

from engine.report import ValidationReport
from engine.result import ErrorClass
from engine.usage import UsageReport


class SpanloomError(Exception):
    """Something went wrong in spanloom."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        """The sentence for people, without a value that may be content or a secret."""
        return str(self.args[0])


class Refusal(SpanloomError):
    """The request was refused; nothing was accepted or recorded."""

    code = "invalid_request"


class InvalidRequest(Refusal):
    """The request is not valid."""


class NotFound(Refusal):
    """What the request names does not exist for this owner."""

    code = "not_found"

    @classmethod
    def of(cls, kind: str, id_: str) -> NotFound:
        """The error for an id that nothing of a kind has; a long id is cut."""
        return cls(f"Not found: there is no {kind} {id_ if len(id_) <= _SHOWN_ID else id_[:_SHOWN_ID] + '…'}")


_SHOWN_ID = 64


class ConversationBusy(Refusal):
    """This conversation has an unfinished execution; wait for it or cancel it first."""

    code = "conversation_busy"


class QueueFull(Refusal):
    """Too many executions are queued; try again once some of them have started."""

    code = "queue_full"


class IdempotencyMismatch(Refusal):
    """This Idempotency-Key belongs to a different request; use another key."""

    code = "idempotency_mismatch"


class Replayed(Refusal):
    """This Idempotency-Key has already started an execution."""

    code = "replayed"

    def __init__(self, execution_id: str) -> None:
        super().__init__()
        self.execution_id = execution_id


class NotFinished(Refusal):
    """The execution has not ended yet."""

    code = "not_finished"


class NotPaused(Refusal):
    """The execution is not waiting for an answer."""

    code = "not_paused"


class AlreadyAnswered(Refusal):
    """The approval has already been answered; the first answer counts."""

    code = "already_answered"


class InvalidAnswer(Refusal):
    """The choice is not one of the approval's choices, or the data does not match its schema."""

    code = "invalid_answer"


class InputGone(Refusal):
    """The request of this execution is no longer stored; start a new one."""

    code = "input_gone"


class AlreadyFinished(Refusal):
    """The execution has already ended."""

    code = "already_finished"


class MissingExtra(Refusal):
    """A provider's package is not installed."""

    code = "missing_extra"


class Unavailable(Refusal):
    """The database is not available; nothing was accepted. Try again."""

    code = "unavailable"


class Draining(Refusal):
    """The service is stopping and takes no new executions."""

    code = "draining"


class MalformedWorkflow(Refusal):
    """The document is not a workflow graph; the report says where."""

    code = "invalid_workflow"

    def __init__(self, report: ValidationReport) -> None:
        super().__init__(report.summary())
        self.report = report


class Fenced(SpanloomError):
    """A newer attempt owns the execution, or the execution has ended; this attempt stops."""

    code = "fenced"


class AttemptLost(Fenced):
    """The database did not store the progress of this attempt in time; its lease runs out, and `on_lost` decides."""

    code = "attempt_lost"


class Failure(SpanloomError):
    """The execution failed."""

    error_class: ClassVar[ErrorClass] = ErrorClass.ENGINE

    @property
    def error_type(self) -> str:
        """The `error.type` of span, event and record."""
        return self.code


class ExecutionFailure(Failure):
    """The execution failed; no error handling in the graph can catch it."""


class InvalidWorkflow(ExecutionFailure):
    """The workflow is not valid; the report says why."""

    code = "invalid_workflow"
    error_class = ErrorClass.CALLER

    def __init__(self, report: ValidationReport) -> None:
        super().__init__(report.summary())
        self.report = report


class InvalidParams(ExecutionFailure):
    """The parameters do not match the template's schema."""

    code = "invalid_params"
    error_class = ErrorClass.CALLER


class InvalidInput(ExecutionFailure):
    """The input does not match the workflow's input schema."""

    code = "invalid_input"
    error_class = ErrorClass.CALLER


class NoEnd(ExecutionFailure):
    """The execution stopped without reaching an end node."""

    code = "no_end"
    error_class = ErrorClass.WORKFLOW


class RunTimeout(ExecutionFailure):
    """The execution took longer than its limit `run_seconds`."""

    code = "timeout"
    error_class = ErrorClass.WORKFLOW


class LimitExceeded(ExecutionFailure):
    """The execution exceeded one of its limits."""

    code = "limit_exceeded"
    error_class = ErrorClass.WORKFLOW


class BudgetExceeded(ExecutionFailure):
    """The next model call could cost more than what is left of the budget."""

    code = "budget_exceeded"
    error_class = ErrorClass.WORKFLOW


class UnpricedModel(ExecutionFailure):
    """A model without a known price cannot be called under a cost budget."""

    code = "unpriced_model"
    error_class = ErrorClass.WORKFLOW


class AuthorFailure(ExecutionFailure):
    """An end node failed the execution, with an error type and message from the workflow's author."""

    error_class = ErrorClass.WORKFLOW

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self._error_type = error_type

    @property
    def error_type(self) -> str:
        return self._error_type


class NodeFailure(Failure):
    """A node failed."""

    code = "internal_error"
    retry_after_seconds: float | None = None


class NoRoute(NodeFailure):
    """No edge out of the node matches, and the node has no default edge."""

    code = "no_route"
    error_class = ErrorClass.WORKFLOW


class ExpressionError(NodeFailure):
    """An expression could not be evaluated."""

    code = "expression_error"
    error_class = ErrorClass.WORKFLOW


class TemplateError(NodeFailure):
    """A prompt uses a path that has no value; add `| default('…')` if it may be missing."""

    code = "template_error"
    error_class = ErrorClass.WORKFLOW


class NodeTimeout(NodeFailure):
    """The node took longer than its `timeout_seconds`."""

    code = "timeout"
    error_class = ErrorClass.WORKFLOW


class IterationLimit(NodeFailure):
    """The loop reached `max_iterations`, and its `on_limit` is `fail`."""

    code = "limit_exceeded"
    error_class = ErrorClass.WORKFLOW


class ApprovalTimeout(NodeFailure):
    """The approval was not answered in time, and it has no `on_timeout`."""

    code = "approval_timeout"
    error_class = ErrorClass.WORKFLOW


class ToolFailed(NodeFailure):
    """A tool failed, and the node's `on_tool_error` is `fail`."""

    code = "tool_failed"
    error_class = ErrorClass.TOOL


class TypeMismatch(NodeFailure):
    """The variable does not have the type this operation needs."""

    code = "type_mismatch"
    error_class = ErrorClass.WORKFLOW


class ResourceMissing(NodeFailure):
    """A model, tool or retriever that the node names is not available here."""

    code = "resource_missing"
    error_class = ErrorClass.WORKFLOW


class OutputInvalid(NodeFailure):
    """The node's output is not a JSON value, it is nested 64 levels deep, or it is larger than 256 KiB."""

    code = "output_invalid"
    error_class = ErrorClass.WORKFLOW


class ModelFailure(NodeFailure):
    """The provider answered with an error.

    `code` is per instance here: rate_limited overloaded provider_error connection timeout auth bad_request
    context_too_long content_filter model_not_found empty_response invalid_output. `report` is what the provider has
    reported all the same: an answer that is of no use is paid for too.
    """

    code = "provider_error"
    error_class = ErrorClass.PROVIDER

    def __init__(
        self,
        error_type: str,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        report: UsageReport | None = None,
    ) -> None:
        super().__init__(message)
        self._error_type = error_type
        self.retry_after_seconds = retry_after_seconds
        self.report = report

    @property
    def error_type(self) -> str:
        return self._error_type
