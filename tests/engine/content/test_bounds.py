"""Content without secrets, and no larger than a limit."""

import orjson
import pytest

from engine.content.bounds import MAX_ATTRIBUTE_BYTES, MAX_STORED_BYTES, TOO_LARGE, Cleaner, fitted
from engine.graph import Json

SECRET = "sk-" + "a1" * 12
LARGE: list[Json] = [{"role": "user", "parts": [{"type": "text", "content": 'Größe 🦓 \\ " \n' * 9_000}]}] * 3
MANY: list[Json] = [{"role": "user", "parts": [{"type": "text", "content": f"no. {at}"}]} for at in range(5_000)]


def test_secrets_are_redacted_wherever_they_stand() -> None:
    value: Json = {"a": [SECRET, {"b": f"key {SECRET}."}], SECRET: 1, "n": None}
    clean = Cleaner().clean(value)
    assert SECRET not in orjson.dumps(clean).decode()
    assert clean == {"a": ["[redacted]", {"b": "key [redacted]."}], "[redacted]": 1, "n": None}


def test_what_no_database_takes_is_replaced() -> None:
    assert Cleaner().clean("a\0b\ud800c") == "a\ufffdb\ufffdc"


def test_half_a_secret_at_a_cut_is_not_shown() -> None:
    text = "x" * (2 * MAX_STORED_BYTES - 10) + SECRET
    clean = Cleaner().clean(text)
    assert isinstance(clean, str)
    assert "sk-" not in clean
    assert clean.endswith("…")


@pytest.mark.parametrize("value", [LARGE, MANY, {"k" * 200_000: 1}, "z" * 200_000])
@pytest.mark.parametrize("limit", [MAX_ATTRIBUTE_BYTES, 700])
def test_what_is_too_large_is_cut_to_json_that_is_not(value: Json, limit: int) -> None:
    text, is_cut = fitted(value, limit)
    assert is_cut
    assert len(text.encode()) <= limit
    assert type(orjson.loads(text)) in (type(value), str)


def test_the_newest_messages_stay() -> None:
    text, _ = fitted(MANY, MAX_ATTRIBUTE_BYTES)
    assert orjson.loads(text)[-1] == MANY[-1]


def test_every_message_stays_where_shorter_texts_are_enough() -> None:
    text, _ = fitted(LARGE, MAX_ATTRIBUTE_BYTES)
    messages = orjson.loads(text)
    assert len(messages) == len(LARGE)
    assert all(message["parts"][0]["content"].startswith("Größe 🦓") for message in messages)


def test_what_fits_is_unchanged_and_what_cannot_be_cut_is_named() -> None:
    assert fitted({"a": "é"}, 100) == ('{"a":"é"}', False)
    assert fitted({"k" * 200: 1}, 100) == (f'"{TOO_LARGE}"', True)
