"""Makes attributes fit for storage: bounds, repairs and redacts values, and places them in fields or the rest."""

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import cast

import orjson
from opentelemetry.util.types import AnyValue

from engine.documents.json_text import to_json
from engine.security.redaction import redact, redact_json
from engine.tracing import semconv
from telemetry.signals.records import Attributes, BadSignal, Value

MAX_VALUE_BYTES = 8 * 1024
MAX_DOCUMENT_BYTES = 64 * 1024
"""The limit for attributes that hold JSON: tags and parameters."""

MAX_INTEGER = (1 << 63) - 1
MAX_COUNT = (1 << 53) - 1
"""The limit for integer fields. They are summed up, and an overflow would spoil every later addition."""

MAX_ATTRIBUTES = 256
LEFT_OUT = "*"
"""Stands in `workflow.sanitized` if some attributes were left out."""

_TEXT_FIELDS = (
    semconv.EXECUTION_ID,
    semconv.OWNER_ID,
    semconv.WORKFLOW_NAME,
    semconv.WORKFLOW_SOURCE,
    semconv.TEMPLATE_ID,
    semconv.RECORD_LEVEL,
    semconv.NODE_ID,
    semconv.NODE_TYPE,
    semconv.NODE_PATH,
    semconv.NODE_STATUS,
    semconv.PROVIDER,
    semconv.REQUEST_MODEL,
    semconv.COST_SOURCE,
    semconv.UNPRICED_REASON,
    semconv.PRICE_VERSION,
    semconv.CALL_WASTE,
    semconv.SERVICE_TIER,
    semconv.ERROR_TYPE,
)
_INTEGER_FIELDS = (
    semconv.EXECUTION_ATTEMPT,
    semconv.TEMPLATE_VERSION,
    semconv.NODE_ATTEMPT,
    *semconv.CALL_TOKENS.values(),
    semconv.COST_NANO_USD,
    semconv.PROVIDER_COST_NANO_USD,
)


class _Place(Enum):
    """The place of an attribute; the first two are fields, whose type is checked."""

    TEXT = 0
    INTEGER = 1
    REST = 2
    NOWHERE = 3


Placed = tuple[_Place, str, Value, bool]
"""A sanitised attribute: its place, key, value, and whether the value was changed."""

_CURRENT_NAMES = {each.former: each.name for each in semconv.RENAMED_ATTRIBUTES}
"""Records hold attributes under their new names, also those of signals that an older program has left in the outbox."""

_PLACES = (
    dict.fromkeys(semconv.ATTRIBUTES.keys() - _CURRENT_NAMES.keys(), _Place.REST)
    | dict.fromkeys(_TEXT_FIELDS, _Place.TEXT)
    | dict.fromkeys(_INTEGER_FIELDS, _Place.INTEGER)
    | dict.fromkeys((*semconv.CONTENT_KEYS, *semconv.PEER_KEYS, semconv.SIGNAL_SIGNATURE), _Place.NOWHERE)
)
_DOCUMENT_KEYS = frozenset({semconv.TAGS, semconv.PARAMS})


def sanitize(value: AnyValue, limit: int = MAX_VALUE_BYTES) -> tuple[Value, bool]:
    """Return the value in a form that can be stored, and whether it was changed.

    Text is cut at `limit` bytes of UTF-8, NUL and lone surrogates become U+FFFD, secrets are redacted; integers are
    limited to 64 bits; numbers that JSON cannot hold become text, and so do all values that are not flat.
    """
    if isinstance(value, bool):
        return value, False
    if isinstance(value, str):
        return clean_text(value) if len(value) <= _SHORT else _cut_text(value, limit)
    if isinstance(value, int):
        if -MAX_INTEGER <= value <= MAX_INTEGER:
            return value, False
        bounded = max(-MAX_INTEGER - 1, min(MAX_INTEGER, value))
        return bounded, bounded != value
    if isinstance(value, float):
        return (value, False) if math.isfinite(value) else (str(value), True)
    if isinstance(value, list | tuple):
        return _clean_list(value, limit)
    return _cut_text(str(value), limit)[0], True


_SHORT = 128


_CLEAN: set[str] = set()
"""Cache of short texts that need no change: names and ids recur with every span."""

_MOST_CLEAN = 8_192


def clean_text(text: str) -> tuple[str, bool]:
    """Sanitise a text of at most `MAX_VALUE_BYTES`, with a cache for short ones."""
    if text in _CLEAN:
        return text, False
    clean, changed = _cut_text(text, MAX_VALUE_BYTES)
    if not changed and len(text) <= _SHORT:
        if len(_CLEAN) >= _MOST_CLEAN:
            _CLEAN.clear()
        _CLEAN.add(text)
    return clean, changed


