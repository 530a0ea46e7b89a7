"""What the receiver refuses: all of it is counted, and some is kept as dead letters, which are never replayed.

Whoever holds the Collector's token can send as much as they like, so letters are few and bounded. Nothing is lost with
what is not kept: a signal that was said stands in the outbox until its consumers have stored it.
"""

import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import json_text
from engine.graph import JsonObject
from telemetry.health import OutboxHealth
from telemetry.pipeline.dead_letters import Unreadable, document
from telemetry.pipeline.pipeline import Pipeline
from telemetry.signals.records import Signal

LETTERS_PER_HOUR = 100
"""How many refused signals and bodies a process keeps within an hour."""

MAX_LETTER_BYTES = 1024 * 1024

_FRAME_BYTES = 1024
"""The part of a letter that is not the body itself."""

_HOUR_SECONDS = 3_600.0


class Reason(StrEnum):
    """Why something was refused, as `/metrics` names it."""

    NOT_OURS = "not_ours"
    UNKNOWN_EXECUTION = "unknown_execution"
    MALFORMED = "malformed"
    UNDECODABLE = "undecodable"


SENTENCES = {
    Reason.NOT_OURS: "this deployment did not say the signal, or it was changed on the way; its signature is not valid",
    Reason.UNKNOWN_EXECUTION: "there is no execution with this id",
    Reason.MALFORMED: "the signal could not be decoded; `problem` says why",
    Reason.UNDECODABLE: "the request body is not an OTLP protobuf message",
}


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused signal or body."""

    reason: Reason
    content: Signal | Unreadable
    """The signal, or the letter about something else."""


def _letter(what: Signal | Unreadable) -> Unreadable:
    """What is kept of it: to be read, and not to be replayed."""
    if isinstance(what, tuple):
        execution_id, said = what
    else:
        execution_id, said = what.identity.execution_id, {"type": "refused", "signal": document(what)}
    size = len(json_text(said))
    return execution_id, said if size <= MAX_LETTER_BYTES else {"type": "refused", "size": size, "is_cut": True}


def body_letter(sent: bytes, encoding: str) -> Unreadable:
    """A request body as it was sent, compressed or not, so that a bomb stays small; cut if it is too large."""
    kept = sent[: (MAX_LETTER_BYTES - _FRAME_BYTES) // 4 * 3]
    letter: JsonObject = {
        "type": "bytes",
        "size": len(sent),
        "encoding": encoding,
        "is_cut": len(kept) < len(sent),
        "base64": b64encode(kept).decode(),
    }
    return None, letter


class Refusals:
    """Counts and keeps what the receiver of this process refuses."""

    def __init__(self, health: OutboxHealth, clock: Callable[[], float] = time.monotonic) -> None:
        self._health = health
        self._clock = clock
        self._kept_at: deque[float] = deque()

    @property
    def room(self) -> int:
        """How many letters may be kept now."""
        while self._kept_at and self._kept_at[0] <= self._clock() - _HOUR_SECONDS:
            self._kept_at.popleft()
        return LETTERS_PER_HOUR - len(self._kept_at)

    async def keep(
        self, connection: AsyncConnection, pipeline: Pipeline, consumer: str, refused: Sequence[Refused]
    ) -> None:
        """Store as many of them as there is room for, in the caller's transaction."""
        kept = refused[: self.room]
        self._kept_at.extend([self._clock()] * len(kept))  # before others are let in
        for reason, sentence in SENTENCES.items():
            letters = [_letter(one.content) for one in kept if one.reason is reason]
            await pipeline.keep_malformed(connection, consumer, letters, sentence)

    def count(self, consumer: str, refused: Sequence[Refused]) -> None:
        """Count them, once they are answered for."""
        self._health.refused.update(Counter((consumer, one.reason.value) for one in refused))
