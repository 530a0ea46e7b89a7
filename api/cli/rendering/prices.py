"""Prices for people and programs: the entries of a file, and the price list of one model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from genai_prices.types import ModelPrice, TieredPrices
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.rendering.formatting import ASSUMED_MEANING, count, moment, plural
from api.cli.rendering.plain import plain
from engine.models.pricing import InForce
from engine.prices.catalogue import BEGINNING, END
from engine.prices.own import OwnPrice, RateCard
from engine.resources import UNPRICED_MEANING, CostSource

_SOURCES = {
    CostSource.PRICE_TABLE: "the catalogue",
    CostSource.ASSUMED: f"the catalogue, as an assumption: {ASSUMED_MEANING}",
    CostSource.OVERRIDE: "the file that SPANLOOM_PRICES names",
    CostSource.DEMO: "an example, no real money",
}


@dataclass(frozen=True, slots=True)
class LookUp:
    """What was looked up, and the price list that was found."""

    provider: str
    model: str
    host: str | None
    tier: str | None
    at: datetime
    found: InForce


@dataclass(frozen=True, slots=True)
class _Rate:
    """One rate in USD; above `above` input tokens it holds for all tokens."""

    kind: str
    usd: Decimal
    above: int | None = None


def price_document(asked: LookUp) -> dict[str, object]:
    """The look-up as JSON; a time that has no beginning or end is null."""
    found = asked.found
    return {
        "provider": asked.provider,
        "model": asked.model,
        "host": asked.host,
        "service_tier": asked.tier,
        "at": asked.at.isoformat(),
        "source": found.source.value,
        "version": found.version,
        "unpriced_reason": found.reason and found.reason.value,
        "in_force_from": None if found.since == BEGINNING else found.since.isoformat(),
        "in_force_until": None if found.until == END else found.until.isoformat(),
        "rates": [
            {"kind": rate.kind, "usd": str(rate.usd), "above_input_tokens": rate.above} for rate in _rates(found.price)
        ],
    }


def price_view(asked: LookUp) -> RenderableType:
    """The price list with its source, or the reason why there is none and what to do."""
    asked, found = plain(asked), asked.found
    place = f" at {asked.host}" if asked.host else ""
    tier = f", service tier {asked.tier}" if asked.tier else ""
    head = Text(f"{asked.provider}:{asked.model}{place}{tier}, {moment(asked.at)} UTC", style="bold")
    if found.reason is not None:
        advice = "Give it a price in a file that SPANLOOM_PRICES names; `spanloom prices check FILE` checks it."
        return Group(head, Text(f"No price: {UNPRICED_MEANING[found.reason]}."), Text(advice, style="dim"))
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("per million")
    table.add_column("USD", justify="right")
    table.add_column("")
    for rate in _rates(found.price):
        table.add_row(rate.kind, f"{rate.usd:f}", f"above {count(rate.above)} input tokens" if rate.above else "")
    return Group(head, table, Text(f"From {_SOURCES[found.source]} ({found.version}){_time(found)}.", style="dim"))


def entries_table(entries: Sequence[OwnPrice]) -> RenderableType:
    """One line per entry."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("provider", "model", "host", "tier", "from (UTC)", "USD per million tokens"):
        table.add_column(name)
    for entry in plain(list(entries)):
        rates = ", ".join(f"{_kind(name)} {getattr(entry, name):f}" for name in _given(entry))
        since = moment(entry.valid_from) if entry.valid_from else "always"
        table.add_row(
            entry.provider, entry.model or "every", entry.host or "any", entry.service_tier or "every", since, rates
        )
    return Group(table, Text(f"{plural(len(entries), 'entry', 'entries')}, nothing wrong.", style="dim"))


def _given(entry: OwnPrice) -> list[str]:
    return [name for name in RateCard.model_fields if getattr(entry, name) is not None]


def _rates(price: ModelPrice | None) -> Iterator[_Rate]:
    """The rates of tokens; searches and the like are not booked."""
    listed = price.__dict__ if price is not None else {}
    for name, value in listed.items():
        if not name.endswith("_mtok"):
            continue
        if isinstance(value, TieredPrices):
            yield _Rate(_kind(name), value.base)
            yield from (_Rate(_kind(name), tier.price, tier.start) for tier in value.tiers)
        elif value is not None:
            yield _Rate(_kind(name), value)


def _kind(name: str) -> str:
    """`cache_read_mtok` as `cache read`."""
    return name.removesuffix("_mtok").replace("_", " ")


def _time(found: InForce) -> str:
    since = "" if found.since == BEGINNING else f" from {moment(found.since)}"
    until = "" if found.until == END else f" until {moment(found.until)}"
    return f", in force{since}{until} UTC" if since or until else ""
