"""Usage: the kinds of tokens, the usage of one call, and the totals of an execution over all its attempts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from engine.graph import Document, JsonObject


@dataclass(frozen=True, slots=True)
class TokenKind:
    """A kind of token that providers count. Attribute keys, columns, sums and metric labels are derived from it."""

    field: str
    """Field of `Usage`, column of records, spans and roll-ups, and last part of the key of its sum on the root."""
    label: str
    """Value of the metric labels `type` and `gen_ai_token_type`."""
    genai_key: str
    """Key on the model call's span, after `gen_ai.usage.`; fixed by the GenAI conventions."""
    meaning: str
    includes: str = ""
    """Tokens that this count includes."""
    part: str = ""
    """Words after a number that name this part of the input or output tokens; empty for those two kinds."""


TOKEN_KINDS = (
    TokenKind("input_tokens", "input", "input_tokens", "tokens sent", includes="cached"),
    TokenKind("output_tokens", "output", "output_tokens", "tokens generated", includes="reasoning"),
    TokenKind(
        "cache_read_tokens",
        "cache_read",
        "cache_read.input_tokens",
        "read from the provider's cache",
        part="read from cache",
    ),
    TokenKind(
        "cache_write_tokens",
        "cache_write",
        "cache_write.input_tokens",
        "written to the cache",
        part="written to cache",
    ),
    TokenKind("reasoning_tokens", "reasoning", "reasoning.output_tokens", "reasoning tokens", part="of reasoning"),
)
"""All token kinds. Another kind needs an entry here, a field of `Usage`, and a migration."""

TOKEN_FIELDS = tuple(kind.field for kind in TOKEN_KINDS)

_TOTAL = "total_tokens"

MAX_COUNT = 10**12
"""The most tokens that one call can have; a larger count is an error of the provider."""


class Usage(Document):
    """Token counts; null means not reported. Input tokens include cached tokens, output tokens include reasoning."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None

    @classmethod
    def of_counts(cls, counts: Mapping[str, int | None]) -> Self:
        """Usage from the counts by field; the total is input plus output, as far as they are known."""
        total = _add(counts["input_tokens"], counts["output_tokens"])
        return cls(**{name: counts.get(name) for name in cls.model_fields if name != _TOTAL}, total_tokens=total)

    @property
    def is_possible(self) -> bool:
        """Whether one call can have these counts."""
        counts = [getattr(self, name) for name in type(self).model_fields]
        return all(count is None or 0 <= count <= MAX_COUNT for count in counts)

    @property
    def is_known(self) -> bool:
        """Whether the provider reported what a price needs: input and output tokens."""
        return self.input_tokens is not None and self.output_tokens is not None

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(**{name: _add(getattr(self, name), getattr(other, name)) for name in Usage.model_fields})


def _add(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else left + right


class CallUsage(Usage):
    """The usage of one call with the parts of its counts that have a price of their own.

    The parts stand on the span of the call only: they have no column and no sum, because they are part of counts that
    do. Their names are those of genai-prices.
    """

    cache_write_1h_tokens: int | None = None
    """Of the tokens written to the cache: those kept for an hour."""
    input_audio_tokens: int | None = None
    """Of the input tokens: audio."""
    input_image_tokens: int | None = None
    """Of the input tokens: images."""
    input_video_tokens: int | None = None
    """Of the input tokens: video."""
    output_audio_tokens: int | None = None
    """Of the output tokens: audio."""
    output_image_tokens: int | None = None
    """Of the output tokens: images."""
    cache_audio_read_tokens: int | None = None
    """Of the tokens read from the cache: audio."""
    cache_image_read_tokens: int | None = None
    """Of the tokens read from the cache: images."""
    cache_video_read_tokens: int | None = None
    """Of the tokens read from the cache: video."""


USAGE_FIELDS = set(Usage.model_fields)
PART_FIELDS = tuple(name for name in CallUsage.model_fields if name not in Usage.model_fields)


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What a provider reports on one call; null is what it did not report."""

    usage: Usage | None = None
    service_tier: str | None = None
    """The tier that answered, in the provider's word."""
    provider_cost_nano_usd: int | None = None
    """What the provider says that the call costs."""
    unread_keys: tuple[str, ...] = ()
    """Keys of the provider's usage that spanloom does not know."""
    is_partial: bool = False
    """Whether the answer was not complete yet, so that the provider may bill more."""


NANO_PER_USD = 1_000_000_000


