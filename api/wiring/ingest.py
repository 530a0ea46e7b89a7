"""Builds the receiver that takes signals back from the Collector; it needs no engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.settings import Settings
from api.wiring.database import open_database
from api.wiring.pipelines import build_consumers
from api.wiring.secret_key import build_signer, check_signing
from engine.database.database import Database

if TYPE_CHECKING:
    from telemetry.collector.receiver import Receiver
    from telemetry.metrics.exposition import Metrics


@dataclass(frozen=True, slots=True)
class Ingest:
    """What the Collector's listener needs: the receiver of signals, and the metrics to scrape."""

    settings: Settings
    metrics: "Metrics"
    receiver: "Receiver"


@asynccontextmanager
async def open_ingest(settings: Settings) -> AsyncIterator[Ingest]:
    """An ingest over a database of its own, for processes without an engine. Raises a `SpanloomError`."""
    check_signing(settings)
    async with open_database(settings) as database:
        yield build_ingest(settings, database)


def build_ingest(settings: Settings, database: Database) -> Ingest:
    """An ingest over this database. Its metrics and its receiver share one health."""
    from telemetry.collector.receiver import Receiver
    from telemetry.health import Health
    from telemetry.metrics.exposition import Metrics
    from telemetry.sdk.naming import has_former_names

    health = Health()
    receiver = Receiver(database, build_consumers(settings), health, build_signer(settings))
    metrics = Metrics(database, health, settings.public_address, former_names=has_former_names())
    return Ingest(settings, metrics, receiver)
