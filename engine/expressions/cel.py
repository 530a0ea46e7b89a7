"""CEL expressions, parsed and checked when a graph is saved, evaluated on the values they read.

    condition = parse("has(outputs.review) && outputs.review.data.score >= 8")
    holds(condition, names)

The CEL library limits iterations, but neither memory nor time. So `parse` refuses constructs that can blow up, and
`evaluate` gives CEL only the values that the expression reads, and limits their size and the estimated work.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from typing import Final, Literal, TypeAlias

from cel_expr_python import cel  # type: ignore[import-untyped]  # brings stubs, but no py.typed

from engine.errors import ExpressionError
from engine.expressions.cel_ast import read_tree
from engine.expressions.cel_reads import BadExpression, Path, Read, Reads, Step, Use, find_reads
from engine.graph import Json

__all__ = ["MISSING", "ROOTS", "BadExpression", "Expression", "Missing", "Read", "evaluate", "holds", "parse"]

ResultType: TypeAlias = Literal["bool", "list", "map", "string", "int", "double", "null", "dyn", "other"]

ROOTS: Final = frozenset(
    {
        *("input", "variables", "outputs", "last_user_message", "last_message", "message_count", "tool_call_count"),
        *("loops", "results", "errors", "error", "usage", "execution"),
    }
)
MAX_CHARACTERS = 1_000
MAX_BYTES = 64 * 1024
MAX_ITEMS = 1_000
MAX_DEPTH = 16
MAX_WORK_NANOSECONDS = 100_000_000
_MAX_ROUNDS = 10_000
_CHEAP_BYTES = 4 * 1024
_NUMBER_BYTES = 8
_MAX_SAFE_INTEGER = 2**53 - 1


class Missing:
    """The type of `MISSING`: no value, not even null."""


MISSING: Final = Missing()


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of a value that CEL needs: all of it (then `leaf` is its number), or only some keys (`children`)."""

    leaf: int | None
    children: tuple[tuple[str, "_Part"], ...]


@dataclass(frozen=True, slots=True)
class _Work:
    """The operations that take time, by the leaf that they read."""

    uses: tuple[tuple[int, Use], ...]
    steps: tuple[Step, ...]
    longest: int
    joined: int

    @property
    def is_cheap(self) -> bool:
        """There are no macros, and at most half of the allowed time goes into steps of fixed cost."""
        fixed = sum(step.nanoseconds for step in self.steps)
        return fixed < MAX_WORK_NANOSECONDS // 2 and not any(step.loops for step in self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """A parsed and checked expression; `constant` is its value if it reads nothing."""

    text: str
    names: frozenset[str]
    reads: tuple[Read, ...]
    result_type: ResultType
    constant: Json | Missing
    program: cel.Expression
    roots: tuple[tuple[str, _Part], ...]
    work: _Work
    is_cheap: bool


def holds(expression: Expression, names: Mapping[str, Json]) -> bool:
    """Whether the condition is true. Raises ExpressionError, also if the result is not a boolean."""
    result = evaluate(expression, names)
    if result is True or result is False:
        return result
    raise ExpressionError("The condition must result in true or false.")


def evaluate(expression: Expression, names: Mapping[str, Json]) -> Json:
    """The value of the expression. Raises ExpressionError.

    Only the roots that the expression reads are taken from `names`, and only the paths that it reads are passed to CEL.
    """
    collector = _Collector()
    data: dict[str, Json] = {}
    for name, part in expression.roots:
        try:
            value = names[name]
        except KeyError:
            continue
        data[name] = collector.take(part, value)
    if not expression.is_cheap or collector.size > _CHEAP_BYTES:
        _check_work(expression.work, collector)
    try:
        value = expression.program.eval(data=data)
        result = value.value()
    except (RuntimeError, ValueError, OverflowError) as error:
        raise ExpressionError(_reason(str(error), expression.text)) from None
    if result is True or result is False:
        return bool(result)
    return _to_json(value, expression.text)


@lru_cache(maxsize=4_096)
def parse(text: str, extra_names: frozenset[str] = frozenset()) -> Expression:
    """Parse a text; equal texts share one expression. `extra_names` are additional roots. Raises BadExpression."""
    if len(text) > MAX_CHARACTERS:
        raise BadExpression(f"The expression is longer than {MAX_CHARACTERS:,} characters.")
    _refuse_literals(text)
    roots = ROOTS | extra_names
    try:
        program = _environment(roots).compile(text)
    except (RuntimeError, ValueError, TypeError) as error:
        raise _translated(str(error), text) from None
    found = find_reads(read_tree(program.serialize()), roots)
    return _expression(text, program, found)


