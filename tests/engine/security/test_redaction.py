"""Secrets in texts, by their shape and by their value; masked URLs."""

import json
from urllib.parse import quote

import pytest

from engine.graph import Json
from engine.security import redaction
from engine.security.redaction import REDACTED, error_text, know_secrets, mask_url, redact, redact_json, url_secrets

ODD = 'p@ss "wörd"/+x'
"""A secret that has no shape, and another form in a URL and in JSON."""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test knows the secrets of another."""
    monkeypatch.setattr(redaction, "_known", redaction._Known())


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Basic YW5uYTpnZWhlaW0x",
        "authorization='basic dXNlcg=='",
        "it was called with basic YW5uYTpnZWhlaW0x",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw/a+b/c==",
    ],
)
def test_credentials_have_shapes(text: str) -> None:
    assert REDACTED in redact(text)
    assert "YW5" not in redact(text)
    assert "a+b" not in redact(text)


@pytest.mark.parametrize("text", ["Basic understanding of harbours", "basic authentication/authorization", "BASIC"])
def test_sentences_have_none(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("form", [ODD, quote(ODD, safe=""), json.dumps(ODD)[1:-1]])
def test_a_known_secret_is_redacted_in_every_form(form: str) -> None:
    know_secrets([ODD])
    assert redact(f"<{form}>") == f"<{REDACTED}>"
    assert error_text(f"<{form}>") == f"<{REDACTED}>"


def test_the_longest_of_two_secrets_is_redacted_whole() -> None:
    know_secrets(["abcdefgh", "abcdefgh-more"])
    assert redact("abcdefgh-more") == REDACTED


def test_a_short_value_is_redacted_only_where_it_is_given() -> None:
    know_secrets(["key", ""])
    assert redact("the key") == "the key"
    assert redact("the key", "key", "") == f"the {REDACTED}"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://anna:geheim@h.example/p?token=abc&n=1", "https://***@h.example/p?token=***&n=***"),
        ("https://h.example/p?abcdef", "https://h.example/p?***"),
        ("https://h.example:8443/p", "https://h.example:8443/p"),
        ("http://[broken", "***"),
        ("NORMAL", "NORMAL"),
        ("10.1.0.0/16", "10.1.0.0/16"),
    ],
)
def test_a_url_is_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_the_secrets_of_a_url_are_its_password_and_what_is_named_like_one() -> None:
    assert url_secrets("postgresql://anna:geheim@h/db?sslmode=verify-full") == ["geheim"]
    assert url_secrets("https://h/p?api_key=abc&page=2") == ["abc"]
    assert url_secrets("https://h/p?abcdef") == ["abcdef"]
    assert url_secrets("http://[broken") == []


def test_a_document_keeps_its_shape_whatever_is_redacted_in_it() -> None:
    know_secrets(["12345678"])
    halves: list[Json] = ["-----BEGIN PRIVATE KEY-----MII", "https://u:p", "a@b", 12345678, 7, None, True]
    assert redact_json({"deep": {"each": halves}, "n": 1.5}) == {
        "deep": {"each": [REDACTED, "https://u:p", "a@b", REDACTED, 7, None, True]},
        "n": 1.5,
    }


@pytest.mark.parametrize("name", ["authorization", "Proxy-Authorization"])
def test_a_name_tells_what_stands_behind_it(name: str) -> None:
    assert redact_json({name: "basic dXNlcg", "other": "basic dXNlcg"}) == {name: REDACTED, "other": "basic dXNlcg"}


def test_a_secret_for_a_name_does_not_take_its_value() -> None:
    assert redact_json({"sk-" + "a" * 20: "harbour"}) == {REDACTED: "harbour"}
