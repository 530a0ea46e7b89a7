"""Gives signals to the consumers, each in a savepoint of its own; signals that one cannot store become dead letters.

The failure of a consumer affects neither another consumer nor the decision in the same transaction.
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
"""After this many failures in a row the consumer is taken for broken, rather than its signals for bad."""

log = logging.getLogger(__name__)


class Consumer(Protocol):
    """Stores signals in its own form. It must tolerate the same signal twice."""

    @property
    def name(self) -> str:
        """The consumer's name in `dead_letter`."""

    async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
        """Store the batch, all or nothing. Any exception means that nothing was stored."""


class ConsumerHung(Exception):
    """A consumer timed out in the middle of a statement, and the transaction was lost with it."""

    def __init__(self, consumer: str) -> None:
        super().__init__(f"the consumer {consumer} timed out")
        self.consumer = consumer


class SavepointLeft(Exception):
    """A consumer neither committed nor rolled back its own savepoint."""

    def __init__(self) -> None:
        super().__init__("the consumer left a savepoint of its own open")


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

        `hung`: consumers that are skipped; their signals become dead letters. Raises `ConsumerHung`, and any error that
        ends the transaction itself.
        """
        for consumer in self._consumers:
            if consumer.name in hung:
                await self._letters.keep(connection, consumer.name, batch.signals(), "the consumer timed out")
            elif (error := await self._try(connection, consumer, batch)) is not None:
                await self._divide(connection, consumer, batch, error)

    def committed(self, batch: Batch) -> None:
        """The caller's transaction was committed: pass the batch to `after_commit`."""
        self._letters.committed()
        if self._after_commit is None:
            return
        try:
            self._after_commit(batch)
        except Exception:
            log.exception("committed signals could not be counted")

    def rolled_back(self) -> None:
        """The caller's transaction failed, and so its dead letters were not stored."""
        self._letters.rolled_back()

    async def keep_malformed(
        self, connection: AsyncConnection, consumer: str, rows: Sequence[Unreadable], reason: str
    ) -> None:
        """Store malformed signals as dead letters, inside the caller's transaction."""
        await self._letters.keep_documents(connection, consumer, rows, reason)

    async def _try(self, connection: AsyncConnection, consumer: Consumer, batch: Batch) -> Exception | None:
        """Let the consumer store the batch; the error, or null if it did."""
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
            # If the transaction is lost, this fails too, and the whole transaction is retried.
            await _roll_back(connection, savepoint)
            return error
        return None

    async def _divide(self, connection: AsyncConnection, consumer: Consumer, batch: Batch, error: Exception) -> None:
        """Bisect a failed batch: good signals are stored, bad ones become dead letters."""
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
    """Roll back to the savepoint, and first the savepoints left open inside it."""
    while (inner := connection.get_nested_transaction()) and inner.sync_transaction is not savepoint.sync_transaction:
        await inner.rollback()
    await savepoint.rollback()


def reason(error: Exception) -> str:
    """The type and first line of an error, without the SQL statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    sentence = next(iter(str(cause).splitlines()), "")
    return redact(f"{type(cause).__name__}: {sentence}"[:500])
