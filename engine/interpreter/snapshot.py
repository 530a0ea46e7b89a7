"""The snapshot of a run between two nodes: the JSON that a later attempt needs to continue it.

It holds nothing that a worker provides (models, tools, tracker, clock). Visits, tool calls and run time continue from
the snapshot; a pause does not count as run time. Usage is not in it either but in the ledger (`engine.usage.Carried`),
since a crash may follow a call that no checkpoint contains.
"""

from time import monotonic
from typing import TypedDict

import orjson

from engine.documents.json_text import to_json
from engine.graph import JsonObject
from engine.result import ErrorInfo
from engine.runtime.context import ExecutionContext
from engine.runtime.position import Arrival, Parked, WalkPosition
from engine.runtime.state import WorkflowState


class Snapshot(TypedDict):
    """A run between two nodes. `at` is null when the run has reached an end."""

    state: WorkflowState
    state_bytes: int
    at: str | None
    source: str | None
    """The previous node."""
    error: JsonObject | None
    """The error that routed the run to this node."""
    parked: Parked | None
    node_visits: int
    tool_calls: dict[str, int]
    errors: list[JsonObject]
    degraded: list[str]
    elapsed_seconds: float


def take(context: ExecutionContext) -> bytes:
    """The current state of the run as JSON, independent of later changes."""
    position = context.current_position
    error = position.arrival.error
    return to_json(
        Snapshot(
            state=context.state,
            state_bytes=context.state_bytes,
            at=position.at,
            source=position.arrival.source,
            error=error.model_dump(mode="json") if error is not None else None,
            parked=position.parked,
            node_visits=context.node_visits,
            tool_calls=context.tool_calls,
            errors=[each.model_dump(mode="json") for each in context.errors],
            degraded=context.degraded,
            elapsed_seconds=context.elapsed_seconds,
        )
    )


def restore(context: ExecutionContext, data: bytes) -> None:
    """Set the context to the state of the snapshot."""
    snapshot: Snapshot = orjson.loads(data)
    error = snapshot["error"]
    context.state = snapshot["state"]
    context.state_bytes = snapshot["state_bytes"]
    context.position = WalkPosition(
        snapshot["at"],
        Arrival(snapshot["source"], ErrorInfo.model_validate(error) if error is not None else None),
        snapshot["parked"],
    )
    context.node_visits = snapshot["node_visits"]
    context.tool_calls = snapshot["tool_calls"]
    context.errors = [ErrorInfo.model_validate(each) for each in snapshot["errors"]]
    context.degraded = snapshot["degraded"]
    context.deadline = monotonic() + context.limits.run_seconds - snapshot["elapsed_seconds"]
