"""Counts that cannot be true are replaced on the wire; everything else stays as the provider wrote it."""

import json

import pytest

from engine.models.counts import IMPOSSIBLE, without_false_counts

LIES = ("-1", "1000000000001", "1" * 30, "1" * 5_000, "0.5", "1.0", "NaN", "true", '"12"', "1e3")


def corrected(usage: str, *, key: str = "usage") -> dict[str, object]:
    """The usage of an answer after the correction."""
    document = f'{{"id": "1", "{key}": {usage}}}'.encode()
    return dict(json.loads(without_false_counts(document) or document)[key])


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("key", ["prompt_tokens", "promptTokenCount", "cache_read_input_tokens"])
def test_a_false_count_becomes_an_impossible_one(key: str, lie: str) -> None:
    assert corrected(f'{{"{key}": {lie}, "other_tokens": 7}}') == {key: IMPOSSIBLE, "other_tokens": 7}


def test_counts_inside_are_found_too() -> None:
    usage = '{"prompt_tokens_details": {"cached_tokens": -1}, "promptTokensDetails": [{"tokenCount": "many"}]}'
    assert corrected(usage, key="usageMetadata") == {
        "prompt_tokens_details": {"cached_tokens": IMPOSSIBLE},
        "promptTokensDetails": [{"tokenCount": IMPOSSIBLE}],
    }


@pytest.mark.parametrize(
    "document",
    [
        b'{"usage": {"prompt_tokens": 0, "completion_tokens": 1000000000000, "total_tokens": null}}',
        b'{"usage": {"cost": 0.25, "queue_time": 1.5, "is_byok": false, "service_tier": "standard"}}',
        b'{"content": [{"input": {"max_tokens": "many"}}], "usage": {"input_tokens": 1}}',
        b'{"usage": {"input_tokens": -1}',
        b"[" * 10_000 + b'"usage": {',
        b'{"usage": null}',
    ],
)
def test_what_is_no_count_and_no_json_stays_as_it_is(document: bytes) -> None:
    assert without_false_counts(document) is None


def test_the_first_event_of_anthropic_has_its_usage_inside() -> None:
    found = without_false_counts(b'{"type": "message_start", "message": {"usage": {"input_tokens": -5}}}')
    assert json.loads(found or b"") == {"type": "message_start", "message": {"usage": {"input_tokens": IMPOSSIBLE}}}
