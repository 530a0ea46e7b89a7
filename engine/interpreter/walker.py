"""The walker, which runs a segment of a plan (nodes, routing, forks, loops) inside one LangGraph step."""

import asyncio
from time import monotonic

from engine.documents.json_text import MAX_NESTING, NotJson, to_json
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
from engine.graph import Json
from engine.interpreter.branches import LeftFork, Scope, all_or_first_error
from engine.interpreter.plan import Plan, PlannedNode, Route
from engine.nodes.base import NodeResult, Park
from engine.result import ErrorInfo
from engine.runtime.context import ExecutionContext
from engine.runtime.names import Names
from engine.runtime.position import Arrival, Parked, WalkPosition
from engine.runtime.state import NO_CHANGE, WorkflowState, branch
from engine.runtime.visit import Visit, is_being_cancelled
from engine.security.redaction import error_text
from engine.tracing.spans import NodeSpan

MAX_OUTPUT_BYTES = 262_144
_MOST_LEVELS_OF_A_CHANGE = MAX_NESTING + 5
"""The deepest values in a change are the arguments of a message's tool calls, five levels inside."""


class Stopped(Exception):
    """A node's failure that nothing in the graph handles; it ends the execution."""

    def __init__(self, failure: Failure, info: ErrorInfo) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.info = info


