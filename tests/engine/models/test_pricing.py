"""Prices are exact to the nano-USD, and unknown prices stay null."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import genai_prices
import pytest
from genai_prices import data_snapshot
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice

from engine.models import pricing
from engine.models.pricing import GenaiPrices, InvalidPrices
from engine.resources import CostSource, Price, Prices, Served, Unpriced
from engine.usage import Usage

NOW = datetime(2026, 11, 1, tzinfo=UTC)
PRICES: Prices = GenaiPrices()


def usage(**tokens: int) -> Usage:
    return Usage(**tokens)


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "gpt-4o-mini"), ("anthropic", "claude-sonnet-4-5"), ("gcp.gemini", "gemini-2.5-flash")],
)
def test_costs_match_the_catalogue_to_the_nano_dollar(provider: str, model: str) -> None:
    tokens = usage(input_tokens=1_234, output_tokens=56, cache_read_tokens=1_000, reasoning_tokens=20)
    expected = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=1_234, output_tokens=56, cache_read_tokens=1_000),
        model,
        provider_id=provider,
        genai_request_timestamp=NOW,
    )

    price = PRICES.price(provider, model, tokens, NOW)

    assert Decimal(price.nano_usd or 0) == expected.total_price * 10**9
    assert price.source == CostSource.PRICE_TABLE
    assert price.version is not None
    assert price.version.startswith(f"genai-prices {genai_prices.__version__} ")


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "no-such-model"), ("no-such-provider", "nor-this"), ("google", "gemma-3"), ("scripted", "scripted-1")],
)
def test_a_model_without_a_price_is_unpriced_not_free(provider: str, model: str) -> None:
    assert PRICES.price(provider, model, usage(input_tokens=1, output_tokens=1), NOW) == Price(None, CostSource.NONE)
    assert PRICES.upper_nano_usd(provider, model, 1, 1) is None


def test_output_of_a_model_with_only_an_input_price_is_unpriced() -> None:
    def nano_usd(output_tokens: int) -> int | None:
        tokens = usage(input_tokens=100, output_tokens=output_tokens)
        return PRICES.price("openai", "text-embedding-3-small", tokens, NOW).nano_usd

    assert (nano_usd(0), nano_usd(1)) == (2_000, None)


@pytest.mark.parametrize(
    ("tier", "nano_usd"), [("flex", 1_125_000_000), ("default", 2_250_000_000), (None, 2_250_000_000)]
)
def test_the_tier_of_the_answer_decides_the_price(tier: str | None, nano_usd: int) -> None:
    tokens = usage(input_tokens=1_000_000, output_tokens=100_000)

    assert PRICES.price("openai", "gpt-5", tokens, NOW, Served(tier=tier)).nano_usd == nano_usd


def test_the_most_that_a_call_in_a_tier_can_cost_covers_the_standard_tier_too() -> None:
    def upper(tier: str | None) -> int | None:
        return PRICES.upper_nano_usd("openai", "gpt-5", 1_000_000, 100_000, Served(tier=tier))

    assert (upper(None), upper("flex"), upper("priority"), upper("scale")) == (
        2_250_000_000,
        2_250_000_000,
        4_500_000_000,
        None,
    )


@pytest.mark.parametrize(
    ("tokens", "served", "reason"),
    [
        (None, Served(), Unpriced.USAGE),
        (usage(input_tokens=1, output_tokens=1), Served(tier="scale"), Unpriced.TIER),
        (usage(input_tokens=1, output_tokens=1, cache_read_tokens=9), Served(), Unpriced.KIND),
        (usage(input_tokens=1, output_tokens=1), Served(host="llm.internal"), Unpriced.SERVER),
    ],
)
def test_an_unknown_price_says_why(tokens: Usage | None, served: Served, reason: Unpriced) -> None:
    assert GenaiPrices(foreign="none").price("openai", "gpt-5", tokens, NOW, served).reason == reason


def test_a_price_list_is_resolved_once_and_again_when_another_one_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    prices, tokens = GenaiPrices(), usage(input_tokens=1_000_000, output_tokens=0)
    may, august = datetime(2025, 5, 1, tzinfo=UTC), datetime(2025, 8, 1, tzinfo=UTC)
    asked = 0

    def count(price: ModelPrice, usage: object) -> object:
        nonlocal asked
        asked += 1
        return calculate(price, usage)

    calculate = ModelPrice.calc_price
    monkeypatch.setattr(ModelPrice, "calc_price", count)

    costs = [prices.price("openai", "o3", tokens, may + timedelta(minutes=minute)).nano_usd for minute in range(100)]
    assert (set(costs), asked) == ({10_000_000_000}, 2)
    assert prices.price("openai", "o3", tokens, august).nano_usd == 2_000_000_000
    assert prices.price("openai", "o3", tokens, may).nano_usd == 10_000_000_000


def test_another_snapshot_of_the_catalogue_counts_from_then_on() -> None:
    prices, tokens = GenaiPrices(), usage(input_tokens=1_000_000, output_tokens=0)
    before = prices.price("openai", "gpt-5", tokens, NOW).nano_usd
    openai = next(each for each in data_snapshot.get_snapshot().providers if each.id == "openai")
    model = ModelInfo(
        id="gpt-5", match=ClauseEquals("gpt-5"), prices=ModelPrice(input_mtok=Decimal(7), output_mtok=Decimal(7))
    )
    data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot([replace(openai, models=[model])], True))
    try:
        after = prices.price("openai", "gpt-5", tokens, NOW).nano_usd
    finally:
        data_snapshot.set_custom_snapshot(None)

    assert (before, after) == (1_250_000_000, 7_000_000_000)
    assert prices.price("openai", "gpt-5", tokens, NOW).nano_usd == before


def test_price_lists_that_are_kept_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "_MAX_KEPT", 10)
    prices, tokens = GenaiPrices(), usage(input_tokens=1, output_tokens=0)

    for number in range(100):
        prices.price("openai", "gpt-5", tokens, NOW, Served(tier=f"tier-{number}"))

    assert len(prices._kept) == 10


def test_an_unknown_provider_is_priced_by_the_models_name() -> None:
    tokens = usage(input_tokens=1_000, output_tokens=10)

    assert PRICES.price("my-proxy", "gpt-4o-mini", tokens, NOW) == PRICES.price("openai", "gpt-4o-mini", tokens, NOW)


@pytest.mark.parametrize(
    "tokens",
    [None, Usage(), Usage(output_tokens=7), Usage(input_tokens=5, output_tokens=1, cache_read_tokens=9)],
)
def test_unknown_or_contradictory_usage_is_unpriced(tokens: Usage | None) -> None:
    assert PRICES.price("openai", "gpt-4o-mini", tokens, NOW) == Price(None, CostSource.NONE)


def test_the_price_on_the_day_of_the_call_applies() -> None:
    tokens = usage(input_tokens=1_000_000, output_tokens=0)

    before = PRICES.price("openai", "o3", tokens, datetime(2025, 5, 1, tzinfo=UTC))
    after = PRICES.price("openai", "o3", tokens, datetime(2025, 8, 1, tzinfo=UTC))

    assert (before.nano_usd, after.nano_usd) == (10_000_000_000, 2_000_000_000)


def test_the_offline_models_price_is_marked_as_a_demo() -> None:
    price = PRICES.price("offline", "extractive", usage(input_tokens=10, output_tokens=5), NOW)

    assert price == Price(10 * 100 + 5 * 400, CostSource.DEMO, "demo")


def test_the_upper_bound_uses_the_most_expensive_kind_of_input() -> None:
    written = usage(input_tokens=1_000, output_tokens=100, cache_write_tokens=1_000)
    dearest = PRICES.price("anthropic", "claude-sonnet-4-5", written, NOW)

    assert PRICES.upper_nano_usd("anthropic", "claude-sonnet-4-5", 1_000, 100) == dearest.nano_usd


def own(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(document))
    return path


def test_custom_prices_override_the_catalogue_and_round_half_to_even(tmp_path: Path) -> None:
    prices = GenaiPrices(own(tmp_path, {"openai:gpt-4o-mini": {"input_mtok": "0.0005", "output_mtok": 1}}))

    halves = [prices.price("openai", "gpt-4o-mini", usage(input_tokens=n, output_tokens=0), NOW) for n in (1, 3, 5)]

    assert [price.nano_usd for price in halves] == [0, 2, 2]
    assert {price.source for price in halves} == {CostSource.OVERRIDE}
    assert (halves[0].version or "").startswith("own ")


def test_custom_prices_are_found_by_the_providers_name_in_graphs_and_in_spans(tmp_path: Path) -> None:
    prices = GenaiPrices(own(tmp_path, {"google:mine": {"input_mtok": 1, "output_mtok": 1}}))
    tokens = usage(input_tokens=3, output_tokens=0)

    assert [prices.price(name, "mine", tokens, NOW).nano_usd for name in ("google", "gcp.gemini")] == [3_000, 3_000]


def test_cached_tokens_without_a_price_cost_as_much_as_input(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        {"a:b": {"input_mtok": 1, "output_mtok": 1}, "a:c": {"input_mtok": 1, "output_mtok": 1, "cache_read_mtok": 0}},
    )
    prices, tokens = GenaiPrices(path), usage(input_tokens=10, output_tokens=0, cache_read_tokens=10)

    assert [prices.price("a", model, tokens, NOW).nano_usd for model in ("b", "c")] == [10_000, 0]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"a:b": {"input_mtok": -1, "output_mtok": 1}}, "greater than or equal to 0"),
        ({"a:b": {"input_mtok": 1}}, "output_mtok"),
        ({"a:b": {"input_mtok": 1, "output_mtok": 1, "per": "month"}}, "per"),
        ([], "an object"),
    ],
)
def test_the_error_for_an_invalid_price_file_names_the_place(tmp_path: Path, document: object, reason: str) -> None:
    with pytest.raises(InvalidPrices, match=reason):
        GenaiPrices(own(tmp_path, document))


def test_the_error_for_a_missing_price_file_names_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InvalidPrices, match="No such file"):
        GenaiPrices(tmp_path / "none.json")
