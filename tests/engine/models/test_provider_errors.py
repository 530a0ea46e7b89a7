"""What is kept of a provider's own words."""

import pytest

from engine.models.provider_errors import MAX_SAID, failure_of
from engine.security import redaction
from engine.security.redaction import REDACTED, know_secrets


def said(text: str, secret: str | None = "own key") -> str:
    """The message of the failure."""
    return failure_of(ValueError(text), {}, provider="openai", model="m", secret=secret).message


def test_a_providers_words_are_cut() -> None:
    assert said("x" * 10_000).endswith(f"model m: {'x' * MAX_SAID}…")
    assert said("x" * MAX_SAID).endswith(f"model m: {'x' * MAX_SAID}")


def test_they_are_cut_behind_the_redaction_so_that_no_half_key_is_left() -> None:
    key = "a key/without+shape"
    assert said("x" * (MAX_SAID - 5) + key, key).endswith("x" * (MAX_SAID - 5) + REDACTED[:5] + "…")


def test_the_keys_of_other_providers_are_redacted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", redaction._Known())
    know_secrets(["another key"])
    message = said("your own key, another key, Authorization: Basic dXNlcjpwYXNz")
    assert message.endswith(f"your {REDACTED}, {REDACTED}, {REDACTED}")
