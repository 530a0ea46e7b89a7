"""Pagination cursors. A cursor holds the end of a page and a digest of the filters, so that misuse is noticed.

The digest has no key: whoever knows it can make a cursor, so the position is checked like any other input. It holds the
owner of the request in progress, so that no list can forget to keep the cursors of owners apart.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from typing import TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter

from api.http.problems import Problem
from api.schemas.timestamps import in_range
from engine.documents.json_text import to_json

Position = TypeVar("Position")

_TEXTS = TypeAdapter(list[str])
_owner = ContextVar("owner", default="")


def cursors_of(owner: str) -> None:
    """Make and take cursors of this owner only, in the request in progress."""
    _owner.set(owner)


def write_cursor(position: list[str], asked: BaseModel) -> str:
    """An opaque cursor for the end of a page; `asked` holds the filters of the list."""
    content = to_json([_digest(position, asked), *position])
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def read_cursor(cursor: str | None, asked: BaseModel, read: Callable[..., Position]) -> Position | None:
    """The end of the page before, as `read` makes it of the texts of the position; null without a cursor.

    Raises `Problem` if the cursor is damaged, belongs to other filters, or `read` raises one of its errors.
    """
    if cursor is None:
        return None
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        digest, *position = _TEXTS.validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
        if digest == _digest(position, asked) and "\0" not in "".join(position):
            return read(*position)
    except (binascii.Error, ValueError, TypeError, OverflowError):
        pass
    raise invalid_cursor()


def invalid_cursor() -> Problem:
    """The problem for a cursor that names no end of a page."""
    return Problem("invalid_cursor", "Send the cursor unchanged, with the same filters, or begin without a cursor.")


def read_time(text: str) -> datetime:
    """The time in a position. Raises `ValueError`."""
    return in_range(datetime.fromisoformat(text))


def _digest(position: list[str], asked: BaseModel) -> str:
    """Page size and cursor are left out, as they may differ between the pages of a list."""
    filters = asked.model_dump(mode="json", exclude={"cursor", "limit"})
    content = to_json([_owner.get(), position, filters], options=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(content, digest_size=9).hexdigest()
