"""Static analysis of a CEL expression: the paths it reads and the cost of its operations.

The CEL library limits iterations (10,000 per evaluation), but neither time nor memory. So each operation on data is
recorded as a `Use`: nanoseconds per byte of one read, times the rounds of the macros around it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from engine.expressions.cel_ast import Call, Collection, Comprehension, Const, Ident, Message, Node, Select

Path: TypeAlias = tuple[str | int, ...]
Facts: TypeAlias = frozenset[Path]


class BadExpression(ValueError):
    """The text is not a supported expression; `position` is the offset in characters, if known."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


@dataclass(frozen=True, slots=True)
class Read:
    """A path the expression reads; `guarded` if a `has()` makes sure that its first two steps exist."""

    path: Path
    guarded: bool


@dataclass(frozen=True, slots=True)
class Use:
    """An operation on the complete value of one read, repeated in every round of `loops` nested macros."""

    path: Path
    nanoseconds_per_byte: int
    loops: int


@dataclass(frozen=True, slots=True)
class Step:
    """An operation of fixed cost (per list item if it `copies` a list), repeated per round of `loops` nested macros."""

    nanoseconds: int
    loops: int
    copies: bool = False


@dataclass(slots=True)
class Reads:
    """The result of `find_reads`; `longest` and `joined` bound the rounds of a macro over literal or added lists."""

    names: set[str] = field(default_factory=set)
    reads: dict[Read, None] = field(default_factory=dict)
    presence: set[Path] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    longest: int = 1
    joined: int = 1


@dataclass(frozen=True, slots=True)
class _Source:
    """The origin of a value's bytes; `level` nested macros together iterate over the read once."""

    path: Path
    level: int


_Sources: TypeAlias = frozenset[_Source]
_NOTHING: _Sources = frozenset()
_NO_FACTS: Facts = frozenset()

TYPE_NAMES = frozenset({"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"})
_FREE = frozenset({"_&&_", "_||_", "!_", "_?_:_", "_[_]", "@not_strictly_false"})
_COMPARISONS = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_"})
_TESTS = _COMPARISONS | {"_&&_", "_||_", "!_", "@in", "size", "matches", "contains", "startsWith", "endsWith"}
# Measured on cel-expr-python 0.1.3 with the worst inputs found, rounded up.
_NANOSECONDS_PER_BYTE = {"matches": 200, "contains": 100}
_USUAL_NANOSECONDS_PER_BYTE = 10
_STEP_NANOSECONDS = 50
_COPY_NANOSECONDS = 16
_MAX_PATTERN_CHARACTERS = 200
_MAX_PATTERN_NANOSECONDS = 10_000_000
_NANOSECONDS_PER_INSTRUCTION = 300
_CATEGORY_INSTRUCTIONS, _CLASS_INSTRUCTIONS = 1_000, 10
_PATTERN_TOKEN = re.compile(
    r"(?P<category>\\[pP](?:\{[^}]*\}|.))|\\x\{[^}]*\}|\\.|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|\(\?[^)]*?[:)]|"
    r"(?P<repeat>\{(\d{1,6})(?:,(\d{0,6}))?\})|(?P<open>\()|(?P<close>\))|(?P<any>\.)|.",
    re.DOTALL,
)


def find_reads(tree: Node, roots: frozenset[str]) -> Reads:
    """Walk the tree once. Raises BadExpression for unsupported or too expensive operations."""
    walk = _Walk(roots)
    walk.visit(tree, {}, 0, _NO_FACTS)
    return walk.found


