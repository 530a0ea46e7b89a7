"""Pagination cursors. A cursor holds the end of a page and a digest of the filters, so that misuse is noticed."""

import base64
import binascii
import hashlib

import orjson
from pydantic import BaseModel, TypeAdapter

from api.http.problems import Problem
from engine.documents.json_text import to_json

_TEXTS = TypeAdapter(list[str])


def write_cursor(position: list[str], asked: BaseModel) -> str:
    """An opaque cursor for the end of a page; `asked` holds the filters of the list."""
    content = to_json([_digest(position, asked), *position])
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def read_cursor(cursor: str, asked: BaseModel) -> list[str]:
    """The end of the page before. Raises `Problem` if the cursor is damaged or belongs to other filters."""
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        digest, *position = _TEXTS.validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        digest, position = "", []
    if digest != _digest(position, asked):
        raise Problem("invalid_cursor", "Send the cursor unchanged, with the same filters, or begin without a cursor.")
    return position


def _digest(position: list[str], asked: BaseModel) -> str:
    """Page size and cursor are left out, as they may differ between the pages of a list."""
    filters = asked.model_dump(mode="json", exclude={"cursor", "limit"})
    return hashlib.blake2b(to_json([position, filters], options=orjson.OPT_SORT_KEYS), digest_size=9).hexdigest()
