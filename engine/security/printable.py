"""Makes texts of strangers safe to show: a terminal or a log shows their control characters instead of obeying them.

An escape is visible and plain ASCII: ESC becomes `\\x1b`, RIGHT-TO-LEFT OVERRIDE `\\u202e`. Each character is judged by
itself, so a sequence that is split over two writes is as harmless as a whole one.
"""

import re
import unicodedata
from collections.abc import Callable

import orjson

from engine.documents.json_text import NotJson, to_ascii_json, to_json

_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls, invisible format characters (bidi, zero-width, tags), lone surrogates, line and paragraph separators."""

_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters and marks by category that are drawn as nothing (Unicode: Default_Ignorable_Code_Point)."""

_JOINERS = frozenset("\u200c\u200d")
"""Persian, Indic scripts and composed emoji need these inside a text; in a name they only hide."""


def printable(text: str) -> str:
    """The text with its line breaks and tabs, and everything else that a terminal would obey or hide escaped.

    CR LF becomes LF; a lone CR, which would overwrite the line, is escaped.
    """
    if _is_plain(text):
        return text
    return text.replace("\r\n", "\n").translate(_LINES)


def one_line(text: str) -> str:
    """The text on one line: line breaks, tabs and joiners are escaped too."""
    return text if _is_plain(text) else text.translate(_NAME)


def printable_json(
    document: object, *, indented: bool = False, default: Callable[[object], object] | None = None
) -> str:
    """The document as JSON with exact values; characters that a terminal would obey or hide are `\\uXXXX` in it.

    `default` converts values of types that JSON does not have; without it they raise `TypeError`.
    """
    option = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z | (orjson.OPT_INDENT_2 if indented else 0)
    try:
        text = to_json(document, default=default, options=option).decode()
    except NotJson:  # a lone surrogate, as in a file name that is no Unicode
        return to_ascii_json(document, default=default, is_indented=indented)
    return text if text.isascii() and "\x7f" not in text else _IN_JSON.sub(_json_escape, text)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


class _Escapes:
    """A table for `str.translate`. It keeps nothing: a cache of all characters would be large."""

    def __init__(self, kept: frozenset[str]) -> None:
        self._kept = kept

    def __getitem__(self, code: int) -> int | str:
        character = chr(code)
        if character in self._kept or _is_safe(character):
            return code
        return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else _wide(code))


_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LINES = _Escapes(frozenset("\n\t") | _JOINERS)
_NAME = _Escapes(frozenset())
_IN_JSON = re.compile(r"[^\n -~]")


def _is_safe(character: str) -> bool:
    return unicodedata.category(character) not in _UNSAFE_CATEGORIES and character not in _BLANK


def _wide(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(found: re.Match[str]) -> str:
    character = found[0]
    if _is_safe(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
