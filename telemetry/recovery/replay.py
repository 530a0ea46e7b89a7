"""Replays dead letters to their consumer: automatically, after growing waits, and on request.

A consumer that failed because rows were locked, the disk was full or the program had a bug may succeed later. Consumers
are idempotent, so a letter whose signal was stored in the meantime does no harm. Letters are replayed a page at a time;
if a page fails, one by one in transactions of their own, so that a bad letter does not hold up good ones.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import database_time
from engine.database.database import Database
from engine.database.failures import DATABASE_ERRORS
from engine.database.time_limit import within
from engine.graph import JsonObject
from telemetry.collector.intake import split_by_known
from telemetry.collector.refusals import SENTENCES, Reason
from telemetry.health import Health
from telemetry.pipeline.dead_letters import FIRST_WAIT_SECONDS
from telemetry.pipeline.pipeline import TIMEOUT_SECONDS, Consumer, reason
from telemetry.signals.otlp import signal_id
from telemetry.signals.records import Batch, EventRecord, Signal, SpanRecord
from telemetry.signals.sanitize import renamed
from telemetry.store.tables import dead_letter

WAITS_SECONDS = (FIRST_WAIT_SECONDS, 60.0, 600.0, 3_600.0, 21_600.0, 57_600.0)
"""The wait before each automatic try, 23 hours in all; after the last one a letter is replayed only on request."""

LOOK_SECONDS = 5.0
PAGE = 200
LETTER_SECONDS = 1.0
"""The time limit for a single letter, so that a page of slow ones does not block the others for hours."""

_SIGNALS: dict[object, TypeAdapter[Signal]] = {
    "span": TypeAdapter(SpanRecord),
    "event": TypeAdapter(EventRecord),
}
"""Parsers by the `type` that `dead_letters.document` writes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many letters were stored and deleted, and how many failed again and were kept."""

    stored: int = 0
    kept: int = 0

    def __add__(self, other: "Replayed") -> "Replayed":
        return Replayed(self.stored + other.stored, self.kept + other.kept)


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """The dead letters of one consumer that share a reason."""

    consumer: str
    reason: str
    letters: int
    since: datetime
    next_try_at: datetime | None
    """Null if none of them is replayed automatically."""


class Replay:
    """Replays the letters of its consumers. It needs instances of its own, not those of the journal."""

    def __init__(self, database: Database, consumers: Sequence[Consumer], health: Health | None = None) -> None:
        self._database = database
        self._consumers = list(consumers)
        self._health = health or Health()
        self._health.dead_letters_stored.update({consumer.name: 0 for consumer in consumers})

    async def run(self, look_seconds: float = LOOK_SECONDS) -> None:
        """Replay due letters until cancelled."""
        while True:
            await asyncio.sleep(look_seconds)
            try:
                await self.try_due()
            except DATABASE_ERRORS as error:
                log.warning("dead letters could not be replayed; trying again", extra={"error": str(error)})

    async def try_all(self) -> Replayed:
        """Replay every letter now, due or not; letters that fail start the schedule anew. Raises `Unavailable`."""
        names = [consumer.name for consumer in self._consumers]
        async with self._database.begin() as connection:
            due = {"due_at": await database_time(connection), "tries": 0}
            await connection.execute(update(dead_letter).where(_l.consumer.in_(names)).values(due))
        return await self.try_due()

    async def try_due(self) -> Replayed:
        """Replay the letters that are due now. Raises `Unavailable`."""
        async with self._database.read() as connection:
            now = await database_time(connection)
        done = Replayed()
        for consumer in self._consumers:
            while page := await self._read(consumer, now):
                done += await self._try_page(consumer, page, now)
        if done != Replayed():
            log.info("dead letters were replayed", extra={"stored": done.stored, "kept": done.kept})
        return done

    async def _read(self, consumer: Consumer, now: datetime) -> "_Page | None":
        """A page of the letters that have been due longest; null if none is due."""
        due = (
            select(_l.id, _l.tries, _l.signal)
            .where(_l.consumer == consumer.name, _l.due_at <= now)
            .order_by(_l.due_at, _l.id)
            .limit(PAGE)
        )
        async with self._database.read() as connection:
            read = [(_Letter(row.id, row.tries), _signal(row.signal)) for row in await connection.execute(due)]
            if not read:
                return None
            known, _ = await split_by_known(connection, [signal for _, signal in read if signal is not None])
        return _page(read, known)

    async def _try_page(self, consumer: Consumer, page: "_Page", now: datetime) -> Replayed:
        """Replay a page at once or, if that fails, letter by letter."""
        await self._stop_retrying(page)
        done = Replayed(kept=len(page.unreadable) + len(page.of_unknown_executions))
        try:
            return done + await self._store(consumer, page.good, now, TIMEOUT_SECONDS)
        except Exception as error:
            log.debug("a page of dead letters failed and is replayed one by one", extra={"error": reason(error)})
        for letter, signal in page.good.items():
            try:
                done += await self._store(consumer, {letter: signal}, now, LETTER_SECONDS)
            except Exception as error:
                done += await self._postpone(letter, reason(error))
        return done

    async def _store(
        self, consumer: Consumer, letters: Mapping["_Letter", Signal], now: datetime, seconds: float
    ) -> Replayed:
        """Store and delete the letters that are still due, all or none. Raises whatever the consumer raises."""
        asked = [letter.id for letter in letters]
        async with self._database.begin() as connection:
            still_due = select(_l.id).where(_l.id.in_(asked), _l.due_at <= now).order_by(_l.id).with_for_update()
            ids = set((await connection.execute(still_due)).scalars())
            signals = {signal_id(signal): signal for letter, signal in letters.items() if letter.id in ids}
            if signals:
                await within(connection, seconds, consumer.apply(connection, Batch.of(signals.values())))
                await connection.execute(delete(dead_letter).where(_l.id.in_(ids)))
        self._health.dead_letters_stored[consumer.name] += len(ids)
        return Replayed(stored=len(ids))

    async def _postpone(self, letter: "_Letter", why: str) -> Replayed:
        tries = letter.tries + 1
        async with self._database.begin() as connection:
            now = await database_time(connection)
            due = now + timedelta(seconds=WAITS_SECONDS[tries]) if tries < len(WAITS_SECONDS) else None
            values = {"tries": tries, "reason": why, "due_at": due}
            await connection.execute(update(dead_letter).where(_l.id == letter.id).values(values))
        return Replayed(kept=1)

    async def _stop_retrying(self, page: "_Page") -> None:
        """Replay letters no more that no consumer can ever store."""
        if page.unreadable or page.of_unknown_executions:
            no_retry = update(dead_letter).values(due_at=None)
            async with self._database.begin() as connection:
                await connection.execute(no_retry.where(_l.id.in_(page.unreadable)))
                unknown = no_retry.where(_l.id.in_(page.of_unknown_executions))
                await connection.execute(unknown.values(reason=SENTENCES[Reason.UNKNOWN_EXECUTION]))


@dataclass(frozen=True, slots=True)
class _Letter:
    id: str
    tries: int


@dataclass(frozen=True, slots=True)
class _Page:
    """Letters that are replayed together, and the ids of letters that cannot be stored."""

    good: dict[_Letter, Signal]
    unreadable: list[str]
    of_unknown_executions: list[str]
    """Their executions do not exist in control."""


def _page(read: Sequence[tuple[_Letter, Signal | None]], known: Sequence[Signal]) -> _Page:
    """Sort the letters; `known` are the signals whose executions exist, with the owners from control."""
    owned = {signal_id(signal): signal for signal in known}
    page = _Page({}, [], [])
    for letter, signal in read:
        if signal is None:
            page.unreadable.append(letter.id)
        elif signal_id(signal) in owned:
            page.good[letter] = owned[signal_id(signal)]
        else:
            page.of_unknown_executions.append(letter.id)
    return page


def _signal(document: JsonObject) -> Signal | None:
    """The signal in a dead letter; null if the letter holds something else."""
    adapter = _SIGNALS.get(document.get("type"))
    try:
        signal = adapter.validate_python(document) if adapter is not None else None
    except ValidationError:
        return None
    if isinstance(signal, SpanRecord):
        return replace(signal, fields=renamed(signal.fields), attributes=renamed(signal.attributes))
    return signal and replace(signal, attributes=renamed(signal.attributes))


async def group_dead_letters(connection: AsyncConnection) -> list[DeadLetterGroup]:
    """All dead letters, counted by consumer and reason."""
    statement = (
        select(_l.consumer, _l.reason, func.count(), func.min(_l.at), func.min(_l.due_at))
        .group_by(_l.consumer, _l.reason)
        .order_by(_l.consumer, _l.reason)
    )
    return [DeadLetterGroup(*row) for row in await connection.execute(statement)]


_l = dead_letter.c
