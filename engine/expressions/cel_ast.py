"""The syntax tree of a checked CEL expression, read from its serialized form.

cel-expr-python does not expose the tree, but `serialize()` returns a `cel.expr.CheckedExpr` in an `Any`. This module
reads the few fields that spanloom needs, by their public numbers (google/cel-spec, proto/cel/expr/syntax.proto and
checked.proto). CEL's parser limits nesting to 32 levels, so recursion over a tree is bounded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Const:
    """A literal. All numbers that are not integers have the value 0.0 here."""

    value: Scalar


@dataclass(frozen=True, slots=True)
class Ident:
    """A name: a root, a variable of a macro, or a type."""

    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """`operand.field`, or `has(operand.field)` if `tests`."""

    operand: "Node"
    field: str
    tests: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A function, method or operator; the receiver of a method is its first argument."""

    function: str
    arguments: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Collection:
    """A list literal, or a map literal with alternating keys and values."""

    elements: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A protobuf message literal, `name{...}`."""

    name: str


@dataclass(frozen=True, slots=True)
class Comprehension:
    """An expanded macro over a list or map; `accumulator` is an internal name that users cannot write."""

    variable: str
    range: "Node"
    accumulator: str
    start: "Node"
    condition: "Node"
    step: "Node"
    result: "Node"


Node: TypeAlias = Const | Ident | Select | Call | Collection | Message | Comprehension

_ANY_VALUE = 2
_CHECKED_EXPR = 4
_CONST, _IDENT, _SELECT, _CALL, _LIST, _STRUCT, _COMPREHENSION = range(3, 10)
_BITS_64 = 1 << 64


def read_tree(serialized: bytes) -> Node:
    """The tree in the result of `cel.Expression.serialize()`."""
    return _node(_part(_part(serialized, _ANY_VALUE), _CHECKED_EXPR))


def _node(data: bytes) -> Node:
    for number, value in _fields(data):
        read = _READERS.get(number)
        if read is not None and isinstance(value, bytes):
            return read(value)
    return Const(None)


def _const(data: bytes) -> Node:
    for number, value in _fields(data):
        if number == 6 and isinstance(value, bytes):
            return Const(value.decode())
        if number == 2:
            return Const(value == 1)
        if number == 3 and isinstance(value, int):
            return Const(value - _BITS_64 if value >> 63 else value)
        if number != 1:
            return Const(0.0)
    return Const(None)


def _ident(data: bytes) -> Node:
    return Ident(_text(data, 1))


def _select(data: bytes) -> Node:
    tests = any(number == 3 and value == 1 for number, value in _fields(data))
    return Select(_node(_part(data, 1)), _text(data, 2), tests)


def _call(data: bytes) -> Node:
    function, target, arguments = "", [], []
    for number, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        if number == 1:
            target = [_node(value)]
        elif number == 2:
            function = value.decode()
        else:
            arguments.append(_node(value))
    return Call(function, (*target, *arguments))


def _list(data: bytes) -> Node:
    elements = (value for number, value in _fields(data) if number == 1 and isinstance(value, bytes))
    return Collection(tuple(_node(element) for element in elements))


def _struct(data: bytes) -> Node:
    name = _text(data, 1)
    if name:
        return Message(name)
    entries = [value for number, value in _fields(data) if number == 2 and isinstance(value, bytes)]
    return Collection(tuple(_node(_part(entry, number)) for entry in entries for number in (3, 4)))


def _comprehension(data: bytes) -> Node:
    parts = {number: value for number, value in _fields(data) if isinstance(value, bytes)}
    source, start, condition, step, result = (_node(parts[number]) for number in (2, 4, 5, 6, 7))
    return Comprehension(parts[1].decode(), source, parts[3].decode(), start, condition, step, result)


_READERS = {
    _CONST: _const,
    _IDENT: _ident,
    _SELECT: _select,
    _CALL: _call,
    _LIST: _list,
    _STRUCT: _struct,
    _COMPREHENSION: _comprehension,
}


def _part(data: bytes, wanted: int) -> bytes:
    for number, value in _fields(data):
        if number == wanted and isinstance(value, bytes):
            return value
    return b""


def _text(data: bytes, wanted: int) -> str:
    return _part(data, wanted).decode()


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of one protobuf message, in order."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            number, position = _varint(data, position)
            yield key >> 3, number
            continue
        size, position = _varint(data, position) if kind == 2 else ({1: 8, 5: 4}[kind], position)
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
