"""The digest of an execution's span rows: it shows that a row was changed after it was stored, and where.

Each row is a sum over its cells, as numbers, with a weight for each column; the digest adds up the rows, each times a
number made of its span id. So neither order nor batches matter, and SQL can add to what is stored. Two more sums, with
other weights for columns and spans, locate a change as a Reed-Solomon code does: the difference of one cell is the same
unknown number in all three sums, so that their ratios name its column and its row, and give the number it was.

All sums are modulo the prime 2^61 - 1: two of them fit into a BIGINT. The digest has no key. It finds what was changed
by SQL; a program that computes it anew could hide a change from it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from hashlib import blake2b
from operator import itemgetter, mul
from typing import Any, NamedTuple, cast

import orjson

from engine.documents.json_text import NotJson, to_json
from engine.resources import CostSource, Unpriced
from engine.result import Status
from engine.tracing.semconv import NodeStatus, Waste
from telemetry.records.rows import CALL_COLUMNS, SPAN_COLUMNS
from telemetry.signals.records import EPOCH, Kind
from telemetry.store.bulk import Cell, Row
from telemetry.store.tables import spans

PRIME = (1 << 61) - 1


class Digest(NamedTuple):
    """The sums over some span rows of one execution; the cells of `DIGEST_COLUMNS`."""

    spans: int = 0
    plain: int = 0
    by_column: int = 0
    by_span: int = 0

    def plus(self, other: "Digest") -> "Digest":
        """The digest of the rows of both."""
        return Digest(
            self.spans + other.spans, *[(one + two) % PRIME for one, two in zip(self[1:], other[1:], strict=True)]
        )

    def minus(self, other: "Digest") -> "Digest":
        """The digest of the rows that only this one covers."""
        return Digest(
            self.spans - other.spans, *[(one - two) % PRIME for one, two in zip(self[1:], other[1:], strict=True)]
        )


NO_SPANS = Digest()


def digest_of(row: Row) -> Digest:
    """The digest of one span row, its cells in the order of `SPAN_COLUMNS`. Runs for every span: it must stay cheap."""
    span, first, second = _sums(row)
    plain = span * first % PRIME
    return Digest(1, plain, span * second % PRIME, span * plain % PRIME)


def digest_of_all(rows: Iterable[Row]) -> Digest:
    """The digest of several span rows."""
    return reduce(Digest.plus, map(digest_of, rows), NO_SPANS)


@dataclass(frozen=True, slots=True)
class Change:
    """The difference between the rows that are there and those that were stored, as far as the digests tell."""

    span_id: str | None = None
    """The row that was changed or added; null if it was removed, or more than one."""
    column: str | None = None
    """`span_id` for a row that was added, removed or given another id; null if it was more than one column."""
    found: Cell = None
    expected: Cell = None
    """As it was stored; null if it cannot be told."""


def locate(stored: Digest, rows: Sequence[Row]) -> Change:
    """Find the change because of which the digest of these rows is not the stored one."""
    lost = stored.minus(digest_of_all(rows))
    if lost.plain == 0:
        return Change()
    span = _ratio(lost.by_span, lost.plain)
    row = next((row for row in rows if span and _number_of_id(_id(row)) == span), None)
    if lost.spans:
        return Change(None, "span_id") if row is None else Change(_id(row), "span_id", _id(row))
    column = next((column for column in _COLUMNS if _is_ratio(lost, *_WEIGHTS_OF[column])), None)
    if row is None:
        return (None if column is not None else _renamed(lost, rows)) or Change(None, column)
    if column is None:
        return Change(_id(row))
    place = SPAN_COLUMNS.index(column)
    before = (_number(row[place]) + _ratio(lost.plain, span * _WEIGHTS_OF[column][0])) % PRIME
    return Change(_id(row), column, row[place], _cell(column, before, (each[place] for each in rows)))


def _renamed(lost: Digest, rows: Sequence[Row]) -> Change | None:
    """The row whose span id was changed: the sums over its cells have the ratio of the differences."""
    for row in rows:
        span, first, second = _sums(row)
        if first and _is_ratio(lost, first, second):
            before = (span + _ratio(lost.plain, first)) % PRIME
            if (before * before - span * span) * first % PRIME == lost.by_span:
                return Change(_id(row), "span_id", _id(row))
    return None


def _is_ratio(lost: Digest, first: int, second: int) -> bool:
    return lost.by_column * first % PRIME == lost.plain * second % PRIME


def _ratio(dividend: int, divisor: int) -> int:
    return dividend * pow(divisor, -1, PRIME) % PRIME


def _id(row: Row) -> str:
    return str(row[_SPAN_ID])


def _cell(column: str, number: int, others: Iterable[Cell]) -> Cell:
    """The cell with this number: one of the texts of other rows and of the column's CHECK, a time, or a number."""
    texts = {_number(text): text for text in (*others, *_ONE_OF.get(column, ())) if isinstance(text, str)}
    if number in texts or not number:
        return texts.get(number)
    if column == "started_at":
        return EPOCH + timedelta(microseconds=number - 1)
    return number - 1 if spans.c[column].type.python_type is int else None


