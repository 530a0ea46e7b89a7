"""ExecutionEngine: `stream()` and `execute()` over one `_run()`. The only execution path.

The execution is a task of its own; callers read its events or wait for its result. A caller that leaves is a reader
that leaves: by policy the execution is cancelled or goes on.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Self

from opentelemetry._logs import LoggerProvider
from opentelemetry.trace import TracerProvider
from uuid_utils.compat import uuid7

from engine.budget import Budget
from engine.checkpoints import Checkpoints, in_memory
from engine.compiler import CompiledWorkflow
from engine.context import ExecutionContext
from engine.errors import Draining, Failure, NoEnd, Refusal, SpanloomError, Unavailable
from engine.events import EventRing, EventType, ExecutionEvent
from engine.graph import JsonObject, WorkflowGraph
from engine.ledger import Acceptance, Finish, Ledger, NullLedger
from engine.loading import Loader
from engine.outcome import COMPLETED, Outcome, make_result, new_messages, new_summary
from engine.request import Caller, ExecutionRequest
from engine.resources import Message, Resources, as_json
from engine.result import ExecutionResult, Status
from engine.sources import Resolved, resolve
from engine.state import initial_state
from engine.tracker import Subject, Tracing, WorkflowTracker
from engine.walker import Stopped

log = logging.getLogger(__name__)

CLOSING_EVENT = {
    Status.COMPLETED: EventType.COMPLETED,
    Status.FAILED: EventType.FAILED,
    Status.CANCELLED: EventType.CANCELLED,
    Status.PAUSED: EventType.PAUSED,
}
CLIENT_LEFT = "the client left"
SHUTDOWN = "the engine is shutting down"
_KEPT_BY_HASH = {"source": {"graph"}}
"""Part of a request that is not stored with it, since the graph that runs is kept by its hash."""
_NO_GRAPH = WorkflowGraph.model_validate({"schema": "spanloom/1", "name": "none", "nodes": []})


class Execution:
    """One accepted execution that runs in this process."""

    def __init__(
        self, request: ExecutionRequest, resolved: Resolved, subject: Subject, context: ExecutionContext, caller: Caller
    ) -> None:
        self.request = request
        self.resolved = resolved
        self.subject = subject
        self.context = context
        self.caller = caller
        self.compiled: CompiledWorkflow | None = None
        self.failure: Failure | None = resolved.failure
        self.user_message: Message | None = None
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[ExecutionResult] | None = None
        self.cancel_reason: str | None = None
        self.ended = False
        self._readers = 0
        self._leaving: asyncio.TimerHandle | None = None

    @property
    def id(self) -> str:
        """UUIDv7 of the execution."""
        return self.context.execution_id

    async def events(self, after: int = 0) -> AsyncGenerator[ExecutionEvent, None]:
        """What happens, from the event behind `after` to the closing one. Raises if the books could not be closed."""
        async for event in self.context.events.read(after):
            yield event
        if self.task is not None:
            await asyncio.shield(self.task)

    async def result(self) -> ExecutionResult:
        """The result, once its commit is made; waiting for it does not own the execution."""
        assert self.task is not None
        return await asyncio.shield(self.task)

    def cancel(self, reason: str) -> bool:
        """Ask the run to stop; false if it has already ended. Asking again changes nothing."""
        if self.ended:
            return False
        if self.cancel_reason is None:
            self.cancel_reason = reason
            if self.task is not None and self.accepted.done():
                self.task.cancel()
        return True

    def join(self) -> None:
        """A reader of the starting call came."""
        self._readers += 1
        if self._leaving is not None:
            self._leaving.cancel()

    def leave(self, grace_seconds: float) -> None:
        """A reader of the starting call left; the last one may take the execution with it."""
        self._readers -= 1
        if self._readers == 0 and not self.ended and self.request.on_disconnect != "continue":
            self._leaving = asyncio.get_running_loop().call_later(grace_seconds, self.cancel, CLIENT_LEFT)


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
        self._draining = False

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
        if self._draining:
            raise Draining
        caller = caller or Caller()
        started_ns = time.time_ns()
        resolved = await resolve(request, caller, self._resources)
        if self._draining:
            raise Draining
        execution = self._prepare(request, caller, resolved, streaming=streaming)
        self._executions[execution.id] = execution
        execution.task = asyncio.create_task(self._run(execution, started_ns), name=f"execution {execution.id}")
        execution.task.add_done_callback(lambda task: self._forget(execution, task))
        try:
            await asyncio.shield(execution.accepted)
        except asyncio.CancelledError:
            execution.join()
            execution.leave(self._disconnect_seconds)
            raise
        return execution

    def running(self, execution_id: str) -> Execution | None:
        """The execution of this id, if it runs in this process."""
        return self._executions.get(execution_id)

    def cancel(self, execution_id: str, reason: str) -> bool:
        """Ask an execution that runs here to stop; false if there is none."""
        execution = self._executions.get(execution_id)
        return execution is not None and execution.cancel(reason)

    @property
    def active(self) -> int:
        """How many executions run in this process."""
        return len(self._executions)

    async def close(self, drain_seconds: float = 0) -> None:
        """Take no more executions, let the running ones end, and cancel those that do not in time."""
        self._draining = True
        tasks = [execution.task for execution in self._executions.values() if execution.task]
        if not tasks:
            return
        if drain_seconds > 0:
            await asyncio.wait(tasks, timeout=drain_seconds)
        for execution in list(self._executions.values()):
            execution.cancel(SHUTDOWN)
        await asyncio.wait(tasks)

    def _prepare(self, request: ExecutionRequest, caller: Caller, resolved: Resolved, *, streaming: bool) -> Execution:
        """Load and validate; a graph without the shape of one is refused, all else is a failed execution."""
        execution_id = str(uuid7())
        compiled: CompiledWorkflow | None = None
        failure = resolved.failure
        if resolved.document is not None:
            try:
                compiled = self._loader.load(resolved.document, caller.owner, refuse_shape=resolved.kind == "graph")
            except Failure as problem:
                failure = problem
        graph = compiled.plan.graph if compiled else _NO_GRAPH
        subject = _subject(execution_id, request, caller, resolved, compiled, streaming=streaming)
        tracker = WorkflowTracker(self._tracing, self._resources.prices)
        user_message = _user_message(request)
        history = resolved.history
        context = ExecutionContext(
            execution_id=execution_id,
            attempt=subject.attempt,
            owner=caller.owner,
            conversation_id=subject.conversation_id,
            source=resolved.kind,
            any_folder=caller.any_folder,
            graph=graph,
            limits=graph.limits,
            deadline=time.monotonic() + graph.limits.run_seconds,
            resources=self._resources,
            tracker=tracker,
            events=EventRing(),
            budget=Budget(graph.limits, self._resources.prices, tracker),
            state=initial_state(
                input=request.input,
                variables=graph.variables,
                messages=[*(history.messages if history else []), *([user_message] if user_message else [])],
                summary=history.summary if history else None,
            ),
        )
        execution = Execution(request, resolved, subject, context, caller)
        execution.compiled, execution.failure, execution.user_message = compiled, failure, user_message
        return execution

    async def _run(self, execution: Execution, started_ns: int) -> ExecutionResult:
        """Accept, walk, close the books, and only then tell: the whole life of an execution."""
        context, tracker = execution.context, execution.context.tracker
        await self._accept(execution, started_ns)
        context.emit(EventType.STARTED, _started_data(execution))
        outcome = await self._outcome(execution)
        execution.ended = True
        try:
            _close_trace(tracker, outcome)
            result = make_result(context, execution.subject, outcome)
            document = result.model_dump(mode="json")
            await self._finish(execution, result.status, document)
        except BaseException:
            context.events.close()
            raise
        context.emit(CLOSING_EVENT[result.status], document)
        await self._forget_run(execution, result.status)
        return result

    async def _accept(self, execution: Execution, started_ns: int) -> None:
        """Begin the trace and make the execution durable; whoever starts it hears of any failure of that."""
        caller, tracker = execution.caller, execution.context.tracker
        try:
            tracker.start(execution.subject, parent=caller.trace_context, link=caller.trace_link, started_ns=started_ns)
            await self._ledger.accept(_acceptance(execution))
        except BaseException as error:
            self._ledger.abandon(execution.id)
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
            return Outcome(Status.FAILED, failure.error_type, failure.message, stopped.info.node_id)
        except Failure as failure:
            return Outcome(Status.FAILED, failure.error_type, failure.message)
        except asyncio.CancelledError:
            _swallow_cancellation()
            return Outcome(Status.CANCELLED, cancel_reason=execution.cancel_reason or SHUTDOWN)
        except Exception as error:
            log.exception("execution %s failed inside the engine", execution.id)
            return Outcome(Status.FAILED, SpanloomError.code, f"{type(error).__name__} inside the engine")

    async def _walk(self, execution: Execution) -> Outcome:
        """Run the compiled graph."""
        context, compiled = execution.context, execution.compiled
        if execution.cancel_reason is not None:
            return Outcome(Status.CANCELLED, cancel_reason=execution.cancel_reason)
        if execution.failure is not None:
            raise execution.failure
        assert compiled is not None
        compiled.plan.check_input(execution.request.input)
        paused = await compiled.run(context, checkpoints=self._checkpoints, resume=None)
        if paused is not None:
            return Outcome(Status.PAUSED, paused=paused)
        if context.state["end"] is None:
            raise NoEnd
        return COMPLETED

    async def _finish(self, execution: Execution, status: Status, result: JsonObject) -> None:
        if not status.is_terminal:
            return
        context, history = execution.context, execution.resolved.history
        completed = status is Status.COMPLETED and history is not None
        finish = Finish(
            execution_id=execution.id,
            attempt=context.attempt,
            status=status,
            result=result,
            conversation_id=context.conversation_id,
            messages=[as_json(message) for message in new_messages(context)] if completed else [],
            summary=new_summary(context, history.summary) if completed and history else None,
        )
        if not await self._ledger.finish(finish):
            raise Unavailable("another attempt owns this execution now")

    async def _forget_run(self, execution: Execution, status: Status) -> None:
        """Drop the checkpoints of an execution that has ended. What is left is harmless, so nothing fails by it."""
        compiled, attempt = execution.compiled, execution.context.attempt
        if compiled is None or compiled.plan.durability == "none" or not status.is_terminal:
            return
        try:
            await self._checkpoints.delete_thread(execution.id, range(1, attempt + 1))
        except Exception as error:
            log.warning("checkpoints of execution %s were not dropped: %s", execution.id, error)

    def _forget(self, execution: Execution, task: asyncio.Task[ExecutionResult]) -> None:
        self._executions.pop(execution.id, None)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, Refusal):
            log.error("execution %s could not be closed: %s", execution.id, error)


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
            tracker.fail(outcome.error_type or "", outcome.error_message or "", outcome.error_node_id)


def _subject(
    execution_id: str,
    request: ExecutionRequest,
    caller: Caller,
    resolved: Resolved,
    compiled: CompiledWorkflow | None,
    *,
    streaming: bool,
) -> Subject:
    template, definition = resolved.template, resolved.definition
    return Subject(
        execution_id=execution_id,
        attempt=1,
        owner=caller.owner,
        workflow_name=resolved.workflow_name,
        source=resolved.kind,
        trigger=caller.trigger,
        streaming=streaming,
        correlation_id=caller.correlation_id or execution_id,
        template_id=template.id if template else None,
        template_version=template.version if template else None,
        definition_id=definition.id if definition else None,
        graph_hash=compiled.plan.content_hash if compiled else None,
        conversation_id=resolved.history.conversation_id if resolved.history else None,
        record_level=compiled.plan.graph.record_level if compiled else "full",
        tags=dict(request.tags),
        params=resolved.params,
    )


def _user_message(request: ExecutionRequest) -> Message | None:
    text = request.input.get("message")
    return Message(id=str(uuid7()), role="user", content=text) if isinstance(text, str) and text else None


def _acceptance(execution: Execution) -> Acceptance:
    subject, tracker, compiled = execution.subject, execution.context.tracker, execution.compiled
    is_chat = execution.resolved.history is not None and execution.user_message is not None
    return Acceptance(
        execution_id=execution.id,
        owner=subject.owner,
        attempt=subject.attempt,
        request=execution.request.model_dump(mode="json", exclude=_KEPT_BY_HASH if compiled else None),
        source=subject.source,
        workflow_name=subject.workflow_name,
        graph_hash=subject.graph_hash,
        graph=compiled.plan.canonical if compiled else None,
        conversation_id=subject.conversation_id,
        user_message=as_json(execution.user_message) if is_chat and execution.user_message else None,
        correlation_id=subject.correlation_id or execution.id,
        trace_id=tracker.trace_id,
        root_span_id=tracker.root_span_id,
        root_started_at=tracker.started_at,
        on_lost=(compiled.plan.graph.on_lost if compiled else None) or "fail",
    )


def _started_data(execution: Execution) -> JsonObject:
    subject = execution.subject
    return {
        "source": subject.source,
        "workflow_name": subject.workflow_name,
        "template_id": subject.template_id,
        "template_version": subject.template_version,
        "definition_id": subject.definition_id,
        "graph_hash": subject.graph_hash,
        "conversation_id": subject.conversation_id,
        "correlation_id": subject.correlation_id,
        "trace_id": execution.context.tracker.trace_id,
    }