class UnknownFailure(NodeFailure):
    """An unexpected exception from a node; its class name is the error type."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error_text(str(error)) or type(error).__name__)
        self._error_type = type(error).__name__

    @property
    def error_type(self) -> str:
        return self._error_type


class Walker:
    """Walks one plan for one execution, starting at the position in its context."""

    def __init__(self, plan: Plan, context: ExecutionContext) -> None:
        self._plan = plan
        self._context = context
        self._names = plan.span_names

    async def run(self) -> None:
        """Walk to an end, or until a visit parks. Raises `Stopped`, or an `ExecutionFailure` of the whole execution."""
        scope = self._scope()
        position = self._context.current_position
        while position.at is not None:
            position = await self._advance(scope, position)
            if position.parked is not None:
                break
        self._save_position(scope, position)

    async def step(self) -> None:
        """Walk one node, or a fork with its branches to the join. Raises as `run` does."""
        scope = self._scope()
        self._save_position(scope, await self._advance(scope, self._context.current_position))

    def _scope(self) -> Scope:
        return Scope(self._context.state, at_most_bytes=self._context.state_bytes)

    def _save_position(self, scope: Scope, position: WalkPosition) -> None:
        self._context.position = position
        self._context.state_bytes = scope.at_most_bytes

    async def _walk(self, scope: Scope, position: WalkPosition) -> None:
        """Visit nodes up to the end of the scope. Raises `LeftFork` if an error edge leads out of it."""
        while position.at is not None and position.at != scope.stop:
            position = await self._advance(scope, position)
            if position.at is not None and not scope.holds(position.at):
                raise LeftFork(position)

    async def _advance(self, scope: Scope, position: WalkPosition) -> WalkPosition:
        """Visit the node at this position and, if it is a fork, run its branches up to the join."""
        assert position.at is not None
        planned = self._plan.nodes[position.at]
        after = await self._visit(planned, scope, position)
        if planned.fork is not None and after.parked is None and after.arrival.error is None:
            return await self._fork(planned, scope)
        return after

    async def _fork(self, planned: PlannedNode, scope: Scope) -> WalkPosition:
        """Run the branches in parallel, then merge their changes in the order of their edges."""
        fork = planned.fork
        assert fork is not None
        assert fork.join is not None
        scopes = [
            Scope(branch(scope.state), fork.join, each.nodes, at_most_bytes=scope.at_most_bytes)
            for each in fork.branches
        ]
        tasks = [
            asyncio.create_task(
                self._walk(inner, WalkPosition(each.first, Arrival(planned.id))),
                name=f"branch {planned.id} -> {each.first}",
            )
            for each, inner in zip(fork.branches, scopes, strict=True)
        ]
        left = await all_or_first_error(tasks)
        if left is None:
            for inner in scopes:
                self._merge(inner, scope)
            return WalkPosition(fork.join, Arrival(planned.id))
        index, departure = left
        self._merge(scopes[index], scope)
        return departure.position

    def _merge(self, inner: Scope, scope: Scope) -> None:
        """Repeat a branch's changes on the outer state. The next visit measures the state if it may be too large."""
        for entry in inner.log:
            try:
                scope.apply(entry.node_id, entry.output, entry.change, entry.error)
            except TypeMismatch as failure:
                raise self._stopped(_info(entry.node_id, failure, 1), failure) from failure
        scope.added_bytes += inner.added_bytes
        scope.at_most_bytes += inner.added_bytes

    async def _visit(self, planned: PlannedNode, scope: Scope, position: WalkPosition) -> WalkPosition:
        """Make one visit with all its attempts. A parked visit continues with its next attempt."""
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

    def _count(self, planned: PlannedNode, scope: Scope) -> int:
        """Count a new visit and return its number within its node. Raises `Stopped` if it exceeds the limit."""
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

    async def _attempt(self, visit: Visit, scope: Scope, began: float) -> WalkPosition | None:
        """Make one attempt. Null means that it failed, the retry delay is over, and the next attempt is due.

        One of the few places that catch every exception.
        """
        try:
            result = await self._work(visit, scope.state)
            if result.park is not None:
                return self._parked(visit, result.park)
            size = self._check_output(result)
        except NodeFailure as failure:
            instead = self._fallback(visit, scope.state, failure)
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
        """Run the node with the attempt's timeout. Raises `NodeTimeout`, and as the node does."""
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

    def _fallback(self, visit: Visit, state: WorkflowState, failure: NodeFailure) -> NodeResult | None:
        if is_being_cancelled() or visit.can_retry(failure):
            return None
        return self._planned(visit).node.instead(failure, state, visit)

    def _check_output(self, result: NodeResult) -> int:
        """The bytes of JSON that the visit adds to the state.

        Raises `OutputInvalid` if it is not JSON, nested too deep or too large.
        """
        try:
            output = len(to_json(result.output, levels=MAX_NESTING))
            change = 0 if result.change is NO_CHANGE else len(to_json(result.change, levels=_MOST_LEVELS_OF_A_CHANGE))
        except NotJson as error:
            raise OutputInvalid(f"the node's output {error}") from error
        if output > MAX_OUTPUT_BYTES:
            raise OutputInvalid
        return output + change

    async def _succeeded(
        self, visit: Visit, scope: Scope, result: NodeResult, size: int, began: float
    ) -> WalkPosition | None:
        planned, context = self._planned(visit), self._context
        try:
            scope.apply(planned.id, result.output, result.change, None)
            route = self._choose_route(visit, result.label)
            scope.grow(size, context.limits.max_state_bytes)
        except NodeFailure as failure:
            return await self._failed(visit, scope, failure, may_continue=False)
        except LimitExceeded as failure:
            raise self._stop(visit, failure) from failure
        visit.span.complete(label=result.label, edges=route.edge if route else None, degraded=result.degraded)
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
        return WalkPosition(route.target if route else None, Arrival(planned.id))

    def _parked(self, visit: Visit, park: Park) -> WalkPosition:
        """Park the visit; the position stays at its node."""
        visit.span.pause()
        return WalkPosition(
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

    def _choose_route(self, visit: Visit, label: str | None) -> Route | None:
        planned = self._planned(visit)
        if planned.is_end:
            return None
        if planned.fork is not None:
            return Route(planned.id, planned.fork_edges)
        return planned.routing.choose(label, visit.names)

    async def _failed(
        self,
        visit: Visit,
        scope: Scope,
        failure: NodeFailure,
        *,
        may_continue: bool,
        cause: BaseException | None = None,
    ) -> WalkPosition | None:
        """Prepare a retry (null), follow the node's `on_error`, or end the execution with `Stopped`.

        Any exception that a node raises while it is being cancelled counts as the cancellation.
        """
        if is_being_cancelled():
            self._cut_off(visit)
            raise asyncio.CancelledError from (cause or failure)
        if may_continue and visit.can_retry(failure):
            await self._retry(visit, failure)
            return None
        planned = self._planned(visit)
        info = _info(planned.id, failure, visit.attempt)
        route = planned.routing.error
        policy = planned.continues if may_continue else None
        if route is None and policy is None:
            raise self._stop(visit, failure, cause) from (cause or failure)
        handled = info.model_copy(update={"handled": True})
        output: Json = policy.output if policy is not None else {}
        scope.apply(planned.id, output, NO_CHANGE, handled.model_dump(mode="json"))
        if route is None:
            assert policy is not None
            try:
                route = self._choose_route(visit, policy.label)
            except NodeFailure as no_route:
                raise self._stop(visit, no_route) from no_route
            self._context.degraded.append(planned.id)
            arrival = Arrival(planned.id)
        else:
            arrival = Arrival(planned.id, handled)
        self._context.errors.append(handled)
        edges = route.edge if route else None
        visit.span.fail(info.error_type, info.message, unhandled=None, edges=edges, degraded=arrival.error is None)
        self._emit_failed(visit, handled)
        return WalkPosition(route.target if route else None, arrival)

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
