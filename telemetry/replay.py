"""Gives what was kept aside to its consumer again: by itself, after longer and longer waits, and when asked for.

What a consumer could not store because rows were locked, the disk was full or the program had a bug, it can store
later. Consumers bear the same signal twice, so a letter that was stored by other means does no harm.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import SpanloomError
from engine.graph import JsonObject
from engine.store.base import database_time
from engine.store.database import Database
from telemetry.dead_letters import FIRST_WAIT_SECONDS
from telemetry.health import Health
from telemetry.intake import UNKNOWN, UNREADABLE, sort
from telemetry.otlp import signal_id
from telemetry.pipeline import TIMEOUT_SECONDS, Consumer, ConsumerHung, Pipeline
from telemetry.signals import Batch, EventRecord, Signal, SpanRecord
from telemetry.tables import dead_letter

WAITS_SECONDS = (FIRST_WAIT_SECONDS, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0)
"""Before each try; after the last one it is tried only when asked for."""

LOOK_SECONDS = 5.0
PAGE = 200

_TROUBLE = (SpanloomError, SQLAlchemyError, ConsumerHung, OSError)
_SIGNALS: dict[object, TypeAdapter[Signal]] = {
    "span": TypeAdapter(SpanRecord),
    "event": TypeAdapter(EventRecord),
}
"""By the `type` of `dead_letters.document`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many letters went, and how many stayed."""

    stored: int = 0
    kept: int = 0

    @property
    def total(self) -> int:
        """All that were tried."""
        return self.stored + self.kept

    def __add__(self, other: "Replayed") -> "Replayed":
        return Replayed(self.stored + other.stored, self.kept + other.kept)


@dataclass(frozen=True, slots=True)
class Pile:
    """Letters of one consumer with one reason."""

    consumer: str
    reason: str
    letters: int
    since: datetime
    next_try_at: datetime | None
    """Null: none of them is tried again before somebody asks for it."""


class Replay:
    """Tries the letters of these consumers. They are its own, as those of the journal are the journal's."""

    def __init__(self, database: Database, consumers: Sequence[Consumer], health: Health | None = None) -> None:
        self._database = database
        self._consumers = list(consumers)
        self._health = health or Health()
        self._health.dead_letters_stored.update({consumer.name: 0 for consumer in consumers})

    async def run(self, look_seconds: float = LOOK_SECONDS) -> None:
        """Try what is due, until cancelled."""
        while True:
            await asyncio.sleep(look_seconds)
            try:
                await self.try_due()
            except _TROUBLE as error:
                log.warning("signals that were kept aside could not be tried again", extra={"error": str(error)})

    async def try_all(self) -> Replayed:
        """Try every letter now, due or not. Raises `Unavailable`, `ConsumerHung`."""
        names = [consumer.name for consumer in self._consumers]
        async with self._database.begin() as connection:
            now = await database_time(connection)
            await connection.execute(update(dead_letter).where(_l.consumer.in_(names)).values(due_at=now))
        return await self.try_due()

    async def try_due(self) -> Replayed:
        """Try what is due, page after page. Raises `Unavailable`, `ConsumerHung`."""
        done = Replayed()
        for consumer in self._consumers:
            while (page := await self._try_page(consumer)).total:
                done += page
        return done

    async def _try_page(self, consumer: Consumer) -> Replayed:
        """A consumer that hangs gets nothing in a second transaction, which notes that it did."""
        try:
            page = await self._transact(consumer, frozenset())
        except ConsumerHung:
            page = await self._transact(consumer, frozenset({consumer.name}))
        self._health.dead_letters_stored[consumer.name] += page.stored
        if page.total:
            fields = {"consumer": consumer.name, "stored": page.stored, "kept": page.kept}
            log.info("signals that were kept aside were tried again", extra=fields)
        return page

    async def _transact(self, consumer: Consumer, hung: frozenset[str]) -> Replayed:
        async with self._database.begin() as connection:
            page = _Page(await _due(connection, consumer.name))
            signals, strangers = await sort(connection, page.read())
            page.fail(strangers, UNKNOWN, for_good=True)
            pipeline = Pipeline([consumer], timeout_seconds=TIMEOUT_SECONDS, letters=page)
            await pipeline.apply(connection, Batch.of(signals), hung)
            return await page.settle(connection)


@dataclass(frozen=True, slots=True)
class _Letter:
    id: str
    signal: JsonObject
    tries: int


@dataclass(slots=True)
class _Page:
    """Letters that are tried together, and why some of them stay."""

    letters: list[_Letter]
    _ids: dict[str, list[str]] = field(default_factory=dict)
    """The letters of a signal, by what it is known by: it may have been kept aside more than once."""
    _failed: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """By letter: the reason, and whether it is not to be tried again by itself."""

    def read(self) -> list[Signal]:
        """The signals, each once."""
        signals: dict[str, Signal] = {}
        for letter in self.letters:
            adapter = _SIGNALS.get(letter.signal.get("type"))
            try:
                signal = adapter.validate_python(letter.signal) if adapter is not None else None
            except ValidationError:
                signal = None
            if signal is None:
                self._failed[letter.id] = UNREADABLE, True
                continue
            signals[signal_id(signal)] = signal
            self._ids.setdefault(signal_id(signal), []).append(letter.id)
        return list(signals.values())

    def fail(self, signals: Sequence[Signal], reason: str, *, for_good: bool = False) -> None:
        """They stay."""
        for signal in signals:
            for id_ in self._ids[signal_id(signal)]:
                self._failed[id_] = reason, for_good

    async def keep(self, connection: AsyncConnection, consumer: str, signals: Sequence[Signal], reason: str) -> None:
        """As a pipeline asks for it."""
        self.fail(signals, reason)

    async def settle(self, connection: AsyncConnection) -> Replayed:
        """Drop what was stored; say of the rest why not, and when it is tried again."""
        stored = [letter.id for letter in self.letters if letter.id not in self._failed]
        if stored:
            await connection.execute(delete(dead_letter).where(_l.id.in_(stored)))
        now = await database_time(connection)
        for letter in self.letters:
            if letter.id in self._failed:
                reason, for_good = self._failed[letter.id]
                tries = letter.tries + 1
                due = None if for_good or tries >= len(WAITS_SECONDS) else now + timedelta(seconds=WAITS_SECONDS[tries])
                values = {"tries": tries, "reason": reason, "due_at": due}
                await connection.execute(update(dead_letter).where(_l.id == letter.id).values(values))
        return Replayed(len(stored), len(self._failed))


async def _due(connection: AsyncConnection, consumer: str) -> list[_Letter]:
    """A page of them, the longest due first; on PostgreSQL those that nobody else tries just now."""
    now = await database_time(connection)
    statement = (
        select(_l.id, _l.signal, _l.tries)
        .where(_l.consumer == consumer, _l.due_at <= now)
        .order_by(_l.due_at, _l.id)
        .limit(PAGE)
        .with_for_update(skip_locked=True)
    )
    return [_Letter(row.id, row.signal, row.tries) for row in await connection.execute(statement)]


async def piles(connection: AsyncConnection) -> list[Pile]:
    """What lies in `dead_letter`."""
    statement = (
        select(_l.consumer, _l.reason, func.count(), func.min(_l.at), func.min(_l.due_at))
        .group_by(_l.consumer, _l.reason)
        .order_by(_l.consumer, _l.reason)
    )
    return [Pile(*row) for row in await connection.execute(statement)]


_l = dead_letter.c
