"""The destination of signals within the journal's transaction: the consumers, or the outbox.

`Pipeline` is the sink in embedded mode, `OutboxSink` in Collector mode. The modes differ in nothing else.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from telemetry.collector import outbox
from telemetry.collector.outbox import Parcel
from telemetry.collector.signature import Signer
from telemetry.health import Health
from telemetry.pipeline.dead_letters import DeadLetters, Unreadable
from telemetry.signals import otlp
from telemetry.signals.records import Batch, EventRecord, Signal


class Sink(Protocol):
    """Stores signals inside the journal's transaction. The journal uses it for one transaction at a time."""

    health: Health

    async def apply(self, connection: AsyncConnection, batch: Batch, hung: frozenset[str] = frozenset()) -> None:
        """Store the batch, but not for the consumers in `hung`. Raises `ConsumerHung`."""

    async def keep_malformed(
        self, connection: AsyncConnection, consumer: str, rows: Sequence[Unreadable], reason: str
    ) -> None:
        """Store malformed signals as dead letters."""

    def committed(self, batch: Batch) -> None:
        """The transaction was committed."""

    def rolled_back(self) -> None:
        """The transaction failed."""


class OutboxSink:
    """Puts each signal into the outbox, signed and owed to the consumers; calls `on_commit` after such a commit."""

    def __init__(
        self,
        consumers: Collection[str],
        *,
        health: Health,
        signer: Signer,
        on_commit: Callable[[], None],
        former_names: bool = True,
    ) -> None:
        """`former_names`: spans leave with names that the GenAI conventions have changed, too."""
        self._consumers = frozenset(consumers)
        self._signer = signer
        self._former_names = former_names
        self._on_commit = on_commit
        self._letters = DeadLetters(health)
        self.health = health

    async def apply(self, connection: AsyncConnection, batch: Batch, hung: frozenset[str] = frozenset()) -> None:
        """Insert one row per signal. No consumer runs here, so none can hang."""
        parcels: dict[str, Parcel] = {}
        for signal in batch.signals():
            try:
                parcel = self._parcel(signal)
            except ValueError as error:
                for consumer in outbox.owing(self._consumers, is_event=isinstance(signal, EventRecord)):
                    await self._letters.keep(connection, consumer, [signal], str(error))
            else:
                parcels[parcel.id] = parcel
        await outbox.keep(connection, list(parcels.values()), self._consumers)

    async def keep_malformed(
        self, connection: AsyncConnection, consumer: str, rows: Sequence[Unreadable], reason: str
    ) -> None:
        """Store malformed signals as dead letters."""
        await self._letters.keep_documents(connection, consumer, rows, reason)

    def committed(self, batch: Batch) -> None:
        """Report that there are signals to ship."""
        self._letters.committed()
        if batch.spans or batch.events:
            self._on_commit()

    def rolled_back(self) -> None:
        """Forget the dead letters of the transaction."""
        self._letters.rolled_back()

    def _parcel(self, signal: Signal) -> Parcel:
        """Encode the signal. Raises ValueError if OTLP cannot represent it, such as a time before 1970."""
        payload = otlp.encode(signal, self._signer.sign, former_names=self._former_names)
        return Parcel(otlp.signal_id(signal), isinstance(signal, EventRecord), otlp.scope_of(signal), payload)
