r"""Prompts: texts with insertions `{{ path | filter }}`, rendered in one pass.

    parse("Notes: {{ outputs.review.data.notes | default('none') }}").render(names)

A path is a root with steps `.name`, `[0]`, `['key']`; the filters are `json`, `truncate(n)` and `default(literal)`,
each at most once per insertion (repeated `json` would double the text every time). Strings are inserted unchanged,
other values as compact JSON, null as `""`. Inserted text is never parsed again. `\{{` is a literal `{{`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

import orjson

from engine.documents.json_text import NotJson, to_json
from engine.errors import TemplateError
from engine.graph import Json

MAX_RENDERED_BYTES = 256 * 1024
MAX_JSON_DEPTH = 64

FILTERS = {
    "json": "The value as compact JSON.",
    "truncate(n)": "The first `n` characters of the text.",
    "default(literal)": "The literal if the path has no value.",
}
"""The result of each filter, for the generated reference."""

Path: TypeAlias = tuple[str | int, ...]
Scalar: TypeAlias = str | int | float | bool | None


class BadPrompt(ValueError):
    """The text is not a valid prompt; `position` is the offset of the insertion in characters."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


@dataclass(frozen=True, slots=True)
class PromptRead:
    """A path that a prompt reads; with `has_default` the value may be missing."""

    path: Path
    has_default: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """A parsed prompt: pieces of text and insertions, in order."""

    text: str
    parts: "tuple[str | _Insertion, ...]"

    @property
    def reads(self) -> tuple[PromptRead, ...]:
        return tuple(PromptRead(part.path, part.has_default) for part in self.parts if not isinstance(part, str))

    @property
    def is_static(self) -> bool:
        return all(isinstance(part, str) for part in self.parts)

    def render(self, names: Mapping[str, Json]) -> str:
        """The text with its values. Raises TemplateError for a missing value and a text over 256 KiB."""
        return _render(self, names, _SizeLimit())


