"""Passes signals to one consumer, in the transaction that clears the consumer's mark in the outbox.

The signals either came back from the Collector or were lost there. The owner of an execution comes from control, never
from the signal; a signal whose execution control does not know becomes a dead letter.
"""

from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from engine.graph import JsonObject
from engine.store import control_reads
from telemetry.collector import outbox
from telemetry.collector.outbox import Parcel
from telemetry.health import Health
from telemetry.pipeline.dead_letters import Unreadable, document
from telemetry.pipeline.pipeline import Consumer, ConsumerHung, Pipeline
from telemetry.signals import otlp
from telemetry.signals.otlp import Decoded
from telemetry.signals.records import BadSignal, Batch, Signal

UNREADABLE = "the signal could not be decoded; `problem` says why"
UNKNOWN = "there is no execution with this id"

_Work = Callable[[AsyncConnection, Pipeline, frozenset[str]], Awaitable[int]]


class Intake:
    """The intake of one consumer."""

    def __init__(self, database: Database, consumer: Consumer, health: Health) -> None:
        self._database = database
        self._consumer = consumer
        self._health = health
        self.name = consumer.name

    async def receive(self, decoded: Decoded) -> None:
        """Store signals from the Collector, in one transaction. Raises `Unavailable`, `ConsumerHung`."""

        async def work(connection: AsyncConnection, pipeline: Pipeline, hung: frozenset[str]) -> int:
            ids = [otlp.signal_id(signal) for signal in decoded.signals]
            await outbox.lock(connection, ids)
            known, unknown = await split_by_known(connection, decoded.signals)
            rejected = [(signal.identity.execution_id, document(signal)) for signal in unknown]
            await pipeline.keep_malformed(connection, self.name, decoded.unreadable, UNREADABLE)
            await pipeline.keep_malformed(connection, self.name, rejected, UNKNOWN)
            await pipeline.apply(connection, Batch.of(known), hung)
            return await outbox.confirm(connection, self.name, ids)

        confirmed = await self._transact(work)
        self._health.outbox.confirmed[self.name] += confirmed

    async def serve_unconfirmed(self, after_seconds: float | None) -> int:
        """Store signals of the outbox that did not come back within `after_seconds`, or (null) all; returns how many.

        Raises the errors of `receive`.
        """

        async def work(connection: AsyncConnection, pipeline: Pipeline, hung: frozenset[str]) -> int:
            parcels = await outbox.unconfirmed(connection, self.name, after_seconds)
            signals, unreadable = _read(parcels)
            await pipeline.keep_malformed(connection, self.name, unreadable, UNREADABLE)
            await pipeline.apply(connection, Batch.of(signals), hung)
            return await outbox.confirm(connection, self.name, [parcel.id for parcel in parcels])

        served = await self._transact(work)
        self._health.outbox.served_locally[self.name] += served
        return served

    async def keep_undecodable(self, body: bytes) -> None:
        """Keep a request body that could not be decoded as a dead letter. Raises `Unavailable`."""

        async def work(connection: AsyncConnection, pipeline: Pipeline, hung: frozenset[str]) -> int:
            said: JsonObject = {"type": "bytes", "size": len(body), "base64": b64encode(body).decode()}
            await pipeline.keep_malformed(
                connection, self.name, [(None, said)], "the request body is not an OTLP protobuf message"
            )
            return 0

        await self._transact(work)

    async def _transact(self, work: _Work) -> int:
        """If the consumer hangs, repeat the transaction with its signals as dead letters."""
        try:
            return await self._try(work, frozenset())
        except ConsumerHung as error:
            return await self._try(work, frozenset({error.consumer}))

    async def _try(self, work: _Work, hung: frozenset[str]) -> int:
        pipeline = Pipeline([self._consumer], health=self._health)
        async with self._database.begin() as connection:
            count = await work(connection, pipeline, hung)
        pipeline.committed(Batch([], []))
        return count


def _read(parcels: Sequence[Parcel]) -> tuple[list[Signal], list[Unreadable]]:
    signals: list[Signal] = []
    unreadable: list[Unreadable] = []
    for parcel in parcels:
        try:
            signals.append((otlp.decode_event if parcel.is_event else otlp.decode_span)(parcel.payload))
        except (BadSignal, otlp.Undecodable) as error:
            unreadable.append((parcel.id.partition("/")[0], {"type": "bytes", "problem": str(error)}))
    return signals, unreadable


async def split_by_known(connection: AsyncConnection, signals: Sequence[Signal]) -> tuple[list[Signal], list[Signal]]:
    """Signals whose executions control knows, with their owners from there, and all other signals."""
    owners = await control_reads.get_owners(connection, {signal.identity.execution_id for signal in signals})
    known: list[Signal] = []
    unknown: list[Signal] = []
    for signal in signals:
        owner = owners.get(signal.identity.execution_id)
        if owner is None:
            unknown.append(signal)
        else:
            known.append(_owned(signal, owner))
    return known, unknown


def _owned(signal: Signal, owner: str) -> Signal:
    if signal.identity.owner == owner:
        return signal
    return replace(signal, identity=replace(signal.identity, owner=owner))
