"""The position of a run between two nodes: the next node, how the run arrived there, and whether it is parked."""

from dataclasses import dataclass
from typing import TypedDict

from engine.graph import JsonObject
from engine.result import ErrorInfo


@dataclass(slots=True)
class Arrival:
    """How a run arrived at a node: the previous node, and the error if an error edge led here."""

    source: str | None = None
    error: ErrorInfo | None = None


class Parked(TypedDict):
    """A visit that waits without a worker. Times in seconds since the epoch, by the clock of the worker that parked."""

    visit: int
    attempt: int
    """The attempt of the visit that parked; the next attempt continues."""
    since: float
    due_at: float
    approval: JsonObject | None
    """The question, as an `Approval`; null for a delay."""


@dataclass(slots=True)
class WalkPosition:
    """Where a walk continues. `at` null: it reached an end. `parked`: the visit of that node has begun and waits."""

    at: str | None
    arrival: Arrival
    parked: Parked | None = None
