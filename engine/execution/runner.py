"""Runs one attempt of an execution from its acceptance to its closing event."""

import asyncio
import logging
from contextlib import suppress
from typing import NoReturn

from engine.errors import AttemptLost, Draining, Failure, Fenced, NoEnd, Unavailable
from engine.events import EventType, closing_event
from engine.execution.acceptance import acceptance_of, input_of, reservation_of
from engine.execution.attempts import first_start, later_start, resume_of
from engine.execution.handle import SHUTDOWN, Execution
from engine.execution.outcome import (
    COMPLETED,
    HANDED_OVER,
    Outcome,
    answer_of,
    make_result,
    new_messages,
    new_summary,
)
from engine.graph import JsonObject
from engine.interpreter.walker import Stopped
from engine.ledger import Checkpoint, Finish, Ledger, Pause, Release
from engine.pause import Paused
from engine.request import Caller
from engine.resources import as_json
from engine.result import ExecutionResult, Status, without_content
from engine.store.checkpoints import Checkpoints
from engine.tracing.tracker import WorkflowTracker

log = logging.getLogger(__name__)


class AttemptRunner:
    """Runs attempts against a ledger, which decides whether they still own their execution."""

    def __init__(self, ledger: Ledger, checkpoints: Checkpoints, *, keeps_results: bool = True) -> None:
        """Without `keeps_results` the database keeps content only where no caller waits for it."""
        self._ledger = ledger
        self._keeps_results = keeps_results
        self._checkpoints = checkpoints

    async def run(self, execution: Execution, caller: Caller) -> ExecutionResult:
        """Accept the attempt, walk the graph, commit the end, and only then emit the closing event."""
        context, tracker = execution.context, execution.context.tracker
        await self._open(execution, caller)
        first = context.attempt == 1
        context.emit(EventType.STARTED if first else EventType.RESUMED, _started_data(execution))
        try:
            outcome = await self._outcome(execution)
            execution.ended = True
            if outcome is HANDED_OVER:
                await self._release(execution)
            if outcome is COMPLETED:
                tracker.show_output(answer_of(context))
            _close_trace(tracker, outcome)
            result = make_result(context, execution.identity, outcome)
            document = result.model_dump(mode="json")
            await self._finish(execution, outcome, document)
        except Fenced as error:
            execution.ended = True
            if isinstance(error, AttemptLost):
                await self._keep_signals(execution)
            self._ledger.abandon(execution.id, context.attempt)
            context.events.close()
            raise
        except BaseException:
            context.events.close()
            raise
        closing = closing_event(result.status)
        assert closing is not None
        execution.outcome = result
        context.emit(closing, document)
        await self._forget_checkpoints(execution, result.status)
        return result

    async def _open(self, execution: Execution, caller: Caller) -> None:
        """Start the trace and make the acceptance durable. A failure is raised and set on `Execution.accepted`."""
        tracker, claim = execution.context.tracker, execution.claim
        try:
            if claim is None:
                tracker.start(execution.identity, first_start(execution.identity, caller.trace_context))
                tracker.show_input(input_of(execution.request))
                await self._ledger.accept(acceptance_of(execution, caller, Status.RUNNING))
            else:
                tracker.start(execution.identity, later_start(claim))
                tracker.show_input(input_of(execution.request))
                begins = reservation_of(execution)
                await self._ledger.checkpoint(
                    Checkpoint(execution.id, execution.context.attempt, tracker.root, execution.identity, begins)
                )
        except BaseException as error:
            self._ledger.abandon(execution.id, execution.context.attempt)
            execution.context.events.close()
            if not execution.accepted.done():
                execution.accepted.set_exception(error if isinstance(error, Exception) else Draining())
            raise
        execution.accepted.set_result(None)

    async def _outcome(self, execution: Execution) -> Outcome:
        """Run the walk and turn its exceptions into an outcome; the only broad `except` of an execution."""
        try:
            return await self._walk(execution)
        except Stopped as stopped:
            return Outcome(Status.FAILED, stopped.failure, stopped.info.node_id)
        except Failure as failure:
            return Outcome(Status.FAILED, failure)
        except Fenced:
            raise
        except Unavailable as error:
            raise AttemptLost from error
        except asyncio.CancelledError:
            _swallow_cancellation()
            return _stopped(execution)
        except Exception as error:
            log.exception("execution %s failed inside the engine", execution.id)
            return Outcome(Status.FAILED, Failure(f"{type(error).__name__} inside the engine"))

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
        """Commit the end. Raises `Fenced` if another attempt owns the execution, or `Unavailable`."""
        context, history = execution.context, execution.history
        if outcome.paused is not None:
            await self._pause(execution, outcome.paused, result)
            return
        completed = outcome.status is Status.COMPLETED and history is not None
        keeps_content = self._keeps_results or not execution.is_result_taken
        finish = Finish(
            execution_id=execution.id,
            attempt=context.attempt,
            status=outcome.status,
            result=result if keeps_content else without_content(result),
            conversation_id=context.conversation_id,
            messages=[as_json(message) for message in new_messages(context)] if completed else [],
            summary=new_summary(context, history.summary) if completed and history else None,
            last_seq=context.events.last_seq + 1,
            contents=context.tracker.contents.take(),
            keeps_content=keeps_content,
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
            contents=execution.context.tracker.contents.take(),
        )
        if not await self._ledger.pause(pause):
            raise Fenced

    async def _release(self, execution: Execution) -> NoReturn:
        """Release the lease, then raise `Draining` for the callers that wait for the result."""
        execution.context.tracker.hand_over(SHUTDOWN)
        contents = execution.context.tracker.contents.take()
        await self._ledger.release(Release(execution.id, execution.context.attempt, contents))
        raise Draining("the service is stopping; the execution continues in another process")

    async def _keep_signals(self, execution: Execution) -> None:
        """Make what a lost attempt has used durable, if the database answers by now; its lease runs out anyway."""
        with suppress(Fenced, Unavailable):
            contents = execution.context.tracker.contents.take()
            await self._ledger.checkpoint(Checkpoint(execution.id, execution.context.attempt, contents=contents))

    async def _forget_checkpoints(self, execution: Execution, status: Status) -> None:
        compiled = execution.compiled
        if compiled is not None and compiled.plan.durability != "none" and status.is_terminal:
            await self._checkpoints.forget(execution.id, execution.context.attempt)


def _stopped(execution: Execution) -> Outcome:
    """The outcome of a walk that was stopped. Raises `Fenced` if it was fenced off or lost."""
    if execution.stop == "fence off":
        raise Fenced
    if execution.stop == "lose":
        raise AttemptLost
    if execution.stop == "hand over":
        return HANDED_OVER
    return Outcome(Status.CANCELLED, cancel_reason=execution.cancel_reason or SHUTDOWN)


def _swallow_cancellation() -> None:
    """Clear the cancellation, which was meant for the walk, so that it does not interrupt the final commit."""
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
            failure = outcome.failure
            assert failure is not None
            tracker.fail(failure.error_type, failure.message, outcome.failed_node_id, failure.error_class)


def _started_data(execution: Execution) -> JsonObject:
    identity, claim = execution.identity, execution.claim
    data = identity.started_data(execution.context.tracker.trace_id)
    return (
        data if identity.attempt == 1 or claim is None else data | {"attempt": identity.attempt, "reason": claim.reason}
    )
