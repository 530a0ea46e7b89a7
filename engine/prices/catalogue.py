"""The genai-prices catalogue: which price list holds for a model on a server, in a service tier, at a time.

Nothing is downloaded: a new catalogue arrives as a new version of the package.
"""

import importlib.metadata
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from genai_prices import data_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, StartDateConstraint, TimeOfDateConstraint

from engine.resources import STANDARD_TIERS, Unpriced

BEGINNING = datetime.min.replace(tzinfo=UTC)
END = datetime.max.replace(tzinfo=UTC)

_BATCH = "batch"
_FREE = ModelPrice(input_mtok=Decimal(0), output_mtok=Decimal(0))
_DAY = timedelta(days=1)

Constraint = StartDateConstraint | TimeOfDateConstraint


@dataclass(frozen=True, slots=True)
class Listing:
    """A price list of the catalogue, or the reason why there is none, with the half-open time in which that is so."""

    price: ModelPrice | None = None
    version: str | None = None
    reason: Unpriced | None = None
    is_assumed: bool = False
    """Whether the server is not one of the provider whose price list it is."""
    since: datetime = BEGINNING
    until: datetime = END


class Catalogue:
    """The snapshot of the catalogue that is in force when it is built."""

    def __init__(self) -> None:
        self._snapshot = data_snapshot.get_snapshot()
        self._version = f"genai-prices {importlib.metadata.version('genai-prices')}"

    @property
    def is_current(self) -> bool:
        """Whether genai-prices still has the same snapshot."""
        return data_snapshot.get_snapshot() is self._snapshot

    def find(self, provider: str, model: str, host: str | None, tier: str | None, at: datetime) -> Listing:
        """The price list of the host's own provider; without one, that of the provider by name, as an assumption."""
        known = self._by_name(provider)
        seller = known if host is None else self._by_host(host, known)
        if host is None or seller is not None:
            found = self._listing(seller, model, tier, at)
            if found.reason is not Unpriced.MODEL or host is None:
                return found
        return replace(self._listing(known, model, tier, at), is_assumed=True)

    def _listing(self, seller: Provider | None, model: str, tier: str | None, at: datetime) -> Listing:
        try:
            provider, entry = self._snapshot.find_provider_model(model, seller, None, None)
        except LookupError:
            return Listing(reason=Unpriced.MODEL)
        since, until = _band(_constraints(entry), at)
        context = _context(entry, provider, tier, at)
        if context is None:
            return Listing(reason=Unpriced.TIER, since=since, until=until)
        name = " ".join((f"{provider.id}/{entry.id}", *context.values()))
        return Listing(_price(entry, at, context), f"{self._version} {name}", since=since, until=until)

    def _by_name(self, provider: str) -> Provider | None:
        """The catalogue's provider of this name; null if it is not listed, then the model's name alone is looked up."""
        try:
            return self._snapshot.find_provider(None, provider, None)
        except LookupError:
            return None

    def _by_host(self, host: str, known: Provider | None) -> Provider | None:
        """The provider whose address the host is; the known one, if it is one of several."""
        ordered = [*([known] if known else []), *self._snapshot.providers]
        return next((provider for provider in ordered if _is_at(provider, host)), None)


def _price(entry: ModelInfo, at: datetime, context: dict[str, str]) -> ModelPrice:
    """The price list; that of a model which is named as free is empty in the catalogue."""
    price = entry.get_prices(at, context)
    return _FREE if entry.id.endswith(":free") and not price.__dict__ else price


def _is_at(provider: Provider, host: str) -> bool:
    """Whether the host is one of the provider's: its pattern covers the host to its end."""
    address = f"https://{host}"
    found = re.match(provider.api_pattern, f"{address}/")
    return found is not None and found.end() >= len(address)


def _context(entry: ModelInfo, provider: Provider, tier: str | None, at: datetime) -> dict[str, str] | None:
    """What genai-prices selects the tier's price by, empty for the standard price; null if the tier has no price.

    genai-prices itself answers with the standard price for a tier that it does not know.
    """
    if tier is None:
        return {}
    context = {"processing": _BATCH} if tier == _BATCH else {"service_tier": tier}
    is_its_own = any(entry is listed for listed in provider.models)
    for variant in entry.price_variants or () if is_its_own else ():
        if variant.when == context and (variant.constraint is None or variant.constraint.active(at)):
            return context
    return {} if tier in STANDARD_TIERS else None


def _constraints(entry: ModelInfo) -> Iterable[Constraint]:
    dated = [] if isinstance(entry.prices, ModelPrice) else entry.prices
    for each in (*dated, *(entry.price_variants or ())):
        if each.constraint is not None:
            yield each.constraint


def _band(constraints: Iterable[Constraint], at: datetime) -> tuple[datetime, datetime]:
    """The longest time around `at` in which no constraint begins or ends to hold."""
    moments = [moment for constraint in constraints for moment in _moments(constraint, at)]
    since = max((moment for moment in moments if moment <= at), default=BEGINNING)
    return since, min((moment for moment in moments if moment > at), default=END)


def _moments(constraint: Constraint, at: datetime) -> list[datetime]:
    if isinstance(constraint, StartDateConstraint):
        return [datetime.combine(constraint.start_date, time(), UTC)]
    day = at.astimezone(UTC).date()
    times = [_in_utc(constraint.start_time), _in_utc(constraint.end_time)]
    return [datetime.combine(day, moment) + days * _DAY for moment in times for days in (-1, 0, 1)]


def _in_utc(moment: time) -> time:
    """A time of day as genai-prices reads it: without a zone it is UTC."""
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return datetime.combine(date(1970, 1, 1), moment).astimezone(UTC).timetz()
