"""Read JSON strictly, so that every value means the same to every reader.

These are refused although common parsers accept them: duplicate keys, NaN, Infinity, numbers that overflow, integers
beyond ±(2^53 − 1), NUL, lone surrogates, and nesting over 32.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Literal

from engine.graph import Json

MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1

MAX_VALUES = 150_000
"""More values than bytes that requests may have; it bounds the work for Python values that contain themselves."""

_LARGE = "is an integer beyond ±(2^53 − 1)"
_WRITTEN_WITH_EXPONENT = 1e21
_SCALARS = frozenset({str, int, float, bool, type(None)})
_PLAIN_TYPES = _SCALARS | {dict, list}
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+')
_SEARCHED_TOKENS = 50_000
"""How far the place of a duplicate key is searched for, which is slow."""


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
    document = _parse(data)
    flaw = find_flaw(document)
    if flaw is not None:
        raise MalformedJson(f"The value at {flaw.pointer or 'the top'} {flaw.reason}.")
    return document


def find_flaw(document: object) -> Flaw | None:
    """A forbidden value of a parsed document, one of those nearest to the top; null if there is none.

    The document is read level by level, each in a few passes that run in C: 1 MiB takes a tenth of a second at most.
    """
    levels: list[list[object]] = []
    values: list[object] = [document]
    count = 0
    while values:
        count += len(values)
        if count > MAX_VALUES:
            return Flaw("", "value", f"holds more than {MAX_VALUES:,} values")
        if len(levels) == MAX_DEPTH and (index := _first_container(values)) is not None:
            return Flaw(_pointer(levels, index), "depth", f"is nested deeper than {MAX_DEPTH}")
        if not _is_clean(values):
            index, reason = next((i, found) for i, value in enumerate(values) if (found := _reason_against(value)))
            return Flaw(_pointer(levels, index), "value", reason)
        levels.append(values)
        containers = [value for value in values if type(value) not in _SCALARS and value]
        values = list(chain.from_iterable(map(_children, containers)))
    return None


def _children(container: object) -> Iterable[object]:
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, list) else ()


def _first_container(values: list[object]) -> int | None:
    return next((index for index, value in enumerate(values) if isinstance(value, dict | list)), None)


def _pointer(levels: list[list[object]], index: int) -> str:
    """The pointer to the value at an index of the level after these."""
    steps: list[object] = []
    for values in reversed(levels):
        for own, value in enumerate(values):
            if isinstance(value, dict | list):
                if index < len(value):
                    steps.append(list(value)[index] if isinstance(value, dict) else index)
                    index = own
                    break
                index -= len(value)
    return "".join(f"/{escape(step)}" for step in reversed(steps))


def _is_clean(values: list[object]) -> bool:
    """Whether no value is forbidden by itself; the same as `_reason_against` for each, but many times faster."""
    if not set(map(type, values)) <= _PLAIN_TYPES:
        return not any(map(_reason_against, values))
    keys = list(chain.from_iterable(value for value in values if type(value) is dict))
    if not set(map(type, keys)) <= {str} or _is_bad_text("".join(keys)):
        return False
    if _is_bad_text("".join(value for value in values if type(value) is str)):
        return False
    integers = [value for value in values if type(value) is int]
    if integers and not -MAX_INTEGER <= min(integers) <= max(integers) <= MAX_INTEGER:
        return False
    return not any(_reason_against_float(value) for value in values if type(value) is float)


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
    if isinstance(value, dict):
        return next((found for key in value if (found := _reason_against_key(key))), None)
    if isinstance(value, list):
        return None
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


def _parse(data: bytes) -> Json:
    """Parse with the standard library, which keeps every digit of an integer and shows every key."""
    text = ""
    try:
        text = data.decode()
        document: Json = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except _DuplicateKey:
        raise MalformedJson(f"An object has the same key twice{_place_of_duplicate_key(text)}.") from None
    except RecursionError:
        raise MalformedJson(f"The document is nested deeper than {MAX_DEPTH}.") from None
    except MalformedJson:
        raise
    except json.JSONDecodeError as error:
        raise MalformedJson(f"The text is not JSON: {error.msg}: line {error.lineno} column {error.colno}.") from None
    except UnicodeDecodeError as error:
        raise MalformedJson(f"The text is not UTF-8 at byte {error.start}.") from None
    except ValueError:
        raise MalformedJson("The text has a number with too many digits.") from None
    return document


def _refuse_constant(name: str) -> Json:
    raise MalformedJson(f"The text is not JSON: it has the value {name}.")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DuplicateKey
    return found


def _place_of_duplicate_key(text: str) -> str:
    """Line and column of the first duplicate key, from 1; nothing if it is far behind the beginning of the text."""
    open_objects: list[set[str]] = []
    tokens = islice(_TOKEN.finditer(text), _SEARCHED_TOKENS)
    for token, following in pairwise(tokens):
        if token[0] == "{":
            open_objects.append(set())
        elif token[0] == "}":
            open_objects.pop()
        elif token[0][0] == '"' and following[0] == ":":
            key = json.loads(token[0])
            if key in open_objects[-1]:
                line = text.count("\n", 0, token.start()) + 1
                return f": line {line} column {token.start() - text.rfind(chr(10), 0, token.start())}"
            open_objects[-1].add(key)
    return ""