def _expression(text: str, program: cel.Expression, found: Reads) -> Expression:
    root, leaves = _parts(found)
    uses = tuple((leaves[_covering_path(use.path, leaves)], use) for use in found.uses if use.nanoseconds_per_byte)
    work = _Work(uses, tuple(found.steps), found.longest, found.joined)
    expression = Expression(
        text=text,
        names=frozenset(found.names),
        reads=tuple(found.reads),
        result_type=_RESULT_TYPES.get(program.return_type().name().partition("<")[0], "other"),
        constant=MISSING,
        program=program,
        roots=root.children,
        work=work,
        is_cheap=work.is_cheap,
    )
    return expression if found.names else replace(expression, constant=_constant(expression))


def _constant(expression: Expression) -> Json | Missing:
    try:
        return evaluate(expression, {})
    except ExpressionError:
        return MISSING


class _Collector:
    """Collects the values that an expression reads, and measures their size."""

    __slots__ = ("longest", "size", "sizes")

    def __init__(self) -> None:
        self.size = 0
        self.longest = 1
        self.sizes: dict[int, int] = {}

    def take(self, part: _Part, value: Json) -> Json:
        """Only the part of the value that the expression reads; a value of another shape becomes empty, same type."""
        if part.leaf is not None:
            before = self.size
            self.count(value)
            self.sizes[part.leaf] = self.size - before
            return value
        if isinstance(value, dict):
            return {key: self.take(child, value[key]) for key, child in part.children if key in value}
        if isinstance(value, list):
            return []
        return "" if isinstance(value, str) else value

    def count(self, value: Json) -> None:
        """Add the size of a value, about its bytes as JSON. Raises ExpressionError if it is beyond the limits."""
        if isinstance(value, list | dict):
            self._count_deep(value)
        else:
            self._count_flat(value)
        if self.size > MAX_BYTES:
            raise ExpressionError(f"The expression reads or returns more than {MAX_BYTES:,} bytes.")

    def _count_deep(self, value: Json) -> None:
        level, depth = [value], 0
        while level:
            depth += 1
            if depth > MAX_DEPTH + 1:
                raise ExpressionError(f"The expression reads or returns a value nested over {MAX_DEPTH} deep.")
            inner: list[Json] = []
            for item in level:
                if isinstance(item, list | dict):
                    inner += self._items_of(item)
                else:
                    self._count_flat(item)
            if self.size > MAX_BYTES:
                return
            level = inner

    def _items_of(self, value: list[Json] | dict[str, Json]) -> list[Json]:
        self.size += 2 + len(value)
        self.longest = max(self.longest, len(value))
        if len(value) > MAX_ITEMS:
            raise ExpressionError(f"The expression reads or returns a list or map of more than {MAX_ITEMS:,} items.")
        if isinstance(value, list):
            return value
        for key in value:
            if not isinstance(key, str):
                raise ExpressionError("The expression returns a map with a key that is not text.")
            self._count_flat(key)
        return list(value.values())

    def _count_flat(self, value: object) -> None:
        if isinstance(value, str):
            self.size += 2 + (len(value) if value.isascii() else _utf8_length(value))
            if "\0" in value:  # the library would truncate the text here
                raise ExpressionError("The expression reads a text with a NUL character.")
        elif value is None or isinstance(value, bool | int | float):
            self.size += _NUMBER_BYTES
            if isinstance(value, int) and not -_MAX_SAFE_INTEGER <= value <= _MAX_SAFE_INTEGER:
                raise ExpressionError("The expression reads or returns an integer beyond 2^53 - 1.")
        else:
            raise ExpressionError("The expression reads or returns a value that JSON cannot represent.")


def _check_work(work: _Work, collector: _Collector) -> None:
    """Refuse work that could take over 100 ms, because the library blocks the whole process meanwhile."""
    widest = max(collector.longest, work.longest) * work.joined
    total = 0
    for step in work.steps:
        total += step.nanoseconds * min(_MAX_ROUNDS, widest**step.loops) * (widest if step.copies else 1)
    for leaf, use in work.uses:
        total += use.nanoseconds_per_byte * collector.sizes.get(leaf, 0) * min(_MAX_ROUNDS, widest**use.loops)
    if total > MAX_WORK_NANOSECONDS:
        raise ExpressionError("The expression would take too long on values of this size.")


