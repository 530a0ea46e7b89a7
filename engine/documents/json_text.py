"""Writes JSON. Everything that becomes JSON text is written here; nothing else calls a serialiser.

orjson (3.13.0 and five releases before it) writes behind its buffer where lists are nested over about 200 deep, which
ends the process. So nesting is checked first, without recursion.
"""

import json
from collections.abc import Callable, Iterable
from itertools import chain, islice
from types import NoneType
from typing import Any

import orjson

MAX_NESTING = 64
"""A value that a node, a model, a tool or a retriever returns is nested less deep than this."""

_MOST_LEVELS = 128
"""A value is written if it is nested less deep: one of those in the containers of a snapshot, a record or an event."""

_MOST_VALUES = 8_000_000
"""How many values are written at once: twice as many as the largest state can hold."""

_FEW = 256

_SCALARS = frozenset({str, int, float, bool, NoneType})


class NotJson(TypeError):
    """The value cannot be written as JSON. The message is the end of a sentence that begins with the value."""


def to_json(
    value: object, *, levels: int = _MOST_LEVELS, options: int = 0, default: Callable[[Any], Any] | None = None
) -> bytes:
    """The value as JSON; `options` and `default` are those of orjson.

    Raises `NotJson`, also for a value that is nested `levels` deep.
    """
    if not _is_flat(value):
        check_nesting(value, levels)
    try:
        return orjson.dumps(value, default, options)
    except orjson.JSONEncodeError as error:
        raise NotJson(f"is not JSON: {error}") from error


def to_ascii_json(value: object, *, is_indented: bool = False, default: Callable[[Any], Any] | None = None) -> str:
    """The value as JSON in ASCII: a lone surrogate, which `to_json` refuses, is escaped like any other character."""
    check_nesting(value, _MOST_LEVELS)
    return json.dumps(value, default=default, indent=2 if is_indented else None)


def _is_flat(value: object) -> bool:
    """Whether it is an object with a few scalars and lists of them, as the attributes of a span are."""
    if type(value) is not dict or len(value) > _FEW:
        return False
    others = [each for each in value.values() if type(each) not in _SCALARS]
    return all(type(each) is list and len(each) <= _FEW and _SCALARS.issuperset(map(type, each)) for each in others)


def check_nesting(value: object, levels: int = MAX_NESTING) -> int:
    """How many values are inside the value. Raises `NotJson` if it is nested `levels` deep, or they are millions."""
    inside: list[object] = [value]
    count = 0
    for _ in range(levels):
        containers = [outer for outer in inside if type(outer) not in _SCALARS]
        inside = list(islice(chain.from_iterable(map(_children, containers)), _MOST_VALUES + 1))
        if not inside:
            return count
        count += len(inside)
        if count > _MOST_VALUES:
            raise NotJson(f"holds more than {_MOST_VALUES:,} values")
    raise NotJson(f"is nested {levels} levels deep or deeper")


def size_of(value: object, most: int) -> int:
    """About the bytes of a JSON value: its letters, and 8 for everything else. Beyond `most` it is not counted on."""
    size = 0
    open_values = [value]
    while open_values and size <= most:
        value = open_values.pop()
        if isinstance(value, str):
            size += len(value)
            continue
        size += 8
        if isinstance(value, dict):
            open_values += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            open_values += value
    return size


def _children(value: object) -> Iterable[object]:
    """What is directly inside a value that the serialiser would go into."""
    if type(value) is list:
        return value
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    return [getattr(value, name) for name in getattr(value, "__dataclass_fields__", ())]
