"""Counts how often a JSON Schema may be applied to one value: 24 levels of `anyOf` with two references, 2^24 times."""

from dataclasses import dataclass, field
from urllib.parse import unquote

from engine.documents.strict_json import unescape
from engine.graph import Json, JsonObject

MAX_BRANCHES = 1_000
"""How many subschemas may be applied to one value."""

_LEVELS = 32
"""How deep into a value they are counted: input is nested no deeper."""


class UnusableSchema(ValueError):
    """The schema cannot be used here. The message is a sentence; `path` leads to the place in the schema."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


@dataclass(slots=True)
class _Applied:
    """The subschemas that one schema applies, by their numbers."""

    own: int = 1
    """What the schema itself costs: a value is compared with each object and array of an `enum`."""
    in_place: list[int] = field(default_factory=list)
    """To the same value."""
    to_one_property: list[int] = field(default_factory=list)
    """To the values of an object; at most one to each."""
    to_properties: list[int] = field(default_factory=list)
    """To the values of an object; all of them to each."""
    to_one_item: list[int] = field(default_factory=list)
    to_items: list[int] = field(default_factory=list)


_PLACES = {
    "allOf": "in_place",
    "anyOf": "in_place",
    "oneOf": "in_place",
    "not": "in_place",
    "if": "in_place",
    "then": "in_place",
    "else": "in_place",
    "dependentSchemas": "in_place",
    "properties": "to_one_property",
    "patternProperties": "to_properties",
    "additionalProperties": "to_properties",
    "unevaluatedProperties": "to_properties",
    "propertyNames": "to_properties",
    "prefixItems": "to_one_item",
    "items": "to_items",
    "contains": "to_items",
    "unevaluatedItems": "to_items",
}
_OF_NAMES = ("properties", "patternProperties", "dependentSchemas")


def count_branches(schema: JsonObject) -> int:
    """The most subschemas that are applied to any one value, or a number above `MAX_BRANCHES`.

    Raises `UnusableSchema` for a reference to nowhere or to another document, and for one that leads back to itself
    without going into the value.
    """
    schemas = _Reader(schema).schemas
    order = _innermost_first(schemas)
    most, inside = 0, [0] * len(schemas)
    for level in range(_LEVELS):
        counts = [0] * len(schemas)
        for number in order:
            counts[number] = _count(schemas[number], counts, inside if level else None)
        most = max(most, counts[0])
        if most > MAX_BRANCHES or counts == inside:
            break
        inside = counts
    return most


def _count(applied: _Applied, same: list[int], inside: list[int] | None) -> int:
    """How many subschemas are applied to a value that is some levels inside; `inside` is for one level less."""
    count = sum(same[number] for number in applied.in_place)
    if inside is None:
        return count + applied.own
    in_object = max((inside[number] for number in applied.to_one_property), default=0)
    in_object += sum(inside[number] for number in applied.to_properties)
    in_list = max((inside[number] for number in applied.to_one_item), default=0)
    in_list += sum(inside[number] for number in applied.to_items)
    return min(applied.own - 1 + count + max(in_object, in_list), MAX_BRANCHES + 1)


def _innermost_first(schemas: list[_Applied]) -> list[int]:
    """An order in which every schema comes after those that it applies in place. Raises `UnusableSchema`."""
    order: list[int] = []
    state: dict[int, bool] = {}  # whether all that it applies in place is in the order
    for root in range(len(schemas)):
        stack = [] if root in state else [root]
        while stack:
            number = stack[-1]
            if number not in state:
                state[number] = False
                for applied in schemas[number].in_place:
                    if applied not in state:
                        stack.append(applied)
                    elif not state[applied]:
                        raise UnusableSchema("A reference leads back to itself.")
                continue
            stack.pop()
            if not state[number]:
                state[number] = True
                order.append(number)
    return order


class _Reader:
    """Reads a schema document without recursion. The document itself has the number 0."""

    def __init__(self, document: JsonObject) -> None:
        self.schemas: list[_Applied] = []
        self._document = document
        self._numbers: dict[int, int] = {}
        self._unread: list[tuple[JsonObject, _Applied]] = []
        self._number(document)
        while self._unread:
            self._read(*self._unread.pop())

    def _number(self, schema: Json) -> int:
        known = self._numbers.get(id(schema))
        if known is not None:
            return known
        applied = _Applied()
        self.schemas.append(applied)
        if isinstance(schema, dict):
            self._numbers[id(schema)] = len(self.schemas) - 1
            self._unread.append((schema, applied))
        return len(self.schemas) - 1

    def _read(self, schema: JsonObject, applied: _Applied) -> None:
        if "$id" in schema and schema is not self._document:
            raise UnusableSchema("`$id` is possible at the top of a schema only.")
        enum = schema.get("enum")
        if isinstance(enum, list):
            applied.own += sum(isinstance(each, list | dict) for each in enum)
        for keyword, place in _PLACES.items():
            if keyword in schema:
                numbers: list[int] = getattr(applied, place)
                numbers.extend(self._number(each) for each in subschemas(schema[keyword], keyword))
        for keyword in ("$ref", "$dynamicRef"):
            if keyword in schema:
                applied.in_place.append(self._number(target(self._document, schema[keyword])))


def subschemas(value: Json, keyword: str) -> list[Json]:
    """The subschemas in the value of a keyword that takes one, a list of them, or an object of them."""
    if isinstance(value, list):
        return value
    return list(value.values()) if keyword in _OF_NAMES and isinstance(value, dict) else [value]


def steps_to(reference: Json) -> tuple[str, ...]:
    """The way that a reference gives: `#`, or `#` and a JSON pointer. Raises `UnusableSchema`."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise UnusableSchema("A reference must be a JSON pointer in this schema, such as `#/$defs/name`.")
    return tuple(unescape(step) for step in unquote(reference).split("/")[1:])


def target(document: Json, reference: Json) -> Json:
    """What a reference stands for. Raises `UnusableSchema`."""
    found = document
    for step in steps_to(reference):
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            raise UnusableSchema(f"The reference {str(reference)[:100]!r} leads nowhere.")
    return found
