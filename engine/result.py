"""The result of an execution: its output, usage and errors, built in one place for every status."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypedDict, Unpack

from pydantic import AwareDatetime, Field

from engine.graph import Document, Json, JsonObject
from engine.identity import ExecutionIdentity
from engine.report import ValidationReport
from engine.usage import Totals, Unfinished, Usage


class Status(StrEnum):
    """The status of an execution. Cancelled is not a failure."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the execution has ended for good."""
        return self in _TERMINAL


_TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class ErrorClass(StrEnum):
    """Who has to act on a failed execution."""

    CALLER = "caller"
    """The caller's document, parameters or input are not valid."""
    WORKFLOW = "workflow"
    """The workflow failed by its own design: a limit, a route, an expression, an end node."""
    PROVIDER = "provider"
    """A model provider returned an error or did not respond."""
    TOOL = "tool"
    """A tool failed."""
    ENGINE = "engine"
    """A fault of the service, its database or its process."""


class ErrorInfo(Document):
    """The failure of one node: its place, its cause, the attempts made, and whether the graph handled it."""

    node_id: str
    path: str
    error_type: str
    message: str
    attempts: int = 1
    handled: bool = False


class Approval(Document):
    """An open question of a paused execution, with its choices and its deadline."""

    approval_id: str
    """Stable: an attempt that reaches the question again gets the same id."""
    node_id: str
    path: str
    prompt: str
    payload: Json = None
    choices: list[str]
    response_schema: JsonObject | None = None
    expires_at: AwareDatetime


class ResultMetadata(Document):
    """The source of a result, and the ids to look it up by."""

    source: str
    workflow_name: str
    template_id: str | None = None
    template_version: int | None = None
    unsaved: bool = False
    """Whether the template came with the request and is stored nowhere."""
    definition_id: str | None = None
    graph_hash: str | None = None
    conversation_id: str | None = None
    correlation_id: str | None = None
    trace_id: str | None = None
    degraded: list[str] = Field(default_factory=list)
    offline: bool = False
    """Whether the offline model answered: a demo, since no provider's key is set or the workflow asks for it."""
    cancel_reason: str | None = None


class ExecutionResult(Document):
    """How an execution ended and what it used. Costs are integer nano-USD; null if no call had a price."""

    execution_id: str
    status: Status
    error_type: str | None = None
    error_message: str | None = None
    error_class: ErrorClass | None = None
    """Who has to act on the failure; null unless the execution failed."""
    report: ValidationReport | None = None
    """The findings about the document, if the failure is `invalid_workflow`; at most 100, with their total."""
    response: str = ""
    output: Json = None
    messages: list[JsonObject] = Field(default_factory=list)
    duration_ms: int = Field(ge=0)
    usage: Usage = Usage()
    cost_nano_usd: int | None = None
    unpriced_calls: int = 0
    """Calls to models without a price."""
    unmetered_calls: int = 0
    """Calls of unknown cost, because the provider reported no usage."""
    failed_calls: int = 0
    """Model calls that failed, whatever they cost."""
    assumed_calls: int = 0
    """Calls at the catalogue's price, although the server is not the provider's."""
    waste_nano_usd: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    node_executions: int = 0
    unfinished_calls: int = 0
    """Model calls that were in flight when an attempt's process died."""
    cost_upper_nano_usd: int | None = None
    """Upper limit of the cost, including those calls; null if it is unknown."""
    errors: list[ErrorInfo] = Field(default_factory=list)
    approvals: list[Approval] = Field(default_factory=list)
    metadata: ResultMetadata


class ResultParts(TypedDict, total=False):
    """The fields of `ExecutionResult` besides identity and usage."""

    error_type: str | None
    error_message: str | None
    error_class: ErrorClass | None
    report: ValidationReport | None
    response: str
    output: Json
    messages: list[JsonObject]
    errors: list[ErrorInfo]
    approvals: list[Approval]


def result_of(
    identity: ExecutionIdentity,
    totals: Totals,
    unfinished: Unfinished,
    *,
    status: Status,
    duration_seconds: float,
    trace_id: str | None,
    cancel_reason: str | None = None,
    degraded: Sequence[str] = (),
    **parts: Unpack[ResultParts],
) -> ExecutionResult:
    """Build the result of an attempt that its own process ended, or another process after its loss."""
    return ExecutionResult(
        execution_id=identity.execution_id,
        status=status,
        duration_ms=round(duration_seconds * 1000),
        usage=totals.usage,
        cost_nano_usd=totals.cost_nano_usd,
        unpriced_calls=totals.unpriced_calls,
        unmetered_calls=totals.unmetered_calls,
        failed_calls=totals.failed_calls,
        assumed_calls=totals.assumed_calls,
        waste_nano_usd=totals.waste_nano_usd,
        unfinished_calls=unfinished.calls,
        cost_upper_nano_usd=unfinished.upper_cost_nano_usd(totals.cost_nano_usd),
        model_calls=totals.model_calls,
        tool_calls=totals.tool_calls,
        node_executions=totals.nodes_total,
        metadata=ResultMetadata(
            source=identity.source,
            workflow_name=identity.workflow_name,
            template_id=identity.template_id,
            template_version=identity.template_version,
            unsaved=identity.is_unsaved,
            definition_id=identity.definition_id,
            graph_hash=identity.graph_hash,
            conversation_id=identity.conversation_id,
            correlation_id=identity.correlation_id,
            trace_id=trace_id,
            degraded=list(degraded),
            offline=totals.offline_calls > 0,
            cancel_reason=cancel_reason,
        ),
        **parts,
    )


def without_content(result: JsonObject) -> JsonObject:
    """A stored result with its numbers and errors, but without what people, models and tools said."""
    return result | {"response": "", "output": None, "messages": [], "approvals": []}
