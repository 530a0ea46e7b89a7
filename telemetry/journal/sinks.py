"""Where the journal puts signals in the transaction that decides: straight to the consumers, or into the outbox.

`Pipeline` is the sink of the embedded mode; `OutboxSink` that of the Collector mode. Nothing else differs.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from telemetry.collector import outbox
from telemetry.collector.outbox import Parcel
from telemetry.health import Health
from telemetry.pipeline.dead_letters import DeadLetters, Unreadable
from telemetry.signals import otlp
from telemetry.signals.records import Batch, EventRecord, Signal


class Sink(Protocol):
    """Keeps signals inside the journal's transaction. The journal uses it for one transaction at a time."""

    health: Health

    async def apply(self, connection: AsyncConnection, batch: Batch, hung: frozenset[str] = frozenset()) -> None:
        """Keep the batch; `hung` names consumers that get nothing this time. Raises `ConsumerHung`."""

    async def keep_aside(
        self, connection: AsyncConnection, consumer: str, rows: Sequence[Unreadable], reason: str
    ) -> None:
        """Keep what could not even be read as signals."""

    def committed(self, batch: Batch) -> None:
        """The transaction was committed."""

    def rolled_back(self) -> None:
        """The transaction failed."""


class OutboxSink:
    """Puts each signal into the outbox, owed by the consumers; `on_commit` is told that there is something to ship."""

    def __init__(self, consumers: Collection[str], *, health: Health, on_commit: Callable[[], None]) -> None:
        self._consumers = frozenset(consumers)
        self._on_commit = on_commit
        self._letters = DeadLetters(health)
        self.health = health

    async def apply(self, connection: AsyncConnection, batch: Batch, hung: frozenset[str] = frozenset()) -> None:
        """One row per signal. No consumer runs here, so none can hang."""
        parcels: dict[str, Parcel] = {}
        for signal in batch.signals():
            try:
                parcel = _parcel(signal)
            except ValueError as error:
                for consumer in outbox.owing(self._consumers, is_event=isinstance(signal, EventRecord)):
                    await self._letters.keep(connection, consumer, [signal], str(error))
            else:
                parcels[parcel.id] = parcel
        await outbox.keep(connection, list(parcels.values()), self._consumers)

    async def keep_aside(
        self, connection: AsyncConnection, consumer: str, rows: Sequence[Unreadable], reason: str
    ) -> None:
        """Keep what could not even be read as signals."""
        await self._letters.keep_documents(connection, consumer, rows, reason)

    def committed(self, batch: Batch) -> None:
        """There is something to ship."""
        self._letters.committed()
        if batch.spans or batch.events:
            self._on_commit()

    def rolled_back(self) -> None:
        """Nothing was kept."""
        self._letters.rolled_back()


def _parcel(signal: Signal) -> Parcel:
    """Raises ValueError for what OTLP cannot say, such as a time before 1970."""
    is_event = isinstance(signal, EventRecord)
    return Parcel(otlp.signal_id(signal), is_event, otlp.scope_of(signal), otlp.encode(signal))
