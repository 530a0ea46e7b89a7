"""Tokens and what an execution used: the kinds of tokens, the usage of one call, the totals over all attempts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.graph import Document, JsonObject


@dataclass(frozen=True, slots=True)
class TokenKind:
    """A kind of tokens that providers count. Attribute keys, columns, sums and metric labels are derived from it."""

    field: str
    """Field of `Usage`, column of records, spans and roll-ups, and last part of the key of its sum on the root."""
    label: str
    """Value of the metric labels `type` and `gen_ai_token_type`."""
    genai_key: str
    """Key on the model call's span, behind `gen_ai.usage.`; the GenAI conventions fix it."""
    meaning: str
    includes: str = ""
    """What is counted in it too."""
    part: str = ""
    """As part of the tokens read or written, in words behind a number; empty for these two themselves."""


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
        "cache_creation.input_tokens",
        "written to the cache",
        part="written to cache",
    ),
    TokenKind("reasoning_tokens", "reasoning", "reasoning.output_tokens", "reasoning tokens", part="of reasoning"),
)
"""The one list of token kinds. A kind more is an entry here, a field of the documents, and a migration."""

TOKEN_FIELDS = tuple(kind.field for kind in TOKEN_KINDS)


class Usage(Document):
    """Tokens. `input_tokens` includes cached ones, `output_tokens` includes reasoning; null: no provider reported."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None

    @classmethod
    def of_counts(cls, counts: Mapping[str, int | None]) -> "Usage":
        """From the count of each kind, by field; the total is what was read and written, as far as it is known."""
        total = _add(counts["input_tokens"], counts["output_tokens"])
        return cls(**{name: counts[name] for name in TOKEN_FIELDS}, total_tokens=total)

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(**{name: _add(getattr(self, name), getattr(other, name)) for name in Usage.model_fields})


def _add(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else left + right


_NANO = 1_000_000_000


def dollars(nano_usd: int, *, every_digit: bool = False) -> str:
    """An exact amount for people, as in $0.0016528; without `every_digit`, zeros after the cents are dropped."""
    whole, rest = divmod(nano_usd, _NANO)
    digits = f"{rest:09d}"
    return f"${whole:,}.{digits if every_digit else digits.rstrip('0').ljust(2, '0')}"


@dataclass(slots=True)
class Totals:
    """Tokens, money (integer nano-USD) and counts; the sum of the execution's spans."""

    usage: Usage = field(default_factory=Usage)
    priced_nano_usd: int = 0
    priced_calls: int = 0
    unpriced_calls: int = 0
    waste_nano_usd: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    nodes_total: int = 0
    nodes_failed: int = 0
    nodes_retried: int = 0
    model_seconds: float = 0.0
    """Of ended attempts; those of the running one are in its time ledger."""
    tool_seconds: float = 0.0
    first_token_seconds: float | None = None

    @property
    def cost_nano_usd(self) -> int | None:
        """Null if calls were made and none was priced: 0 would be a claim."""
        return None if self.unpriced_calls and not self.priced_calls else self.priced_nano_usd

    def __add__(self, other: "Totals") -> "Totals":
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        first = self.first_token_seconds if self.first_token_seconds is not None else other.first_token_seconds
        return Totals(usage=self.usage + other.usage, first_token_seconds=first, **sums)

    def as_json(self) -> JsonObject:
        """To be read back by `from_json`."""
        return {**asdict(self), "usage": self.usage.model_dump()}

    @classmethod
    def from_json(cls, document: JsonObject) -> "Totals":
        """What `as_json` gave."""
        fields: dict[str, Any] = {**document, "usage": Usage.model_validate(document["usage"])}
        return cls(**fields)


_SUMS = tuple(name for name in Totals.__dataclass_fields__ if name not in ("usage", "first_token_seconds"))


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Model calls that were in flight when an attempt's process died: what they used is not known, only bounded."""

    calls: int = 0
    upper_nano_usd: int | None = 0
    """What they may have cost at most; null if a price was not known."""

    def plus(self, upper_nano_usd: int | None) -> "Unfinished":
        """One call more."""
        known = self.upper_nano_usd is not None and upper_nano_usd is not None
        upper = (self.upper_nano_usd or 0) + (upper_nano_usd or 0) if known else None
        return Unfinished(self.calls + 1, upper)

    def upper_cost_nano_usd(self, cost_nano_usd: int | None) -> int | None:
        """What the execution may have cost at most, given the cost that is known."""
        if self.calls == 0:
            return cost_nano_usd
        if self.upper_nano_usd is None:
            return None
        return (cost_nano_usd or 0) + self.upper_nano_usd


@dataclass(slots=True)
class Carried:
    """Totals, span ids and unfinished model calls of the attempts before this one."""

    totals: Totals = field(default_factory=Totals)
    span_ids: list[int] = field(default_factory=list)
    """Of the spans that the record level keeps; they count in the seal."""
    unfinished: Unfinished = Unfinished()
