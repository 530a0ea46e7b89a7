"""Puts each text that a view is given on one line, before the view measures it and draws around it."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar, cast

from pydantic import BaseModel

from engine.security.printable import one_line

T = TypeVar("T")


def plain(value: T) -> T:
    """A copy of texts, documents, records and collections of these, in which every text is one printable line.

    A text with line breaks could otherwise draw lines that look like ours. Enums, numbers and times are as they were.
    """
    return cast(T, _plain(value))


def _plain(value: object) -> object:
    if type(value) is str:
        return one_line(value)
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: _plain(getattr(value, name)) for name in type(value).model_fields})
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _plain(getattr(value, each.name)) for each in fields(value)})
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return type(value)(map(_plain, value))
    return value
