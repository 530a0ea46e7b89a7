"""The text of `/metrics` for Prometheus.

Span metrics are updated after each commit and start at 0 with the process. The `spanloom_*` counters of executions,
cost and tokens are exact, because each scrape reads them from the roll-ups.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from engine.database.database import Database
from telemetry.health import Health
from telemetry.metrics.cached_collectors import ScoreCollector, SizeCollector
from telemetry.metrics.collectors import (
    DeliveryCollector,
    HealthCollector,
    LeaseCollector,
    OutboxCollector,
    ServiceCollector,
    TableCollector,
)
from telemetry.metrics.exact_counters import ExactCounters
from telemetry.metrics.single_flight import SingleFlight
from telemetry.metrics.span_metrics import SpanMetrics
from telemetry.signals.records import Batch


class Metrics:
    """Counts committed signals and writes all metrics out for Prometheus."""

    def __init__(self, database: Database, health: Health, public_url: str = "", *, former_names: bool = True) -> None:
        """`former_names`: metrics that the GenAI conventions have renamed are there under both names."""
        self._database = database
        self._flight = SingleFlight[bytes]()
        self._registry = CollectorRegistry()
        self._spans = SpanMetrics(self._registry, former_names=former_names)
        self._exact = ExactCounters()
        self._reading = (
            self._exact,
            TableCollector(),
            OutboxCollector(health.outbox),
            DeliveryCollector(health.deliveries),
            SizeCollector(),
            ScoreCollector(),
        )
        of_this_process = (HealthCollector(health), LeaseCollector(health.leases), ServiceCollector(public_url))
        for collector in (*self._reading, *of_this_process):
            self._registry.register(collector)

    def feed(self, batch: Batch) -> None:
        """Count signals that have become durable."""
        self._spans.feed(batch)

    async def exposition(self, accept: str) -> tuple[str, bytes]:
        """Content type and text, OpenMetrics or plain by the `Accept` header. Raises `Unavailable`."""
        encode, content_type = choose_encoder(accept)
        return content_type, await self._flight(content_type, lambda: self._write_out(encode))

    async def _write_out(self, encode: Callable[[Collector], bytes]) -> bytes:
        """All metrics as they are now. Thousands of lines take long to encode, so that runs in a thread."""
        async with self._database.read() as connection:
            for collector in self._reading:
                await collector.read(connection)
        self._spans.reserve(self._exact.stored)
        return await asyncio.to_thread(encode, _Collected(list(self._registry.collect())))


@dataclass(frozen=True, slots=True)
class _Collected(Collector):
    """Metrics that were collected on the event loop, to be encoded in a thread."""

    families: Sequence[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families
