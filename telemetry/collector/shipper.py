"""Posts what waits in the outbox to the Collector, for as long as it takes.

One request of spans and one of events may be under way at a time. Nothing counts as delivered but a 2xx that rejects
nothing. What the Collector refuses again and again is left to be served without it.
"""

import asyncio
import gzip
import logging
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx2
from sqlalchemy.exc import SQLAlchemyError

from engine.database.database import Database
from engine.errors import SpanloomError
from telemetry.collector import outbox
from telemetry.collector.outbox import Parcel
from telemetry.health import OutboxHealth
from telemetry.sdk.providers import Collector, Destination
from telemetry.signals import otlp
from telemetry.signals.records import Attributes

MAX_BYTES = 3_000_000
MAX_PAUSE_SECONDS = 5.0
"""Between two tries: a Collector that comes back is noticed within that time."""

POLL_SECONDS = 1.0
"""How often it is looked for signals that another process left."""

_GATHER_SECONDS = 0.05
"""How long signals are collected for a request."""

_FIRST_PAUSE_SECONDS = 0.2
_CLOSE_SECONDS = 5.0
_MOST_REFUSALS = 5
"""So often a signal is offered to a Collector that refuses it."""

_GIVE_UP_AFTER = 24
"""So many refusals of one claim, and it is not divided any further."""

_REFUSING = frozenset({400, 413})

log = logging.getLogger(__name__)


class NotDelivered(Exception):
    """The Collector has not taken the request; the message says why."""


class _Refused(NotDelivered):
    """The Collector answered that it does not want these signals."""


@dataclass(slots=True)
class _Failure:
    """What was not delivered, and why."""

    error: NotDelivered
    parcels: list[Parcel] = field(default_factory=list)

    def to_try_again(self) -> list[Parcel]:
        """Without what was refused too often."""
        if not isinstance(self.error, _Refused):
            return self.parcels
        return [parcel for parcel in self.parcels if parcel.attempts < _MOST_REFUSALS]


@dataclass(slots=True)
class _Lane:
    """The way of one kind of signal."""

    are_events: bool
    destination: Destination
    build: Callable[[Attributes, Iterable[tuple[str, bytes]]], bytes]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    is_reachable: bool = True