def _cut_text(text: str, limit: int) -> tuple[str, bool]:
    clean = text[: 2 * limit]
    if not clean.isascii():
        clean = clean.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if "\0" in clean:
        clean = clean.replace("\0", "\ufffd")
    clean = redact(clean)
    if len(clean) * 4 > limit:
        data = clean.encode()
        if len(data) > limit:
            clean = data[: limit - 3].decode("utf-8", "ignore") + "…"
    return clean, clean != text


def _clean_list(values: list[AnyValue] | tuple[AnyValue, ...], limit: int) -> tuple[Value, bool]:
    clean: list[str | int | float | bool] = []
    changed = False
    left = limit
    for value in values:
        item, repaired = sanitize(value, limit)
        if isinstance(item, list):
            item, repaired = str(item), True
        left -= len(item) if isinstance(item, str) else 8
        if left < 0:
            return clean, True
        clean.append(item)
        changed = changed or repaired
    return clean, changed


def _clean_document(value: AnyValue) -> tuple[Value, bool]:
    """Sanitise JSON: where the whole text looks as if it held secrets, each text in it is redacted by itself."""
    clean, changed = sanitize(value, MAX_DOCUMENT_BYTES)
    if not (changed and isinstance(value, str) and len(value) <= MAX_DOCUMENT_BYTES):
        return clean, changed
    try:
        document = to_json(redact_json(orjson.loads(value))).decode()
    except ValueError:
        return clean, changed
    return (document, document != value) if len(document.encode()) <= MAX_DOCUMENT_BYTES else (clean, changed)


def place(key: str, value: AnyValue) -> Placed:
    """Sanitise and place an attribute. Raises `BadSignal` if a field has the wrong type or is no count."""
    where = _PLACES.get(key)
    if where is None:
        current = _CURRENT_NAMES.get(key)
        if current is not None:
            key, where = current, _PLACES[current]
        else:
            where = _NOWHERE if key.startswith(semconv.PEER_PREFIXES) else _REST
            key = clean_text(key)[0]
    if where is _NOWHERE or value is None:
        return _LEFT_OUT
    if value.__class__ is str and value in _CLEAN:
        clean: Value = value
        changed = False
    else:
        clean, changed = _clean_document(value) if key in _DOCUMENT_KEYS else sanitize(value)
    if where is not _REST and clean.__class__ is not (str if where is _TEXT else int):
        raise BadSignal(f"{key} is not a {'text' if where is _TEXT else 'whole number'}")
    if where is _INTEGER and not 0 <= cast(int, clean) <= MAX_COUNT:
        raise BadSignal(f"{key} is not a count between 0 and 2^53 - 1")
    return where, key, clean, changed


def renamed(attributes: Attributes) -> Attributes:
    """The attributes of a record that an older program has made, under the names of today."""
    current = {_CURRENT_NAMES.get(key, key): value for key, value in attributes.items()}
    return {key: value for key, value in current.items() if _PLACES.get(key) is not _NOWHERE}


def place_all(attributes: Mapping[str, AnyValue]) -> list[Placed]:
    """Sanitise and place every attribute. Raises `BadSignal`."""
    return list(map(place, attributes.keys(), attributes.values()))


def split(placed: Sequence[Placed]) -> tuple[Attributes, Attributes]:
    """Split attributes into fields and the rest. Runs for every attribute of every span."""
    fields: Attributes = {}
    rest: Attributes = {}
    repaired: list[str | int | float | bool] = []
    if len(placed) > MAX_ATTRIBUTES:
        placed, is_fewer = _fewer(placed)
        if is_fewer:
            repaired.append(LEFT_OUT)
    for where, key, value, changed in placed:
        if where is _REST:
            rest[key] = value
        elif where is not _NOWHERE:
            fields[key] = value
        if changed and key not in repaired:
            repaired.append(key)
    if repaired:
        rest[semconv.SANITIZED] = repaired
    return fields, rest


def _fewer(placed: Sequence[Placed]) -> tuple[Sequence[Placed], bool]:
    """All attributes of ours, and as many others as the limit leaves room for; and whether any were left out.

    The list of changed attributes does not count, so that a record that is read back keeps what it had.
    """
    ours, others, uncounted = list[Placed](), list[Placed](), list[Placed]()
    for each in placed:
        where, key = each[0], each[1]
        of_kind = uncounted if where is _NOWHERE or key == semconv.SANITIZED else ours if key in _PLACES else others
        of_kind.append(each)
    room = max(0, MAX_ATTRIBUTES - len({key for _, key, _, _ in ours}))  # a former name is no attribute of its own
    return [*ours, *others[:room], *uncounted], len(others) > room


_TEXT, _INTEGER, _REST, _NOWHERE = _Place
_LEFT_OUT: Placed = (_NOWHERE, "", "", False)
