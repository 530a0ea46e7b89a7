"""The dispatcher: claims queued, answered, due and lost executions and runs them in this process.

Requests in this process wake it; it finds executions from other processes by polling once per second.
"""

import asyncio
import logging

from engine.database.failures import DATABASE_ERRORS
from engine.engine import ExecutionEngine
from engine.ledger import Claim, Ledger

SLOTS = 64
POLL_SECONDS = 1.0


log = logging.getLogger(__name__)


class Dispatcher:
    """Claims executions while it has free slots; each claim holds a slot until its attempt ends."""

    def __init__(
        self, engine: ExecutionEngine, ledger: Ledger, *, slots: int = SLOTS, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._slots = slots
        self._poll_seconds = poll_seconds
        self._held: set[tuple[str, int]] = set()
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_stopped = False

    @property
    def held(self) -> int:
        """How many claimed executions run here."""
        return len(self._held)

    def wake(self) -> None:
        """Poll now, because an execution was queued or a slot became free."""
        self._news.set()

    async def run(self) -> None:
        """Claim and run executions until stopped. Database errors are logged and retried."""
        while not self.is_stopped:
            self._news.clear()
            if await self._claim_all():
                continue
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def stop(self) -> None:
        """Stop claiming. Waits until a claim in progress has started its executions."""
        self.is_stopped = True
        self.wake()
        await self._idle.wait()

    async def _claim_all(self) -> bool:
        """Fill the free slots; true if there may be more to claim. A claim in progress cannot be cancelled."""
        free = self._slots - len(self._held)
        if free <= 0:
            return False
        self._idle.clear()
        claiming = asyncio.create_task(self._claim(free), name="dispatcher claim")
        claiming.add_done_callback(lambda _: self._idle.set())
        return await asyncio.shield(claiming) == free

    async def _claim(self, free: int) -> int:
        try:
            claims = await self._ledger.claim(free)
        except DATABASE_ERRORS as error:
            log.warning("executions could not be claimed; retrying", extra={"error": str(error)})
            return 0
        self._held |= {_attempt(claim) for claim in claims}
        outcomes = await asyncio.gather(*map(self._take_on, claims), return_exceptions=True)
        for claim, outcome in zip(claims, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                self._give_up(claim, outcome)
        return len(claims)

    async def _take_on(self, claim: Claim) -> None:
        execution = await self._engine.take_on(claim)
        assert execution.task is not None
        execution.task.add_done_callback(lambda _: self._free(claim))
        if (error := execution.accepted.exception()) is not None:
            log.warning("an attempt could not begin", extra=_fields(claim) | {"error": str(error)})

    def _give_up(self, claim: Claim, error: BaseException) -> None:
        """Let the lease expire: the sweeper then decides what happens to the execution, and counts the crash."""
        log.error("a claimed execution could not be taken on", exc_info=error, extra=_fields(claim))
        self._ledger.abandon(*_attempt(claim))
        self._free(claim)

    def _free(self, claim: Claim) -> None:
        self._held.discard(_attempt(claim))
        self.wake()


def _attempt(claim: Claim) -> tuple[str, int]:
    return claim.identity.execution_id, claim.identity.attempt


def _fields(claim: Claim) -> dict[str, str | int]:
    return {"execution_id": claim.identity.execution_id, "attempt": claim.identity.attempt}
