"""ExecutionContext holds everything a running execution uses. It is rebuilt for every attempt and never stored."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import Fenced, LimitExceeded, Unavailable
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
    """The identity, graph, resources, limits and progress of one attempt. Nodes reach the outside only through it."""

    execution_id: str
    attempt: int
    owner: str
    conversation_id: str | None
    source: str
    any_folder: bool
    graph: WorkflowGraph
    limits: Limits
    deadline: float
    """When the run times out, in seconds of `time.monotonic()`."""
    resources: Resources
    tracker: WorkflowTracker
    events: EventRing
    budget: Budget
    state: WorkflowState
    ledger: Ledger = field(default_factory=NullLedger)
    on_fenced: Callable[[], None] = lambda: None
    """Cancels the run; called when the ledger reports that this attempt no longer owns the execution."""
    on_lost: Callable[[], None] = lambda: None
    """Cancels the run; called when the ledger could not store what the attempt has done."""
    state_bytes: int = 0
    """An upper bound of the state's size: the last measurement plus everything added since."""
    position: WalkPosition | None = None
    """The position of the walk between two nodes; null before it begins."""
    checkpoints: "Checkpoints | None" = None
    """Where the run is saved after every step; null if it is not saved."""
    steps: int = 0
    """The number of steps of the graph runtime in this attempt."""
    resume: Resume | None = None
    """Why and how the attempt continues an earlier one; null for the first attempt."""
    errors: list[ErrorInfo] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    node_visits: int = 0
    tool_calls: dict[str, int] = field(default_factory=dict)
    """Tool calls made so far, by tools node: in all branches, even if the node failed."""
    has_waiting_calls: bool = False
    """Whether a model call has ended since the last commit that this attempt asked for."""

    @property
    def seconds_left(self) -> float:
        """The seconds until the run's timeout."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def current_position(self) -> WalkPosition:
        """The position of the walk. It must have begun."""
        assert self.position is not None
        return self.position

    @property
    def may_park(self) -> bool:
        """Whether a visit may wait without a worker, which needs a saved run."""
        return self.graph.durability != "none"

    @property
    def elapsed_seconds(self) -> float:
        """The run's time so far in seconds: all attempts together, without pauses."""
        return self.limits.run_seconds - (self.deadline - time.monotonic())

    def count_visit(self) -> None:
        """Count one visit. Raises `LimitExceeded` beyond `max_node_executions`."""
        self.node_visits += 1
        if self.node_visits > self.limits.max_node_executions:
            raise LimitExceeded(
                f"the execution has reached its limit of {self.limits.max_node_executions} node executions"
            )

    async def checkpoint(self, begins: CallReservation | None = None) -> None:
        """Commit all signals so far and the model call that begins.

        An attempt that is fenced off, or whose ledger is unavailable, waits here until it is cancelled.
        """
        self.has_waiting_calls = False
        await self._checkpoint(begins)

    async def commit_soon(self) -> None:
        """Let the call that has ended become durable with the next decision; its content is not kept waiting."""
        await self._checkpoint(can_wait=True)

    async def commit_calls(self) -> None:
        """Commit the calls that have ended, so that no checkpoint of the run is ahead of the books."""
        if self.has_waiting_calls:
            await self.checkpoint()

    async def _checkpoint(self, begins: CallReservation | None = None, *, can_wait: bool = False) -> None:
        contents = self.tracker.contents.take()
        checkpoint = Checkpoint(
            self.execution_id, self.attempt, begins=begins, can_wait=can_wait and not contents, contents=contents
        )
        try:
            await self.ledger.checkpoint(checkpoint)
            return
        except Unavailable:
            self.tracker.contents.put_back(contents)
            self.on_lost()
        except Fenced:
            self.on_fenced()
        await asyncio.get_running_loop().create_future()

    def tool_calls_left(self, node_id: str, most: int) -> int:
        """Return how many more calls a tools node with the limit `most` can make in this execution."""
        here = most - self.tool_calls.get(node_id, 0)
        return max(0, min(here, self.limits.max_tool_calls - sum(self.tool_calls.values())))

    def take_tool_calls(self, node_id: str, wanted: int, most: int) -> int:
        """Count as many of the wanted calls as the limits allow, and return that number."""
        taken = min(wanted, self.tool_calls_left(node_id, most))
        self.tool_calls[node_id] = self.tool_calls.get(node_id, 0) + taken
        return taken

    def emit(self, event_type: EventType, data: JsonObject) -> None:
        """Emit an event about the execution as a whole."""
        ring = self.events
        ring.append(ExecutionEvent(event_type, ring.next_seq(), self.execution_id, self.attempt, time.time(), data))
