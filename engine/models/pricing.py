"""Prices of model calls, in integer nano-USD, from the installed genai-prices catalogue.

Prices and sums are Decimal and are rounded once per call to a whole nano-USD, half to even. Nothing is downloaded: a
new catalogue arrives as a new version of the package. An unknown price is null, never 0. Cache writes for an hour,
audio, images and video have the catalogue's price for them; where it has none, they cost what their kind costs.
"""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from pathlib import Path

import genai_prices
from genai_prices import data_snapshot
from genai_prices.types import ModelInfo, ModelPrice
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from engine.errors import SpanloomError
from engine.resources import CostSource, Price
from engine.usage import Usage

DEMO_PROVIDER = "offline"
DEMO_PRICE = ModelPrice(input_mtok=Decimal("0.10"), output_mtok=Decimal("0.40"))
"""An example price for the offline model, which costs nothing; recorded with the cost source `demo`."""

_GRAPH_NAMES = {"gcp.gemini": "google"}
"""Provider name in graphs and in the custom price file, by provider name in spans, where the two differ."""

_CACHED_MODELS = 1_024
"""Cached look-ups: the catalogue does not change in a running process, and a look-up takes longer than pricing."""

_NANO_PER_USD = Decimal(1_000_000_000)
_UNKNOWN = Price(None, CostSource.NONE)


class InvalidPrices(SpanloomError):
    """The price file (`SPANLOOM_PRICES`) cannot be read."""

    code = "invalid_prices"


class OwnPrice(BaseModel):
    """A custom price of one model, in USD per million tokens; cached tokens without a price cost as much as input."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_mtok: Decimal = Field(ge=0)
    output_mtok: Decimal = Field(ge=0)
    cache_read_mtok: Decimal | None = Field(default=None, ge=0)
    cache_write_mtok: Decimal | None = Field(default=None, ge=0)


class GenaiPrices:
    """Prices of the installed genai-prices catalogue; custom prices take precedence.

    `own_prices` is a JSON file `{"provider:model": {"input_mtok": "0.25", "output_mtok": "1.25"}}` in USD per million
    tokens. Raises `InvalidPrices` if it cannot be read.
    """

    def __init__(self, own_prices: Path | None = None) -> None:
        self._catalogue = data_snapshot.get_snapshot()
        self._catalogue_version = f"genai-prices {importlib.metadata.version('genai-prices')}"
        self._own, self._own_version = _read(own_prices) if own_prices else ({}, "")
        self._listed = lru_cache(maxsize=_CACHED_MODELS)(self._look_up)

    def price(self, provider: str, model: str, usage: Usage | None, at: datetime) -> Price:
        """The cost of a call made at `at`; its source is `none` if the usage, the model or its price is unknown."""
        if usage is None or usage.input_tokens is None or usage.output_tokens is None:
            return _UNKNOWN
        found = self._find(provider, model, at)
        usd = found and _usd(found[0], usage)
        if found is None or usd is None:
            return _UNKNOWN
        _, source, version = found
        return Price(int((usd * _NANO_PER_USD).to_integral_value(ROUND_HALF_EVEN)), source, version)

    def upper_nano_usd(self, provider: str, model: str, input_tokens: int, output_tokens: int) -> int | None:
        """The maximum cost of a call: all input is uncached or written to the cache, whichever costs more."""
        found = self._find(provider, model, datetime.now(UTC))
        if found is None:
            return None
        plain = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        costs = [_usd(found[0], usage) for usage in (plain, plain + Usage(cache_write_tokens=input_tokens))]
        known = [usd for usd in costs if usd is not None]
        return int((max(known) * _NANO_PER_USD).to_integral_value(ROUND_CEILING)) if known else None

    def _find(self, provider: str, model: str, at: datetime) -> tuple[ModelPrice, CostSource, str] | None:
        own = self._own.get(f"{_GRAPH_NAMES.get(provider, provider)}:{model}")
        if own is not None:
            return own, CostSource.OVERRIDE, self._own_version
        if provider == DEMO_PROVIDER:
            return DEMO_PRICE, CostSource.DEMO, "demo"
        listed = self._listed(provider, model)
        if listed is None:
            return None
        known_model, version = listed
        return known_model.get_prices(at), CostSource.PRICE_TABLE, version

    def _look_up(self, provider: str, model: str) -> tuple[ModelInfo, str] | None:
        """The model's entry in the catalogue, and the version and name of its price."""
        try:
            known_provider, known_model = self._catalogue.find_provider_model(
                model, None, self._known_provider(provider), None
            )
        except LookupError:
            return None
        return known_model, f"{self._catalogue_version} {known_provider.id}/{known_model.id}"

    def _known_provider(self, provider: str) -> str | None:
        """The catalogue's id of a provider; null if it is not listed, then the model's name alone is looked up."""
        try:
            return self._catalogue.find_provider(None, provider, None).id
        except LookupError:
            return None


def _usd(price: ModelPrice, usage: Usage) -> Decimal | None:
    """The cost in USD; null if a used kind of token has no price or the counts contradict each other."""
    if (usage.input_tokens and price.input_mtok is None) or (usage.output_tokens and price.output_mtok is None):
        return None
    counts = usage.model_dump(exclude={"total_tokens", "reasoning_tokens"})
    counted = genai_prices.Usage(**counts, output_reasoning_tokens=usage.reasoning_tokens)
    try:
        return price.calc_price(counted)["total_price"]
    except ValueError:
        return None


def _read(path: Path) -> tuple[Mapping[str, ModelPrice], str]:
    try:
        text = path.read_bytes()
        own = TypeAdapter(dict[str, OwnPrice]).validate_json(text)
    except (OSError, ValidationError) as error:
        raise InvalidPrices(f"{InvalidPrices.__doc__} {path}: {_reason(error)}") from error
    prices = {name: ModelPrice(**price.model_dump(exclude_none=True)) for name, price in own.items()}
    return prices, f"own {hashlib.sha256(text).hexdigest()[:12]}"


def _reason(error: OSError | ValidationError) -> str:
    if isinstance(error, OSError):
        return error.strerror or "cannot be opened"
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(step) for step in first['loc']) or 'document'}: {first['msg']}"
