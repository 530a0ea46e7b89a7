"""Which price list of the catalogue holds: by server, service tier and time."""

from datetime import UTC, datetime, timedelta

import genai_prices
import pytest
from genai_prices import data_snapshot
from genai_prices.types import ModelPrice

from engine.prices.catalogue import Catalogue
from engine.prices.rates import KINDS, Rates
from engine.resources import Unpriced

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def expected(model: str, provider: str, context: dict[str, str] | None = None) -> ModelPrice:
    """What genai-prices itself answers."""
    usage = genai_prices.Usage(input_tokens=1, output_tokens=1)
    return genai_prices.calc_price(
        usage, model, provider_id=provider, genai_request_timestamp=NOW, price_context=context
    ).model_price


@pytest.mark.parametrize(
    ("provider", "model", "tier", "context"),
    [
        ("openai", "gpt-5", "flex", {"service_tier": "flex"}),
        ("openai", "gpt-5", "priority", {"service_tier": "priority"}),
        ("openai", "gpt-5", "batch", {"processing": "batch"}),
        ("openai", "gpt-5", "default", {}),
        ("openai", "gpt-5", "auto", {}),
        ("anthropic", "claude-sonnet-4-5", "standard", {}),
        ("anthropic", "claude-sonnet-4-5", "batch", {"processing": "batch"}),
    ],
)
def test_a_tier_has_its_own_price(provider: str, model: str, tier: str, context: dict[str, str]) -> None:
    assert Catalogue().find(provider, model, None, tier, NOW).price == expected(model, provider, context)


@pytest.mark.parametrize(
    ("provider", "model", "tier"),
    [("openai", "gpt-5", "scale"), ("openai", "gpt-4o-mini", "x" * 64), ("anthropic", "claude-sonnet-4-5", "priority")],
)
def test_a_tier_without_a_price_is_unpriced_and_not_standard(provider: str, model: str, tier: str) -> None:
    found = Catalogue().find(provider, model, None, tier, NOW)

    assert (found.price, found.reason) == (None, Unpriced.TIER)


@pytest.mark.parametrize(
    ("host", "is_assumed"),
    [
        (None, False),
        ("api.openai.com", False),
        ("llm.internal", True),
        ("127.0.0.1", True),
        ("api.openai.com.evil.example", True),
        ("evil-api.openai.com", True),
    ],
)
def test_a_price_at_another_server_is_an_assumption(host: str | None, is_assumed: bool) -> None:
    found = Catalogue().find("openai", "gpt-5", host, None, NOW)

    assert (found.price, found.is_assumed) == (expected("gpt-5", "openai"), is_assumed)


def test_a_model_that_is_named_free_costs_nothing_and_one_without_a_price_is_unpriced() -> None:
    def nano_usd(provider: str, model: str) -> int | None:
        price = Catalogue().find(provider, model, None, None, NOW).price
        amount = None if price is None else Rates(price).cost([1_000, 10, *[None] * (len(KINDS) - 2)])
        return None if amount is None else amount.nearest()

    assert nano_usd("openrouter", "mistralai/mistral-nemo:free") == 0
    assert nano_usd("google", "gemma-3") is None


def test_another_provider_of_the_catalogue_has_prices_of_its_own() -> None:
    found = Catalogue().find("openai", "deepseek-chat", "api.deepseek.com", None, NOW)

    assert (found.price, found.is_assumed) == (expected("deepseek-chat", "deepseek"), False)


def test_each_listing_holds_exactly_as_long_as_genai_prices_says_the_same() -> None:
    catalogue, step = Catalogue(), timedelta(minutes=30)
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            if isinstance(model.prices, ModelPrice):
                continue
            found = catalogue.find(provider.id, model.id, None, None, NOW)
            if found.price is None:
                continue  # another entry of the catalogue has this name
            for at in (NOW + step * number for number in range(-48, 49)):
                if found.since <= at < found.until:
                    assert catalogue.find(provider.id, model.id, None, None, at).price == found.price, model.id


def test_prices_by_the_hour_of_the_day_change_at_their_hour() -> None:
    timed = [
        (provider.id, model.id)
        for provider in data_snapshot.get_snapshot().providers
        for model in provider.models
        if not isinstance(model.prices, ModelPrice)
        and any(type(each.constraint).__name__ == "TimeOfDateConstraint" for each in model.prices)
    ]
    assert timed
    for provider, model in timed:
        found = Catalogue().find(provider, model, None, None, NOW)
        assert NOW - timedelta(days=1) <= found.since <= NOW < found.until <= NOW + timedelta(days=1)
