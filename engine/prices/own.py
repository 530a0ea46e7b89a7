"""Own prices: the file that `SPANLOOM_PRICES` names, checked as a whole when it is read.

Each entry says for which provider, model and host it holds, in which service tier and from when. Of the entries that
fit a call the most particular one is used: by host before model before tier, then the latest.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar

import genai_prices
from genai_prices.types import ModelPrice
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from engine.documents.strict_json import MalformedJson, read_json
from engine.errors import SpanloomError
from engine.graph import JsonObject
from engine.prices.catalogue import BEGINNING, END
from engine.resources import STANDARD_TIERS

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"

_STANDARD = "default"

Rate = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=20)]
"""USD per million tokens."""


class InvalidPrices(SpanloomError):
    """The price file (`SPANLOOM_PRICES`) cannot be used; `spanloom prices check FILE` lists what is wrong with it."""

    code = "invalid_prices"


class RateCard(BaseModel):
    """Prices in USD per million tokens. A kind without its own price costs as much as the kind that includes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_mtok: Rate = Field(description="Input tokens")
    output_mtok: Rate = Field(description="Output tokens")
    cache_read_mtok: Rate | None = Field(default=None, description="Input read from the cache")
    cache_write_mtok: Rate | None = Field(default=None, description="Input written to the cache")
    cache_write_1h_mtok: Rate | None = Field(default=None, description="Input written to the cache for one hour")
    input_audio_mtok: Rate | None = Field(default=None, description="Audio input")
    input_image_mtok: Rate | None = Field(default=None, description="Images in the input")
    output_image_mtok: Rate | None = Field(default=None, description="Images in the output")
    cache_audio_read_mtok: Rate | None = Field(default=None, description="Audio input read from the cache")
    output_audio_mtok: Rate | None = Field(default=None, description="Audio output")
    output_reasoning_mtok: Rate | None = Field(default=None, description="Reasoning")

    def as_price(self) -> ModelPrice:
        """The prices as genai-prices has them."""
        return ModelPrice(**{name: getattr(self, name) for name in RateCard.model_fields})


Card = TypeVar("Card", bound="RateCard")


def _known_combination(card: Card) -> Card:
    """Raises `ValueError` with genai-prices' reason, as for cached audio that has a price where audio has none."""
    card.as_price().calc_price(genai_prices.Usage(input_tokens=0, output_tokens=0))
    return card


def _lower(value: str) -> str:
    return value.lower()


class OwnPrice(RateCard):
    """One entry: for what it holds, and its prices."""

    provider: str = Field(min_length=1, description="As in graphs: openai, anthropic, google, or a name of your own")
    model: str | None = Field(default=None, min_length=1, description="Absent: every model")
    host: Annotated[str | None, AfterValidator(lambda host: host and _lower(host))] = Field(
        default=None, pattern=r"^[^/:@\s]+$", description="Host of the server, without scheme and port; absent: any"
    )
    service_tier: Annotated[str | None, AfterValidator(lambda tier: tier and _lower(tier))] = Field(
        default=None, min_length=1, description="Tier of the answer, as in flex or priority; absent: every tier"
    )
    valid_from: AwareDatetime | None = Field(default=None, description="Holds from then on; absent: always")

    def holds_for(self, provider: str, model: str, host: str | None, tier: str | None) -> bool:
        """Whether the entry is about such a call."""
        wanted = _STANDARD if tier is None or tier in STANDARD_TIERS else tier
        return (
            self.provider == provider
            and self.model in (None, model)
            and self.host in (None, host)
            and self.own_tier in (None, wanted)
        )

    @property
    def own_tier(self) -> str | None:
        """The tier, under one name for the standard one."""
        return _STANDARD if self.service_tier in STANDARD_TIERS else self.service_tier

    @property
    def since(self) -> datetime:
        """When it begins to hold."""
        return self.valid_from.astimezone(UTC) if self.valid_from else BEGINNING

    @property
    def rank(self) -> tuple[bool, bool, bool, datetime]:
        """Greater is more particular."""
        return self.host is not None, self.model is not None, self.service_tier is not None, self.since


