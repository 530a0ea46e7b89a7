"""Integer rates give exactly the cost that genai-prices computes, for every price list of the catalogue."""

from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal

import genai_prices
import pytest
from genai_prices import data_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Tier, TieredPrices
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.prices.rates import KINDS, Amount, Counts, Rates


def price_lists() -> Iterator[tuple[str, ModelPrice]]:
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            for number, price in enumerate(_lists_of(model)):
                yield f"{provider.id}/{model.id} {number}", price


def _lists_of(model: ModelInfo) -> list[ModelPrice]:
    dated = [model.prices] if isinstance(model.prices, ModelPrice) else [each.prices for each in model.prices]
    contexts = [variant.when for variant in model.price_variants or ()]
    now = data_snapshot.get_snapshot().timestamp
    return [*dated, *(model.get_prices(now, context) for context in contexts)]


CATALOGUE = list(price_lists())
SIZES = (0, 1, 2, 999, 127_999, 128_000, 128_001, 200_000, 200_001, 272_000, 272_001, 1_048_577, 10**9)


@st.composite
def token_counts(draw: st.DrawFn) -> list[int | None]:
    """Counts as providers report them, and in part such as no honest provider would."""

    def part_of(whole: int | None) -> int | None:
        most = whole or 0
        return draw(st.sampled_from((None, 0, 0, 1, most // 3, most // 2, most, most + 1)))

    inputs, outputs = draw(st.sampled_from(SIZES)), draw(st.sampled_from((0, 1, 7, 16_384)))
    read, written, audio = part_of(inputs // 3), part_of(inputs // 3), part_of(inputs // 3)
    counts = {
        "input_tokens": inputs,
        "output_tokens": outputs,
        "cache_read_tokens": read,
        "cache_write_tokens": written,
        "cache_write_1h_tokens": part_of(written),
        "input_audio_tokens": audio,
        "input_image_tokens": part_of(inputs // 4),
        "cache_audio_read_tokens": part_of(min(read or 0, audio or 0)),
        "output_audio_tokens": part_of(outputs // 3),
        "output_image_tokens": part_of(outputs // 3),
        "output_reasoning_tokens": part_of(outputs // 3),
    }
    return [counts.get(kind) for kind in KINDS]


def asked(price: ModelPrice, counts: Counts) -> int | None:
    """The cost by genai-prices itself, rounded as ours."""
    tokens = genai_prices.Usage(**dict(zip(KINDS, counts, strict=True)))
    if (counts[0] and price.input_mtok is None) or (counts[1] and price.output_mtok is None):
        return None
    try:
        usd: Decimal = price.calc_price(tokens)["total_price"]
    except ValueError:
        return None
    return int((usd * 10**9).to_integral_value(ROUND_HALF_EVEN))


def nearest(amount: Amount | None) -> int | None:
    return None if amount is None else amount.nearest()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_kept_rates_are_exactly_genai_prices_over_the_whole_catalogue(data: st.DataObject) -> None:
    usages = [data.draw(token_counts()) for _ in range(3)]
    step = data.draw(st.integers(0, 9))
    for name, price in CATALOGUE[step::10]:
        rates = Rates(price)
        for counts in usages:
            expected = asked(price, counts)
            assert (nearest(rates.cost(counts)), nearest(rates.cost(counts))) == (expected, expected), (name, counts)


def test_the_catalogue_has_what_the_property_is_about() -> None:
    lists = [price for _, price in CATALOGUE]

    assert sum(isinstance(price.input_mtok, TieredPrices) for price in lists) > 100
    assert sum(not price.__dict__ for price in lists) > 100
    assert sum(price.input_audio_mtok is not None for price in lists) > 20
    assert sum(price.cache_audio_read_mtok is not None for price in lists) > 5
    assert sum(price.cache_write_1h_mtok is not None for price in lists) > 50
    assert sum(price.requests_kcount is not None for price in lists) > 0


def test_all_tokens_of_a_larger_input_cost_the_rate_of_its_band() -> None:
    tiered = TieredPrices(base=Decimal(1), tiers=[Tier(start=200_000, price=Decimal(2))])
    rates = Rates(ModelPrice(input_mtok=tiered, output_mtok=Decimal(0)))

    costs = [nearest(rates.cost(_plain(tokens))) for tokens in (200_000, 200_001)]

    assert costs == [200_000_000, 400_002_000]


@pytest.mark.parametrize(("numerator", "nearest_whole"), [(1, 0), (3, 2), (5, 2), (7, 4), (0, 0), (4, 2)])
def test_halves_are_rounded_to_even(numerator: int, nearest_whole: int) -> None:
    assert Amount(numerator, 2).nearest() == nearest_whole


def test_the_upper_limit_is_the_dearest_kind_of_input_and_output() -> None:
    dear = ModelPrice(
        input_mtok=Decimal(1), cache_write_mtok=Decimal(3), output_mtok=Decimal(1), output_reasoning_mtok=Decimal(5)
    )
    cheap = ModelPrice(input_mtok=Decimal(1), cache_write_mtok=Decimal("0.5"), output_mtok=Decimal(1))

    assert [rates.ceiling() for rates in map(_upper_of_one, (dear, cheap))] == [8_000, 2_000]


def _upper_of_one(price: ModelPrice) -> Amount:
    amount = Rates(price).upper(1, 1)
    assert amount is not None
    return amount


def _plain(input_tokens: int) -> list[int | None]:
    return [input_tokens, 0, *[None] * (len(KINDS) - 2)]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(token_counts(), st.integers(0, 9))
def test_the_part_for_input_is_what_the_call_costs_without_its_output(counts: list[int | None], step: int) -> None:
    mute = [0 if count and kind.startswith("output") else count for kind, count in zip(KINDS, counts, strict=True)]
    for name, price in CATALOGUE[step::10]:
        split = Rates(price).split(counts)
        if split is not None:
            of_input = nearest(split.of_input)
            assert of_input == asked(price, mute), name
            assert of_input is None or 0 <= of_input <= split.cost.nearest(), (name, counts)


def test_output_beside_a_larger_input_costs_the_rate_of_its_band() -> None:
    tiered = TieredPrices(base=Decimal(1), tiers=[Tier(start=200_000, price=Decimal(2))])
    rates = Rates(ModelPrice(input_mtok=tiered, output_mtok=tiered))
    counts = [200_001, 1_000, *[None] * (len(KINDS) - 2)]

    split = rates.split(counts)
    assert split is not None
    assert (split.cost.nearest(), nearest(split.of_input)) == (402_002_000, 400_002_000)
