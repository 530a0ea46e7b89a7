"""ExecutionEngine: accepts executions, runs each in its own task, and stops them. There is no other execution path.

`stream()` reads the events of the task and `execute()` waits for its result. When the last caller leaves, the
execution is cancelled or continues, as its request says in `on_disconnect`.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Self

from opentelemetry._logs import LoggerProvider
from opentelemetry.trace import TracerProvider
from uuid_utils.compat import uuid7

from engine.content.policy import ContentPolicy
from engine.database.retry import insist
from engine.errors import Draining, Fenced, Refusal
from engine.events import EventRing, ExecutionEvent
from engine.execution.acceptance import acceptance_of
from engine.execution.attempts import first_start, identity_at_start, links_of
from engine.execution.builder import ExecutionBuilder
from engine.execution.handle import Execution
from engine.execution.runner import AttemptRunner
from engine.execution.sources import Resolved, resolve
from engine.graph import JsonObject
from engine.identity import ExecutionIdentity
from engine.ledger import Claim, Ledger, NullLedger, SpanIds
from engine.request import Caller, ExecutionRequest
from engine.resources import Resources
from engine.result import ExecutionResult, Status
from engine.store.checkpoints import Checkpoints, in_memory
from engine.tracing.tracker import Tracing
from engine.usage import Carried

log = logging.getLogger(__name__)

HAND_OVER_SECONDS = 3.0
"""How long an execution may take to stop after it has been handed over."""
_KEPT_RINGS = 128


class ExecutionEngine:
    """Runs workflows. Without a ledger and OpenTelemetry providers it records nothing; the results are the same."""

    def __init__(
        self,
        resources: Resources,
        *,
        ledger: Ledger | None = None,
        tracer_provider: TracerProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        checkpoints: Checkpoints | None = None,
        content: ContentPolicy | None = None,
        disconnect_seconds: float = 0,
    ) -> None:
        content = content or ContentPolicy()
        self._resources = resources
        self._ledger = ledger or NullLedger()
        tracing = Tracing.over(tracer_provider, logger_provider)
        self._builder = ExecutionBuilder(resources, tracing, self._ledger, content)
        self._runner = AttemptRunner(self._ledger, checkpoints or in_memory(), keeps_results=content.kept != "none")
        self._disconnect_seconds = disconnect_seconds
        self._executions: dict[str, Execution] = {}
        self._ended: OrderedDict[str, EventRing] = OrderedDict()
        """Events of the executions that ended last, for readers that lost the connection."""
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
        """Run a workflow and yield its events; the last is `completed`, `failed`, `cancelled` or `paused`.

        Raises a `Refusal` before the first event if the execution is not accepted.
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
        """Run a workflow and return its result, whatever its status. Raises a `Refusal` if it is not accepted."""
        execution = await self.start(request, caller, streaming=False)
        execution.join()
        try:
            return await execution.result()
        finally:
            execution.leave(self._disconnect_seconds)

    async def start(self, request: ExecutionRequest, caller: Caller | None = None, *, streaming: bool) -> Execution:
        """Accept an execution and run it in a task. Raises a `Refusal` if it is not accepted."""
        caller = caller or Caller()
        queued_ns = time.time_ns()
        resolved = await self._resolve(request, caller)
        execution = self._builder.build(request, caller, resolved, queued_ns, streaming=streaming)
        execution.is_key_given = caller.idempotency_key is not None
        self._begin(execution, caller)
        try:
            await asyncio.shield(execution.accepted)
        except asyncio.CancelledError:
            execution.join()
            execution.leave(self._disconnect_seconds)
            raise
        return execution

    async def enqueue(self, request: ExecutionRequest, caller: Caller | None = None) -> str:
        """Queue an execution for any process; return its id. Raises a `Refusal` if it is not accepted."""
        caller = caller or Caller()
        queued_ns = time.time_ns()
        resolved = await self._resolve(request, caller)
        execution = self._builder.build(request, caller, resolved, queued_ns, streaming=False, joins=False)
        return await self._queue(execution, caller)

    async def enqueue_again(
        self,
        identity: ExecutionIdentity,
        request: JsonObject,
        graph: bytes | None,
        caller: Caller | None = None,
        *,
        root: SpanIds | None = None,
    ) -> str:
        """Queue a finished execution again with the same graph and input; return the new id. Raises a `Refusal`.

        The new execution has a trace of its own that links to `root`, the first root span of the finished one.
        """
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
            links=[*links_of(caller, joins=False), *([] if root is None else [root.traceparent])],
            any_folder=identity.any_folder or caller.any_folder,
        )
        execution = await self._builder.restore(again, request, graph, Carried())
        return await self._queue(execution, caller)

    async def _queue(self, execution: Execution, caller: Caller) -> str:
        try:
            execution.context.tracker.queue(execution.identity, first_start(execution.identity))
            await self._ledger.accept(acceptance_of(execution, caller, Status.QUEUED))
        except BaseException:
            self._ledger.abandon(execution.id)
            raise
        return execution.id

    async def take_on(self, claim: Claim) -> Execution:
        """Start an attempt of an execution that this process has claimed."""
        execution = await self._restore(claim)
        execution.claim = claim
        self._begin(execution, Caller(owner=claim.identity.owner))
        await asyncio.wait({execution.accepted})
        return execution

    async def _restore(self, claim: Claim) -> Execution:
        """Build the claimed execution; trouble with the database for a moment does not cost the attempt."""
        identity = identity_at_start(claim)
        return await insist(lambda _: self._builder.restore(identity, claim.request, claim.graph, claim.carried))

    def _begin(self, execution: Execution, caller: Caller) -> None:
        older = self._executions.get(execution.id)
        if older is not None:
            older.fence_off()
        self._executions[execution.id] = execution
        execution.task = asyncio.create_task(self._runner.run(execution, caller), name=f"execution {execution.id}")
        execution.task.add_done_callback(lambda task: self._forget(execution, task))

    async def _resolve(self, request: ExecutionRequest, caller: Caller) -> Resolved:
        if self._draining:
            raise Draining
        resolved = await resolve(request, caller, self._resources)
        if self._draining:
            raise Draining
        return resolved

    def running(self, execution_id: str) -> Execution | None:
        """The execution with this id, if it runs in this process."""
        return self._executions.get(execution_id)

    def cancel(self, execution_id: str, reason: str) -> bool:
        """Cancel an execution; false if it does not run in this process."""
        execution = self._executions.get(execution_id)
        return execution is not None and execution.cancel(reason)

    def events_of(self, execution_id: str) -> EventRing | None:
        """Events of an execution that runs in this process, or ended in it a short while ago."""
        execution = self._executions.get(execution_id)
        return execution.context.events if execution else self._ended.get(execution_id)

    def forget_events(self, execution_id: str) -> None:
        """Drop the events of an execution that has ended: the last one holds its answer."""
        self._ended.pop(execution_id, None)

    def fence_off(self, execution_id: str, attempt: int) -> None:
        """Stop this attempt, because another attempt owns the execution now."""
        execution = self._executions.get(execution_id)
        if execution is not None and execution.context.attempt == attempt:
            execution.fence_off()

    @property
    def active(self) -> int:
        """How many executions run in this process."""
        return len(self._executions)

    async def close(self, drain_seconds: float = 0) -> None:
        """Accept no more executions, let the running ones end, and hand over those still running after `drain_seconds`.

        An execution that does not stop even then (its node ignores the cancellation, or the database is gone) is left
        running. Its lease expires after the process has exited, and the sweeper of another process finds it.
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
        """Wait for the executions to end; return those still running after so many seconds."""
        waited = [execution for id_, execution in self._executions.items() if id_ not in self._left_behind]
        tasks = {execution.task: execution for execution in waited if execution.task}
        late = (await asyncio.wait(tasks, timeout=seconds))[1] if tasks else ()
        return [tasks[task] for task in late]

    def _forget(self, execution: Execution, task: asyncio.Task[ExecutionResult]) -> None:
        if self._executions.get(execution.id) is execution:
            del self._executions[execution.id]
        self._ended[execution.id] = execution.context.events
        while len(self._ended) > _KEPT_RINGS:
            self._ended.popitem(last=False)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Fenced):
            log.warning("execution %s stops in this process: %s", execution.id, error)
        elif error is not None and not isinstance(error, Refusal):
            log.error("execution %s could not be closed: %s", execution.id, error)
