"""Cursors: where a page ended, with a check that they come back whole and with the same filters."""

import base64
import binascii
import hashlib

import orjson
from pydantic import BaseModel, TypeAdapter

from api.http.problems import Problem

_TEXTS = TypeAdapter(list[str])


def write_cursor(position: list[str], asked: BaseModel) -> str:
    """An opaque text for the end of a page of what was asked."""
    content = orjson.dumps([_digest(position, asked), *position])
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def read_cursor(cursor: str, asked: BaseModel) -> list[str]:
    """The position. Raises `Problem` for a damaged cursor, and for one of other filters."""
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        digest, *position = _TEXTS.validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        digest, position = "", []
    if digest != _digest(position, asked):
        raise Problem("invalid_cursor", "Take the cursor as it came, with the same filters, or begin without one.")
    return position


def _digest(position: list[str], asked: BaseModel) -> str:
    """Page size and cursor may differ between the pages of one list."""
    filters = asked.model_dump(mode="json", exclude={"cursor", "limit"})
    return hashlib.blake2b(orjson.dumps([position, filters], option=orjson.OPT_SORT_KEYS), digest_size=9).hexdigest()
