"""Whose trace and record it is: everything known of an execution when an attempt of it begins."""

from dataclasses import dataclass, field
from typing import Literal

from engine.graph import JsonObject, RecordLevel

Trigger = Literal["api", "chat", "cli", "resume", "retry", "parent", "schedule"]


@dataclass(frozen=True, slots=True)
class Subject:
    """Kept with the execution's control row, so that whoever finds it without a process can speak for it."""

    execution_id: str
    attempt: int
    owner: str
    workflow_name: str
    source: str
    trigger: Trigger
    streaming: bool
    queued_ns: int
    """When it was accepted, ns since the epoch."""
    started_ns: int
    """When its first attempt began; the same unless it was queued."""
    correlation_id: str | None = None
    template_id: str | None = None
    template_version: int | None = None
    definition_id: str | None = None
    graph_hash: str | None = None
    conversation_id: str | None = None
    retry_of: str | None = None
    """The finished execution that this one runs again."""
    record_level: RecordLevel = "full"
    tags: JsonObject = field(default_factory=dict)
    params: JsonObject = field(default_factory=dict)
