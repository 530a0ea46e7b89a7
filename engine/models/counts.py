"""Token counts as providers write them. A count that cannot be one is replaced before the provider's SDK reads it.

The SDKs and LangChain turn `true` into 1 and `"12"` into 12, add up negative counts, and give up a whole answer for
`1.5` or `NaN`. They are given an impossible count instead, which the bookkeeping refuses.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.documents.json_text import NotJson, to_json
from engine.usage import MAX_COUNT

IMPOSSIBLE = MAX_COUNT * 1_000_000
"""Stands for a false count. It stays impossible in every sum and difference that LangChain makes of it."""

_USAGE = re.compile(rb'"usage(?:Metadata)?"\s*:\s*\{')
_OF_TOKENS = re.compile(r"(?:tokens|token_?count)$", re.IGNORECASE)
"""Keys of counts: `prompt_tokens`, `cached_tokens`, `promptTokenCount`. Others hold costs, seconds and names."""
_MOST_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Counted:
    """A JSON document with usage, in which `IMPOSSIBLE` stands for every false count."""

    document: dict[str, object]
    corrected: bytes | None
    """Its bytes; null if nothing was replaced."""


def counted(document: bytes) -> Counted | None:
    """The JSON document, if it holds usage."""
    if _USAGE.search(document) is None:
        return None
    try:
        found = json.loads(document, parse_int=_integer)
        if not isinstance(found, dict):
            return None
        replaced = [_replace_false_counts(usage) for usage in _usages(found)]
        return Counted(found, to_json(found) if any(replaced) else None)
    except (ValueError, RecursionError, NotJson):
        return None  # the SDK will say what is wrong with it


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float("inf")


def _usages(document: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """The usage of an answer; Anthropic's first event has it inside `message`, OpenAI's last inside `response`."""
    for outer in (document, document.get("message"), document.get("response")):
        if isinstance(outer, dict):
            yield from (outer[key] for key in ("usage", "usageMetadata") if isinstance(outer.get(key), dict))


def _replace_false_counts(usage: dict[str, object]) -> bool:
    """Replace the false counts in place; whether there was one."""
    found = False
    open_values: list[object] = [usage]
    while open_values:
        value = open_values.pop()
        if isinstance(value, list):
            open_values += value
        elif isinstance(value, dict):
            open_values += value.values()
            for key in [key for key, count in value.items() if _OF_TOKENS.search(key) and _is_false(count)]:
                value[key] = IMPOSSIBLE
                found = True
    return found


def _is_false(count: object) -> bool:
    if count is None or isinstance(count, dict | list):
        return False
    return type(count) is not int or not 0 <= count <= MAX_COUNT
