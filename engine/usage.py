"""What an execution used: the sum of its spans, over all of its attempts."""

from dataclasses import asdict, dataclass, field
from typing import Any

from engine.graph import JsonObject
from engine.result import Usage

_NANO = 1_000_000_000


def dollars(nano_usd: int, *, every_digit: bool = False) -> str:
    """An exact amount for people, as in $0.0016528; without `every_digit`, zeros after the cents are dropped."""
    whole, rest = divmod(nano_usd, _NANO)
    digits = f"{rest:09d}"
    return f"${whole:,}.{digits if every_digit else digits.rstrip('0').ljust(2, '0')}"


@dataclass(slots=True)
class Totals:
    """Tokens, money (integer nano-USD) and counts; the sum of the execution's spans."""

    usage: Usage = Usage()
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
    """What the attempts before this one have made durable, and what they left open."""

    totals: Totals = field(default_factory=Totals)
    span_ids: list[int] = field(default_factory=list)
    """Of the spans that the record level keeps; they count in the seal."""
    unfinished: Unfinished = Unfinished()