def _sums(row: Row) -> tuple[int, int, int]:
    """The number of the row's span, and the two sums over its cells."""
    known = _KNOWN.get
    cells = _all_cells(row) if _call_cells(row) != _NO_CALL else _other_cells(row)
    numbers = [_number(row[_ATTRIBUTES])]
    numbers += [
        0 if cell is None else cell + 1 if cell.__class__ is int else known(cell) or _number(cell) for cell in cells
    ]
    sums = sum(map(mul, numbers, _WEIGHTS))
    return _number_of_id(_id(row)), (sums & _LOW) % PRIME, (sums >> _SHIFT) % PRIME


def _number(cell: Any) -> int:
    """A cell as a number, the same for what each database makes of it. Null is 0, so that a new column adds nothing."""
    if cell is None:
        return 0
    if isinstance(cell, dict):
        return _number_of_document(cell)
    if isinstance(cell, str):
        return _KNOWN.get(cell) or _number_of_text(cell)
    if isinstance(cell, datetime):
        return (cell - EPOCH) // _MICROSECOND + 1
    return cell + 1 if isinstance(cell, int) else _number_of_document(cell)


def _number_of_document(document: Any) -> int:
    """The number of a JSON document whose numbers JSONB may have written in another form."""
    exact = document.__class__ is dict and all(
        _is_exact(each) for each in document.values() if each.__class__ in _INEXACT
    )
    comparable = document if exact else _comparable(document)
    try:
        return _hash(to_json(comparable, options=orjson.OPT_SORT_KEYS))
    except NotJson:  # numbers beyond 64 bits
        return _hash(repr(sorted(_comparable(document).items())).encode())


def _is_exact(value: Any) -> bool:
    if value.__class__ is float:
        return not value.is_integer()
    return value.__class__ is list and all(each.__class__ is str for each in value)


def _comparable(value: Any) -> Any:
    """Whole numbers without a point, as JSONB gives back 1e16 and -0.0."""
    if isinstance(value, dict):
        return {key: _comparable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number_of_text(text: str) -> int:
    """The number of a text, with a cache for short ones: names and ids recur with every span."""
    number = _hash(text.encode())
    if len(text) <= _SHORT:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[text] = number
    return number


def _number_of_id(id_: str) -> int:
    try:
        return int(id_, 16) % PRIME
    except ValueError:  # no id of ours, so it was planted
        return _number_of_text(id_)


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=7).digest()) + 1


_KNOWN: dict[Cell, int] = {}
_MOST_KNOWN = 8_192
_SHORT = 128
_MICROSECOND = timedelta(microseconds=1)
_INEXACT = frozenset({float, list, dict})
"""Types of attributes that JSONB may give back in another form."""

_APART = ("execution_id", "span_id", "attributes")
_OTHERS = tuple(name for name in SPAN_COLUMNS if name not in (*_APART, *CALL_COLUMNS))
_COLUMNS = ("attributes", *_OTHERS, *CALL_COLUMNS)
_SPAN_ID, _ATTRIBUTES = map(SPAN_COLUMNS.index, ("span_id", "attributes"))


def _getter(columns: Sequence[str]) -> Callable[[Row], Row]:
    return cast(Callable[[Row], Row], itemgetter(*map(SPAN_COLUMNS.index, columns)))


_all_cells, _other_cells, _call_cells = map(_getter, ((*_OTHERS, *CALL_COLUMNS), _OTHERS, CALL_COLUMNS))
_NO_CALL = (None,) * len(CALL_COLUMNS)

_SHIFT = 192
_LOW = (1 << _SHIFT) - 1
_WEIGHTS_OF = {name: (_hash(f"{name}/1".encode()), _hash(f"{name}/2".encode())) for name in _COLUMNS}
_WEIGHTS = tuple(first + (second << _SHIFT) for first, second in _WEIGHTS_OF.values())
"""Both weights of a column in one number: one pass makes both sums."""

_ONE_OF = {
    "kind": tuple(Kind),
    "status": (*NodeStatus, *Status),
    "cost_source": tuple(CostSource),
    "unpriced_reason": tuple(Unpriced),
    "waste": tuple(Waste),
}
