"""The price list of one model as integer rates per token, which give exactly what genai-prices computes.

genai-prices takes some 100 µs a call, nearly all of it to find out which kinds of tokens have a price of their own.
Its result is linear in the token counts as long as the same kinds occur and the input stays within one band of the
price list. So the rates are measured once for each such case, by asking genai-prices; then a cost is a sum of products.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import product
from math import lcm
from typing import NamedTuple

import genai_prices
from genai_prices.types import ModelPrice, TieredPrices

from engine.usage import NANO_PER_USD

PART_OF: Mapping[str, tuple[str, ...]] = {
    "input_tokens": (),
    "output_tokens": (),
    "cache_read_tokens": ("input_tokens",),
    "cache_write_tokens": ("input_tokens",),
    "cache_write_1h_tokens": ("cache_write_tokens",),
    "input_audio_tokens": ("input_tokens",),
    "input_image_tokens": ("input_tokens",),
    "input_video_tokens": ("input_tokens",),
    "cache_audio_read_tokens": ("cache_read_tokens", "input_audio_tokens"),
    "cache_image_read_tokens": ("cache_read_tokens", "input_image_tokens"),
    "cache_video_read_tokens": ("cache_read_tokens", "input_video_tokens"),
    "output_audio_tokens": ("output_tokens",),
    "output_image_tokens": ("output_tokens",),
    "output_reasoning_tokens": ("output_tokens",),
}
"""The kinds of tokens under genai-prices' names, each with the kinds that include it; those come before it."""

KINDS = tuple(PART_OF)

Counts = Sequence[int | None]
"""Token counts in the order of `KINDS`; null: not reported."""