Entry = Annotated[OwnPrice, AfterValidator(_known_combination)]
Short = Annotated[RateCard, AfterValidator(_known_combination)]


class PriceFile(BaseModel):
    """Own prices of model calls, which take precedence over the catalogue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: str | None = Field(default=None, alias="$schema", description="For editors; not read")
    prices: list[Entry] = Field(description="The entries, in any order")


@dataclass(frozen=True, slots=True)
class OwnListing:
    """The prices of the entry that holds for a call, null if none does; with the half-open time in which that is so."""

    price: ModelPrice | None
    version: str
    since: datetime
    until: datetime


class OwnPrices:
    """The entries of a price file. Raises `InvalidPrices` if the file cannot be used; no file has no entries."""

    def __init__(self, file: Path | None = None) -> None:
        self.entries, self._version = _read(file) if file is not None else ((), "")

    def find(self, provider: str, model: str, host: str | None, tier: str | None, at: datetime) -> OwnListing:
        """The most particular entry that holds at a time; the provider's name is that in graphs."""
        fitting = [entry for entry in self.entries if entry.holds_for(provider, model, host, tier)]
        begun = [entry for entry in fitting if entry.since <= at]
        chosen = max(begun, key=lambda entry: entry.rank, default=None)
        return OwnListing(
            price=None if chosen is None else chosen.as_price(),
            version=self._version,
            since=max((entry.since for entry in begun), default=BEGINNING),
            until=min((entry.since for entry in fitting if entry.since > at), default=END),
        )


def price_file_schema() -> JsonObject:
    """The JSON Schema of a price file, for editors and other programs."""
    schema: dict[str, Any] = PriceFile.model_json_schema(by_alias=True)
    return {"$schema": SCHEMA_ID, **schema, "title": "spanloom's own prices"}


def check_file(file: Path) -> tuple[Sequence[OwnPrice], list[str]]:
    """The entries of a file, and everything that is wrong with it, a sentence for each place."""
    try:
        entries = _parse(file.read_bytes())
    except OSError as error:
        return (), [error.strerror or "cannot be opened"]
    except MalformedJson as error:
        return (), [str(error)]
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        return (), [f"{_place(one['loc'])}: {one['msg'].removeprefix('Value error, ')}" for one in found]
    return entries, _doubles(entries)


def _read(file: Path) -> tuple[Sequence[OwnPrice], str]:
    entries, problems = check_file(file)
    if problems:
        more = f" (and {len(problems) - 1} more: spanloom prices check {file})" if len(problems) > 1 else ""
        raise InvalidPrices(f"The price file {file} (SPANLOOM_PRICES) cannot be used: {problems[0]}{more}")
    return entries, f"own {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


def _parse(text: bytes) -> Sequence[OwnPrice]:
    """The entries. The short form is an object `{"provider:model": {…}}`, whose entries hold always and on any host."""
    document = read_json(text)
    if isinstance(document, dict) and "prices" in document:
        return PriceFile.model_validate_json(text).prices
    short = _SHORT.validate_json(text)
    return [
        OwnPrice(provider=name.partition(":")[0], model=name.partition(":")[2], **card.model_dump())
        for name, card in short.items()
    ]


def _doubles(entries: Sequence[OwnPrice]) -> list[str]:
    """Entries that hold for the same calls from the same time on: which of them counts would be chance."""
    seen: set[tuple[object, ...]] = set()
    problems = []
    for position, entry in enumerate(entries):
        about = (entry.provider, entry.model, entry.host, entry.own_tier, entry.since)
        if about in seen:
            problems.append(f"prices.{position}: another entry holds for the same calls from the same time on")
        seen.add(about)
    return problems


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "document"


_SHORT = TypeAdapter(dict[Annotated[str, Field(pattern=r"^[^:]+:.+$")], Short])
