"""The durable decisions of an execution, as the engine sees them.

`telemetry` implements `Ledger` with its journal; `NullLedger` stores nothing and is for library use. Spans and events
that ended before a call become durable in the same commit as the decision.

A decision of an attempt counts only while this process owns the attempt: it holds the lease, and no newer attempt has
begun. Otherwise the attempt is *fenced off*, and its decisions are discarded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from engine.graph import Json, JsonObject, OnLost
from engine.identity import ExecutionIdentity
from engine.result import Approval, Status
from engine.usage import Carried


@dataclass(frozen=True, slots=True)
class SpanIds:
    """The ids of a span, in hex."""

    trace_id: str
    span_id: str

    @property
    def traceparent(self) -> str:
        """The span as a W3C `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-01"


@dataclass(frozen=True, slots=True)
class Root:
    """The root span of an attempt, stored so that another process can write it if this one dies; ids in hex."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Idempotency:
    """An idempotency key and the digest of its request: a repeated request gets the same execution."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The facts that are fixed when an execution is accepted; times are UTC."""

    identity: ExecutionIdentity
    status: Status
    """`running`: this process runs it and holds its lease. `queued`: any process may claim it."""
    request: JsonObject
    graph: bytes | None
    """Canonical form of the effective graph; null if the graph could not be resolved or is not valid."""
    user_message: JsonObject | None
    """The user's message of a chat, added to the conversation at acceptance."""
    root: Root | None
    """The root span of the first attempt, which a queued execution begins later; null where nothing is recorded."""
    on_lost: OnLost
    idempotency: Idempotency | None = None
    begins: "CallReservation | None" = None
    """Of all calls of an attempt that begins now; null if each call has a reservation of its own."""


@dataclass(frozen=True, slots=True)
class CallReservation:
    """A model call that is about to be made, with upper limits of its usage; money is integer nano-USD.

    With `spend: at_end` one reservation stands for all calls of an attempt, which begins with it.
    """

    call_id: str
    """Hex id of its span; of the root span, if it stands for all calls."""
    provider: str
    """Empty, as the model is, if it stands for all calls."""
    model: str
    upper_tokens: int
    upper_nano_usd: int | None
    """Null if the model has no known price, or all calls have no budget."""

    @property
    def stands_for_all(self) -> bool:
        """Whether it stands for all calls of an attempt, whose signals then wait for the attempt's end."""
        return not self.provider


@dataclass(frozen=True, slots=True)
class CallContent:
    """What one call said and was told, redacted; stored in the commit of the next decision."""

    call_id: str
    """Hex id of its span."""
    operation: str
    """`chat`, `execute_tool` or `retrieval`."""
    node_id: str
    document: str
    """JSON: content by the key of the GenAI conventions, such as `gen_ai.input.messages`."""
    at: datetime
    """When the call ended, UTC."""
    cut: Sequence[str] = ()
    """The keys whose value was cut."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Makes an attempt's signals so far durable, and reserves the model call that begins.

    The commit that makes the call's span durable also drops its reservation, so a process that dies between the end of
    a call and that commit leaves the call among the unfinished ones.
    """

    execution_id: str
    attempt: int
    root: Root | None = None
    """Set in the first checkpoint of a claimed attempt."""
    identity: ExecutionIdentity | None = None
    """Set together with `root`."""
    begins: CallReservation | None = None
    can_wait: bool = False
    """The signals may become durable with the next decision, as long as the ledger bounds the time until then."""
    contents: Sequence[CallContent] = ()


@dataclass(frozen=True, slots=True)
class Pause:
    """The end of an attempt that waits for answers or for a time."""

    execution_id: str
    attempt: int
    result: JsonObject
    approvals: Sequence[Approval] = ()
    due_at: datetime | None = None
    """When the execution continues without an answer, UTC."""
    last_seq: int = 0
    contents: Sequence[CallContent] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """The end of an attempt whose process stops. The policy `on_lost` decides what happens to the execution."""

    execution_id: str
    attempt: int
    contents: Sequence[CallContent] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an attempt: its status, its result and the changes to its conversation."""

    execution_id: str
    attempt: int
    status: Status
    result: JsonObject
    conversation_id: str | None = None
    messages: list[JsonObject] = field(default_factory=list)
    """New messages for the conversation, in order; empty unless the execution completed."""
    summary: JsonObject | None = None
    """The conversation's new summary `{text, covers}`, or null for no change."""
    last_seq: int = 0
    """Number of the closing event, so that a reader who reconnects does not get the event twice."""
    contents: Sequence[CallContent] = ()
    keeps_content: bool = True
    """False: `result` holds no content, and the request's content is deleted with this decision."""


ClaimReason = Literal["queued", "answer", "timer", "crash", "shutdown"]


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """The answer to an approval."""

    approval_id: str
    choice: str
    data: Json
    answered_by: str


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution that this process has claimed, to run its first attempt or a new one."""

    identity: ExecutionIdentity
    """Its `attempt` is the number of the new attempt."""
    reason: ClaimReason
    request: JsonObject
    graph: bytes | None
    age_seconds: float
    """Seconds since acceptance, by the database's clock."""
    previous_root: Root | None
    """Root span of the previous attempt, to which the new root span links; null for a first attempt."""
    carried: Carried
    on_lost: OnLost
    first_root: SpanIds | None = None
    """Root span of the first attempt: a queued execution begins it, and later root spans are its children."""
    caller_trace: str | None = None
    """The caller's `traceparent`, of an execution that was queued before root spans had their ids at acceptance."""
    answers: Sequence[GivenAnswer] = ()
    """Answers to the questions of earlier attempts, the newest last."""
    paused_seconds: float = 0.0
    """Total duration of all pauses."""


class Ledger(Protocol):
    """Decides and stores how executions begin, pause and end."""

    is_durable: bool
    """Whether decisions survive this process."""

    async def accept(self, acceptance: Acceptance) -> None:
        """Make the execution durable with its signals so far.

        Raises `Unavailable`, `ConversationBusy`, `QueueFull`, `IdempotencyMismatch` or `Replayed`; in each case nothing
        was accepted.
        """

    def abandon(self, execution_id: str, attempt: int = 1) -> None:
        """Discard the buffered signals of an attempt that was not accepted or is fenced off."""

    async def claim(self, limit: int) -> list[Claim]:
        """Claim at most `limit` executions that are queued, answered, due, or lost by another process."""

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Make the signals since the last commit durable, now or if it `can_wait` soon.

        Raises `Fenced` or, after a bounded wait, `Unavailable`.
        """

    async def pause(self, pause: Pause) -> bool:
        """Like `finish`, with the status `paused`; its due time or an answer makes the execution claimable again."""

    async def release(self, release: Release) -> bool:
        """Write the remaining signals and release the lease for another process; false if fenced off."""

    async def finish(self, finish: Finish) -> bool:
        """Set a terminal status and write the remaining signals; false if another attempt owns the execution."""


class NullLedger:
    """Stores nothing: for library use without a database. Results are the same."""

    is_durable = False

    async def accept(self, acceptance: Acceptance) -> None:
        """Accept everything."""

    def abandon(self, execution_id: str, attempt: int = 1) -> None:
        """Do nothing: nothing is buffered."""

    async def claim(self, limit: int) -> list[Claim]:
        """Return an empty list: there is no queue."""
        return []

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Do nothing: nothing is stored."""

    async def pause(self, pause: Pause) -> bool:
        """Return true: there is no other attempt."""
        return True

    async def release(self, release: Release) -> bool:
        """Return true: there is no other process to continue."""
        return True

    async def finish(self, finish: Finish) -> bool:
        """Return true: there is no other attempt."""
        return True
