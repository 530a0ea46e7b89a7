"""Counts that cannot be true are replaced on the wire; everything else stays as the provider wrote it."""

import json

import pytest

from engine.models.counts import IMPOSSIBLE, counted

LIES = ("-1", "1000000000001", "1" * 30, "1" * 5_000, "0.5", "1.0", "NaN", "true", '"12"', "1e3")


def corrected(usage: str, *, key: str = "usage") -> dict[str, object]:
    """The usage of an answer after the correction."""
    document = f'{{"id": "1", "{key}": {usage}}}'.encode()
    found = counted(document)
    assert found is not None
    read = found.document[key]
    assert read == json.loads(found.corrected or document)[key]
    assert isinstance(read, dict)
    return read


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
    found = counted(document)
    assert found is None or found.corrected is None


@pytest.mark.parametrize("outer", ["message", "response"])
def test_usage_inside_of_an_event_is_found(outer: str) -> None:
    """As in Anthropic's first event, and in the last of OpenAI's Responses."""
    found = counted(json.dumps({"type": "event", outer: {"usage": {"input_tokens": -5}}}).encode())
    assert found is not None
    assert json.loads(found.corrected or b"") == {"type": "event", outer: {"usage": {"input_tokens": IMPOSSIBLE}}}
