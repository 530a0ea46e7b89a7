"""Redacts secrets in error messages, log lines and span attributes, by their shape and by their value.

The values are those of this process' settings: `know_secrets` makes them known once, before anything is written.
"""

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from engine.documents.json_text import to_ascii_json
from engine.graph import Json

MAX_MESSAGE_BYTES = 2_048
REDACTED = "[redacted]"

SECRET_SHAPES = re.compile(
    r"""
    \b(?:sk|pk|rk|spl|xox[abpr]|ghp|gho|glpat)[-_][A-Za-z0-9_\-]{12,}         # keys of providers and services
  | \bwhsec_[A-Za-z0-9+/_\-]{12,}=*                                         # secrets of webhooks
  | \bAIza[A-Za-z0-9_\-]{30,}                                               # Google API keys
  | \bAKIA[0-9A-Z]{16}\b                                                    # AWS access keys
  | \beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*            # JWT
  | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----[\s\S]*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|$)
  | (?i:\bbearer)\s+[A-Za-z0-9._~+/\-]{12,}=*
  | (?i:\bbasic)\s+(?=[A-Za-z+/]*[0-9=])[A-Za-z0-9+/]{8,}={0,2}              # base64, not a word of a sentence
  | (?i:\bauthorization\W{1,4}basic)\s+[A-Za-z0-9+/]{4,}={0,2}
  | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)                                         # user:password@ in a URL
    """,
    re.VERBOSE,
)


MIN_SECRET_CHARACTERS = 8
"""Shorter values are no secrets: to replace each `test` or `key` would spoil every text."""


class _Known:
    """The secrets of this process, and a pattern that matches any of them."""

    def __init__(self) -> None:
        self.values: frozenset[str] = frozenset()
        self.pattern = re.compile(r"(?!)")

    def add(self, values: frozenset[str]) -> None:
        if not values <= self.values:
            self.values |= values
            self.pattern = _any_of(self.values)


_known = _Known()


def know_secrets(values: Iterable[str]) -> None:
    """Redact these values from now on, wherever they appear, also percent-encoded or escaped as in JSON."""
    long_enough = (value for value in values if len(value) >= MIN_SECRET_CHARACTERS)
    _known.add(frozenset(form for value in long_enough for form in _forms(value)))


def redact(text: str, *values: str) -> str:
    """The text without known secrets, the given values, and whatever has the shape of a secret."""
    given = {form for value in values if value for form in _forms(value)}
    if given:
        text = _any_of(given).sub(REDACTED, text)
    return SECRET_SHAPES.sub(REDACTED, _known.pattern.sub(REDACTED, text))


def redact_json(value: Json) -> Json:
    """The value with each of its texts redacted by itself, and those that are secrets by the name before them.

    To redact it as one text would take what stands between half a secret in one text and half of one in another.
    """
    if isinstance(value, dict):
        return {(clean := redact(name)): _named(clean, inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [redact_json(inner) for inner in value]
    text = str(value)
    redacted = redact(text)
    return value if redacted == text else redacted


def _named(name: str, value: Json) -> Json:
    redacted = redact_json(value)
    if not isinstance(redacted, str):
        return redacted
    pair = f"{name}: {redacted}"
    return redacted if redact(pair) == pair else REDACTED


def _forms(value: str) -> set[str]:
    return {value, quote(value, safe=""), to_ascii_json(value)[1:-1]}


def _any_of(values: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(values, key=len, reverse=True))))


def error_text(text: str, *values: str) -> str:
    """A message for result, span and record: without secrets and the given values, at most 2 KiB of UTF-8."""
    data = redact(text.replace("\0", "\ufffd"), *values).encode("utf-8", "replace")
    return (
        data.decode()
        if len(data) <= MAX_MESSAGE_BYTES
        else data[: MAX_MESSAGE_BYTES - 3].decode("utf-8", "ignore") + "…"
    )


MASK = "***"


def mask_url(url: str) -> str:
    """The URL with user, password and the values of its query masked; a text that is no URL is returned as it is."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    if not (parts.netloc and (parts.query or "@" in parts.netloc)):
        return url
    _, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{MASK}@{host}" if at else host, query=_masked_query(parts.query)))


def url_secrets(url: str) -> list[str]:
    """The password in a URL, the values of its query that are named like credentials, and a query without names."""
    try:
        parts = urlsplit(url)
        found = [parts.password] if parts.password else []
    except ValueError:
        return []
    if parts.query and "=" not in parts.query:
        return [*found, parts.query]
    return [*found, *(value for name, value in parse_qsl(parts.query) if _CREDENTIAL.search(name))]


_CREDENTIAL = re.compile(r"key|token|secret|pass|sig|auth|cred|code", re.IGNORECASE)


def url_values(url: str) -> list[str]:
    """Every value of the URL's query, and the query itself: what `mask_url` masks of a URL without a user."""
    query = urlsplit(url).query
    return [query, *(value for _, value in parse_qsl(query))]


def _masked_query(query: str) -> str:
    """Names stay, so that people recognise the URL; a query without names may be the secret itself."""
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return "&".join(f"{name}={MASK}" if equals else MASK for name, equals, _ in pairs)
