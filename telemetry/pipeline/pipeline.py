"""From signals to consumers: each consumer in a savepoint of its own, what it cannot store kept aside.

One consumer's failure reaches neither another consumer nor the decision that the transaction holds.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction

from engine.database.time_limit import is_in_transaction, within
from engine.security.redaction import redact
from telemetry.health import Health
from telemetry.pipeline.dead_letters import DeadLetters, Unreadable
from telemetry.signals.records import Batch, Signal

TIMEOUT_SECONDS = 10.0
_GIVE_UP_AFTER = 24
"""So many failures in a row, and the consumer is broken rather than one of its signals."""

log = logging.getLogger(__name__)


class Consumer(Protocol):
    """Something that keeps what signals say. It must bear the same signal twice."""

    @property
    def name(self) -> str:
        """What it is called in `dead_letter`."""

    async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
        """Store the batch, all or nothing. Any exception means that nothing was stored."""


class ConsumerHung(Exception):
    """A consumer was cut off in the middle of a statement, and the transaction was lost with it."""

    def __init__(self, consumer: str) -> None:
        super().__init__(f"the consumer {consumer} took too long")
        self.consumer = consumer


class SavepointLeft(Exception):
    """A consumer did not say whether something is to be kept."""

    def __init__(self) -> None:
        super().__init__("the consumer has left a savepoint of its own open")


class Pipeline:
    """Gives each batch to every consumer."""

    def __init__(
        self,
        consumers: Sequence[Consumer],
        *,
        health: Health | None = None,
        after_commit: Callable[[Batch], None] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._consumers = list(consumers)
        self._after_commit = after_commit
        self._timeout_seconds = timeout_seconds
        self.health = health or Health()
        self.health.dead_letters.update({consumer.name: 0 for consumer in consumers})
        self._letters = DeadLetters(self.health)

    async def apply(self, connection: AsyncConnection, batch: Batch, hung: frozenset[str] = frozenset()) -> None:
        """Apply the batch inside the caller's transaction.

        `hung`: consumers that get nothing this time; their signals are kept aside. Raises `ConsumerHung`, and whatever
        ends the transaction itself.
        """
        for consumer in self._consumers:
            if consumer.name in hung:
                await self._letters.keep(connection, consumer.name, batch.signals(), "the consumer took too long")
            elif (error := await self._try(connection, consumer, batch)) is not None:
                await self._divide(connection, consumer, batch, error)

    def committed(self, batch: Batch) -> None:
        """The caller's transaction was committed: tell who wants to know what has become durable."""
        self._letters.committed()
        if self._after_commit is None:
            return
        try:
            self._after_commit(batch)
        except Exception:
            log.exception("telling of committed signals failed")

    def rolled_back(self) -> None:
        """The caller's transaction failed, and nothing was kept aside after all."""
        self._letters.rolled_back()

    async def keep_aside(
        self, connection: AsyncConnection, consumer: str, rows: Sequence[Unreadable], reason: str
    ) -> None:
        """Keep aside, inside the caller's transaction, what could not even be read as signals."""
        await self._letters.keep_documents(connection, consumer, rows, reason)

    async def _try(self, connection: AsyncConnection, consumer: Consumer, batch: Batch) -> Exception | None:
        """Why the consumer could not store the batch; null if it did."""
        savepoint = await connection.begin_nested()
        try:
            await within(connection, self._timeout_seconds, consumer.apply(connection, batch))
            _check_savepoint(connection, savepoint)
            await savepoint.commit()
        except Exception as error:
            if not is_in_transaction(connection):
                if isinstance(error, TimeoutError):
                    raise ConsumerHung(consumer.name) from error
                raise
            # Where the transaction is lost this fails too, and the whole of it is tried again.
            await _roll_back(connection, savepoint)
            return error
        return None

    async def _divide(self, connection: AsyncConnection, consumer: Consumer, batch: Batch, error: Exception) -> None:
        """Store what is good and keep the rest aside, by halving what failed."""
        open_parts: list[tuple[list[Signal], Exception]] = [(batch.signals(), error)]
        failures = 0
        while open_parts:
            signals, error = open_parts.pop()
            if len(signals) <= 1 or failures >= _GIVE_UP_AFTER or type(error) is TimeoutError:
                await self._letters.keep(connection, consumer.name, signals, reason(error))
                continue
            middle = len(signals) // 2
            for half in (signals[middle:], signals[:middle]):
                failed = await self._try(connection, consumer, Batch.of(half))
                if failed is None:
                    failures = 0
                else:
                    failures += 1
                    open_parts.append((half, failed))


def _check_savepoint(connection: AsyncConnection, savepoint: AsyncTransaction) -> None:
    innermost = connection.get_nested_transaction()
    if innermost is None or innermost.sync_transaction is not savepoint.sync_transaction:
        raise SavepointLeft


async def _roll_back(connection: AsyncConnection, savepoint: AsyncTransaction) -> None:
    """Back to the savepoint, and out of those that were left open in it."""
    while (inner := connection.get_nested_transaction()) and inner.sync_transaction is not savepoint.sync_transaction:
        await inner.rollback()
    await savepoint.rollback()


def reason(error: Exception) -> str:
    """Which error it was: its first line, without the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    sentence = next(iter(str(cause).splitlines()), "")
    return redact(f"{type(cause).__name__}: {sentence}"[:500])
