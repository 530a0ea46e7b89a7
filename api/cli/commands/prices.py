"""`spanloom prices`: check a file of own prices, and show the price of a model."""

from datetime import UTC, datetime
from pathlib import Path

from api.cli import terminal
from api.cli.errors import wrong_use
from api.cli.exit_codes import BAD_NEWS, DONE
from api.cli.rendering.prices import LookUp, entries_table, price_document, price_view
from api.settings import Settings
from api.wiring.resources import build_prices
from engine.models.pricing import GenaiPrices
from engine.models.registry import PROVIDERS, LangChainModels
from engine.prices.own import check_file
from engine.resources import Unpriced


def check_prices(file: Path | None, *, as_json: bool) -> int:
    """List the entries of a file, or its problems; 1 if there are any."""
    settings = terminal.begin()
    checked = file or settings.prices
    if checked is None:
        wrong_use("Name a file, or set SPANLOOM_PRICES.")
    entries, problems = check_file(checked)
    if as_json:
        found = [entry.model_dump(mode="json", exclude_none=True) for entry in entries]
        terminal.show_json({"file": str(checked), "valid": not problems, "problems": problems, "prices": found})
    elif problems:
        print("\n".join([f"{checked} cannot be used:", *(f"  {problem}" for problem in problems)]))
    else:
        terminal.show(entries_table(entries))
    return BAD_NEWS if problems else DONE


def show_price(model: str, at: datetime | None, tier: str | None, host: str | None, *, as_json: bool) -> int:
    """Print the price list of a model; 1 if it has none."""
    settings = terminal.begin()
    asked = _look_up(settings, model, at or datetime.now(UTC), tier.lower() if tier else None, host)
    if as_json:
        terminal.show_json(price_document(asked))
    else:
        terminal.show(price_view(asked))
    return DONE if asked.found.price is not None else BAD_NEWS


def _look_up(settings: Settings, named: str, at: datetime, tier: str | None, host: str | None) -> LookUp:
    prices, models = build_prices(settings), LangChainModels(settings.providers)
    provider, model = _provider_and_model(prices, named, at)
    server = host or models.server(provider).host
    return LookUp(provider, model, server, tier, at, prices.in_force(provider, model, server, tier, at))


def _provider_and_model(prices: GenaiPrices, named: str, at: datetime) -> tuple[str, str]:
    """The provider may be left out if the model is one of a known provider."""
    provider, separator, model = named.partition(":")
    if separator and model:
        return provider, model
    known = (name for name in PROVIDERS if prices.in_force(name, named, None, None, at).reason is not Unpriced.MODEL)
    found = next(known, None)
    if found is None:
        wrong_use(f"No provider is known to have a model {named!r}; write provider:model, as in openai:gpt-5.")
    return found, named
