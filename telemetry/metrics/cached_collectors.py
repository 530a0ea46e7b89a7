"""Metrics that take longer to read than a scrape should: read from time to time, and shown again in between."""

import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from datetime import timedelta

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import database_time
from telemetry.metrics.labels import LabelCap
from telemetry.reads.scores import ScoreFilter, ScoreMean, mean_scores
from telemetry.reads.sizes import Sizes, read_sizes

SIZES_SECONDS = 300.0
SCORES_SECONDS = 30.0
SCORES_WINDOW = timedelta(days=30)


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


class ScoreCollector(_Cached):
    """The scores of the last 30 days. Their names are anybody's, so their number is bounded."""

    seconds = SCORES_SECONDS

    def __init__(self) -> None:
        super().__init__()
        self._means: Sequence[ScoreMean] = ()

    async def _read(self, connection: AsyncConnection) -> None:
        since = await database_time(connection) - SCORES_WINDOW
        means = await mean_scores(connection, ScoreFilter(since=since))
        self._means = [one for one in means if one.mean is not None]

    def collect(self) -> Iterable[Metric]:
        labels = ("template", "version", "name")
        mean = GaugeMetricFamily("spanloom_score_mean", "Mean score of the last 30 days", labels=labels)
        count = GaugeMetricFamily("spanloom_score_count", "Scores of the last 30 days", labels=labels)
        name_cap, template_cap, version_cap = LabelCap(), LabelCap(), LabelCap()
        sums: dict[tuple[str, str, str], tuple[float, int]] = {}
        for one in self._means:
            version = "" if one.template_version is None else str(one.template_version)
            key = template_cap(one.workflow), version_cap(version), name_cap(one.name)
            total, scores = sums.get(key, (0.0, 0))
            sums[key] = total + (one.mean or 0.0) * one.scores, scores + one.scores
        for key, (total, scores) in sums.items():
            mean.add_metric(key, total / scores)
            count.add_metric(key, scores)
        yield mean
        yield count
