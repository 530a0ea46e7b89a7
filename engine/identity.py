"""The identity of an execution: its ids, its workflow and its caller, known when an attempt begins."""

from dataclasses import dataclass, field
from typing import Literal

from engine.graph import JsonObject, RecordLevel

Trigger = Literal["api", "chat", "cli", "resume", "retry", "parent", "schedule"]


@dataclass(frozen=True, slots=True)
class ExecutionIdentity:
    """The identity, stored with the execution so that another process can complete its record after a crash."""

    execution_id: str
    attempt: int
    owner: str
    workflow_name: str
    source: str
    trigger: Trigger
    streaming: bool
    queued_ns: int
    """When the execution was accepted, ns since the epoch."""
    started_ns: int
    """When its first attempt began, ns since the epoch; equals `queued_ns` unless the execution was queued."""
    correlation_id: str | None = None
    template_id: str | None = None
    template_version: int | None = None
    definition_id: str | None = None
    graph_hash: str | None = None
    conversation_id: str | None = None
    retry_of: str | None = None
    """Id of the finished execution that this one runs again."""
    record_level: RecordLevel = "full"
    tags: JsonObject = field(default_factory=dict)
    params: JsonObject = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    """Spans that the first root span links to, as `traceparent`: of the request that queued the execution, of a caller
    whose trace is not joined, and of the execution that this one runs again."""
    any_folder: bool = False
    """The `files` retriever may read any folder: the execution was started from the command line."""

    @property
    def is_unsaved(self) -> bool:
        """Whether it runs a template that is stored nowhere."""
        return self.source == "template" and self.template_id is None

    def started_data(self, trace_id: str | None) -> JsonObject:
        """The data of the event `started` or `resumed`."""
        return {
            "source": self.source,
            "workflow_name": self.workflow_name,
            "template_id": self.template_id,
            "unsaved": self.is_unsaved,
            "template_version": self.template_version,
            "definition_id": self.definition_id,
            "graph_hash": self.graph_hash,
            "conversation_id": self.conversation_id,
            "correlation_id": self.correlation_id,
            "trace_id": trace_id,
        }
