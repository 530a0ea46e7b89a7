"""Executions that run in this process: who reads them, and how they are asked to stop."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Literal

from engine.errors import Failure
from engine.events import ExecutionEvent
from engine.graph import OnLost
from engine.identity import ExecutionIdentity
from engine.interpreter.langgraph import CompiledWorkflow
from engine.ledger import Claim
from engine.request import ExecutionRequest
from engine.resources import History, Message
from engine.result import ExecutionResult
from engine.runtime.context import ExecutionContext

Stop = Literal["cancel", "hand over", "fence off"]

CLIENT_LEFT = "the client left"
SHUTDOWN = "the engine is shutting down"


class Execution:
    """One accepted execution that runs in this process, for one attempt."""

    def __init__(
        self, request: ExecutionRequest, identity: ExecutionIdentity, context: ExecutionContext, history: History | None
    ) -> None:
        self.request = request
        self.identity = identity
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
        self._stop: Stop | None = None
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
    def stop(self) -> Stop | None:
        """Why the walk is stopped before its end; the first reason counts, unless the attempt is fenced off."""
        return self._stop

    @property
    def on_lost(self) -> OnLost:
        """What becomes of the execution when its process is gone."""
        if self.claim is not None:
            return self.claim.on_lost
        return self.compiled.plan.on_lost if self.compiled else "fail"

    def _end_walk(self, why: Stop) -> None:
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
