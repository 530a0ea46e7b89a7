"""ExecutionEngine: `stream()` and `execute()` over one `_run()`. The only execution path.

The execution is a task of its own; callers read its events or wait for its result. A caller that leaves is a reader
that leaves: by policy the execution is cancelled or goes on.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import NoReturn, Self

from opentelemetry._logs import LoggerProvider
from opentelemetry.trace import TracerProvider
from uuid_utils.compat import uuid7

from engine.errors import Draining, Failure, Fenced, NoEnd, Refusal, ResourceMissing
from engine.events import EventRing, EventType, ExecutionEvent
from engine.execution.acceptance import acceptance_of, identity_of, request_of, user_message_of
from engine.execution.attempts import first_start, identity_at_start, later_start, resume_of
from engine.execution.handle import SHUTDOWN, Execution
from engine.execution.loading import Loader
from engine.execution.outcome import COMPLETED, HANDED_OVER, Outcome, failed, make_result, new_messages, new_summary
from engine.execution.sources import HISTORY_MESSAGES, Resolved, resolve
from engine.graph import JsonObject, WorkflowGraph
from engine.identity import ExecutionIdentity
from engine.interpreter.langgraph import CompiledWorkflow
from engine.interpreter.walker import Stopped
from engine.ledger import Checkpoint, Claim, Finish, Ledger, NullLedger, Pause, Release
from engine.pause import Paused
from engine.request import Caller, ExecutionRequest
from engine.resources import History, Resources, as_json
from engine.result import ErrorClass, ExecutionResult, Status
from engine.runtime.budget import Budget
from engine.runtime.context import ExecutionContext
from engine.runtime.state import initial_state
from engine.store.checkpoints import Checkpoints, in_memory
from engine.tracing.tracker import Tracing, WorkflowTracker
from engine.usage import Carried

log = logging.getLogger(__name__)

CLOSING_EVENT = {
    Status.COMPLETED: EventType.COMPLETED,
    Status.FAILED: EventType.FAILED,
    Status.CANCELLED: EventType.CANCELLED,
    Status.PAUSED: EventType.PAUSED,
}
HAND_OVER_SECONDS = 3.0
"""How long an execution may take to stop once it is handed over."""
_KEPT_RINGS = 128
_NO_GRAPH = WorkflowGraph.model_validate({"schema": "spanloom/1", "name": "none", "nodes": []})


class ExecutionEngine:
    """Runs workflows and says what happens. Without ledger and providers nothing is kept; the results are the same."""

    def __init__(
        self,
        resources: Resources,
        *,
        ledger: Ledger | None = None,
        tracer_provider: TracerProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        checkpoints: Checkpoints | None = None,
        disconnect_seconds: float = 0,
    ) -> None:
        self._resources = resources
        self._ledger = ledger or NullLedger()
        self._tracing = Tracing.over(tracer_provider, logger_provider)
        self._checkpoints = checkpoints or in_memory()
        self._loader = Loader(resources)
        self._disconnect_seconds = disconnect_seconds
        self._executions: dict[str, Execution] = {}
        self._ended: OrderedDict[str, EventRing] = OrderedDict()
        """What happened in the executions that ended last: their readers may have lost the connection."""
        self._draining = False
        self._left_behind: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def stream(
        self, request: ExecutionRequest, caller: Caller | None = None
    ) -> AsyncGenerator[ExecutionEvent, None]:
        """Run and give every event, closed by exactly one of completed, failed, cancelled, paused.

        Raises a `Refusal` before the first event if nothing was accepted.
        """
        execution = await self.start(request, caller, streaming=True)
        execution.join()
        try:
            async with aclosing(execution.events()) as events:
                async for event in events:
                    yield event
        finally:
            execution.leave(self._disconnect_seconds)

    async def execute(self, request: ExecutionRequest, caller: Caller | None = None) -> ExecutionResult:
        """Run and give the result, whatever the status. Raises a `Refusal` only if nothing was accepted."""
        execution = await self.start(request, caller, streaming=False)
        execution.join()
        try:
            return await execution.result()
        finally:
            execution.leave(self._disconnect_seconds)

    async def start(self, request: ExecutionRequest, caller: Caller | None = None, *, streaming: bool) -> Execution:
        """Accept an execution and let it run. Raises a `Refusal` if nothing was accepted."""
        caller = caller or Caller()
        queued_ns = time.time_ns()
        resolved = await self._resolve(request, caller)
        execution = self._prepare(request, caller, resolved, queued_ns, streaming=streaming)
        self._begin(execution, caller)
        try:
            await asyncio.shield(execution.accepted)
        except asyncio.CancelledError:
            execution.join()
            execution.leave(self._disconnect_seconds)
            raise
        return execution

    async def enqueue(self, request: ExecutionRequest, caller: Caller | None = None) -> str:
        """Accept an execution for whichever process has room; gives its id. Raises a `Refusal`."""
        caller = caller or Caller()
        queued_ns = time.time_ns()
        resolved = await self._resolve(request, caller)
        execution = self._prepare(request, caller, resolved, queued_ns, streaming=False)
        return await self._queue(execution, caller)

    async def enqueue_again(
        self, identity: ExecutionIdentity, request: JsonObject, graph: bytes | None, caller: Caller | None = None
    ) -> str:
        """Run a finished execution anew: the same pinned graph and input, a new id. Raises a `Refusal`."""
        if self._draining:
            raise Draining
        caller = caller or Caller()
        again = replace(
            identity,
            execution_id=str(uuid7()),
            attempt=1,
            trigger="retry",
            streaming=False,
            queued_ns=(now := time.time_ns()),
            started_ns=now,
            correlation_id=caller.correlation_id,
            retry_of=identity.execution_id,
            any_folder=identity.any_folder or caller.any_folder,
        )
        execution = await self._restore(again, request, graph, Carried())
        return await self._queue(execution, caller)

    async def _queue(self, execution: Execution, caller: Caller) -> str:
        try:
            execution.context.tracker.queue(execution.identity)
            await self._ledger.accept(acceptance_of(execution, caller, Status.QUEUED))
        except BaseException:
            self._ledger.abandon(execution.id)
            raise
        return execution.id

    async def take_on(self, claim: Claim) -> Execution:
        """Run an attempt of an execution that this process has claimed."""
        execution = await self._restore(identity_at_start(claim), claim.request, claim.graph, claim.carried)
        execution.claim = claim
        self._begin(execution, Caller(owner=claim.identity.owner))
        await asyncio.wait({execution.accepted})
        return execution

    def _begin(self, execution: Execution, caller: Caller) -> None:
        older = self._executions.get(execution.id)
        if older is not None:
            older.fence_off()
        self._executions[execution.id] = execution
        execution.task = asyncio.create_task(self._run(execution, caller), name=f"execution {execution.id}")
        execution.task.add_done_callback(lambda task: self._forget(execution, task))

    async def _resolve(self, request: ExecutionRequest, caller: Caller) -> Resolved:
        if self._draining:
            raise Draining
        resolved = await resolve(request, caller, self._resources)
        if self._draining:
            raise Draining
        return resolved

    def running(self, execution_id: str) -> Execution | None:
        """The execution of this id, if it runs in this process."""
        return self._executions.get(execution_id)

    def cancel(self, execution_id: str, reason: str) -> bool:
        """Ask an execution that runs here to stop; false if there is none."""
        execution = self._executions.get(execution_id)
        return execution is not None and execution.cancel(reason)

    def events_of(self, execution_id: str) -> EventRing | None:
        """What happens in an execution that runs here, or ended here a short while ago."""
        execution = self._executions.get(execution_id)
        return execution.context.events if execution else self._ended.get(execution_id)

    def fence_off(self, execution_id: str, attempt: int) -> None:
        """Another process owns the execution now: stop this attempt of it."""
        execution = self._executions.get(execution_id)
        if execution is not None and execution.context.attempt == attempt:
            execution.fence_off()

    @property
    def active(self) -> int:
        """How many executions run in this process."""
        return len(self._executions)

    async def close(self, drain_seconds: float = 0) -> None:
        """Take no more executions and let the running ones end; those that do not in time are handed over.

        What does not let go then (a node that ignores its cancellation, a database that is gone) is left behind: with
        its process the lease runs out, and the execution is found.
        """
        self._draining = True
        if drain_seconds > 0:
            await self._wait(drain_seconds)
        for execution in list(self._executions.values()):
            execution.hand_over()
        for execution in await self._wait(HAND_OVER_SECONDS):
            log.error("execution %s did not stop in time and is left behind", execution.id)
            self._left_behind.add(execution.id)

    async def _wait(self, seconds: float) -> list[Execution]:
        """Those that are still running then."""
        waited = [execution for id_, execution in self._executions.items() if id_ not in self._left_behind]
        tasks = {execution.task: execution for execution in waited if execution.task}
        late = (await asyncio.wait(tasks, timeout=seconds))[1] if tasks else ()
        return [tasks[task] for task in late]

    def _prepare(
        self, request: ExecutionRequest, caller: Caller, resolved: Resolved, queued_ns: int, *, streaming: bool
    ) -> Execution:
        """Load and validate; a graph without the shape of one is refused, all else is a failed execution."""
        compiled, failure = self._load(resolved, caller)
        identity = identity_of(request, caller, resolved, compiled, queued_ns, streaming=streaming)
        return self._make(request, identity, compiled, failure, resolved.history, Carried())

    async def _restore(
        self, identity: ExecutionIdentity, request: JsonObject, graph: bytes | None, carried: Carried
    ) -> Execution:
        """An execution as it was accepted. Its references are not resolved anew: the graph is the one that was kept."""
        asked = request_of(request, graph)
        conversation = identity.conversation_id
        history = None
        if conversation is not None:
            history = await self._resources.conversations.history(
                conversation, identity.owner, HISTORY_MESSAGES, before=identity.execution_id
            ) or History(conversation, None, [])
        if graph is not None:
            return self._make(asked, identity, self._loader.load_kept(graph), None, history, carried)
        caller = Caller(owner=identity.owner)
        try:
            compiled, failure = self._load(await resolve(asked, caller, self._resources), caller)
        except Refusal as refusal:
            compiled, failure = None, ResourceMissing(refusal.message)
        return self._make(asked, identity, compiled, failure, history, carried)

    def _load(self, resolved: Resolved, caller: Caller) -> tuple[CompiledWorkflow | None, Failure | None]:
        if resolved.document is None:
            return None, resolved.failure
        try:
            return self._loader.load(resolved.document, caller.owner, refuse_shape=resolved.kind == "graph"), None
        except Failure as problem:
            return None, problem

    def _make(
        self,
        request: ExecutionRequest,
        identity: ExecutionIdentity,
        compiled: CompiledWorkflow | None,
        failure: Failure | None,
        history: History | None,
        carried: Carried,
    ) -> Execution:
        graph = compiled.plan.graph if compiled else _NO_GRAPH
        tracker = WorkflowTracker(self._tracing, self._resources.prices, carried)
        user_message = user_message_of(request)
        context = ExecutionContext(
            execution_id=identity.execution_id,
            attempt=identity.attempt,
            owner=identity.owner,
            conversation_id=identity.conversation_id,
            source=identity.source,
            any_folder=identity.any_folder,
            graph=graph,
            limits=graph.limits,
            deadline=time.monotonic() + graph.limits.run_seconds,
            resources=self._resources,
            tracker=tracker,
            events=EventRing(identity.attempt),
            budget=Budget(graph.limits, self._resources.prices, tracker),
            state=initial_state(
                input=request.input,
                variables=graph.variables,
                messages=[*(history.messages if history else []), *([user_message] if user_message else [])],
                summary=history.summary if history else None,
            ),
            ledger=self._ledger,
        )
        execution = Execution(request, identity, context, history)
        execution.compiled, execution.failure, execution.user_message = compiled, failure, user_message
        context.on_fenced = execution.fence_off
        return execution

    async def _run(self, execution: Execution, caller: Caller) -> ExecutionResult:
        """Accept, walk, close the books, and only then tell: the whole life of an attempt."""
        context, tracker = execution.context, execution.context.tracker
        await self._open(execution, caller)
        first = context.attempt == 1
        context.emit(EventType.STARTED if first else EventType.RESUMED, _started_data(execution))
        try:
            outcome = await self._outcome(execution)
            execution.ended = True
            if outcome is HANDED_OVER:
                await self._release(execution)
            _close_trace(tracker, outcome)
            result = make_result(context, execution.identity, outcome)
            document = result.model_dump(mode="json")
            await self._finish(execution, outcome, document)
        except Fenced:
            self._ledger.abandon(execution.id, context.attempt)
            context.events.close()
            raise
        except BaseException:
            context.events.close()
            raise
        context.emit(CLOSING_EVENT[result.status], document)
        await self._forget_run(execution, result.status)
        return result

    async def _open(self, execution: Execution, caller: Caller) -> None:
        """Begin the trace and make that durable; whoever starts the execution hears of any failure of it."""
        tracker, claim = execution.context.tracker, execution.claim
        try:
            if claim is None:
                tracker.start(execution.identity, first_start(caller))
                await self._ledger.accept(acceptance_of(execution, caller, Status.RUNNING))
            else:
                tracker.start(execution.identity, later_start(claim))
                await self._ledger.checkpoint(
                    Checkpoint(execution.id, execution.context.attempt, tracker.root, execution.identity)
                )
        except BaseException as error:
            self._ledger.abandon(execution.id, execution.context.attempt)
            execution.context.events.close()
            if not execution.accepted.done():
                execution.accepted.set_exception(error if isinstance(error, Exception) else Draining())
            raise
        execution.accepted.set_result(None)

    async def _outcome(self, execution: Execution) -> Outcome:
        """How the walk ended. The home of broad catching for executions."""
        try:
            return await self._walk(execution)
        except Stopped as stopped:
            failure = stopped.failure
            return failed(failure, stopped.info.node_id)
        except Failure as failure:
            return failed(failure)
        except Fenced:
            raise
        except asyncio.CancelledError:
            _swallow_cancellation()
            return _stopped(execution)
        except Exception as error:
            log.exception("execution %s failed inside the engine", execution.id)
            return failed(Failure(f"{type(error).__name__} inside the engine"))

    async def _walk(self, execution: Execution) -> Outcome:
        """Run the compiled graph."""
        context, compiled = execution.context, execution.compiled
        if execution.stop is not None:
            return _stopped(execution)
        if execution.failure is not None:
            raise execution.failure
        assert compiled is not None
        compiled.plan.check_input(execution.request.input)
        paused = await compiled.run(context, checkpoints=self._checkpoints, resume=resume_of(execution.claim))
        if paused is not None:
            return Outcome(Status.PAUSED, paused=paused)
        if context.state["end"] is None:
            raise NoEnd
        return COMPLETED

    async def _finish(self, execution: Execution, outcome: Outcome, result: JsonObject) -> None:
        """Write the end down. Raises `Fenced` if another attempt owns the execution, or `Unavailable`."""
        context, history = execution.context, execution.history
        if outcome.paused is not None:
            await self._pause(execution, outcome.paused, result)
            return
        completed = outcome.status is Status.COMPLETED and history is not None
        finish = Finish(
            execution_id=execution.id,
            attempt=context.attempt,
            status=outcome.status,
            result=result,
            conversation_id=context.conversation_id,
            messages=[as_json(message) for message in new_messages(context)] if completed else [],
            summary=new_summary(context, history.summary) if completed and history else None,
            last_seq=context.events.last_seq + 1,
        )
        if not await self._ledger.finish(finish):
            raise Fenced

    async def _pause(self, execution: Execution, paused: Paused, result: JsonObject) -> None:
        pause = Pause(
            execution_id=execution.id,
            attempt=execution.context.attempt,
            result=result,
            approvals=paused.approvals,
            due_at=paused.due_at,
            last_seq=execution.context.events.last_seq + 1,
        )
        if not await self._ledger.pause(pause):
            raise Fenced

    async def _release(self, execution: Execution) -> NoReturn:
        """Give the lease back; whoever waits here is told that the execution goes on elsewhere."""
        execution.context.tracker.hand_over(SHUTDOWN)
        await self._ledger.release(Release(execution.id, execution.context.attempt))
        raise Draining("the service is stopping; the execution goes on in another process")

    async def _forget_run(self, execution: Execution, status: Status) -> None:
        compiled = execution.compiled
        if compiled is not None and compiled.plan.durability != "none" and status.is_terminal:
            await self._checkpoints.forget(execution.id, execution.context.attempt)

    def _forget(self, execution: Execution, task: asyncio.Task[ExecutionResult]) -> None:
        if self._executions.get(execution.id) is execution:
            del self._executions[execution.id]
        self._ended[execution.id] = execution.context.events
        while len(self._ended) > _KEPT_RINGS:
            self._ended.popitem(last=False)
        if isinstance(task.exception() if not task.cancelled() else None, Fenced):
            log.warning("execution %s is owned by another attempt now", execution.id)
            return
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, Refusal):
            log.error("execution %s could not be closed: %s", execution.id, error)


def _stopped(execution: Execution) -> Outcome:
    """What becomes of a walk that was stopped. Raises `Fenced`."""
    if execution.stop == "fence off":
        raise Fenced
    if execution.stop == "hand over":
        return HANDED_OVER
    return Outcome(Status.CANCELLED, cancel_reason=execution.cancel_reason or SHUTDOWN)


def _swallow_cancellation() -> None:
    """The cancellation was for the walk; closing the books must not be interrupted by it."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def _close_trace(tracker: WorkflowTracker, outcome: Outcome) -> None:
    match outcome.status:
        case Status.COMPLETED:
            tracker.complete()
        case Status.PAUSED:
            assert outcome.paused is not None
            tracker.pause(outcome.paused)
        case Status.CANCELLED:
            tracker.cancel(outcome.cancel_reason)
        case _:
            tracker.fail(
                outcome.error_type or "",
                outcome.error_message or "",
                outcome.error_node_id,
                outcome.error_class or ErrorClass.ENGINE,
            )


def _started_data(execution: Execution) -> JsonObject:
    identity, claim = execution.identity, execution.claim
    data = identity.told(execution.context.tracker.trace_id)
    return (
        data if identity.attempt == 1 or claim is None else data | {"attempt": identity.attempt, "reason": claim.reason}
    )
