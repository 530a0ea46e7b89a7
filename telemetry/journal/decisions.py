"""A decision of one attempt, with the signals that become durable together with it."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import storable
from engine.graph import JsonObject
from engine.ledger import Acceptance, Checkpoint, Finish, Pause, Release
from engine.result import Status
from engine.store.control_reads import DecidedState, get_decided_states
from telemetry.journal.buffers import Buffer
from telemetry.sdk.conversion import event_record, span_record
from telemetry.signals.records import Attempt, BadSignal, Batch, Kind

Item = Acceptance | Checkpoint | Pause | Release | Finish


@dataclass(slots=True, eq=False)
class Decision:
    """A decision that its caller waits for, with the signals of the attempt since its last commit."""

    item: Item
    done: "asyncio.Future[bool]"
    """True once it is durable, false if the attempt is fenced off."""
    repeated: bool = False
    """An earlier commit of this decision seemed to fail, but it may have been made."""
    taken: Buffer | None = None
    """The buffer that the signals were read from; given back if the commit fails."""
    batch: Batch = field(default_factory=lambda: Batch([], []))
    unreadable: list[tuple[str | None, JsonObject]] = field(default_factory=list)

    @classmethod
    def of(cls, item: Item, *, repeated: bool = False) -> Self:
        """An open decision, on the running event loop."""
        return cls(item, asyncio.get_running_loop().create_future(), repeated)

    @property
    def attempt(self) -> Attempt:
        """The attempt that decides."""
        item = self.item
        if isinstance(item, Acceptance):
            return item.identity.execution_id, item.identity.attempt
        return item.execution_id, item.attempt

    def load(self, taken: Buffer) -> None:
        """Read the signals of a buffer into the batch."""
        self.taken = taken
        for span in taken.spans:
            try:
                self.batch.spans.append(span_record(span))
            except BadSignal as bad:
                self._cannot_read("span", span.name, bad)
        for event in taken.events:
            try:
                self.batch.events.append(event_record(event))
            except BadSignal as bad:
                self._cannot_read("event", event.log_record.event_name, bad)

    def _cannot_read(self, kind: str, name: str | None, bad: BadSignal) -> None:
        self.unreadable.append((self.attempt[0], {"type": kind, "name": name, "problem": str(bad)}))

    def settle(self, *, fenced: bool) -> None:
        """Tell the caller that the decision was made, or refused because the attempt is fenced off."""
        if not self.done.done():
            self.done.set_result(not fenced)

    def refuse(self, error: Exception) -> None:
        """Tell the caller why the decision was not made."""
        if not self.done.done():
            self.done.set_exception(error)


def joined(decisions: Iterable[Decision]) -> Batch:
    """The signals of all decisions."""
    batch = Batch([], [])
    for decision in decisions:
        batch.spans.extend(decision.batch.spans)
        batch.events.extend(decision.batch.events)
    return batch


def ended_reservations(batch: Batch) -> Iterator[tuple[str, str]]:
    """Execution and span id of each reservation whose span is in the batch: a model call's, or a whole attempt's."""
    kinds = (Kind.MODEL, Kind.WORKFLOW)
    return ((span.identity.execution_id, span.span_id) for span in batch.spans if span.kind in kinds)


async def already_made(connection: AsyncConnection, repeated: Sequence[Decision]) -> list[Decision]:
    """The decisions that an earlier commit has made whose answer was lost."""
    if not repeated:
        return []
    states = await get_decided_states(connection, [decision.attempt[0] for decision in repeated])
    found = {(state.execution_id, state.attempt): state for state in states}
    return [decision for decision in repeated if _is_made(decision.item, found.get(decision.attempt))]


def _is_made(item: Item, state: DecidedState | None) -> bool:
    if state is None:
        return False
    match item:
        case Finish():
            return state.status == item.status and state.result == storable(item.result)
        case Pause():
            return state.status == Status.PAUSED and state.result == storable(item.result)
        case Release():
            return state.claim_reason == "shutdown"
        case _:
            return False
