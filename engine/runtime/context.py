"""ExecutionContext: everything that belongs to a running attempt. Rebuilt for every attempt, never stored."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import BooksClosed, Fenced, LimitExceeded, Unavailable
from engine.events import EventRing, EventType, ExecutionEvent
from engine.graph import JsonObject, Limits, WorkflowGraph
from engine.ledger import CallReservation, Checkpoint, Ledger, NullLedger
from engine.pause import Resume
from engine.resources import Resources
from engine.result import ErrorInfo
from engine.runtime.budget import Budget
from engine.runtime.position import WalkPosition
from engine.runtime.state import WorkflowState
from engine.tracing.tracker import WorkflowTracker

if TYPE_CHECKING:
    from engine.store.checkpoints import Checkpoints


@dataclass(slots=True)
class ExecutionContext:
    """The identity, graph, resources, limits and state of an attempt. Nodes reach the outside only through it."""

    execution_id: str
    attempt: int
    owner: str
    conversation_id: str | None
    source: str
    any_folder: bool
    graph: WorkflowGraph
    limits: Limits
    deadline: float
    """By `time.monotonic()`."""
    resources: Resources
    tracker: WorkflowTracker
    events: EventRing
    budget: Budget
    state: WorkflowState
    ledger: Ledger = field(default_factory=NullLedger)
    on_fenced: Callable[[], None] = lambda: None
    """Called when the attempt no longer owns the execution; it cancels the run."""
    state_bytes: int = 0
    """An upper bound of the state's size: the last measurement plus everything added since."""
    position: WalkPosition | None = None
    """Where the walk stands between two nodes; null before it begins."""
    checkpoints: "Checkpoints | None" = None
    """Where the run is stored after every step; null if it is not."""
    steps: int = 0
    """Steps of the graph runtime that this attempt has made."""
    resume: Resume | None = None
    """How the attempt resumes the run; null if it begins the run."""
    errors: list[ErrorInfo] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    node_visits: int = 0
    tool_calls: dict[str, int] = field(default_factory=dict)
    """Tool calls so far by tools node, in all branches, including those of failed nodes."""

    @property
    def seconds_left(self) -> float:
        """Until the run's own timeout."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def standing(self) -> WalkPosition:
        """Where the walk stands, once it has begun."""
        assert self.position is not None
        return self.position

    @property
    def may_park(self) -> bool:
        """A visit may wait without a worker, since the run is stored."""
        return self.graph.durability != "none"

    @property
    def elapsed_seconds(self) -> float:
        """The run's time so far, of all attempts together, pauses not counted."""
        return self.limits.run_seconds - (self.deadline - time.monotonic())

    def count_visit(self) -> None:
        """Raises `LimitExceeded` for one visit more than `max_node_executions`."""
        self.node_visits += 1
        if self.node_visits > self.limits.max_node_executions:
            raise LimitExceeded(f"more than {self.limits.max_node_executions} node executions")

    async def checkpoint(self, begins: CallReservation | None = None) -> None:
        """Make all signals so far durable, and the reservation of the call that begins. Raises `BooksClosed`.

        An attempt that is fenced off waits here for its end.
        """
        try:
            await self.ledger.checkpoint(Checkpoint(self.execution_id, self.attempt, begins=begins))
        except Unavailable as error:
            raise BooksClosed from error
        except Fenced:
            self.on_fenced()
            await asyncio.get_running_loop().create_future()

    def tool_calls_left(self, node_id: str, most: int) -> int:
        """How many calls a tools node that may make `most` of them can still take up in this execution."""
        here = most - self.tool_calls.get(node_id, 0)
        return max(0, min(here, self.limits.max_tool_calls - sum(self.tool_calls.values())))

    def take_tool_calls(self, node_id: str, wanted: int, most: int) -> int:
        """Count as many of the wanted calls as the limits allow; returns their number."""
        taken = min(wanted, self.tool_calls_left(node_id, most))
        self.tool_calls[node_id] = self.tool_calls.get(node_id, 0) + taken
        return taken

    def emit(self, event_type: EventType, data: JsonObject) -> None:
        """Emit an event about the execution as a whole."""
        ring = self.events
        ring.append(ExecutionEvent(event_type, ring.next_seq(), self.execution_id, self.attempt, time.time(), data))