def _to_json(value: cel.Value, text: str) -> Json:
    """A CEL value as JSON. Raises ExpressionError for an error value and for values that JSON cannot represent."""
    kind = value.type().name()
    plain: Json = value.plain_value()
    if kind == "ERROR":
        raise ExpressionError(_reason(str(plain), text))
    _Collector().count(plain)
    if isinstance(plain, float) and not math.isfinite(plain):
        raise ExpressionError("The expression returns a number that JSON cannot represent.")
    return plain


@lru_cache(maxsize=64)
def _environment(roots: frozenset[str]) -> cel.Env:
    return cel.NewEnv(variables=dict.fromkeys(sorted(roots), cel.Type.DYN))


def _parts(found: Reads) -> tuple[_Part, dict[Path, int]]:
    """The tree of the values that CEL needs, and the number of each path that is passed completely."""
    whole: dict[Path, int] = {}
    for use in sorted(found.uses, key=lambda use: len(use.path)):
        keys = _keys(use.path)
        if not any(keys[:length] in whole for length in range(1, len(keys) + 1)):
            whole[keys] = len(whole)
    paths = {*whole, *(_keys(path) for path in found.presence)}
    return _part((), paths, whole), whole


def _part(prefix: Path, paths: set[Path], whole: Mapping[Path, int]) -> _Part:
    length = len(prefix)
    if prefix in whole:
        return _Part(whole[prefix], ())
    keys = sorted({str(path[length]) for path in paths if len(path) > length and path[:length] == prefix})
    return _Part(None, tuple((key, _part((*prefix, key), paths, whole)) for key in keys))


def _covering_path(path: Path, whole: Mapping[Path, int]) -> Path:
    return next(path[:length] for length in range(1, len(path) + 1) if path[:length] in whole)


def _keys(path: Path) -> Path:
    """The path up to its first list index, because lists are passed completely."""
    return tuple(takewhile(lambda step: isinstance(step, str), path))


def _utf8_length(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ExpressionError("The expression reads a text that is not valid Unicode.") from None


# The group is not possessive: before 3.11.5 Python matches such a pattern wrongly (gh-106052 of CPython).
_LEXEME = re.compile(
    r"//[^\n]*|(?P<word>[A-Za-z0-9_]*)(?P<quote>[\"\'])(?:\\.|(?!(?P=quote))[^\\])*(?P=quote)?(?P<more>[\"\'])?"
    r"|[A-Za-z0-9_]+|.",
    re.DOTALL,
)


def _refuse_literals(text: str) -> None:
    for lexeme in _LEXEME.finditer(text):
        if lexeme["more"]:
            raise BadExpression("Triple-quoted strings are not supported; use single or double quotes.", lexeme.start())
        if lexeme["word"] and lexeme["word"].lower() in {"r", "b", "rb", "br"}:
            raise BadExpression("Raw strings and byte strings are not supported; remove the prefix.", lexeme.start())


_POSITION = re.compile(r"<input>:(\d+):(\d+): (.*)")


def _translated(message: str, text: str) -> BadExpression:
    """Translate a message of the library: the offset replaces line and column."""
    found = _POSITION.search(message)
    if found is None:
        return BadExpression("The expression nests too deeply or cannot be parsed.")
    line, column, reason = int(found[1]), int(found[2]), found[3]
    lines = text.split("\n")
    position = min(len(text), sum(len(before) + 1 for before in lines[: line - 1]) + max(0, column - 1))
    return BadExpression(reason.replace(" (in container '')", ""), position)


def _reason(message: str, text: str) -> str:
    """The reason for a failed evaluation, as a sentence without any value."""
    for part, sentence in _REASONS.items():
        if part in message:
            key = re.search(r'"([^"]+)"$', message)
            named = f" `{key[1]}`" if key and key[1] in text else ""
            return sentence.format(named)
    return "The expression could not be evaluated."


_REASONS = {
    "Key not found": "The expression reads a key{} that does not exist; check it with `has()` first.",
    "No value with name": "The expression reads a name that has no value here.",
    "ndex": "The expression reads a list index that does not exist.",
    "by zero": "The expression divides by zero.",
    "odulus": "The expression divides by zero.",
    "overload": "The expression passes a value of the wrong type to an operator or function.",
    "Iteration budget": "The expression iterates over too many items.",
}
_RESULT_TYPES: dict[str, ResultType] = {
    "BOOL": "bool",
    "LIST": "list",
    "MAP": "map",
    "STRING": "string",
    "INT": "int",
    "UINT": "int",
    "DOUBLE": "double",
    "NULL": "null",
    "DYN": "dyn",
}