class _Walk:
    def __init__(self, roots: frozenset[str]) -> None:
        self._roots = roots
        self.found = Reads()

    def visit(self, node: Node, scope: Mapping[str, _Sources], depth: int, known: Facts) -> _Sources:
        """Record the reads of a node; `scope` has the macros' variables, `known` the paths that certainly exist."""
        path = static_path(node, scope)
        if path is not None:
            return self._read(path, isinstance(node, Select) and node.tests, known)
        return self._visit_other(node, scope, depth, known)

    def _visit_other(self, node: Node, scope: Mapping[str, _Sources], depth: int, known: Facts) -> _Sources:
        match node:
            case Select():
                return self.visit(node.operand, scope, depth, known)
            case Ident():
                return scope[node.name]
            case Collection():
                return self._collection(node, scope, depth, known)
            case Call():
                return self._call(node, scope, depth, known)
            case Comprehension():
                return self._comprehension(node, scope, depth, known)
            case Message():
                raise BadExpression("Message literals are not supported.")
            case Const():
                return _NOTHING

    def _read(self, path: Path, tests: bool, known: Facts) -> _Sources:
        root = str(path[0])
        if root not in self._roots:
            if path in {(name,) for name in TYPE_NAMES}:
                return _NOTHING
            raise BadExpression(f"There is no name `{root}`.")
        self.found.names.add(root)
        guarded = any(fact[:2] == path[:2] for fact in known) or (tests and len(path) == 2)
        self.found.reads[Read(path, guarded)] = None
        if tests and all(isinstance(step, str) for step in path):
            self.found.presence.add(path)
            return _NOTHING
        self.found.uses.append(Use(path, 0, 0))
        return frozenset({_Source(path, 0)})

    def _collection(self, node: Collection, scope: Mapping[str, _Sources], depth: int, known: Facts) -> _Sources:
        self.found.longest = max(self.found.longest, len(node.elements))
        self.found.steps.append(Step(_STEP_NANOSECONDS * (len(node.elements) + 1), depth))
        return _NOTHING.union(*(self.visit(element, scope, depth, known) for element in node.elements))

    def _call(self, node: Call, scope: Mapping[str, _Sources], depth: int, known: Facts) -> _Sources:
        name, arguments = node.function, node.arguments
        if name == "_+_":
            self.found.joined += 1
            if depth:
                raise BadExpression("`+` is not allowed inside a macro.")
        sources = [
            self.visit(argument, scope, depth, known | extra)
            for argument, extra in zip(arguments, _facts_for_arguments(node, scope), strict=True)
        ]
        self._note_cost(node, _NOTHING.union(*sources), depth)
        if name == "_?_:_":
            return sources[1] | sources[2]
        return _NOTHING if name in _TESTS else _NOTHING.union(*sources)

    def _note_cost(self, node: Call, sources: _Sources, depth: int) -> None:
        self.found.steps.append(Step(_STEP_NANOSECONDS, depth))
        if node.function == "matches":
            self.found.steps.append(Step(_pattern_nanoseconds(node.arguments[-1]), depth))
        literal = any(isinstance(argument, Const) for argument in node.arguments)
        if node.function in _FREE or (literal and node.function in _COMPARISONS):
            return
        weight = _NANOSECONDS_PER_BYTE.get(node.function, _USUAL_NANOSECONDS_PER_BYTE)
        self.found.uses += [Use(source.path, weight, max(0, depth - source.level)) for source in sources]

    def _comprehension(self, node: Comprehension, scope: Mapping[str, _Sources], depth: int, known: Facts) -> _Sources:
        sources = self.visit(node.range, scope, depth, known)
        elements = frozenset(_Source(source.path, source.level + 1) for source in sources)
        inner = {**scope, node.variable: elements, node.accumulator: elements}
        self.found.steps.append(Step(_COPY_NANOSECONDS, depth + 1, copies=isinstance(node.start, Collection)))
        self.visit(node.condition, inner, depth + 1, known)
        self.visit(_without_append(node), inner, depth + 1, known)
        self.visit(node.result, {**scope, node.accumulator: sources}, depth, known)
        return sources


def static_path(node: Node, scope: Mapping[str, _Sources]) -> Path | None:
    """The path if the node is a chain of literal steps from a root, else null."""
    steps: list[str | int] = []
    while True:
        match node:
            case Ident() if node.name not in scope:
                return (node.name.removeprefix("."), *reversed(steps))
            case Select(tests=tests) if not tests or not steps:
                steps.append(node.field)
                node = node.operand
            case Call("_[_]", (operand, Const(value))) if isinstance(value, str | int) and not isinstance(value, bool):
                steps.append(value)
                node = operand
            case _:
                return None


