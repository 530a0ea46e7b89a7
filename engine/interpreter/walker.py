"""The walker: runs a segment of a plan (nodes, routing, forks, loops) inside one step of the graph runtime.

A branch of a fork works on its own copy of the state and keeps a log of its changes; at the join the logs are merged in
the order of the fork's edges, so nothing depends on timing.
"""

import asyncio
from dataclasses import dataclass, field
from time import monotonic

import orjson

from engine.errors import (
    ExecutionFailure,
    Failure,
    LimitExceeded,
    NodeFailure,
    NodeTimeout,
    OutputInvalid,
    TypeMismatch,
)
from engine.events import EventType
from engine.graph import Json, JsonObject
from engine.interpreter.plan import Plan, PlannedNode, Way
from engine.nodes.base import NodeResult, Park
from engine.result import ErrorInfo
from engine.runtime.context import ExecutionContext
from engine.runtime.names import Names
from engine.runtime.position import Arrival, Parked, Position
from engine.runtime.state import NO_CHANGE, Change, WorkflowState, branch, merge, note_error, note_success
from engine.runtime.visit import Visit, is_being_cancelled
from engine.security.redaction import error_text
from engine.tracing.spans import NodeSpan

MAX_OUTPUT_BYTES = 262_144
CLEANUP_SECONDS = 5


class Stopped(Exception):
    """A node failed and nothing in the graph handles it: the execution ends with this failure."""

    def __init__(self, failure: Failure, info: ErrorInfo) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.info = info


