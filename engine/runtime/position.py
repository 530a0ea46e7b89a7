"""Where a run stands between two nodes: the next one, how it came there, and whether it waits there."""

from dataclasses import dataclass
from typing import TypedDict

from engine.graph import JsonObject
from engine.result import ErrorInfo


@dataclass(slots=True)
class Arrival:
    """How a run came to a node: from which node, and with which error if it was routed here by one."""

    source: str | None = None
    error: ErrorInfo | None = None


class Parked(TypedDict):
    """A visit that waits without a worker. Times in seconds since the epoch, by the clock of the worker that parked."""

    visit: int
    attempt: int
    """Attempt of the visit that parked; the next one goes on."""
    since: float
    due_at: float
    approval: JsonObject | None
    """The question, as an `Approval`; null for a delay."""


@dataclass(slots=True)
class WalkPosition:
    """Where a walk goes on; `at` null: an end was reached. `parked`: the visit of that node has begun and waits."""

    at: str | None
    arrival: Arrival
    parked: Parked | None = None
