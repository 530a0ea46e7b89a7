"""Metrics that take longer to read than a scrape should: read from time to time, and shown again in between."""

import time
from abc import abstractmethod
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.ext.asyncio import AsyncConnection

from telemetry.reads.sizes import Sizes, read_sizes

SIZES_SECONDS = 300.0


class _Cached(Collector):
    """A collector whose values are read at most every so many seconds."""

    seconds: float

    def __init__(self) -> None:
        self._until = 0.0

    async def read(self, connection: AsyncConnection) -> None:
        """Read the values that the next `collect` shows, if it is time."""
        if time.monotonic() >= self._until:
            await self._read(connection)
            self._until = time.monotonic() + self.seconds

    @abstractmethod
    async def _read(self, connection: AsyncConnection) -> None:
        """Read the values."""


class SizeCollector(_Cached):
    """The size of the database and of its tables."""

    seconds = SIZES_SECONDS

    def __init__(self) -> None:
        super().__init__()
        self._sizes = Sizes()

    async def _read(self, connection: AsyncConnection) -> None:
        self._sizes = await read_sizes(connection)

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("spanloom_database_bytes", "Size of the database", value=self._sizes.total)
        if self._sizes.free is not None:
            yield GaugeMetricFamily(
                "spanloom_database_free_bytes", "Free pages in the file of SQLite", value=self._sizes.free
            )
        tables = GaugeMetricFamily(
            "spanloom_table_bytes", "Size of a table with its indexes; of SQLite files up to 256 MiB", labels=("table",)
        )
        for table, size in self._sizes.tables.items():
            tables.add_metric((table,), size)
        yield tables