@dataclass(frozen=True, slots=True)
class JsonPrompt:
    """A JSON value whose strings are prompts. `render` returns a new value each time."""

    shape: "_Shape"
    prompts: tuple[Prompt, ...]

    @property
    def reads(self) -> tuple[PromptRead, ...]:
        return tuple(read for prompt in self.prompts for read in prompt.reads)

    @property
    def is_static(self) -> bool:
        return all(prompt.is_static for prompt in self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def render(self, names: Mapping[str, Json]) -> Json:
        """The value with its prompts rendered. Raises TemplateError as `Prompt.render`; the limit holds in total.

        A string that is exactly one insertion, with at most a `default`, becomes the inserted value with its type.
        """
        return _render_shape(self.shape, names, _SizeLimit())


@lru_cache(maxsize=4_096)
def parse(text: str) -> Prompt:
    """Parse a text; equal texts share one prompt. Raises BadPrompt."""
    parts: list[str | _Insertion] = []
    position = 0
    while (opening := _OPENING.search(text, position)) is not None:
        parts.append(text[position : opening.start()])
        if opening["escaped"]:
            parts.append("{{")
            position = opening.end()
        else:
            insertion, position = _insertion(text, opening.start())
            parts.append(insertion)
    parts.append(text[position:])
    return Prompt(text, tuple(part for part in parts if part))


def parse_json(value: Json) -> JsonPrompt:
    """Parse every string in a JSON value (but no keys) as a prompt. Raises BadPrompt."""
    prompts: list[Prompt] = []
    return JsonPrompt(_shape(value, prompts, MAX_JSON_DEPTH), tuple(prompts))


def escape(text: str) -> str:
    """The prompt that renders to exactly this text."""
    return text.replace("{{", r"\{{")


class _Missing:
    """The type of `_MISSING`: no value at a path, not even null."""


_MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class _Filter:
    """`json`, `truncate` with a number of characters, or `default` with its value."""

    name: str
    argument: Scalar = None


@dataclass(frozen=True, slots=True)
class _Insertion:
    path: Path
    filters: tuple[_Filter, ...]

    @property
    def has_default(self) -> bool:
        return any(item.name == "default" for item in self.filters)

    @property
    def keeps_type(self) -> bool:
        return not self.filters or (len(self.filters) == 1 and self.has_default)


@dataclass(frozen=True, slots=True)
class _List:
    items: "tuple[_Shape, ...]"


@dataclass(frozen=True, slots=True)
class _Map:
    items: "tuple[tuple[str, _Shape], ...]"


@dataclass(frozen=True, slots=True)
class _Constant:
    value: int | float | bool | None


_Shape: TypeAlias = Prompt | _List | _Map | _Constant


class _SizeLimit:
    """The bytes that one rendering may still produce."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_RENDERED_BYTES

    def take(self, text: str) -> str:
        """The same text; raises TemplateError if it does not fit."""
        self.use(len(text) if text.isascii() else len(text.encode(errors="surrogatepass")))
        return text

    def use(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TemplateError(f"The rendered text is over {MAX_RENDERED_BYTES // 1024} KiB.")


def _render(prompt: Prompt, names: Mapping[str, Json], limit: _SizeLimit) -> str:
    return "".join(
        [limit.take(part if isinstance(part, str) else _as_text(_value(part, names))) for part in prompt.parts]
    )


def _render_shape(shape: _Shape, names: Mapping[str, Json], limit: _SizeLimit) -> Json:
    match shape:
        case Prompt(parts=(_Insertion() as insertion,)) if insertion.keeps_type:
            value = _value(insertion, names)
            limit.use(len(_as_json(value)))
            return value
        case Prompt():
            return _render(shape, names, limit)
        case _List(items):
            return [_render_shape(item, names, limit) for item in items]
        case _Map(pairs):
            return {key: _render_shape(item, names, limit) for key, item in pairs}
        case _Constant(constant):
            return constant


def _shape(value: Json, prompts: list[Prompt], depth_left: int) -> _Shape:
    if depth_left < 0:
        raise BadPrompt(f"The value is nested over {MAX_JSON_DEPTH} levels deep.")
    if isinstance(value, str):
        prompts.append(parse(value))
        return prompts[-1]
    if isinstance(value, list):
        return _List(tuple(_shape(item, prompts, depth_left - 1) for item in value))
    if isinstance(value, dict):
        return _Map(tuple((key, _shape(item, prompts, depth_left - 1)) for key, item in value.items()))
    return _Constant(value)


def _value(insertion: _Insertion, names: Mapping[str, Json]) -> Json:
    value = _look_up(insertion.path, names)
    for item in insertion.filters:
        value = _filtered(item, value)
    if isinstance(value, _Missing):
        raise TemplateError(
            f"`{_path_text(insertion.path)}` has no value here; add `| default('…')` if it may be missing."
        )
    return value


def _look_up(path: Path, names: Mapping[str, Json]) -> Json | _Missing:
    try:
        value: Json | _Missing = names[str(path[0])]
    except KeyError:
        return _MISSING
    for step in path[1:]:
        if isinstance(value, dict):
            value = value.get(step, _MISSING) if isinstance(step, str) else _MISSING
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return _MISSING
    return value


def _filtered(item: _Filter, value: Json | _Missing) -> Json | _Missing:
    if isinstance(value, _Missing):
        return item.argument if item.name == "default" else value
    if item.name == "json":
        return _as_json(value).decode()
    if item.name == "truncate" and isinstance(item.argument, int):
        return _as_text(value)[: item.argument]
    return value


def _as_text(value: Json) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else _as_json(value).decode()


def _as_json(value: Json) -> bytes:
    try:
        return to_json(value)
    except NotJson:
        raise TemplateError("A value in the prompt cannot be written as JSON.") from None


def _path_text(path: Path) -> str:
    return str(path[0]) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path[1:])


_TEXT = r"'(?:[^'\\]|\\[\\'\"nt])*'|\"(?:[^\"\\]|\\[\\'\"nt])*\""
_OPENING = re.compile(r"(?P<escaped>\\)?\{\{")
_NAME = re.compile(r"\s*+([A-Za-z_][A-Za-z0-9_]*+)")
_STEP = re.compile(rf"\.(?P<name>[A-Za-z_][A-Za-z0-9_]*+)|\[\s*+(?:(?P<index>\d{{1,9}}+)|(?P<key>{_TEXT}))\s*+\]")
_FILTER = re.compile(
    r"\s*+\|\s*+(?:(?P<json>json)\b|truncate\(\s*+(?P<truncate>\d{1,9})\s*+\)"
    rf"|default\(\s*+(?:(?P<text>{_TEXT})|(?P<word>true|false|null)"
    r"|(?P<number>-?(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?))\s*+\))"
)
_CLOSING = re.compile(r"\s*+\}\}")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t"}


def _insertion(text: str, start: int) -> tuple[_Insertion, int]:
    """Parse the insertion at `start`; returns it and its end position."""
    root = _NAME.match(text, start + 2)
    if root is None:
        raise BadPrompt("`{{` needs a path, such as `input.message`; write `\\{{` for literal braces.", start)
    filters, position = [], root.end()
    steps: list[str | int] = [root[1]]
    while (step := _STEP.match(text, position)) is not None:
        steps.append(_step(step))
        position = step.end()
    while (found := _FILTER.match(text, position)) is not None:
        filters.append(_filter(found))
        position = found.end()
    if len({item.name for item in filters}) < len(filters):
        raise BadPrompt("An insertion may use each filter only once.", start)
    closing = _CLOSING.match(text, position)
    if closing is None:
        raise BadPrompt(
            "An insertion is `{{`, a path, the filters `json`, `truncate(n)` or `default(literal)`, and `}}`.", start
        )
    return _Insertion(tuple(steps), tuple(filters)), closing.end()


def _step(found: re.Match[str]) -> str | int:
    if found["name"]:
        return found["name"]
    return int(found["index"]) if found["index"] else _unquoted(found["key"])


def _filter(found: re.Match[str]) -> _Filter:
    if found["json"]:
        return _Filter("json")
    if found["truncate"]:
        return _Filter("truncate", int(found["truncate"]))
    if found["text"]:
        return _Filter("default", _unquoted(found["text"]))
    literal: Scalar = orjson.loads(found["word"] or found["number"])
    return _Filter("default", literal)


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), text[1:-1])
