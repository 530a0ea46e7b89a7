"""JSON Schemas that users write: draft 2020-12, patterns in linear time, no references to other documents.

Checking a value takes up to its size times the branches of the schema. Describing what does not fit costs far more time
and memory for each of them (a schema of 2 KB took 23 GB), so it is done for a part of the value that is small enough.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from urllib.parse import quote

import orjson
from jsonschema_rs import Draft202012Validator, ReferencingError, RegexOptions, Registry, ValidationError

from engine.documents.json_text import check_nesting, to_json
from engine.documents.schema_branches import MAX_BRANCHES, UnusableSchema, count_branches, steps_to, target
from engine.documents.strict_json import escape
from engine.graph import Json, JsonObject

_MOST_CHECKS = 10_000_000
"""Values times branches, for which a value is checked at all: a quarter of a second."""

_MOST_ERRORS = 20_000
"""Values times branches, for which a mismatch is described by the library."""

_MOST_BYTES = 16 << 20
"""Bytes times branches, since each error holds the value."""

_MOST_MATCHED_BYTES = 8 << 20
"""Bytes times branches, if the schema has patterns: each of them may read all of a text."""

_MOST_LOOKS = 100
"""Parts of a large value that are looked at for the mismatch."""

_ROOT = "spanloom:schema"
_OPTIONS: dict[str, Any] = {"pattern_options": RegexOptions(), "offline": True}


Path = tuple[str | int, ...]
"""Keys and indices from the top of a value or schema."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What does not fit: the way to it in the value, the way to the rule in the schema, and why, without a stop."""

    path: Path
    rule: Path
    keyword: str
    """Empty if the value is too large to say."""
    message: str


@lru_cache(maxsize=512)
def _compiled(document: bytes, mask: str | None) -> "Schema":
    return Schema(orjson.loads(document), mask)


def compiled(document: JsonObject, *, mask: str | None = None) -> "Schema":
    """The schema, ready to check values and cached. Raises `UnusableSchema`."""
    return _compiled(to_json(document), mask)


class Schema:
    """A schema that values can be checked against. Its messages contain `mask` instead of values."""

    def __init__(self, document: JsonObject, mask: str | None = None) -> None:
        """Its draft and its own address are left out: they would lead the library to another draft or document."""
        document = {name: value for name, value in document.items() if name not in ("$schema", "$id")}
        self._document = document
        self._mask = mask
        self._branches = count_branches(document)
        self._has_patterns = b'"pattern' in to_json(document)
        if self._branches > MAX_BRANCHES:
            raise UnusableSchema(
                f"Over {MAX_BRANCHES:,} branches may have to be tried for one value. "
                "Use fewer alternatives, or fewer references inside them."
            )
        try:
            self._whole = Draft202012Validator(document, mask=mask, **_OPTIONS)
        except ValidationError as error:
            raise UnusableSchema(
                "This is not a JSON Schema that can be used here.", tuple(error.instance_path)
            ) from None
        except (ReferencingError, ValueError) as error:
            raise UnusableSchema("This is not a JSON Schema that can be used here.") from error

    def find_mismatch(self, value: Json) -> Mismatch | None:
        """The first mismatch that is found; null if the value fits."""
        if check_nesting(value) * self._branches > _MOST_CHECKS:
            return Mismatch((), (), "", "there are too many values for a schema with so many branches")
        if self._has_patterns and len(to_json(value)) * self._branches > _MOST_MATCHED_BYTES:
            return Mismatch((), (), "", "there is too much text for a schema with so many branches and a pattern")
        if self._whole.is_valid(value):
            return None
        part = self._small_part(_Part(value, (), self._document, ()))
        errors = self._validator(part).iter_errors(part.value) if self._is_small(part.value) else ()
        error = next(iter(errors), None)
        if error is None:
            return Mismatch(part.path, part.place, "", f"{self._mask or 'the value'} does not fit the schema")
        path = part.path + tuple(error.instance_path)
        return Mismatch(path, tuple(error.schema_path), error.kind.name, error.message)

    def _small_part(self, part: "_Part") -> "_Part":
        """A part that does not fit and is small; the smallest that was found if there is none."""
        looks = iter(range(_MOST_LOOKS))
        while not self._is_small(part.value):
            inside = (each for each, _ in zip(_inside(part, self._document), looks, strict=False))
            deeper = next((each for each in inside if not self._validator(each).is_valid(each.value)), None)
            if deeper is None:
                break
            part = deeper
        return part

    def _is_small(self, value: Json) -> bool:
        values, size = check_nesting(value), len(to_json(value))
        return values * self._branches <= _MOST_ERRORS and size * self._branches <= _MOST_BYTES

    def _validator(self, part: "_Part") -> Draft202012Validator:
        pointer = "".join(f"/{quote(escape(step), safe='~')}" for step in part.place)
        registry = Registry([(_ROOT, self._document)])
        return Draft202012Validator({"$ref": f"{_ROOT}#{pointer}"}, registry=registry, mask=self._mask, **_OPTIONS)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a value, and the subschema that it has to fit. Both have their way from the top."""

    value: Json
    path: Path
    schema: Json
    place: Path

    def to(self, value: Json, path: Path, keyword: str, *steps: str | int) -> "_Part":
        """The part at `path` inside this one, and the subschema behind `keyword`."""
        schema: Any = self.schema
        for step in (keyword, *steps):
            schema = schema[step]
        return _Part(value, self.path + path, schema, (*self.place, keyword, *steps))


def _inside(part: _Part, document: JsonObject) -> Iterator[_Part]:
    """Parts all of which have to fit so that this one does."""
    if not isinstance(part.schema, dict):
        return
    schema, value = cast("dict[str, Any]", part.schema), part.value
    if "$ref" in schema:
        yield _Part(value, part.path, target(document, schema["$ref"]), steps_to(schema["$ref"]))
    for index in range(len(schema.get("allOf", []))):
        yield part.to(value, (), "allOf", index)
    if isinstance(value, dict):
        for name in schema.get("properties", {}):
            if name in value:
                yield part.to(value[name], (name,), "properties", name)
    elif isinstance(value, list) and "items" in schema:
        first = len(schema.get("prefixItems", []))
        for index, item in enumerate(value[first:], first):
            yield part.to(item, (index,), "items")
