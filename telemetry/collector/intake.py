"""Passes signals to one consumer, in the transaction that clears the consumer's mark in the outbox.

The signals either came back from the Collector or were lost there. Of those that came back only the ones that this
deployment has signed are believed, and their owner comes from control. All else is refused, and clears no mark.
"""

from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import among
from engine.database.database import Database
from engine.retention import erasure
from engine.store import control_reads
from engine.tracing import semconv
from telemetry.collector import outbox
from telemetry.collector.outbox import Parcel
from telemetry.collector.refusals import SENTENCES, Reason, Refusals, Refused, body_letter
from telemetry.collector.signature import Signer
from telemetry.health import Health
from telemetry.pipeline.dead_letters import Unreadable
from telemetry.pipeline.pipeline import Consumer, ConsumerHung, Pipeline
from telemetry.records.rollups import first_id
from telemetry.signals import otlp
from telemetry.signals.otlp import Decoded
from telemetry.signals.records import BadSignal, Batch, EventRecord, Signal, SpanRecord
from telemetry.store.tables import executions

_T = TypeVar("_T")
_Work = Callable[[AsyncConnection, Pipeline, frozenset[str]], Awaitable[_T]]


class Intake:
    """The intake of one consumer; all of a receiver share the refusals."""

    def __init__(
        self, database: Database, consumer: Consumer, health: Health, *, signer: Signer, refusals: Refusals
    ) -> None:
        self._database = database
        self._consumer = consumer
        self._health = health
        self._signer = signer
        self._refusals = refusals
        self.name = consumer.name

    async def receive(self, decoded: Decoded) -> int:
        """Store signals from the Collector, in one transaction; returns how many were refused.

        Raises `Unavailable`, `ConsumerHung`.
        """
        said, refused_at_once = self._split_by_signature(decoded)

        async def work(connection: AsyncConnection, pipeline: Pipeline, hung: frozenset[str]) -> _Received:
            await outbox.lock(connection, [otlp.signal_id(signal) for signal in said])
            known, unknown = await split_by_known(connection, said)
            refused = [*refused_at_once, *(Refused(Reason.UNKNOWN_EXECUTION, signal) for signal in unknown)]
            await self._refusals.keep(connection, pipeline, self.name, refused)
            await pipeline.apply(connection, Batch.of(await without_pruned(connection, self.name, known)), hung)
            ids = [otlp.signal_id(signal) for signal in known]
            return _Received(await outbox.confirm(connection, self.name, ids), refused)

        nothing_to_store = not (said or self._refusals.room)
        received = _Received(0, refused_at_once) if nothing_to_store else await self._transact(work)
        self._health.outbox.confirmed[self.name] += received.confirmed
        self._refusals.count(self.name, received.refused)
        return len(received.refused)

    def _split_by_signature(self, decoded: Decoded) -> tuple[list[Signal], list[Refused]]:
        """The signals that this deployment has said, and everything else."""
        said: list[Signal] = []
        refused_at_once = [Refused(Reason.MALFORMED, letter) for letter in decoded.unreadable]
        for signal, signature in decoded.signed:
            if self._signer.has_signed(signal, signature):
                said.append(signal)
            else:
                refused_at_once.append(Refused(Reason.NOT_OURS, signal))
        return said, refused_at_once

    async def serve_unconfirmed(self, after_seconds: float | None) -> int:
        """Store signals of the outbox that did not come back within `after_seconds`, or (null) all; returns how many.

        Raises the errors of `receive`.
        """

        async def work(connection: AsyncConnection, pipeline: Pipeline, hung: frozenset[str]) -> int:
            parcels = await outbox.unconfirmed(connection, self.name, after_seconds)
            signals, unreadable = _read(parcels)
            await pipeline.keep_malformed(connection, self.name, unreadable, SENTENCES[Reason.MALFORMED])
            await pipeline.apply(connection, Batch.of(signals), hung)
            return await outbox.confirm(connection, self.name, [parcel.id for parcel in parcels])

        served = await self._transact(work)
        self._health.outbox.served_locally[self.name] += served
        return served

    async def refuse_body(self, sent: bytes, encoding: str) -> None:
        """Count and keep a request body, as it was sent, that could not be decoded. Raises `Unavailable`."""
        refused = [Refused(Reason.UNDECODABLE, body_letter(sent, encoding))]

        async def work(connection: AsyncConnection, pipeline: Pipeline, hung: frozenset[str]) -> None:
            await self._refusals.keep(connection, pipeline, self.name, refused)

        if self._refusals.room:
            await self._transact(work)
        self._refusals.count(self.name, refused)

    async def _transact(self, work: _Work[_T]) -> _T:
        """If the consumer hangs, repeat the transaction with its signals as dead letters."""
        try:
            return await self._try(work, frozenset())
        except ConsumerHung as error:
            return await self._try(work, frozenset({error.consumer}))

    async def _try(self, work: _Work[_T], hung: frozenset[str]) -> _T:
        pipeline = Pipeline([self._consumer], health=self._health)
        async with self._database.begin() as connection:
            done = await work(connection, pipeline, hung)
        pipeline.committed(Batch([], []))
        return done