class UnknownFailure(NodeFailure):
    """An exception that is none of ours; its class name is the error type."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error_text(str(error)) or type(error).__name__)
        self._error_type = type(error).__name__

    @property
    def error_type(self) -> str:
        return self._error_type


@dataclass(slots=True)
class _Entry:
    """One merge as a branch made it, to be made again at the join."""

    node_id: str
    output: Json
    change: Change
    error: JsonObject | None


@dataclass(slots=True)
class _Scope:
    """Where a walk may go: the whole graph, or one branch up to its join."""

    state: WorkflowState
    stop: str | None = None
    nodes: frozenset[str] | None = None
    log: list[_Entry] = field(default_factory=list)
    added_bytes: int = 0
    """What the visits added."""
    at_most_bytes: int = 0
    """The size of the state, or more: the sum of what was added since it was measured."""

    def holds(self, node_id: str) -> bool:
        return self.nodes is None or node_id in self.nodes or node_id == self.stop

    def apply(self, node_id: str, output: Json, change: Change, error: JsonObject | None) -> None:
        merge(self.state, node_id, output, change)
        if error is None:
            note_success(self.state, node_id)
        else:
            note_error(self.state, node_id, error)
        if self.nodes is not None:
            self.log.append(_Entry(node_id, output, change, error))

    def grow(self, added_bytes: int, limit: int) -> None:
        """Count what was added; the state is measured only where it may be too large. Raises `LimitExceeded`."""
        self.added_bytes += added_bytes
        self.at_most_bytes += added_bytes
        if self.at_most_bytes > limit:
            self.at_most_bytes = len(orjson.dumps(self.state))
            if self.at_most_bytes > limit:
                raise LimitExceeded(f"the state is larger than {limit} bytes")


class _Leaves(Exception):
    """An error edge leads out of a branch: its section ends and the run goes on at the target."""

    def __init__(self, position: Position) -> None:
        super().__init__(position.at)
        self.position = position


class Walker:
    """Walks one plan for one execution, from where its context stands."""

    def __init__(self, plan: Plan, context: ExecutionContext) -> None:
        self._plan = plan
        self._context = context
        self._names = plan.span_names if context.source != "graph" else plan.bounded_span_names

    async def run(self) -> None:
        """To an end, or until a visit parks. Raises `Stopped`, or an `ExecutionFailure` of the whole execution."""
        scope = self._scope()
        position = self._context.standing
        while position.at is not None:
            position = await self._advance(scope, position)
            if position.parked is not None:
                break
        self._stand(scope, position)

    async def step(self) -> None:
        """Over one node, or over a fork with its branches to the join. Raises as `run` does."""
        scope = self._scope()
        self._stand(scope, await self._advance(scope, self._context.standing))

    def _scope(self) -> _Scope:
        return _Scope(self._context.state, at_most_bytes=self._context.state_bytes)

    def _stand(self, scope: _Scope, position: Position) -> None:
        self._context.position = position
        self._context.state_bytes = scope.at_most_bytes

    async def _walk(self, scope: _Scope, position: Position) -> None:
        """Visit node after node until the scope's stop."""
        while position.at is not None and position.at != scope.stop:
            position = await self._advance(scope, position)
            if position.at is not None and not scope.holds(position.at):
                raise _Leaves(position)

    async def _advance(self, scope: _Scope, position: Position) -> Position:
        """Visit the node at which the walk stands; if it forks, run its branches to the join too."""
        assert position.at is not None
        planned = self._plan.nodes[position.at]
        after = await self._visit(planned, scope, position)
        if planned.fork is not None and after.parked is None and after.arrival.error is None:
            return await self._fork(planned, scope)
        return after

    async def _fork(self, planned: PlannedNode, scope: _Scope) -> Position:
        """Run the branches side by side, then merge them in the order of their edges."""
        fork = planned.fork
        assert fork is not None
        assert fork.join is not None
        scopes = [
            _Scope(branch(scope.state), fork.join, each.nodes, at_most_bytes=scope.at_most_bytes)
            for each in fork.branches
        ]
        tasks = [
            asyncio.create_task(
                self._walk(inner, Position(each.first, Arrival(planned.id))),
                name=f"branch {planned.id} -> {each.first}",
            )
            for each, inner in zip(fork.branches, scopes, strict=True)
        ]
        left = await _all_or_first_error(tasks)
        if left is None:
            for inner in scopes:
                self._merge(inner, scope)
            return Position(fork.join, Arrival(planned.id))
        index, leaves = left
        self._merge(scopes[index], scope)
        return leaves.position

    def _merge(self, inner: _Scope, scope: _Scope) -> None:
        """Make the changes of a branch again. The next visit measures the state if it may be too large now."""
        for entry in inner.log:
            try:
                scope.apply(entry.node_id, entry.output, entry.change, entry.error)
            except TypeMismatch as failure:
                raise self._stopped(_info(entry.node_id, failure, 1), failure) from failure
        scope.added_bytes += inner.added_bytes
        scope.at_most_bytes += inner.added_bytes

    async def _visit(self, planned: PlannedNode, scope: _Scope, position: Position) -> Position:
        """One visit with all its attempts; one that has parked goes on with its next attempt."""
        context, arrival, parked = self._context, position.arrival, position.parked
        await context.events.breathe()
        if is_being_cancelled():
            raise asyncio.CancelledError
        number = self._count(planned, scope) if parked is None else parked["visit"]
        attempt = 1 if parked is None else parked["attempt"] + 1
        names = Names(scope.state, context, arrival.error)
        visit = Visit(context, planned, number, arrival, names, self._span(planned, number, attempt), attempt, parked)
        visit.emit(EventType.NODE_STARTED, {"name": planned.node.node.name})
        began = monotonic()
        while True:
            step = await self._attempt(visit, scope, began)
            if step is not None:
                return step
            visit.attempt += 1
            visit.span = self._span(planned, number, visit.attempt)

    def _count(self, planned: PlannedNode, scope: _Scope) -> int:
        """The number of a visit that begins. Raises `Stopped` if it is one too many."""
        try:
            self._context.count_visit()
        except LimitExceeded as failure:
            raise self._stopped(_info(planned.id, failure, 1), failure) from failure
        number = scope.state["visits"].get(planned.id, 0) + 1
        scope.state["visits"][planned.id] = number
        return number

    def _planned(self, visit: Visit) -> PlannedNode:
        return self._plan.nodes[visit.node.id]

    def _span(self, planned: PlannedNode, number: int, attempt: int) -> NodeSpan:
        return self._context.tracker.start_node(self._names[planned.id], planned.static, number, attempt)

    async def _attempt(self, visit: Visit, scope: _Scope, began: float) -> Position | None:
        """One attempt; null: it failed, the wait is over, and it is to be repeated. The home of broad catching."""
        try:
            result = await self._work(visit, scope.state)
            if result.park is not None:
                return self._parked(visit, result.park)
            size = self._check_output(result)
        except NodeFailure as failure:
            instead = self._instead(visit, scope.state, failure)
            if instead is None:
                return await self._failed(visit, scope, failure, may_continue=True)
            result, size = instead, self._check_output(instead)
        except ExecutionFailure as failure:
            raise self._stop(visit, failure) from failure
        except asyncio.CancelledError as error:
            return await self._failed(visit, scope, UnknownFailure(error), may_continue=True, cause=error)
        except Exception as error:
            return await self._failed(visit, scope, UnknownFailure(error), may_continue=True, cause=error)
        return await self._succeeded(visit, scope, result, size, began)

    async def _work(self, visit: Visit, state: WorkflowState) -> NodeResult:
        """The node's own work, under the attempt's timeout."""
        planned = self._planned(visit)
        seconds = planned.timeout_seconds
        if seconds is None:
            return await planned.node.run(state, visit)
        visit.timeout = asyncio.timeout(seconds)
        try:
            async with visit.timeout:
                return await planned.node.run(state, visit)
        except TimeoutError as error:
            if not visit.timeout.expired():
                raise
            raise NodeTimeout(f"the node took longer than {seconds:g} s") from error

    def _instead(self, visit: Visit, state: WorkflowState, failure: NodeFailure) -> NodeResult | None:
        if is_being_cancelled() or visit.can_retry(failure):
            return None
        return self._planned(visit).node.instead(failure, state, visit)

    def _check_output(self, result: NodeResult) -> int:
        """Size of what the visit adds to the state, in bytes of JSON."""
        try:
            output = len(orjson.dumps(result.output))
            change = 0 if result.change is NO_CHANGE else len(orjson.dumps(result.change))
        except TypeError as error:
            raise OutputInvalid(f"the node's output is no JSON: {error}") from error
        if output > MAX_OUTPUT_BYTES:
            raise OutputInvalid
        return output + change

    async def _succeeded(
        self, visit: Visit, scope: _Scope, result: NodeResult, size: int, began: float
    ) -> Position | None:
        planned, context = self._planned(visit), self._context
        try:
            scope.apply(planned.id, result.output, result.change, None)
            way = self._route(visit, result.label)
            scope.grow(size, context.limits.max_state_bytes)
        except NodeFailure as failure:
            return await self._failed(visit, scope, failure, may_continue=False)
        except LimitExceeded as failure:
            raise self._stop(visit, failure) from failure
        visit.span.complete(label=result.label, edges=way.edge if way else None, degraded=result.degraded)
        if result.degraded:
            context.degraded.append(planned.id)
        visit.emit(
            EventType.NODE_COMPLETED,
            {
                "duration_ms": round((monotonic() - began) * 1000),
                "label": result.label,
                "degraded": result.degraded,
                "usage": visit.usage.model_dump() if visit.usage else None,
                "cost_nano_usd": visit.cost_nano_usd,
            },
        )
        return Position(way.target if way else None, Arrival(planned.id))

    def _parked(self, visit: Visit, park: Park) -> Position:
        """The visit goes on later: the walk stands still at its node."""
        visit.span.pause()
        return Position(
            visit.node.id,
            visit.arrival,
            Parked(
                visit=visit.number,
                attempt=visit.attempt,
                since=park.since,
                due_at=park.due_at,
                approval=park.approval,
            ),
        )

    def _route(self, visit: Visit, label: str | None) -> Way | None:
        planned = self._planned(visit)
        if planned.is_end:
            return None
        if planned.fork is not None:
            return Way(planned.id, planned.fork_edges)
        return planned.routing.choose(label, visit.names)

    async def _failed(
        self,
        visit: Visit,
        scope: _Scope,
        failure: NodeFailure,
        *,
        may_continue: bool,
        cause: BaseException | None = None,
    ) -> Position | None:
        """Repeat the attempt (null), follow the node's `on_error`, or end the execution with `Stopped`.

        Whatever a node raises while it is being cancelled is a cancellation.
        """
        if is_being_cancelled():
            self._cut_off(visit)
            raise asyncio.CancelledError from (cause or failure)
        if may_continue and visit.can_retry(failure):
            await self._retry(visit, failure)
            return None
        planned = self._planned(visit)
        info = _info(planned.id, failure, visit.attempt)
        way = planned.routing.error
        policy = planned.continues if may_continue else None
        if way is None and policy is None:
            raise self._stop(visit, failure, cause) from (cause or failure)
        handled = info.model_copy(update={"handled": True})
        output: Json = policy.output if policy is not None else {}
        scope.apply(planned.id, output, NO_CHANGE, handled.model_dump(mode="json"))
        if way is None:
            assert policy is not None
            try:
                way = self._route(visit, policy.label)
            except NodeFailure as no_way:
                raise self._stop(visit, no_way) from no_way
            self._context.degraded.append(planned.id)
            arrival = Arrival(planned.id)
        else:
            arrival = Arrival(planned.id, handled)
        self._context.errors.append(handled)
        edges = way.edge if way else None
        visit.span.fail(info.error_type, info.message, unhandled=None, edges=edges, degraded=arrival.error is None)
        self._emit_failed(visit, handled)
        return Position(way.target if way else None, arrival)

    async def _retry(self, visit: Visit, failure: NodeFailure) -> None:
        delay = visit.delay_seconds(visit.attempt, failure.retry_after_seconds)
        visit.span.retrying(failure.error_type, failure.message, delay)
        await visit.wait(delay, failure.error_type, discard=self._planned(visit).node.node.stream)

    def _stop(self, visit: Visit, failure: Failure, cause: BaseException | None = None) -> Stopped:
        info = _info(visit.node.id, failure, visit.attempt)
        visit.span.fail(info.error_type, info.message, unhandled=cause or failure)
        self._emit_failed(visit, info)
        return self._stopped(info, failure)

    def _stopped(self, info: ErrorInfo, failure: Failure) -> Stopped:
        self._context.errors.append(info)
        return Stopped(failure, info)

    def _cut_off(self, visit: Visit) -> None:
        if visit.is_out_of_time:
            visit.span.fail("timeout", "the node was cut off by the run's timeout", unhandled=None)
        else:
            visit.span.cancel()

    @staticmethod
    def _emit_failed(visit: Visit, info: ErrorInfo) -> None:
        visit.emit(
            EventType.NODE_FAILED,
            {
                "error_type": info.error_type,
                "message": info.message,
                "attempts": info.attempts,
                "handled": info.handled,
            },
        )


def _info(node_id: str, failure: Failure, attempts: int) -> ErrorInfo:
    return ErrorInfo(
        node_id=node_id,
        path=node_id,
        error_type=failure.error_type,
        message=error_text(failure.message),
        attempts=attempts,
    )


async def _all_or_first_error(tasks: list[asyncio.Task[None]]) -> tuple[int, _Leaves] | None:
    """Wait for all branches. The first that fails cancels the others; one that leaves its section is given back.

    Of several that fail at once, one that ends the execution counts.
    """
    try:
        done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        await _cancel(tasks)
        raise
    if running:
        await _cancel(list(running))
    errors = {index: task.exception() for index, task in enumerate(tasks) if task in done}
    left: tuple[int, _Leaves] | None = None
    for index, error in errors.items():
        if isinstance(error, _Leaves):
            left = left or (index, error)
        elif error is not None:
            raise error
    return left


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel branches and let them clean up; being cancelled once more does not cut that short."""
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
            task.exception()  # so that asyncio does not complain that nobody looked
    if cancelled is not None:
        raise cancelled
