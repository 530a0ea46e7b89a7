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
from typing import Literal, NoReturn, Self

import orjson
from opentelemetry._logs import LoggerProvider
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)
from uuid_utils.compat import uuid7

from engine import semconv
from engine.budget import Budget
from engine.checkpoints import Checkpoints, in_memory
from engine.compiler import CompiledWorkflow
from engine.context import ExecutionContext
from engine.errors import (
    Draining,
    Failure,
    Fenced,
    NoEnd,
    Refusal,
    ResourceMissing,
    SpanloomError,
)
from engine.events import EventRing, EventType, ExecutionEvent
from engine.graph import JsonObject, OnLost, WorkflowGraph
from engine.ledger import (
    Acceptance,
    Checkpoint,
    Claim,
    Finish,
    Idempotency,
    Ledger,
    NullLedger,
    Pause,
    Release,
    Root,
)
from engine.loading import Loader
from engine.outcome import COMPLETED, HANDED_OVER, Outcome, make_result, new_messages, new_summary
from engine.pause import Answer, Paused, Resume
from engine.request import Caller, ExecutionRequest, digest
from engine.resources import History, Message, Resources, as_json
from engine.result import ExecutionResult, Status
from engine.sources import HISTORY_MESSAGES, Resolved, resolve
from engine.state import initial_state
from engine.subject import Subject
from engine.totals import Carried
from engine.tracker import Beginning, Tracing, WorkflowTracker
from engine.walker import Stopped

log = logging.getLogger(__name__)

_Stop = Literal["cancel", "hand over", "fence off"]

CLOSING_EVENT = {
    Status.COMPLETED: EventType.COMPLETED,
    Status.FAILED: EventType.FAILED,
    Status.CANCELLED: EventType.CANCELLED,
    Status.PAUSED: EventType.PAUSED,
}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
CLIENT_LEFT = "the client left"
SHUTDOWN = "the engine is shutting down"
HAND_OVER_SECONDS = 3.0
"""How long an execution may take to stop once it is handed over."""
_KEPT_BY_HASH = {"source": {"graph"}}
"""Part of a request that is not stored with it, since the graph that runs is kept by its hash."""
_KEPT_RINGS = 128
_NO_GRAPH = WorkflowGraph.model_validate({"schema": "spanloom/1", "name": "none", "nodes": []})


