"""Read JSON strictly, so that every value means the same to every reader.

These are refused although common parsers accept them: duplicate keys, NaN, Infinity, numbers that overflow, integers
beyond ±(2^53 − 1), NUL, lone surrogates, and nesting over 32.
"""

import json
import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import orjson

from engine.graph import Json

MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1

_LARGE = "is an integer beyond ±(2^53 − 1)"
_WRITTEN_WITH_EXPONENT = 1e21
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+')


class MalformedJson(ValueError):
    """The text is not a JSON document, or cannot be read without loss."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """A forbidden value: its JSON pointer (RFC 6901), its kind, and the reason as the end of "The value …"."""

    pointer: str
    kind: Literal["value", "depth"]
    reason: str


def read_json(data: bytes) -> Json:
    """Parse UTF-8 bytes. Raises `MalformedJson` with a sentence that names the place of the fault."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedJson(f"The text is not JSON: {error}.") from None
    document = _read_every_digit(data.decode())
    flaw = find_flaw(document)
    if flaw is not None:
        raise MalformedJson(f"The value at {flaw.pointer or 'the top'} {flaw.reason}.")
    return document


def find_flaw(document: object) -> Flaw | None:
    """The first forbidden value of a parsed document; null if there is none."""
    open_values: list[tuple[object, str, int]] = [(document, "", 1)]
    while open_values:
        value, pointer, depth = open_values.pop()
        if isinstance(value, dict | list) and depth > MAX_DEPTH:
            return Flaw(pointer, "depth", f"is nested deeper than {MAX_DEPTH}")
        if isinstance(value, dict):
            reason = next((found for key in value if (found := _reason_against_key(key))), None)
            open_values.extend((child, f"{pointer}/{escape(key)}", depth + 1) for key, child in value.items())
        elif isinstance(value, list):
            reason = None
            open_values.extend((child, f"{pointer}/{index}", depth + 1) for index, child in enumerate(value))
        else:
            reason = _reason_against(value)
        if reason is not None:
            return Flaw(pointer, "value", reason)
    return None


def escape(step: object) -> str:
    """A key or index as a step of a JSON pointer (RFC 6901)."""
    return str(step).replace("~", "~0").replace("/", "~1")


def unescape(step: str) -> str:
    """The key that a step of a JSON pointer stands for."""
    return step.replace("~1", "/").replace("~0", "~")


def _reason_against_key(key: object) -> str | None:
    if not isinstance(key, str):
        return "has a key that is no text"
    return "has a key with NUL or half a surrogate pair" if _is_bad_text(key) else None


def _reason_against(value: object) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return "holds NUL or half a surrogate pair" if _is_bad_text(value) else None
    if isinstance(value, int):
        return None if abs(value) <= MAX_INTEGER else _LARGE
    if isinstance(value, float):
        return _reason_against_float(value)
    return "is no JSON value"


def _reason_against_float(value: float) -> str | None:
    """Canonical JSON writes whole floats below 1e21 as integers, so the bound of integers holds for them too."""
    if not math.isfinite(value):
        return "is no finite number"
    return _LARGE if MAX_INTEGER < abs(value) < _WRITTEN_WITH_EXPONENT else None


def _is_bad_text(text: str) -> bool:
    if "\0" in text:
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


class _DuplicateKey(Exception):
    """An object has a key twice."""


def _read_every_digit(text: str) -> Json:
    """Parse integers of any size, which orjson would turn into floats. The text is known to be JSON."""
    try:
        document: Json = json.loads(text, object_pairs_hook=_object)
    except _DuplicateKey:
        line, column = _place_of_duplicate_key(text)
        raise MalformedJson(f"An object has the same key twice: line {line} column {column}.") from None
    except RecursionError:
        raise MalformedJson(f"The document is nested deeper than {MAX_DEPTH}.") from None
    return document


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DuplicateKey
    return found


def _place_of_duplicate_key(text: str) -> tuple[int, int]:
    """Line and column, from 1, of the first duplicate key. The text must be JSON that has one."""
    open_objects: list[set[str]] = []
    tokens = list(_TOKEN.finditer(text))
    for token, following in pairwise(tokens):
        if token[0] == "{":
            open_objects.append(set())
        elif token[0] == "}":
            open_objects.pop()
        elif token[0][0] == '"' and following[0] == ":":
            key = json.loads(token[0])
            if key in open_objects[-1]:
                return text.count("\n", 0, token.start()) + 1, token.start() - text.rfind("\n", 0, token.start())
            open_objects[-1].add(key)
    return 1, 1
