"""The position of a run between two nodes: the next node, how the run came there, and whether it is parked there."""

from dataclasses import dataclass
from typing import TypedDict

from engine.graph import JsonObject
from engine.result import ErrorInfo


@dataclass(slots=True)
class Arrival:
    """How a run came to a node: from which node, and with which error if an error edge led here."""

    source: str | None = None
    error: ErrorInfo | None = None


class Parked(TypedDict):
    """A visit that waits without a worker. Times are seconds since the epoch, by the clock of the parking worker."""

    visit: int
    attempt: int
    """The attempt of the visit that parked; the next attempt continues."""
    since: float
    due_at: float
    approval: JsonObject | None
    """The question as an `Approval` document; null for a delay."""


@dataclass(slots=True)
class WalkPosition:
    """The node where a walk continues.

    `at` is null once an end node was reached. `parked` is set if the visit of that node has started and waits.
    """

    at: str | None
    arrival: Arrival
    parked: Parked | None = None