class Execution:
    """One accepted execution that runs in this process, for one attempt."""

    def __init__(
        self, request: ExecutionRequest, subject: Subject, context: ExecutionContext, history: History | None
    ) -> None:
        self.request = request
        self.subject = subject
        self.context = context
        self.history = history
        self.compiled: CompiledWorkflow | None = None
        self.failure: Failure | None = None
        self.user_message: Message | None = None
        self.claim: Claim | None = None
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[ExecutionResult] | None = None
        self.cancel_reason: str | None = None
        self.ended = False
        self._stop: _Stop | None = None
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
            self._end_walk("cancel")
        return True

    def hand_over(self) -> None:
        """Stop here and let another process go on; an execution that is lost with its process is cancelled."""
        if self.on_lost == "fail":
            self.cancel(SHUTDOWN)
        elif not self.ended:
            self._end_walk("hand over")

    def fence_off(self) -> None:
        """Another attempt owns the execution: stop, and say nothing more."""
        if not self.ended:
            self._end_walk("fence off")

    @property
    def stop(self) -> "_Stop | None":
        """Why the walk is stopped before its end; the first reason counts, unless the attempt is fenced off."""
        return self._stop

    @property
    def on_lost(self) -> OnLost:
        """What becomes of the execution when its process is gone."""
        if self.claim is not None:
            return self.claim.on_lost
        return self.compiled.plan.on_lost if self.compiled else "fail"

    def _end_walk(self, why: "_Stop") -> None:
        if self._stop is None or why == "fence off":
            self._stop = why
            if self.task is not None and self.accepted.done():
                self.task.cancel()

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
        try:
            execution.context.tracker.queue(execution.subject)
            await self._ledger.accept(_acceptance(execution, caller, Status.QUEUED))
        except BaseException:
            self._ledger.abandon(execution.id)
            raise
        return execution.id

    async def enqueue_again(
        self, subject: Subject, request: JsonObject, graph: bytes | None, caller: Caller | None = None
    ) -> str:
        """Run a finished execution anew: the same pinned graph and input, a new id. Raises a `Refusal`."""
        if self._draining:
            raise Draining
        caller = caller or Caller()
        again = replace(
            subject,
            execution_id=str(uuid7()),
            attempt=1,
            trigger="retry",
            streaming=False,
            queued_ns=(now := time.time_ns()),
            started_ns=now,
            correlation_id=caller.correlation_id,
            retry_of=subject.execution_id,
        )
        execution = await self._restore(again, request, graph, Carried())
        try:
            execution.context.tracker.queue(again)
            await self._ledger.accept(_acceptance(execution, caller, Status.QUEUED))
        except BaseException:
            self._ledger.abandon(execution.id)
            raise
        return execution.id

    async def take_on(self, claim: Claim) -> Execution:
        """Run an attempt of an execution that this process has claimed."""
        execution = await self._restore(claim.subject, claim.request, claim.graph, claim.carried)
        execution.claim = claim
        self._begin(execution, Caller(owner=claim.subject.owner, any_folder=claim.any_folder))
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
        subject = _subject(str(uuid7()), request, caller, resolved, compiled, queued_ns, streaming=streaming)
        return self._make(
            request, subject, compiled, failure, resolved.history, Carried(), any_folder=caller.any_folder
        )

    async def _restore(self, subject: Subject, request: JsonObject, graph: bytes | None, carried: Carried) -> Execution:
        """An execution as it was accepted. Its references are not resolved anew: the graph is the one that was kept."""
        asked = _asked(request, graph)
        conversation = subject.conversation_id
        history = None
        if conversation is not None:
            history = await self._resources.conversations.history(
                conversation, subject.owner, HISTORY_MESSAGES, before=subject.execution_id
            ) or History(conversation, None, [])
        if graph is not None:
            return self._make(asked, subject, self._loader.load_kept(graph), None, history, carried)
        caller = Caller(owner=subject.owner)
        try:
            compiled, failure = self._load(await resolve(asked, caller, self._resources), caller)
        except Refusal as refusal:
            compiled, failure = None, ResourceMissing(refusal.message)
        return self._make(asked, subject, compiled, failure, history, carried)

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
        subject: Subject,
        compiled: CompiledWorkflow | None,
        failure: Failure | None,
        history: History | None,
        carried: Carried,
        *,
        any_folder: bool = False,
    ) -> Execution:
        graph = compiled.plan.graph if compiled else _NO_GRAPH
        tracker = WorkflowTracker(self._tracing, self._resources.prices, carried)
        user_message = _user_message(request)
        context = ExecutionContext(
            execution_id=subject.execution_id,
            attempt=subject.attempt,
            owner=subject.owner,
            conversation_id=subject.conversation_id,
            source=subject.source,
            any_folder=any_folder,
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
            ledger=self._ledger,
        )
        execution = Execution(request, subject, context, history)
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
            result = make_result(context, execution.subject, outcome)
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
                tracker.start(execution.subject, _first_beginning(caller))
                await self._ledger.accept(_acceptance(execution, caller, Status.RUNNING))
            else:
                tracker.start(execution.subject, _beginning(claim))
                await self._ledger.checkpoint(
                    Checkpoint(execution.id, execution.context.attempt, tracker.root, execution.subject)
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
            return Outcome(Status.FAILED, failure.error_type, failure.message, stopped.info.node_id)
        except Failure as failure:
            return Outcome(Status.FAILED, failure.error_type, failure.message)
        except Fenced:
            raise
        except asyncio.CancelledError:
            _swallow_cancellation()
            return _stopped(execution)
        except Exception as error:
            log.exception("execution %s failed inside the engine", execution.id)
            return Outcome(Status.FAILED, SpanloomError.code, f"{type(error).__name__} inside the engine")

    async def _walk(self, execution: Execution) -> Outcome:
        """Run the compiled graph."""
        context, compiled = execution.context, execution.compiled
        if execution.stop is not None:
            return _stopped(execution)
        if execution.failure is not None:
            raise execution.failure
        assert compiled is not None
        compiled.plan.check_input(execution.request.input)
        paused = await compiled.run(context, checkpoints=self._checkpoints, resume=_resume(execution))
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
        execution.context.tracker.give_up(SHUTDOWN)
        await self._ledger.release(Release(execution.id, execution.context.attempt))
        raise Draining("the service is stopping; the execution goes on in another process")

    async def _forget_run(self, execution: Execution, status: Status) -> None:
        compiled = execution.compiled
        if compiled is not None and compiled.plan.durability != "none" and status.is_terminal:
            await self.forget_checkpoints(execution.id, execution.context.attempt)

    async def forget_checkpoints(self, execution_id: str, attempts: int) -> None:
        """Drop what is kept of an execution that has ended. What is left is harmless, so nothing fails by it."""
        try:
            await self._checkpoints.delete_thread(execution_id, range(1, attempts + 1))
        except Exception as error:
            log.warning("checkpoints of execution %s were not dropped: %s", execution_id, error)

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
            tracker.fail(outcome.error_type or "", outcome.error_message or "", outcome.error_node_id)


def _subject(
    execution_id: str,
    request: ExecutionRequest,
    caller: Caller,
    resolved: Resolved,
    compiled: CompiledWorkflow | None,
    queued_ns: int,
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
        queued_ns=queued_ns,
        started_ns=queued_ns,
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


def _acceptance(execution: Execution, caller: Caller, status: Status) -> Acceptance:
    subject, compiled, root = execution.subject, execution.compiled, None
    if status is Status.RUNNING:
        root = execution.context.tracker.root
    is_chat = subject.conversation_id is not None and execution.user_message is not None
    return Acceptance(
        subject=subject,
        status=status,
        request=execution.request.model_dump(mode="json", exclude=_KEPT_BY_HASH if compiled else None),
        graph=compiled.plan.canonical if compiled else None,
        user_message=as_json(execution.user_message) if is_chat and execution.user_message else None,
        root=root,
        on_lost=execution.on_lost,
        any_folder=caller.any_folder,
        caller_trace=_traceparent(caller) if status is Status.QUEUED else None,
        idempotency=Idempotency(caller.idempotency_key, digest(execution.request)) if caller.idempotency_key else None,
    )


def _asked(request: JsonObject, graph: bytes | None) -> ExecutionRequest:
    """The request as it was kept: where its graph was sent along it stands apart."""
    source = request["source"]
    if isinstance(source, dict) and source.get("kind") == "graph" and "graph" not in source:
        source = {**source, "graph": {} if graph is None else orjson.loads(graph)}
    return ExecutionRequest.model_validate({**request, "source": source})


def _resume(execution: Execution) -> Resume | None:
    """Where a later attempt goes on; one that is retried begins at the input."""
    claim, attempt = execution.claim, execution.context.attempt
    if claim is None or attempt == 1 or (claim.on_lost == "retry" and claim.reason in ("crash", "shutdown")):
        return None
    given = claim.answer if claim.reason == "answer" else None
    answer = Answer(given.choice, given.data, given.answered_by) if given else None
    return Resume(list(range(attempt - 1, 0, -1)), answer, is_due=claim.reason == "timer")


def _first_beginning(caller: Caller) -> Beginning:
    linked = get_current_span(caller.trace_link).get_span_context() if caller.trace_link is not None else None
    return Beginning(caller.trace_context, [linked] if linked is not None else [])


def _beginning(claim: Claim) -> Beginning:
    """A queued execution joins the trace of its caller; a later attempt links to the one before."""
    if claim.subject.attempt == 1:
        return Beginning(_parent_of(claim.caller_trace), age_seconds=claim.age_seconds)
    previous = claim.previous_root
    return Beginning(
        links=[] if previous is None else [_span_context(previous)],
        age_seconds=claim.age_seconds,
        paused_seconds=claim.paused_seconds,
        extra={semconv.RESUME_REASON: claim.reason}
        | (
            {semconv.APPROVAL_ID: claim.answer.approval_id, semconv.APPROVAL_CHOICE: claim.answer.choice}
            if claim.answer
            else {}
        ),
    )


def _span_context(root: Root) -> SpanContext:
    return SpanContext(int(root.trace_id, 16), int(root.span_id, 16), is_remote=True, trace_flags=_SAMPLED)


def _traceparent(caller: Caller) -> str | None:
    """The caller's trace as a `traceparent`, to be joined by whichever process runs the execution."""
    if caller.trace_context is None:
        return None
    span = get_current_span(caller.trace_context).get_span_context()
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-01" if span.is_valid else None


def _parent_of(traceparent: str | None) -> Context | None:
    if traceparent is None:
        return None
    _, trace_id, span_id, _ = traceparent.split("-")
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=_SAMPLED)
    return set_span_in_context(NonRecordingSpan(context), Context())


def _started_data(execution: Execution) -> JsonObject:
    subject, claim = execution.subject, execution.claim
    data: JsonObject = {
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
    return (
        data if subject.attempt == 1 or claim is None else data | {"attempt": subject.attempt, "reason": claim.reason}
    )
