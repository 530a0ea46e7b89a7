"""A visit of a node: the context, span, names and time limits that the node gets."""

import asyncio
import random
import time
from dataclasses import dataclass, field

from engine.errors import NodeFailure
from engine.events import EventType, ExecutionEvent
from engine.graph import JsonObject, Retry
from engine.pause import Answer
from engine.resources import Price
from engine.runtime.budget import Reservation
from engine.runtime.context import ExecutionContext
from engine.runtime.names import Names
from engine.runtime.position import Arrival, Parked
from engine.tracing.spans import NodeSpan
from engine.tracing.time_ledger import Phase
from engine.usage import Usage

LONGEST_RETRY_AFTER_SECONDS = 60
"""If a provider asks for a longer delay, the node fails at once."""


@dataclass(frozen=True, slots=True)
class SearchSource:
    """Where the tool `search_docs` looks: a retriever and its options."""

    retriever: str
    options: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VisitedNode:
    """The facts about a node that its visits need."""

    id: str
    type: str
    retry: Retry
    retry_on: frozenset[str]
    retries_calls: bool
    inside: frozenset[str]
    """The nodes that this node dominates if it is a loop: an arrival from them continues the count."""
    search_source: SearchSource


@dataclass(slots=True)
class Visit:
    """One visit of one node; `span`, `attempt` and `timeout` are of the attempt that runs now."""

    context: ExecutionContext
    node: VisitedNode
    number: int
    arrival: Arrival
    names: Names
    span: NodeSpan
    attempt: int = 1
    parked: Parked | None = None
    """The visit has begun in an earlier attempt of the execution, and waited; null for one that begins now."""
    timeout: asyncio.Timeout | None = None
    usage: Usage | None = None
    """What the visit's model calls used, all attempts together; null without a call that reported it."""
    cost_nano_usd: int | None = None
    """What they cost; null without a call of known cost."""

    @property
    def retry(self) -> Retry:
        """The node's retry policy, or its type's."""
        return self.node.retry

    @property
    def path(self) -> str:
        """The node's id behind those of the nodes around it."""
        return self.node.id

    @property
    def from_inside(self) -> bool:
        """The arrival came from a node that this one dominates: a loop goes on counting."""
        return self.arrival.source is not None and self.arrival.source in self.node.inside

    @property
    def idempotency_key(self) -> str:
        """The same on every attempt and after every crash."""
        return f"{self.context.execution_id}:{self.path}:{self.number}"

    def answer_to(self, approval_id: str) -> Answer | None:
        """What was answered to this question; null if nothing was."""
        for answer in self.context.resume.answers if self.context.resume else ():
            if answer.approval_id == approval_id or (answer.approval_id is None and self.parked is not None):
                return answer
        return None

    @property
    def is_due(self) -> bool:
        """The time for which the visit parked is up."""
        if self.parked is None:
            return False
        told = self.context.resume is not None and self.context.resume.is_due
        return told or self.parked["due_at"] <= time.time()

    @property
    def is_out_of_time(self) -> bool:
        """The attempt is being cut off by its own timeout or the run's, not by a cancellation."""
        return (self.timeout is not None and self.timeout.expired()) or self.context.seconds_left <= 0

    def emit(self, event_type: EventType, data: JsonObject) -> int:
        """Emit an event of this visit; returns its number."""
        context, node = self.context, self.node
        ring = context.events
        seq = ring.next_seq()
        ring.append(
            ExecutionEvent(
                event_type,
                seq,
                context.execution_id,
                context.attempt,
                time.time(),
                data,
                node.id,
                node.type,
                self.path,
                self.number,
                self.attempt,
            )
        )
        return seq

    def settle(self, reservation: Reservation, usage: Usage | None, price: Price) -> None:
        """A model call has ended: settle it with the budget and add it up for the visit."""
        self.context.budget.settle(reservation, usage, price)
        if usage is not None:
            self.usage = usage if self.usage is None else self.usage + usage
        if price.nano_usd is not None:
            self.cost_nano_usd = (self.cost_nano_usd or 0) + price.nano_usd

    def can_retry(self, failure: NodeFailure) -> bool:
        """The whole attempt may be repeated, not only its calls."""
        return not self.node.retries_calls and self.may_repeat(
            self.attempt, failure.error_type, failure.retry_after_seconds
        )

    def may_repeat(self, attempt: int, error_type: str | None, asked: float | None = None) -> bool:
        """An attempt is left, the error is one that passes, and there is time for the wait."""
        if attempt >= self.retry.max_attempts or error_type not in self.node.retry_on:
            return False
        if asked is not None and asked > LONGEST_RETRY_AFTER_SECONDS:
            return False
        return max(self._longest_delay_seconds(attempt) / 2, asked or 0.0) < self.context.seconds_left

    def delay_seconds(self, attempt: int, asked: float | None) -> float:
        """The wait behind a failed attempt: exponential with jitter of 50 to 100 %, or what the provider asks for."""
        return max(self._longest_delay_seconds(attempt) * random.uniform(0.5, 1.0), asked or 0.0)

    def _longest_delay_seconds(self, attempt: int) -> float:
        retry = self.retry
        return min(retry.max_delay_seconds, retry.initial_delay_seconds * retry.multiplier ** (attempt - 1))

    async def wait_before_retry(
        self, attempt: int, error_type: str, asked: float | None, *, discard: bool = False
    ) -> None:
        """Emit `node_retrying` and wait; `discard`: readers must drop the tokens of this attempt."""
        await self.wait(self.delay_seconds(attempt, asked), error_type, discard=discard)

    async def wait(self, delay_seconds: float, error_type: str, *, discard: bool) -> None:
        """Emit `node_retrying` and wait for this delay."""
        self.emit(
            EventType.NODE_RETRYING,
            {"error_type": error_type, "delay_ms": round(delay_seconds * 1000), "discard_tokens": discard},
        )
        self.context.tracker.time.enter(Phase.RETRY)
        try:
            await asyncio.sleep(delay_seconds)
        finally:
            self.context.tracker.time.leave(Phase.RETRY)


def is_being_cancelled() -> bool:
    """This task is being cancelled. Any other `CancelledError` is a failure of the code that the node calls."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_cut_off(error: BaseException) -> bool:
    """The error is the cancellation of this task, for example by a timeout."""
    return isinstance(error, asyncio.CancelledError) and is_being_cancelled()
