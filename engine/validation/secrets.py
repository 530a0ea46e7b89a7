"""Find values that look like secrets. Words such as "password" or "token" in a text do not count."""

import math
import re
from collections import Counter
from dataclasses import dataclass

from engine.documents.json_text import to_json
from engine.documents.strict_json import escape
from engine.graph import Json
from engine.security.redaction import SECRET_SHAPES

REFERENCE = "secret://"

_CREDENTIAL_KEY = re.compile(r"(?i)(?:^|[_-])(?:api_?key|secret|token|passw(?:or)?d|credentials?|authorization)$")
_RANDOM = re.compile(r"[A-Za-z0-9_\-+/=.]{24,}")
_MIN_BITS_PER_CHARACTER = 3.5
_CERTAIN = ("-----BEGIN", "://")
_PREFIXES = ("sk", "pk", "rk", "spl", "whsec", "xoxa", "xoxb", "xoxp", "xoxr", "ghp", "gho", "glpat")
_KEY_MARKS = tuple(prefix + mark for prefix in _PREFIXES for mark in "-_")
_MARKS = (*_KEY_MARKS, "AIza", "AKIA", "eyJ", "-----BEGIN", "://")
"""Every secret shape contains one of these texts or "bearer". A search for them is cheap, so it comes first."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """JSON pointers to the values that look like secrets, and to those that refer to secrets."""

    values: tuple[str, ...]
    references: tuple[str, ...]


def find_secrets(document: Json) -> Secrets:
    """Search every text of the document."""
    values: list[str] = []
    references: list[str] = []
    shapes = _may_hold_shapes(to_json(document).decode())
    open_values: list[tuple[Json, str, str]] = [(document, "", "")]
    while open_values:
        value, pointer, key = open_values.pop()
        if isinstance(value, dict):
            open_values.extend((child, f"{pointer}/{escape(name)}", name) for name, child in value.items())
        elif isinstance(value, list):
            open_values.extend((child, f"{pointer}/{index}", key) for index, child in enumerate(value))
        elif isinstance(value, str):
            if (shapes and _has_secret_shape(value)) or _is_credential(key, value):
                values.append(pointer)
            if REFERENCE in value:
                references.append(pointer)
    return Secrets(tuple(values), tuple(references))


def _may_hold_shapes(text: str) -> bool:
    return any(mark in text for mark in _MARKS) or "bearer" in text.lower()


def _has_secret_shape(text: str) -> bool:
    """Whether the text contains a provider key, JWT, PEM block, bearer header or URL with a password.

    A match without any digit does not count, unless it is a PEM block or a URL.
    """
    return _may_hold_shapes(text) and any(
        any(character.isdigit() for character in found[0])
        or text[max(0, found.start() - 3) : found.end()].startswith(_CERTAIN)
        or found[0].startswith(_CERTAIN)
        for found in SECRET_SHAPES.finditer(text)
    )


def _is_credential(key: str, value: str) -> bool:
    if _CREDENTIAL_KEY.search(key) is None or _RANDOM.fullmatch(value) is None:
        return False
    return any(character.isdigit() for character in value) and _bits_per_character(value) > _MIN_BITS_PER_CHARACTER


def _bits_per_character(text: str) -> float:
    """Shannon entropy: English words have about 3, random letters and digits over 4."""
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares)
