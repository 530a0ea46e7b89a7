"""The durable decisions of an execution, as the engine sees them.

The bookkeeper implements `Ledger` with its journal; `NullLedger` keeps nothing and is for library use. Spans and events
that the tracker ended before a call become durable in the same commit as the decision.

A decision of an attempt counts only while this process owns the attempt: it holds the lease, and no newer attempt has
begun. Any other is *fenced off*, and nothing of it is kept.
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
class Root:
    """The root span of an attempt, kept so that it can be written by others should the process die; ids in hex."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The key that makes a repeated request the same execution, and the digest of what it asks to run."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What is fixed when an execution is accepted; times are UTC."""

    identity: ExecutionIdentity
    status: Status
    """`running`: this process runs it and holds its lease. `queued`: whoever claims it."""
    request: JsonObject
    graph: bytes | None
    """Canonical form of the effective graph; null if it could not be resolved or validated."""
    user_message: JsonObject | None
    """The user's message, saved with a chat's conversation at acceptance."""
    root: Root | None
    """Null for a queued execution, and where nothing is recorded."""
    on_lost: OnLost
    caller_trace: str | None = None
    """The caller's `traceparent`, which a queued execution joins once it runs."""
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class CallReservation:
    """A model call that is about to be made, and what it may use at most; money is integer nano-USD."""

    call_id: str
    """Hex id of its span."""
    provider: str
    model: str
    upper_tokens: int
    upper_nano_usd: int | None
    """Null where the price is not known."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What an attempt makes durable while it runs: its signals, and the model call that begins.

    A reservation is dropped by itself with the commit that makes the call's span durable.
    """

    execution_id: str
    attempt: int
    root: Root | None = None
    """With the first checkpoint of a claimed attempt."""
    identity: ExecutionIdentity | None = None
    """Together with `root`."""
    begins: CallReservation | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """An attempt that ends because it waits: for answers, or for a time."""

    execution_id: str
    attempt: int
    result: JsonObject
    approvals: Sequence[Approval] = ()
    due_at: datetime | None = None
    """When it goes on without an answer, UTC."""
    last_seq: int = 0


@dataclass(frozen=True, slots=True)
class Release:
    """An attempt that ends because its process stops; what becomes of the execution, its policy `on_lost` says."""

    execution_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an attempt: its status, its result and what the conversation learns from it."""

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
    """Number of the closing event, so that a reader who comes back is not told twice."""


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
    """An execution that this process has taken on: a new attempt, or the first one of a queued execution."""

    identity: ExecutionIdentity
    """With the number of the new attempt."""
    reason: ClaimReason
    request: JsonObject
    graph: bytes | None
    age_seconds: float
    """Since acceptance, by the database's clock."""
    previous_root: Root | None
    """Of the attempt before, which the new root span links to."""
    carried: Carried
    on_lost: OnLost
    caller_trace: str | None = None
    answers: Sequence[GivenAnswer] = ()
    """To the questions of earlier attempts, the newest last."""
    paused_seconds: float = 0.0
    """In all pauses together."""


class Ledger(Protocol):
    """Where an execution's fate is decided."""

    is_durable: bool
    """Whether what is said survives this process."""

    async def accept(self, acceptance: Acceptance) -> None:
        """Make the execution durable with its signals so far.

        Raises `Unavailable`, `ConversationBusy`, `QueueFull`, `IdempotencyMismatch` or `Replayed`; then nothing was
        accepted.
        """

    def abandon(self, execution_id: str, attempt: int = 1) -> None:
        """Forget the buffered signals of an attempt that was not accepted, or is fenced off."""

    async def claim(self, limit: int) -> list[Claim]:
        """Take on at most `limit` executions that wait for a process: queued, answered, due, or left by another."""

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Make the signals since the last commit durable. Raises `Fenced` or, after a bounded wait, `Unavailable`."""

    async def pause(self, pause: Pause) -> bool:
        """As `finish`, but to `paused`; a due time or an answer makes it claimable again."""

    async def release(self, release: Release) -> bool:
        """Give the lease back with all remaining signals, so that another process goes on; false if fenced off."""

    async def finish(self, finish: Finish) -> bool:
        """Compare-and-set to a terminal status, with all remaining signals; false if another attempt owns it."""


class NullLedger:
    """Keeps nothing: for library use without a database. Results are the same."""

    is_durable = False

    async def accept(self, acceptance: Acceptance) -> None:
        """Accept everything."""

    def abandon(self, execution_id: str, attempt: int = 1) -> None:
        """Nothing was kept."""

    async def claim(self, limit: int) -> list[Claim]:
        """Nothing waits."""
        return []

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Nothing to keep."""

    async def pause(self, pause: Pause) -> bool:
        """The only attempt there is."""
        return True

    async def release(self, release: Release) -> bool:
        """Nobody would go on."""
        return True

    async def finish(self, finish: Finish) -> bool:
        """The only attempt there is."""
        return True