def dollars(nano_usd: int, *, every_digit: bool = False) -> str:
    """An exact amount for people, such as $0.0016528, without trailing zeros after the cents unless `every_digit`."""
    whole, rest = divmod(nano_usd, NANO_PER_USD)
    digits = f"{rest:09d}"
    return f"${whole:,}.{digits if every_digit else digits.rstrip('0').ljust(2, '0')}"


@dataclass(slots=True)
class Totals:
    """Tokens, costs (integer nano-USD) and counts, summed over the execution's spans."""

    usage: Usage = field(default_factory=Usage)
    priced_nano_usd: int = 0
    priced_calls: int = 0
    unpriced_calls: int = 0
    """Calls whose usage is known, to a model without a price."""
    unmetered_calls: int = 0
    """Calls of unknown cost because the provider reported no usage: it failed, was cut off, or never reports any."""
    failed_calls: int = 0
    """Calls that failed, whatever they cost."""
    assumed_calls: int = 0
    """Priced calls whose server is not the provider's: the catalogue's price is an assumption."""
    waste_nano_usd: int = 0
    model_calls: int = 0
    offline_calls: int = 0
    """Calls of the offline model, whose answers are a demo."""
    tool_calls: int = 0
    nodes_total: int = 0
    nodes_failed: int = 0
    nodes_retried: int = 0
    model_seconds: float = 0.0
    """Only of attempts that have ended; the running attempt has a time ledger."""
    tool_seconds: float = 0.0
    first_token_seconds: float | None = None

    @property
    def cost_nano_usd(self) -> int | None:
        """The cost of priced calls; null, not 0, if there were calls and none had a price."""
        unknown = self.unpriced_calls + self.unmetered_calls
        return None if unknown and not self.priced_calls else self.priced_nano_usd

    def add_call(self, usage: Usage | None, nano_usd: int | None, *, failed: bool, wasted: bool, assumed: bool) -> None:
        """Add a model call that has ended. Each one is priced, unpriced or unmetered."""
        self.usage = self.usage if usage is None else self.usage + usage
        self.failed_calls += failed
        if nano_usd is not None:
            self.priced_calls += 1
            self.assumed_calls += assumed
            self.priced_nano_usd += nano_usd
            self.waste_nano_usd += nano_usd if wasted else 0
        elif usage is not None and usage.is_known:
            self.unpriced_calls += 1
        else:
            self.unmetered_calls += 1

    def __add__(self, other: "Totals") -> "Totals":
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        first = self.first_token_seconds if self.first_token_seconds is not None else other.first_token_seconds
        return Totals(usage=self.usage + other.usage, first_token_seconds=first, **sums)

    def as_json(self) -> JsonObject:
        """The totals as JSON for `from_json`."""
        return {**asdict(self), "usage": self.usage.model_dump()}

    @classmethod
    def from_json(cls, document: JsonObject) -> "Totals":
        """The totals from the JSON of `as_json`."""
        fields: dict[str, Any] = {**document, "usage": Usage.model_validate(document["usage"])}
        return cls(**fields)


_SUMS = tuple(name for name in Totals.__dataclass_fields__ if name not in ("usage", "first_token_seconds"))


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Model calls in flight when an attempt's process died: their usage is unknown, but has an upper limit."""

    calls: int = 0
    upper_nano_usd: int | None = 0
    """Upper limit of their cost; null if a price was unknown."""
    upper_tokens: int = 0

    def plus(self, upper_nano_usd: int | None, upper_tokens: int) -> "Unfinished":
        """The same with one more call."""
        known = self.upper_nano_usd is not None and upper_nano_usd is not None
        upper = (self.upper_nano_usd or 0) + (upper_nano_usd or 0) if known else None
        return Unfinished(self.calls + 1, upper, self.upper_tokens + upper_tokens)

    def upper_cost_nano_usd(self, cost_nano_usd: int | None) -> int | None:
        """Upper limit of the execution's cost, given its known cost."""
        if self.calls == 0:
            return cost_nano_usd
        if self.upper_nano_usd is None:
            return None
        return (cost_nano_usd or 0) + self.upper_nano_usd


@dataclass(slots=True)
class Carried:
    """Totals, span ids and unfinished model calls carried over from earlier attempts."""

    totals: Totals = field(default_factory=Totals)
    span_ids: list[int] = field(default_factory=list)
    """Ids of the spans that the record level stores; the seal covers them."""
    unfinished: Unfinished = Unfinished()