def _without_append(macro: Comprehension) -> Node:
    """The step of a macro without the macro's own append to its result. Raises BadExpression for `map()`.

    `filter` and `exists_one` are `condition ? @result + [x] : @result`; any other append comes from `map`.
    """
    accumulator = Ident(macro.accumulator)
    match macro.step:
        case Call("_?_:_", (condition, Call("_+_", (first, added)), _)) if first == accumulator:
            if added == Collection((Ident(macro.variable),)) or isinstance(added, Const):
                return condition
            raise BadExpression("`map()` is not part of the expression language.")
        case Call("_+_", (first, _)) if first == accumulator:
            raise BadExpression("`map()` is not part of the expression language.")
    return macro.step


def _facts_for_arguments(node: Call, scope: Mapping[str, _Sources]) -> list[Facts]:
    """For each argument, the paths that exist whenever that argument matters to the result."""
    match node:
        case Call("_&&_", (left, right)):
            return [_facts(right, True, scope), _facts(left, True, scope)]
        case Call("_||_", (left, right)):
            return [_facts(right, False, scope), _facts(left, False, scope)]
        case Call("_?_:_", (condition, _, _)):
            return [_NO_FACTS, _facts(condition, True, scope), _facts(condition, False, scope)]
    return [_NO_FACTS] * len(node.arguments)


def _facts(node: Node, truth: bool, scope: Mapping[str, _Sources]) -> Facts:
    """The paths that exist if the node evaluates to `truth`."""
    match node:
        case Select(tests=True) if truth:
            path = static_path(node, scope)
            return frozenset({path}) if path else _NO_FACTS
        case Call("@in", (Const(str(key)), operand)) if truth:
            path = static_path(operand, scope)
            return frozenset({(*path, key)}) if path else _NO_FACTS
        case Call("!_", (operand,)):
            return _facts(operand, not truth, scope)
        case Call("_&&_" | "_||_" as name, (left, right)):
            both = (_facts(left, truth, scope), _facts(right, truth, scope))
            return both[0] | both[1] if (name == "_&&_") == truth else both[0] & both[1]
    return _NO_FACTS


def _pattern_nanoseconds(pattern: Node) -> int:
    """An upper estimate of the time to compile a pattern, which the library does on every call.

    Raises BadExpression if the pattern is computed, too long or takes over 10 ms.
    """
    if not isinstance(pattern, Const) or not isinstance(pattern.value, str):
        raise BadExpression("The pattern of `matches()` must be a string literal.")
    nanoseconds = _instructions(pattern.value) * _NANOSECONDS_PER_INSTRUCTION
    if len(pattern.value) > _MAX_PATTERN_CHARACTERS or nanoseconds > _MAX_PATTERN_NANOSECONDS:
        raise BadExpression("The pattern of `matches()` is too large.")
    return nanoseconds


def _instructions(pattern: str) -> int:
    """The approximate size of the RE2 program; a counted repeat multiplies the preceding token."""
    groups, last = [0], 0
    for token in _PATTERN_TOKEN.finditer(pattern):
        if token["open"] or token[0].endswith(":"):
            groups.append(0)
            continue
        if token["repeat"]:
            times = max(int(token[4]), int(token[5] or 0), 1)
            groups[-1] += last * (times - 1)
            last *= times
            continue
        last = groups.pop() if token["close"] and len(groups) > 1 else _token_instructions(token)
        groups[-1] += last
    return sum(groups)


def _token_instructions(token: re.Match[str]) -> int:
    if token["category"] or (token["set"] and re.search(r"\\[pP]", token["set"])):
        return _CATEGORY_INSTRUCTIONS
    return _CLASS_INSTRUCTIONS if token["set"] or token["any"] else 1
