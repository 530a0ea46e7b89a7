"""Prices of model calls, in integer nano-USD: own prices first, then the genai-prices catalogue.

A cost is rounded once per call to a whole nano-USD, half to even. An unknown price is null, never 0. The price list of
a model, server and tier is looked up once and kept until another one comes into force.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import Literal

from genai_prices.types import ModelPrice

from engine.prices.catalogue import Catalogue
from engine.prices.own import InvalidPrices, OwnPrices
from engine.prices.rates import KINDS, Rates
from engine.resources import AS_USUAL, OFFLINE_PROVIDER, CostSource, Price, Served, Unpriced
from engine.usage import CallUsage, Usage

__all__ = ["DEMO_PRICE", "ForeignPrices", "GenaiPrices", "InForce", "InvalidPrices"]

DEMO_PRICE = ModelPrice(input_mtok=Decimal("0.10"), output_mtok=Decimal("0.40"))
"""An example price for the offline model, which costs nothing; recorded with the cost source `demo`."""

ForeignPrices = Literal["assume", "none", "trust"]
"""What holds at a server that is not the provider's: the catalogue as an assumption, no price, or the catalogue."""

_GRAPH_NAMES = {"gcp.gemini": "google"}
"""Provider name in graphs and in the custom price file, by provider name in spans, where the two differ."""

_told = attrgetter(*("reasoning_tokens" if kind == "output_reasoning_tokens" else kind for kind in KINDS))
"""Reads a usage in the order of `KINDS`; but for reasoning, the names are those of genai-prices."""

_MAX_KEPT = 1_024
"""Price lists kept at a time; the oldest is dropped first."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The price list of a call, or why there is none, with the half-open time in which it is in force."""

    rates: Rates | None
    source: CostSource
    version: str | None
    reason: Unpriced | None
    since: datetime
    until: datetime
    price: ModelPrice | None = None


class GenaiPrices:
    """Prices of the installed genai-prices catalogue; own prices take precedence.

    `own_prices` is a JSON file in USD per million tokens (`engine.prices.own`); raises `InvalidPrices` if it cannot be
    read. `foreign` says what holds at a server that is not the provider's. With `prefer_provider_cost` the cost that a
    provider reports counts even where the model has a price.
    """

    def __init__(
        self,
        own_prices: Path | None = None,
        *,
        foreign: ForeignPrices = "assume",
        prefer_provider_cost: bool = False,
    ) -> None:
        self._own = OwnPrices(own_prices)
        self._foreign = foreign
        self._prefers_provider_cost = prefer_provider_cost
        self._catalogue = Catalogue()
        self._kept: dict[tuple[str, str, str | None, str | None], InForce] = {}

    def price(self, provider: str, model: str, usage: Usage | None, at: datetime, served: Served = AS_USUAL) -> Price:
        """The cost of a call made at `at`; its source is `none` if the usage, the model or its price is unknown."""
        ours = self._ours(provider, model, usage, at, served)
        reported = served.provider_cost_nano_usd
        is_uncertain = ours.nano_usd is None or ours.source is CostSource.ASSUMED
        if reported is not None and (is_uncertain or self._prefers_provider_cost):
            return Price(reported, CostSource.PROVIDER, f"reported by {served.host or provider}")
        return ours

    def upper_nano_usd(
        self, provider: str, model: str, input_tokens: int, output_tokens: int, served: Served = AS_USUAL
    ) -> int | None:
        """The most that a call can cost now; a call that asks for a tier may be served in the standard one, too."""
        now, costs = datetime.now(UTC), []
        for tier in {None, served.tier}:
            rates = self.in_force(provider, model, served.host, tier, now).rates
            amount = None if rates is None else rates.upper(input_tokens, output_tokens)
            if amount is None:
                return None
            costs.append(amount.ceiling())
        return max(costs)

    def in_force(self, provider: str, model: str, host: str | None, tier: str | None, at: datetime) -> InForce:
        """The price list that is in force at a time, or why there is none."""
        if not self._catalogue.is_current:
            self._catalogue = Catalogue()
            self._kept.clear()
        key = (provider, model, host, tier)
        kept = self._kept.get(key)
        if kept is None or not kept.since <= at < kept.until:
            if kept is None and len(self._kept) >= _MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            kept = self._kept[key] = self._look_up(provider, model, host, tier, at)
        return kept

    def _ours(self, provider: str, model: str, usage: Usage | None, at: datetime, served: Served) -> Price:
        if usage is None or usage.input_tokens is None or usage.output_tokens is None:
            return Price(None, CostSource.NONE, reason=Unpriced.USAGE)
        found = self.in_force(provider, model, served.host, served.tier, at)
        if found.rates is None:
            return Price(None, CostSource.NONE, reason=found.reason)
        split = found.rates.split(_counts(usage))
        if split is None:
            return Price(None, CostSource.NONE, reason=Unpriced.KIND)
        of_input = None if split.of_input is None else split.of_input.nearest()
        return Price(split.cost.nearest(), found.source, found.version, input_nano_usd=of_input)

    def _look_up(self, provider: str, model: str, host: str | None, tier: str | None, at: datetime) -> InForce:
        own = self._own.find(_GRAPH_NAMES.get(provider, provider), model, host, tier, at)
        if own.price is not None:
            return _in_force(own.price, CostSource.OVERRIDE, own.version, own.since, own.until)
        if provider == OFFLINE_PROVIDER:
            return _in_force(DEMO_PRICE, CostSource.DEMO, "demo", own.since, own.until)
        found = self._catalogue.find(provider, model, host, tier, at)
        since, until = max(found.since, own.since), min(found.until, own.until)
        reason = Unpriced.SERVER if found.is_assumed and self._foreign == "none" else found.reason
        if found.price is None or reason is not None:
            return InForce(None, CostSource.NONE, None, reason, since, until)
        is_assumed = found.is_assumed and self._foreign == "assume"
        source = CostSource.ASSUMED if is_assumed else CostSource.PRICE_TABLE
        return _in_force(found.price, source, found.version, since, until)


def _in_force(price: ModelPrice, source: CostSource, version: str | None, since: datetime, until: datetime) -> InForce:
    return InForce(Rates(price), source, version, None, since, until, price)


def _counts(usage: Usage) -> Sequence[int | None]:
    """The counts of a call; a usage that tells no parts apart has none."""
    counts: tuple[int | None, ...] = _told(usage if isinstance(usage, CallUsage) else CallUsage(**usage.model_dump()))
    return counts
