"""Builds the path that signals take into the books: embedded in this process, or through the Collector."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from api.settings import Settings, SettingsInvalid, check_plain_http
from api.wiring.secret_key import build_signer, check_signing
from api.wiring.shutdown import Patience

if TYPE_CHECKING:
    from engine.database.database import Database
    from telemetry.collector.receiver import Receiver
    from telemetry.journal.sinks import Sink
    from telemetry.metrics.exposition import Metrics
    from telemetry.pipeline.pipeline import Consumer
    from telemetry.sdk.providers import Collector, Telemetry

MakeSink = Callable[[], "Sink"]
"""Makes a sink for one writer; the journal and the sweeper each have their own."""


@dataclass(frozen=True, slots=True)
class PipelineParts:
    """What a pipeline is built from."""

    settings: Settings
    database: "Database"
    telemetry: "Telemetry"
    metrics: "Metrics"
    receiver: "Receiver"
    patience: Patience


def open_pipeline(parts: PipelineParts) -> AbstractAsyncContextManager[MakeSink]:
    """The pipeline that `SPANLOOM_PIPELINE` names. That setting decides nothing else."""
    return _PIPELINES[parts.settings.pipeline](parts)


def build_consumers(settings: Settings) -> list["Consumer"]:
    """The consumers of signals, in the order in which they are applied."""
    from telemetry.records.consumer import Records
    from telemetry.webhooks.consumer import Webhooks

    return [Records(), Webhooks(settings.trace_link)]


@asynccontextmanager
async def _open_embedded(parts: PipelineParts) -> AsyncIterator[MakeSink]:
    """The consumers are applied in the transaction of the decision. First, the outbox is emptied."""
    from telemetry.pipeline.pipeline import Pipeline

    await parts.receiver.serve_all()
    health, feed = parts.receiver.health, parts.metrics.feed
    yield lambda: Pipeline(build_consumers(parts.settings), health=health, after_commit=feed)


@asynccontextmanager
async def _open_collector(parts: PipelineParts) -> AsyncIterator[MakeSink]:
    """Signals go into the outbox, are shipped to the Collector, and come back to the receiver."""
    from telemetry.collector.receiver import Unconfirmed
    from telemetry.collector.shipper import CLOSE_SECONDS, Shipper
    from telemetry.journal.sinks import OutboxSink

    check_signing(parts.settings)
    destination, signer = find_destination(parts.settings), build_signer(parts.settings)
    receiver, health = parts.receiver, parts.receiver.health
    shipper = Shipper(
        parts.database,
        destination,
        resource=parts.telemetry.resource,
        health=health.outbox,
        close_seconds=max(CLOSE_SECONDS, parts.patience.seconds),
    )
    async with shipper, Unconfirmed(receiver, after_seconds=parts.settings.outbox_confirm_seconds):
        names = [intake.name for intake in receiver.intakes]
        former = parts.telemetry.former_names
        yield lambda: OutboxSink(names, health=health, signer=signer, on_commit=shipper.wake, former_names=former)
    if parts.patience.say is not None:
        await _report_unshipped(parts)


async def _report_unshipped(parts: PipelineParts) -> None:
    """Tell the user of a command what is left in the outbox."""
    from telemetry.collector import outbox

    async with parts.database.read() as connection:
        left = (await outbox.read_backlog(connection)).unshipped
    if left:
        parts.patience.report(
            f"{left} signals were not taken by the Collector. They stay in the outbox, and the next process on this"
            " database ships them."
        )


def find_destination(settings: Settings) -> "Collector":
    """The Collector that `OTEL_EXPORTER_OTLP_*` names. Raises `SettingsInvalid` if signals may not travel there."""
    from telemetry.sdk.providers import ExportSettingInvalid, find_collector

    try:
        collector = find_collector()
    except ExportSettingInvalid as error:
        raise SettingsInvalid(str(error)) from None
    for url in (collector.traces.url, collector.logs.url):
        parts = urlsplit(url)
        if parts.scheme == "http":
            check_plain_http(settings, url, parts.hostname or "")
    return collector


_PIPELINES = {"embedded": _open_embedded, "collector": _open_collector}