_PARTS = {kind: [KINDS.index(part) for part, wholes in PART_OF.items() if kind in wholes] for kind in KINDS}
_WHOLES = [(KINDS.index(kind), parts) for kind, parts in _PARTS.items() if parts]
_INPUT, _OUTPUT = KINDS.index("input_tokens"), KINDS.index("output_tokens")
_INPUTS = tuple(position for position, kind in enumerate(KINDS) if not kind.startswith("output"))
_OUTPUTS = tuple(position for position, kind in enumerate(KINDS) if kind.startswith("output"))
_WORST_CASES = tuple(product(("input_tokens", "cache_write_tokens"), ("output_tokens", "output_reasoning_tokens")))
"""Kinds of input and output that a call of ours can have as a whole without having asked for it."""
_SPARE = 2
"""Tokens of a kind beyond its parts in a measured usage: one more of any part still fits."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A cost in nano-USD as a quotient of integers, not rounded yet."""

    numerator: int
    denominator: int

    def nearest(self) -> int:
        """The nearest whole nano-USD, half to even."""
        whole, rest = divmod(self.numerator, self.denominator)
        return whole + (2 * rest > self.denominator or (2 * rest == self.denominator and whole % 2 == 1))

    def ceiling(self) -> int:
        """The next whole nano-USD that is not less."""
        return -(-self.numerator // self.denominator)


@dataclass(frozen=True, slots=True)
class _Linear:
    """A cost as `fixed` plus a sum of counts times `rates`, all of them multiplied by `scale`."""

    fixed: int
    rates: tuple[int, ...]
    scale: int

    def split(self, counts: Counts) -> "Split":
        total = self.fixed
        for position in _INPUTS:
            count = counts[position]
            if count:
                total += self.rates[position] * count
        of_input = total
        for position in _OUTPUTS:
            count = counts[position]
            if count:
                total += self.rates[position] * count
        return Split(Amount(total, self.scale), Amount(of_input, self.scale))


class Split(NamedTuple):
    """The cost of a call, and the part of it that is for input; null if that is not known."""

    cost: Amount
    of_input: Amount | None


class Rates:
    """The rates of one price list. It is cheap to build: rates are measured when they are first used."""

    __slots__ = ("_dearest", "_has_input_price", "_has_output_price", "_measured", "_price", "_starts")

    def __init__(self, price: ModelPrice) -> None:
        self._price = price
        self._has_input_price = price.input_mtok is not None
        self._has_output_price = price.output_mtok is not None
        tiers = [value.tiers for value in price.__dict__.values() if isinstance(value, TieredPrices)]
        self._starts = sorted({tier.start for each in tiers for tier in each})
        """Above these input tokens another band of the price list applies, to all tokens."""
        self._measured: dict[tuple[object, ...], _Linear | None] = {}
        self._dearest: dict[tuple[object, ...], tuple[str, str]] = {}

    def cost(self, counts: Counts) -> Amount | None:
        """The cost of a call; null if a used kind has no price, or the counts contradict each other."""
        found = self.split(counts)
        return None if found is None else found.cost

    def split(self, counts: Counts) -> Split | None:
        """The cost of a call with its part for input; null where there is no cost."""
        if (counts[_INPUT] and not self._has_input_price) or (counts[_OUTPUT] and not self._has_output_price):
            return None
        linear = self._linear(counts) if _fits(counts) else None
        if linear is not None:
            return linear.split(counts)
        cost = _asked(self._price, counts)
        return None if cost is None else Split(cost, _asked(self._price, _without_output(counts)))

    def _linear(self, counts: Counts) -> _Linear | None:
        """The rates for such counts; null if they cannot be measured."""
        occurring = tuple(None if count is None else count > 0 for count in counts)
        case = (self._band(counts[_INPUT] or 0), occurring)
        if case not in self._measured:
            self._measured[case] = self._measure(*case)
        return self._measured[case]

    def upper(self, input_tokens: int, output_tokens: int) -> Amount | None:
        """The most that a call with so many tokens can cost; null if it has no price.

        Its input may be written to the cache as a whole, and its output may be reasoning as a whole.
        """
        case = (self._band(input_tokens), input_tokens > 0, output_tokens > 0)
        if case not in self._dearest:
            costs = {kinds: self.cost(_all_of(*kinds, input_tokens, output_tokens)) for kinds in _WORST_CASES}
            known = {kinds: _fraction(cost) for kinds, cost in costs.items() if cost is not None}
            self._dearest[case] = max(known, key=lambda kinds: known[kinds]) if known else _WORST_CASES[0]
        return self.cost(_all_of(*self._dearest[case], input_tokens, output_tokens))

    def _band(self, input_tokens: int) -> int:
        return sum(input_tokens > start for start in self._starts)

    def _measure(self, band: int, occurring: tuple[bool | None, ...]) -> _Linear | None:
        """The rates where these kinds occur; null if they cannot be measured: then genai-prices is asked each time."""
        base = self._example(band, occurring)
        if base is None or (at_base := _asked(self._price, base)) is None:
            return None
        fixed, rates = _fraction(at_base), [Fraction(0)] * len(KINDS)
        for position, count in enumerate(base):
            if count:
                more = _asked(self._price, [*base[:position], count + 1, *base[position + 1 :]])
                if more is None:
                    return None
                rates[position] = _fraction(more) - _fraction(at_base)
                fixed -= rates[position] * count
        scale = lcm(fixed.denominator, *(rate.denominator for rate in rates))
        return _Linear(int(fixed * scale), tuple(int(rate * scale) for rate in rates), scale)

    def _example(self, band: int, occurring: tuple[bool | None, ...]) -> list[int | None] | None:
        """A usage with these kinds whose input lies in the band, with room for one more token of any kind."""
        example: list[int | None] = [None if occurs is None else 0 for occurs in occurring]
        for position in reversed(range(len(KINDS))):
            if occurring[position]:
                example[position] = _SPARE + sum(example[part] or 0 for part in _PARTS[KINDS[position]])
        if occurring[_INPUT] and band:
            example[_INPUT] = (example[_INPUT] or 0) + self._starts[band - 1]
        inputs = example[_INPUT] or 0
        return example if self._band(inputs) == self._band(inputs + 1) == band and _fits(example) else None


def _fits(counts: Counts) -> bool:
    """Whether the parts of each kind add up to no more than the kind. Where parts overlap it may be false wrongly."""
    return all(sum(counts[part] or 0 for part in parts) <= (counts[whole] or 0) for whole, parts in _WHOLES)


def _asked(price: ModelPrice, counts: Counts) -> Amount | None:
    """The cost as genai-prices computes it."""
    usage = genai_prices.Usage(**dict(zip(KINDS, counts, strict=True)))
    try:
        usd: Decimal = price.calc_price(usage)["total_price"]
    except ValueError:
        return None
    numerator, denominator = usd.as_integer_ratio()
    return Amount(numerator * NANO_PER_USD, denominator)


def _without_output(counts: Counts) -> Counts:
    """The counts of the same call with an empty answer; its input is of the same band."""
    return [0 if count and position in _OUTPUTS else count for position, count in enumerate(counts)]


def _fraction(amount: Amount) -> Fraction:
    return Fraction(amount.numerator, amount.denominator)


def _all_of(input_kind: str, output_kind: str, input_tokens: int, output_tokens: int) -> list[int | None]:
    """A usage whose input and output are of these kinds as a whole."""
    counts: list[int | None] = [0] * len(KINDS)
    for kind in ("input_tokens", input_kind):
        counts[KINDS.index(kind)] = input_tokens
    for kind in ("output_tokens", output_kind):
        counts[KINDS.index(kind)] = output_tokens
    return counts
