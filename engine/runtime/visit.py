"""The visit of a node: its context, span, names, attempts, retries and timeout."""

import asyncio
import random
import time
from dataclasses import dataclass, field

from engine.errors import NodeFailure
from engine.events import EventType, ExecutionEvent
from engine.graph import JsonObject, Retry
from engine.pause import Answer
from engine.runtime.budget import Reservation
from engine.runtime.context import ExecutionContext
from engine.runtime.names import Names
from engine.runtime.position import Arrival, Parked
from engine.tracing.spans import Bill, NodeSpan
from engine.tracing.time_ledger import Phase
from engine.usage import Usage

PAID_FAILURES = frozenset({"empty_response", "invalid_output"})
"""Failures after a whole answer: another one costs as much again."""

LONGEST_RETRY_AFTER_SECONDS = 60
"""If a provider asks for a longer wait, the node fails at once."""


@dataclass(frozen=True, slots=True)
class RetrieverUse:
    """The retriever that a node asks. Pointers are below its config."""

    name: str
    options: JsonObject = field(default_factory=dict)
    name_pointer: str = "/retriever"
    options_pointer: str = "/options"


@dataclass(frozen=True, slots=True)
class VisitedNode:
    """The properties of a node that its visits need."""

    id: str
    type: str
    retry: Retry
    retry_on: frozenset[str]
    retries_calls: bool
    inside: frozenset[str]
    """The nodes that a loop dominates: an arrival from them continues the loop's count. Empty for other nodes."""
    searched: RetrieverUse
    """What the tool `search_docs` asks."""


@dataclass(slots=True)
class Visit:
    """One visit of one node; `span`, `attempt` and `timeout` belong to the current attempt."""

    context: ExecutionContext
    node: VisitedNode
    number: int
    arrival: Arrival
    names: Names
    span: NodeSpan
    attempt: int = 1
    parked: Parked | None = None
    """Set if the visit started in an earlier attempt of the execution and was parked; null for a new visit."""
    paid_retries: int = 0
    """Retries so far of answers that were paid for and are of no use."""
    timeout: asyncio.Timeout | None = None
    usage: Usage | None = None
    """The usage of the visit's model calls in all attempts; null if no call has reported any."""
    cost_nano_usd: int | None = None
    """The cost of these calls; null if no call has a known cost."""

    @property
    def retry(self) -> Retry:
        """The node's retry policy, or the default of its type."""
        return self.node.retry

    @property
    def path(self) -> str:
        """The path of the node: its id, preceded by the ids of enclosing nodes."""
        return self.node.id

    @property
    def from_inside(self) -> bool:
        """Whether the run arrived from a node inside this loop, which continues its count."""
        return self.arrival.source is not None and self.arrival.source in self.node.inside

    @property
    def idempotency_key(self) -> str:
        """Identifies the visit to tools and providers; the same in every attempt and after every crash."""
        return f"{self.context.execution_id}:{self.path}:{self.number}"

    def answer_to(self, approval_id: str) -> Answer | None:
        """Return the answer to this question; null if it has not been answered."""
        for answer in self.context.resume.answers if self.context.resume else ():
            if answer.approval_id == approval_id or (answer.approval_id is None and self.parked is not None):
                return answer
        return None

    @property
    def is_due(self) -> bool:
        """Whether the waiting time of the parked visit is over."""
        if self.parked is None:
            return False
        resumed_as_due = self.context.resume is not None and self.context.resume.is_due
        return resumed_as_due or self.parked["due_at"] <= time.time()

    @property
    def is_out_of_time(self) -> bool:
        """Whether the attempt's timeout or the run's has expired, as opposed to a cancellation."""
        return (self.timeout is not None and self.timeout.expired()) or self.context.seconds_left <= 0

    def emit(self, event_type: EventType, data: JsonObject) -> int:
        """Emit an event about this visit and return its sequence number."""
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

    def settle(self, reservation: Reservation, bill: Bill) -> None:
        """Settle an ended model call with the budget, and add it to the visit's usage and cost."""
        usage, price = bill
        self.context.has_waiting_calls = True
        self.context.budget.settle(reservation, usage, price)
        if usage is not None:
            self.usage = (self.usage or Usage()) + usage
        if price.nano_usd is not None:
            self.cost_nano_usd = (self.cost_nano_usd or 0) + price.nano_usd

    def can_retry(self, failure: NodeFailure) -> bool:
        """Whether the visit may be retried as a whole after this failure; false if the node retries single calls."""
        return not self.node.retries_calls and self.may_repeat(
            self.attempt, failure.error_type, failure.retry_after_seconds
        )

    def may_repeat(self, attempt: int, error_type: str | None, asked: float | None = None) -> bool:
        """Whether an attempt is left, the error is temporary, and the wait (`asked`: Retry-After) fits the timeout."""
        if attempt >= self.retry.max_attempts or error_type not in self.node.retry_on:
            return False
        if error_type in PAID_FAILURES and self.paid_retries >= self.retry.max_paid_retries:
            return False
        if asked is not None and asked > LONGEST_RETRY_AFTER_SECONDS:
            return False
        return max(self._longest_delay_seconds(attempt) / 2, asked or 0.0) < self.context.seconds_left

    def delay_seconds(self, attempt: int, asked: float | None) -> float:
        """Return the wait after a failed attempt: exponential with 50 to 100 % jitter, but at least `asked` seconds."""
        return max(self._longest_delay_seconds(attempt) * random.uniform(0.5, 1.0), asked or 0.0)

    def _longest_delay_seconds(self, attempt: int) -> float:
        retry = self.retry
        return min(retry.max_delay_seconds, retry.initial_delay_seconds * retry.multiplier ** (attempt - 1))

    async def wait_before_retry(
        self, attempt: int, error_type: str, asked: float | None, *, discard: bool = False
    ) -> None:
        """Emit `node_retrying` and wait; with `discard`, readers must drop the tokens of the failed attempt."""
        await self.wait(self.delay_seconds(attempt, asked), error_type, discard=discard)

    async def wait(self, delay_seconds: float, error_type: str, *, discard: bool) -> None:
        """Emit `node_retrying` with this delay, and wait."""
        self.paid_retries += error_type in PAID_FAILURES
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
    """Return whether this task is being cancelled. Otherwise a `CancelledError` is a failure of the called code."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_cut_off(error: BaseException) -> bool:
    """Return whether the error is this task's own cancellation, including one by a timeout."""
    return isinstance(error, asyncio.CancelledError) and is_being_cancelled()
