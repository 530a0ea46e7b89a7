"""Posts the signals of the outbox to the Collector, retrying without limit.

At most one request of spans and one of events is in flight. Only a 2xx response that rejects nothing counts as
delivered. Signals that the Collector refuses repeatedly are no longer posted and are served locally.
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
"""The longest pause between two tries, after which a Collector that is back is noticed."""

POLL_SECONDS = 1.0
"""How often the outbox is polled for signals that another process left."""

_GATHER_SECONDS = 0.05
"""How long signals are collected for a request."""

_FIRST_PAUSE_SECONDS = 0.2
CLOSE_SECONDS = 5.0
"""How long the shipper goes on when it is closed, as long as the Collector takes what it ships."""
_MOST_REFUSALS = 5
"""How often a signal is posted that the Collector refuses."""

_GIVE_UP_AFTER = 24
"""After this many refusals a claim is not divided any further."""

_REFUSING = frozenset({400, 413})

log = logging.getLogger(__name__)


class NotDelivered(Exception):
    """The Collector did not accept the request; the message says why."""


class _Refused(NotDelivered):
    """The Collector rejected these signals."""


@dataclass(slots=True)
class _Failure:
    """Signals that were not delivered, and the error."""

    error: NotDelivered
    parcels: list[Parcel] = field(default_factory=list)

    def to_try_again(self) -> list[Parcel]:
        """The signals to post again: all but those refused too often."""
        if not isinstance(self.error, _Refused):
            return self.parcels
        return [parcel for parcel in self.parcels if parcel.attempts < _MOST_REFUSALS]


@dataclass(slots=True)
class _Lane:
    """The destination and state of one kind of signal."""

    are_events: bool
    destination: Destination
    build: Callable[[Attributes, Iterable[tuple[str, bytes]]], bytes]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    is_reachable: bool = True


class Shipper:
    """Ships signals inside its `async with`. `wake` announces new ones."""

    def __init__(
        self,
        database: Database,
        collector: Collector,
        *,
        resource: Attributes,
        health: OutboxHealth,
        max_bytes: int = MAX_BYTES,
        max_pause_seconds: float = MAX_PAUSE_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._close_seconds = close_seconds
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
        """Try to ship the rest; signals that cannot be delivered stay in the outbox."""
        self._closing.set()
        self.wake()
        _, late = await asyncio.wait(self._tasks, timeout=self._close_seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    def wake(self) -> None:
        """Announce new signals in the outbox."""
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
                log.warning("the outbox could not be read; trying again", extra={"error": str(error)})
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
        """Wait for new signals, or for the next poll."""
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await lane.wake.wait()
        except TimeoutError:
            return
        lane.wake.clear()
        await self._is_closing_within(_GATHER_SECONDS)

    async def _is_closing_within(self, seconds: float) -> bool:
        """Wait; true as soon as the shipper is closing."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True

    async def _ship(self, lane: _Lane) -> bool:
        """Ship one request; false if the outbox has nothing to ship. Raises `NotDelivered`."""
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
        """Post the parcels, in halves after a refusal. Returns the parcels that were not delivered, or null."""
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
        """Raise if a 2xx response rejects signals; it does not say which ones."""
        try:
            rejected = otlp.rejected_signals(answer, are_events=lane.are_events)
        except otlp.Undecodable as error:
            raise NotDelivered("the response is not an OTLP response; check the endpoint") from error
        if rejected:
            raise _Refused(f"the Collector rejects {rejected} signals")

    def _log_unreachable(self, lane: _Lane, error: NotDelivered) -> None:
        """Log it once, until everything is accepted again."""
        if self._health.is_reachable:
            fields = {"endpoint": lane.destination.url, "error": str(error)}
            log.warning("the Collector accepts no signals; they stay in the outbox until it does", extra=fields)
        lane.is_reachable = self._health.is_reachable = False

    def _log_reachable(self, lane: _Lane) -> None:
        lane.is_reachable = True
        if not self._health.is_reachable and all(each.is_reachable for each in self._lanes):
            self._health.is_reachable = True
            log.info("the Collector accepts signals again")
