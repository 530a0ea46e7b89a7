"""Makes content fit for traces and tables: without secrets, and no larger than a limit."""

from collections.abc import Callable

from engine.database.base import storable
from engine.documents.json_text import to_json
from engine.graph import Json
from engine.security.redaction import redact

MAX_ATTRIBUTE_BYTES = 64 * 1024
"""The most that one attribute of a span or event holds."""
MAX_STORED_BYTES = 1024 * 1024
"""The most that the database keeps of one value of a call."""
TOO_LARGE = "[too large]"
"""Stands for a value that stays too large, however short its texts are."""

_MARGIN = 4_096
"""Characters at the end of a text that was cut before it was redacted: half a secret has no shape."""
_SHORTEST = 64


class Cleaner:
    """Redacts the texts of content. A text is redacted once: a conversation repeats its messages call by call."""

    def __init__(self) -> None:
        self._clean: dict[str, str] = {}

    def clean(self, value: Json) -> Json:
        """The value without secrets, NULs and lone surrogates."""
        return _each_text(value, self._text)

    def _text(self, text: str) -> str:
        known = self._clean.get(text)
        if known is None:
            known = self._clean[text] = _redacted(text)
        return known


def _redacted(text: str) -> str:
    """The text without secrets; of a text that is cut anyway only as much as may be shown."""
    most = 2 * MAX_STORED_BYTES
    if len(text) <= most:
        return redact(str(storable(text)))
    return redact(str(storable(text[:most])))[:-_MARGIN] + "…"


def fitted(value: Json, max_bytes: int) -> tuple[str, bool]:
    """The value as JSON of at most `max_bytes`, and whether it was cut: long texts first, then the oldest items."""
    whole = to_json(value)
    if len(whole) <= max_bytes:
        return whole.decode(), False
    longest = max_bytes // 2
    while longest >= _SHORTEST:
        data = to_json(_each_text(value, _cut_to(longest)))
        if len(data) <= max_bytes:
            return data.decode(), True
        longest //= 2
    if isinstance(value, list) and len(value) > 1:
        return fitted(value[(len(value) + 1) // 2 :], max_bytes)[0], True
    return to_json(TOO_LARGE).decode(), True


def _cut_to(longest: int) -> Callable[[str], str]:
    return lambda text: text if len(text) <= longest else text[: longest - 1] + "…"


def _each_text(value: Json, change: Callable[[str], str]) -> Json:
    """The value with each of its texts changed; its nesting is that of a value of the state, which is bounded."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _each_text(inner, change) for key, inner in value.items()}
    return [_each_text(inner, change) for inner in value] if isinstance(value, list | tuple) else value
