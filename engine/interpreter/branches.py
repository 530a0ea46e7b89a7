"""Branches of a fork: their scopes, and how the walker waits for them and cancels them.

A branch works on its own copy of the state and logs its changes. At the join the logs are merged in the order of the
fork's edges, so the result does not depend on timing.
"""

import asyncio
from dataclasses import dataclass, field

from engine.documents.json_text import to_json
from engine.errors import LimitExceeded
from engine.graph import Json, JsonObject
from engine.runtime.position import WalkPosition
from engine.runtime.state import Change, WorkflowState, merge, note_error, note_success

CLEANUP_SECONDS = 5


@dataclass(slots=True)
class _Entry:
    """A change of a branch's state, to be repeated on the outer state at the join."""

    node_id: str
    output: Json
    change: Change
    error: JsonObject | None


@dataclass(slots=True)
class Scope:
    """The state of a walk, and the part of the graph it may visit: all of it, or one branch up to its join."""

    state: WorkflowState
    stop: str | None = None
    nodes: frozenset[str] | None = None
    log: list[_Entry] = field(default_factory=list)
    added_bytes: int = 0
    """Bytes added by the visits of this walk."""
    at_most_bytes: int = 0
    """An upper bound of the state's size: the last measurement plus everything added since."""

    def holds(self, node_id: str) -> bool:
        """Whether the node is in the scope; the node where the walk stops is too."""
        return self.nodes is None or node_id in self.nodes or node_id == self.stop

    def apply(self, node_id: str, output: Json, change: Change, error: JsonObject | None) -> None:
        """Merge the result of a visit into the state. Raises `TypeMismatch`."""
        merge(self.state, node_id, output, change)
        if error is None:
            note_success(self.state, node_id)
        else:
            note_error(self.state, node_id, error)
        if self.nodes is not None:
            self.log.append(_Entry(node_id, output, change, error))

    def grow(self, added_bytes: int, limit: int) -> None:
        """Count added bytes, and measure the state only if it may be too large. Raises `LimitExceeded`."""
        self.added_bytes += added_bytes
        self.at_most_bytes += added_bytes
        if self.at_most_bytes > limit:
            self.at_most_bytes = len(to_json(self.state))
            if self.at_most_bytes > limit:
                raise LimitExceeded(f"the state is larger than {limit} bytes")


class LeftFork(Exception):
    """An error edge leads out of a branch: the fork is abandoned and the run continues at the target."""

    def __init__(self, position: WalkPosition) -> None:
        super().__init__(position.at)
        self.position = position


async def all_or_first_error(tasks: list[asyncio.Task[None]]) -> tuple[int, LeftFork] | None:
    """Wait for all branches; the first failure cancels the others.

    Returns the index and the `LeftFork` of a branch that left the fork. If several branches fail at once, a failure
    that ends the execution is raised instead.
    """
    try:
        done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        await _cancel(tasks)
        raise
    if running:
        await _cancel(list(running))
    errors = {index: task.exception() for index, task in enumerate(tasks) if task in done}
    left: tuple[int, LeftFork] | None = None
    for index, error in errors.items():
        if isinstance(error, LeftFork):
            left = left or (index, error)
        elif error is not None:
            raise error
    return left


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel branches and wait for their cleanup; a second cancellation of the caller does not shorten it."""
    for task in tasks:
        task.cancel()
    cleanup = asyncio.create_task(asyncio.wait(tasks, timeout=CLEANUP_SECONDS), name="branches clean up")
    cancelled: asyncio.CancelledError | None = None
    while not cleanup.done():
        try:
            await asyncio.shield(cleanup)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in cleanup.result()[0]:
        if not task.cancelled():
            task.exception()  # asyncio warns about exceptions that were never retrieved
    if cancelled is not None:
        raise cancelled
