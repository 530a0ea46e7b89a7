"""Queries a real Prometheus for the tests of dashboards."""

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass

from dashboards.boards import PanelQuery
from tests.services.prometheus.server import Prometheus

_TRIES = 300
_BETWEEN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class QueriedPrometheus:
    """A Prometheus that scrapes what the test runs."""

    prometheus: Prometheus

    async def values(self, promql: str) -> list[float]:
        """The current value of an expression."""
        samples = await asyncio.to_thread(self.prometheus.query, promql)
        return [float(sample["value"][1]) for sample in samples]

    async def until(self, promql: str, value: float) -> None:
        """Wait until an expression has this value."""
        found: list[float] = []
        for _ in range(_TRIES):
            found = await self.values(promql)
            if found == [value]:
                return
            await asyncio.sleep(_BETWEEN_SECONDS)
        raise AssertionError(f"{promql} is {found}, not {value}")

    async def unanswered(self, queries: Iterable[PanelQuery]) -> list[str]:
        """Queries of the dashboards for which there is no number, also after some more scrapes: one may fail."""
        left = list(queries)
        for _ in range(_TRIES):
            left = [query for query in left if not await self._answers(query)]
            if not left:
                break
            await asyncio.sleep(_BETWEEN_SECONDS)
        return [f"{query.board}, {query.panel}: {query.expr}" for query in left]

    async def _answers(self, query: PanelQuery) -> bool:
        return any(not math.isnan(value) for value in await self.values(query.expr))
