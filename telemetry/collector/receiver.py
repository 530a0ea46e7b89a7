"""Receives signals back from the Collector for records and webhooks, and serves locally those that it has lost."""

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from engine.database.database import Database
from engine.errors import SpanloomError
from telemetry.collector.intake import Intake
from telemetry.collector.outbox import RECORDS, WEBHOOKS
from telemetry.collector.refusals import Refusals
from telemetry.collector.signature import Signer
from telemetry.health import Health
from telemetry.pipeline.pipeline import Consumer, ConsumerHung
from telemetry.signals import otlp

CONFIRM_SECONDS = 60.0
"""How long the Collector may take to bring a signal back before it is served locally."""

log = logging.getLogger(__name__)


class Receiver:
    """Handles OTLP requests. Each call returns once all its signals are committed; repeating it does no harm."""

    def __init__(self, database: Database, consumers: Sequence[Consumer], health: Health, signer: Signer) -> None:
        refusals = Refusals(health.outbox)
        self._intakes = {
            consumer.name: Intake(database, consumer, health, signer=signer, refusals=refusals)
            for consumer in consumers
        }
        self.health = health

    @property
    def intakes(self) -> list[Intake]:
        """The intake of each consumer."""
        return list(self._intakes.values())

    async def traces(self, body: bytes) -> int:
        """Store spans in the records; returns how many were refused.

        Raises `Undecodable`, `Unavailable`, `ConsumerHung`.
        """
        return await self._intakes[RECORDS].receive(otlp.decode_traces(body))

    async def logs(self, body: bytes) -> int:
        """Store events in the records. Returns and raises as `traces` does."""
        return await self._intakes[RECORDS].receive(otlp.decode_logs(body))

    async def webhook_logs(self, body: bytes) -> int:
        """Turn events into webhook deliveries. Returns and raises as `traces` does."""
        return await self._intakes[WEBHOOKS].receive(otlp.decode_logs(body))

    async def refuse_body(self, consumer: str, sent: bytes, encoding: str) -> None:
        """Count and keep a request body that could not be decompressed or decoded. Raises `Unavailable`."""
        await self._intakes[consumer].refuse_body(sent, encoding)

    async def serve_all(self) -> None:
        """Store every signal that an earlier run in Collector mode left in the outbox, shipped or not."""
        for intake in self.intakes:
            while await intake.serve_unconfirmed(None):
                continue


class Unconfirmed:
    """Serves signals locally that the Collector has lost, inside its `async with`."""

    def __init__(self, receiver: Receiver, *, after_seconds: float = CONFIRM_SECONDS) -> None:
        self._receiver = receiver
        self._after_seconds = after_seconds

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._serve_often(), name="unconfirmed")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _serve_often(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, max(0.05, self._after_seconds / 4)))
            for intake in self._receiver.intakes:
                try:
                    await self._serve(intake)
                except (SpanloomError, SQLAlchemyError, ConsumerHung, OSError) as error:
                    log.warning(
                        "signals that the Collector did not bring back could not be stored; trying again",
                        extra={"error": str(error)},
                    )

    async def _serve(self, intake: Intake) -> None:
        served = 0
        while count := await intake.serve_unconfirmed(self._after_seconds):
            served += count
        if served:
            fields = {"consumer": intake.name, "signals": served}
            log.warning("the Collector did not bring back all signals; they were stored from the outbox", extra=fields)
