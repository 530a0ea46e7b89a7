"""The file of own prices: which entry holds for a call, and what is wrong with a file."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from genai_prices.types import TieredPrices

from engine.documents.json_schema import compiled
from engine.graph import JsonObject
from engine.prices.own import InvalidPrices, OwnPrices, check_file, price_file_schema

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def entry(**fields: object) -> JsonObject:
    return {"provider": "openai", "input_mtok": 1, "output_mtok": 1, **fields}  # type: ignore[dict-item]  # JSON all


def written(folder: Path, *entries: JsonObject) -> Path:
    path = folder / "prices.json"
    path.write_text(json.dumps({"prices": entries}))
    return path


def input_price(prices: OwnPrices, model: str, host: str | None = None, tier: str | None = None) -> Decimal | None:
    found = prices.find("openai", model, host, tier, NOW).price
    rate = None if found is None else found.input_mtok
    assert not isinstance(rate, TieredPrices)
    return rate


def test_the_most_particular_entry_holds(tmp_path: Path) -> None:
    prices = OwnPrices(
        written(
            tmp_path,
            entry(input_mtok=1),
            entry(input_mtok=2, model="a"),
            entry(input_mtok=3, host="GPU.internal"),
            entry(input_mtok=4, host="gpu.internal", model="a"),
            entry(input_mtok=5, model="a", service_tier="flex"),
        )
    )

    assert input_price(prices, "b") == 1
    assert input_price(prices, "a") == 2
    assert input_price(prices, "b", "gpu.internal") == 3
    assert input_price(prices, "a", "gpu.internal", "flex") == 4
    assert input_price(prices, "a", None, "flex") == 5
    assert input_price(prices, "a", None, "default") == 2
    assert OwnPrices().find("openai", "a", None, None, NOW).price is None


def test_an_entry_holds_from_its_time_until_the_next_one(tmp_path: Path) -> None:
    later = NOW + timedelta(days=1)
    prices = OwnPrices(
        written(tmp_path, entry(valid_from="2026-01-01T00:00:00Z"), entry(valid_from=later.isoformat(), input_mtok=2))
    )

    found = prices.find("openai", "a", None, None, NOW)
    before = prices.find("openai", "a", None, None, datetime(2025, 1, 1, tzinfo=UTC))

    assert (found.since, found.until) == (datetime(2026, 1, 1, tzinfo=UTC), later)
    assert (before.price, before.until) == (None, found.since)
    assert prices.find("openai", "a", None, None, later).price != found.price


def test_the_standard_tier_has_one_price_under_all_its_names(tmp_path: Path) -> None:
    prices = OwnPrices(written(tmp_path, entry(service_tier="Standard")))

    assert [input_price(prices, "a", None, tier) for tier in (None, "auto", "default", "standard", "flex")] == [
        1, 1, 1, 1, None
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input_mtok": -1}, "prices.0.input_mtok"),
        ({"input_mtok": "NaN"}, "prices.0.input_mtok"),
        ({"provider": ""}, "prices.0.provider"),
        ({"host": "https://llm.internal/v1"}, "prices.0.host"),
        ({"valid_from": "2026-01-01T00:00:00"}, "prices.0.valid_from"),
        ({"per": "month"}, "prices.0.per"),
        ({"cache_audio_read_mtok": 1}, "prices.0"),
    ],
)
def test_a_wrong_entry_is_named_by_its_place(tmp_path: Path, fields: JsonObject, said: str) -> None:
    path = written(tmp_path, entry(**fields))

    assert check_file(path)[1][0].startswith(f"{said}: ")
    with pytest.raises(InvalidPrices, match=said):
        OwnPrices(path)


def test_two_entries_for_the_same_calls_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, entry(model="a"), entry(model="b"), entry(model="a", input_mtok=9))

    assert check_file(path)[1] == ["prices.2: another entry holds for the same calls from the same time on"]


def test_a_key_that_stands_twice_is_refused_instead_of_read_once(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text('{"a:b": {"input_mtok": 1, "output_mtok": 1}, "a:b": {"input_mtok": 2, "output_mtok": 2}}')

    assert check_file(path)[1]


def test_every_problem_of_a_file_is_listed(tmp_path: Path) -> None:
    assert len(check_file(written(tmp_path, entry(input_mtok=-1), entry(output_mtok="many")))[1]) == 2


def test_the_example_of_the_documents_fits_the_check_and_the_schema(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "prices.md").read_text()
    example = page.partition('```json title="prices.json"')[2].partition("```")[0]
    path = tmp_path / "prices.json"
    path.write_text(example)

    entries, problems = check_file(path)
    mismatch = compiled(price_file_schema()).find_mismatch(json.loads(example))

    assert (len(entries), problems, mismatch) == (4, [], None)


def test_the_schema_knows_every_field_of_an_entry() -> None:
    schema = json.dumps(price_file_schema())

    for name in ("provider", "model", "host", "service_tier", "valid_from", "cache_write_1h_mtok", "input_audio_mtok"):
        assert f'"{name}"' in schema
