"""The handle of an execution that runs in this process: its readers, its result, and ways to stop it."""

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

Stop = Literal["cancel", "hand over", "lose", "fence off"]

CLIENT_LEFT = "the client left"
SHUTDOWN = "the engine is shutting down"


class Execution:
    """One attempt of an execution in this process."""

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
        self.outcome: ExecutionResult | None = None
        """What its callers are told; null until its end is committed."""
        self._stop: Stop | None = None
        self.is_key_given = False
        """Whether the caller sent an Idempotency-Key, with which it may ask for the result again."""
        self._readers = 0
        self._comes_back = False
        self._leaving: asyncio.TimerHandle | None = None

    @property
    def id(self) -> str:
        """UUIDv7 of the execution."""
        return self.context.execution_id

    async def events(self, after: int = 0) -> AsyncGenerator[ExecutionEvent, None]:
        """Yield the events after number `after` up to the closing one. Raises if the end could not be committed."""
        async for event in self.context.events.read(after):
            yield event
        if self.task is not None:
            await asyncio.shield(self.task)

    async def result(self) -> ExecutionResult:
        """The result, once it is committed. Cancelling this wait does not cancel the execution."""
        assert self.task is not None
        return await asyncio.shield(self.task)

    def cancel(self, reason: str) -> bool:
        """Cancel the execution; false if it has already ended. Only the first reason counts."""
        if self.ended:
            return False
        if self.cancel_reason is None:
            self.cancel_reason = reason
            self._end_walk("cancel")
        return True

    def hand_over(self) -> None:
        """Stop here so that another process can continue; with `on_lost: fail` the execution is cancelled instead."""
        if self.on_lost == "fail":
            self.cancel(SHUTDOWN)
        elif not self.ended:
            self._end_walk("hand over")

    def fence_off(self) -> None:
        """Stop without committing anything more: another attempt owns the execution."""
        if not self.ended:
            self._end_walk("fence off")

    def lose(self) -> None:
        """Stop because the database stores no progress: the lease runs out, and `on_lost` decides."""
        if not self.ended:
            self._end_walk("lose")

    @property
    def stop(self) -> Stop | None:
        """Why the walk is stopped early. The first reason counts, but `lose` and `fence off` replace it."""
        return self._stop

    @property
    def on_lost(self) -> OnLost:
        """The policy for the case that this process dies."""
        if self.claim is not None:
            return self.claim.on_lost
        return self.compiled.plan.on_lost if self.compiled else "fail"

    def _end_walk(self, why: Stop) -> None:
        """Cancel the walk. Losing it cancels again: a node may have swallowed the first cancellation."""
        if self._stop is not None and why not in ("lose", "fence off"):
            return
        if self._stop != "fence off":
            self._stop = why
        if self.task is not None and self.accepted.done():
            self.task.cancel()

    def join(self) -> None:
        """Add a caller that waits for this execution."""
        self._readers += 1
        if self._leaving is not None:
            self._leaving.cancel()

    def come_back_later(self) -> None:
        """The caller does not wait any longer, and fetches the result once it is there."""
        self._comes_back = True

    @property
    def is_result_taken(self) -> bool:
        """Whether a caller waits here for the result, so that nobody needs to fetch it later."""
        return self._readers > 0 and not (self._comes_back or self.is_key_given or self.claim is not None)

    def leave(self, grace_seconds: float) -> None:
        """Remove a caller. After the last one the execution is cancelled, unless `on_disconnect` is `continue`."""
        self._readers -= 1
        if self._readers == 0 and not self.ended and self.request.on_disconnect != "continue":
            self._leaving = asyncio.get_running_loop().call_later(grace_seconds, self.cancel, CLIENT_LEFT)
