"""The durable decisions of an execution, as the engine sees them.

The bookkeeper implements `Ledger` with its journal; `NullLedger` keeps nothing and is for library use. Spans and events
that the tracker ended before a call become durable in the same commit as the decision.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from engine.graph import JsonObject, OnLost
from engine.result import Status


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What is fixed when an execution is accepted; times are UTC."""

    execution_id: str
    owner: str
    attempt: int
    request: JsonObject
    source: str
    workflow_name: str
    graph_hash: str | None
    graph: bytes | None
    """Canonical form of the effective graph; null if it could not be resolved or validated."""
    conversation_id: str | None
    user_message: JsonObject | None
    """The user's message, saved with a chat's conversation at acceptance."""
    correlation_id: str
    trace_id: str | None
    root_span_id: str | None
    root_started_at: datetime
    on_lost: OnLost


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


class Ledger(Protocol):
    """Where an execution's fate is decided."""

    async def accept(self, acceptance: Acceptance) -> None:
        """Make the execution durable with its signals so far.

        Raises `Unavailable` (nothing was accepted) or `ConversationBusy`.
        """

    def abandon(self, execution_id: str) -> None:
        """Forget the buffered signals of an execution whose acceptance was refused."""

    async def checkpoint(self, execution_id: str) -> None:
        """Make the signals since the last commit durable."""

    async def finish(self, finish: Finish) -> bool:
        """Compare-and-set to a terminal status, with all remaining signals; false if another attempt owns it."""


class NullLedger:
    """Keeps nothing: for library use without a database. Results are the same."""

    async def accept(self, acceptance: Acceptance) -> None:
        """Accept everything."""

    def abandon(self, execution_id: str) -> None:
        """Nothing was kept."""

    async def checkpoint(self, execution_id: str) -> None:
        """Nothing to keep."""

    async def finish(self, finish: Finish) -> bool:
        """The only attempt there is."""
        return True