@dataclass(frozen=True, slots=True)
class _Received:
    """How many marks were cleared, and what was refused."""

    confirmed: int
    refused: list[Refused]


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
    """Signals whose executions exist, with their owners from control or, once retention has deleted the control row,
    from the record; and all other signals.

    A signal of an execution whose content was deleted comes without content.
    """
    ids = {signal.identity.execution_id for signal in signals}
    owners = await _owners(connection, ids)
    signals = stripped(signals, await erasure.buried(connection, ids))
    known: list[Signal] = []
    unknown: list[Signal] = []
    for signal in signals:
        owner = owners.get(signal.identity.execution_id)
        if owner is None:
            unknown.append(signal)
        else:
            known.append(_owned(signal, owner))
    return known, unknown


def stripped(signals: Sequence[Signal], buried: Container[str]) -> list[Signal]:
    """The signals; those of executions in `buried` without the template's parameters."""
    return [
        replace(signal, attributes={**signal.attributes, semconv.PARAMS: "{}"})
        if signal.identity.execution_id in buried and semconv.PARAMS in signal.attributes
        else signal
        for signal in signals
    ]


async def _owners(connection: AsyncConnection, execution_ids: set[str]) -> dict[str, str]:
    owners = await control_reads.get_owners(connection, execution_ids)
    if missing := sorted(execution_ids - owners.keys()):
        pruned = and_(among(connection.dialect, executions.c.id, missing), executions.c.control_pruned_at.is_not(None))
        rows = await connection.execute(select(executions.c.id, executions.c.owner_id).where(pruned))
        owners |= {row.id: row.owner_id for row in rows}
    return owners


_MARKS = {outbox.RECORDS: executions.c.spans_pruned_at, outbox.WEBHOOKS: executions.c.webhooks_pruned_at}
"""What retention has deleted of an execution, by the consumer that stored it."""

_OLD = timedelta(hours=1)
"""Retention deletes nothing of younger executions than this."""


async def without_pruned(connection: AsyncConnection, consumer: str, signals: Sequence[Signal]) -> Sequence[Signal]:
    """The signals, without those that retention has deleted: a Collector may send a signal again after months.

    The records stay locked, so that retention cannot delete between this check and the insertion.
    """
    mark = _MARKS[consumer]
    before = first_id(datetime.now(UTC) - _OLD)
    old = sorted({signal.identity.execution_id for signal in signals if signal.identity.execution_id < before})
    if not old:
        return signals
    rows = select(executions.c.id, mark).where(among(connection.dialect, executions.c.id, old))
    locked = (await connection.execute(rows.order_by(executions.c.id).with_for_update())).all()
    pruned = {id_ for id_, at in locked if at is not None}
    goes = SpanRecord if consumer == outbox.RECORDS else EventRecord
    return [one for one in signals if one.identity.execution_id not in pruned or not isinstance(one, goes)]


def _owned(signal: Signal, owner: str) -> Signal:
    if signal.identity.owner == owner:
        return signal
    return replace(signal, identity=replace(signal.identity, owner=owner))