class Shipper:
    """Ships while it is entered. `wake` says that there is something new."""

    def __init__(
        self,
        database: Database,
        collector: Collector,
        *,
        resource: Attributes,
        health: OutboxHealth,
        max_bytes: int = MAX_BYTES,
        max_pause_seconds: float = MAX_PAUSE_SECONDS,
    ) -> None:
        self._database = database
        self._collector = collector
        self._resource = resource
        self._health = health
        self._max_bytes = max_bytes
        self._max_pause_seconds = max_pause_seconds
        self._closing = asyncio.Event()
        self._lanes = [
            _Lane(False, collector.traces, otlp.traces_request),
            _Lane(True, collector.logs, otlp.logs_request),
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._client = httpx2.AsyncClient(verify=self._collector.tls, trust_env=False, follow_redirects=False)
        self._tasks = [
            asyncio.create_task(self._ship_on(lane), name=f"shipper-{'events' if lane.are_events else 'spans'}")
            for lane in self._lanes
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ship what is there if the Collector takes it; what it does not stays in the outbox."""
        self._closing.set()
        self.wake()
        _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    def wake(self) -> None:
        """There are new signals in the outbox."""
        for lane in self._lanes:
            lane.wake.set()

    async def _ship_on(self, lane: _Lane) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            is_last_look = self._closing.is_set()
            try:
                shipped = await self._ship(lane)
            except NotDelivered as error:
                self._log_unreachable(lane, error)
            except (SpanloomError, SQLAlchemyError, OSError) as error:
                log.warning("the outbox cannot be read", extra={"error": str(error)})
            else:
                pause = _FIRST_PAUSE_SECONDS
                if not shipped:
                    if is_last_look:
                        return
                    await self._wait(lane)
                continue
            if await self._is_closing_within(pause * random.uniform(0.5, 1.0)):
                return
            pause = min(2 * pause, self._max_pause_seconds)

    async def _wait(self, lane: _Lane) -> None:
        """Until there is something new, or it is time to look."""
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await lane.wake.wait()
        except TimeoutError:
            return
        lane.wake.clear()
        await self._is_closing_within(_GATHER_SECONDS)

    async def _is_closing_within(self, seconds: float) -> bool:
        """Wait that long, unless it is time to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True

    async def _ship(self, lane: _Lane) -> bool:
        """Deliver one request's worth; false if nothing waits. Raises `NotDelivered`."""
        async with self._database.begin() as connection:
            parcels = await outbox.claim(connection, are_events=lane.are_events, max_bytes=self._max_bytes)
        if not parcels:
            return False
        try:
            failure = await self._deliver(lane, parcels)
        except asyncio.CancelledError:
            await self._release(parcels)
            raise
        if failure is not None:
            await self._release(failure.to_try_again())
            raise failure.error
        self._log_reachable(lane)
        return True

    async def _release(self, parcels: Collection[Parcel]) -> None:
        async with self._database.begin() as connection:
            await outbox.release(connection, [parcel.id for parcel in parcels])

    async def _deliver(self, lane: _Lane, parcels: list[Parcel]) -> "_Failure | None":
        """Post the parcels; where the whole is refused, in halves. What has not been delivered, if anything."""
        failure: _Failure | None = None
        open_parts = [parcels]
        refusals = 0
        while open_parts:
            part = open_parts.pop()
            try:
                await self._post(lane, part)
            except NotDelivered as error:
                self._health.failed_posts += 1
                failure = failure or _Failure(error)
                failure.error = error
                if not isinstance(error, _Refused):
                    failure.parcels += [parcel for left in (part, *open_parts) for parcel in left]
                    break
                refusals += 1
                middle = len(part) // 2 if refusals < _GIVE_UP_AFTER else 0
                if middle:
                    open_parts += [part[middle:], part[:middle]]
                else:
                    failure.parcels += part
            else:
                self._health.shipped += len(part)
        return failure if failure is not None and failure.parcels else None

    async def _post(self, lane: _Lane, parcels: list[Parcel]) -> None:
        body = lane.build(self._resource, [(parcel.scope, parcel.payload) for parcel in parcels])
        to = lane.destination
        headers = {**to.headers, "content-type": otlp.CONTENT_TYPE}
        if to.compress:
            headers["content-encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=1)
        try:
            answer = await self._client.post(to.url, content=body, headers=headers, timeout=to.timeout_seconds)
        except (httpx2.HTTPError, OSError) as error:
            raise NotDelivered(f"{type(error).__name__}: {error}") from error
        if answer.status_code in _REFUSING:
            raise _Refused(f"the Collector answers {answer.status_code}")
        if not answer.is_success:
            raise NotDelivered(f"the Collector answers {answer.status_code}")
        self._check(answer.content, lane)

    def _check(self, answer: bytes, lane: _Lane) -> None:
        """A 2xx may still say that signals were rejected, but not which."""
        try:
            rejected = otlp.rejected_signals(answer, are_events=lane.are_events)
        except otlp.Undecodable as error:
            raise NotDelivered("what answers is no Collector") from error
        if rejected:
            raise _Refused(f"the Collector rejects {rejected} signals")

    def _log_unreachable(self, lane: _Lane, error: NotDelivered) -> None:
        """Once, until everything is taken again."""
        if self._health.is_reachable:
            fields = {"endpoint": lane.destination.url, "error": str(error)}
            log.warning("the Collector takes no signals; they are kept until it does", extra=fields)
        lane.is_reachable = self._health.is_reachable = False

    def _log_reachable(self, lane: _Lane) -> None:
        lane.is_reachable = True
        if not self._health.is_reachable and all(each.is_reachable for each in self._lanes):
            self._health.is_reachable = True
            log.info("the Collector takes signals again")
