"""CEL expressions: results, errors, static reads and limits."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import pytest

from engine.errors import ExpressionError
from engine.expressions.cel import MISSING, BadExpression, Read, evaluate, holds, parse
from engine.graph import Json

ITEMS: list[Json] = list(range(1_000))
LONG = "a" * 60_000
FEW = ITEMS[:99]

REFUSED_WHEN_SAVED = [
    "",
    " ",
    "input.",
    "input.a +",
    "(" * 400 + "1" + ")" * 400,
    "[" * 400 + "]" * 400,
    "input" + ".a" * 400,
    "input" + "[0" * 200 + "]" * 200,
    "+".join(["input.s"] * 124),
    "true?" * 100 + "1" + ":1" * 100,
    "x" * 1_001,
    "input.l.map(a, a)",
    "input.l.map(a, [a, a])",
    "input.l.map /* c */ (a, a)",
    "input.l.map(a, input.l.map(b, input.l))",
    "input.l.map(a, a > 1, a * 2)",
    "input.l.all(a, a + a == 2)",
    "input.l.all(a, [input.s + input.s].all(b, b != ''))",
    "input.l.filter(a, input.l.filter(b, a + b > 1) != [])",
    r"r'\d' == ''",
    r'R"\d" == ""',
    "'''a''' == ''",
    '"""a""" == ""',
    "b'a' == b'a'",
    "rb'a' == b'a'",
    "bR'''a''' == b''",
    "input.a == 'x' // b\n || r'a' == ''",
    "open('/etc/passwd')",
    "__import__('os').system('true')",
    "input.__class__()",
    "().__class__.__bases__[0].__subclasses__()",
    "lambda: 1",
    "exec('1')",
    "cel.bind(x, 1, x)",
    "input.?a",
    "@result",
    "input.l.all(a, @result)",
    "__result__",
    "secrets.key",
    "context",
    "params.a",
    "google.protobuf.Struct{}",
    "google.protobuf.Any{type_url: 'a'}",
    "input.s.matches(input.p)",
    "input.s.matches('a' + 'b')",
    "input.s.matches('" + "a" * 201 + "')",
    r"input.s.matches('\\pL{100}')",
    r"input.s.matches('(\\pL|\\pN){300}')",
    "input.s.matches('" + "a{1000}" * 28 + "b{999}" * 1 + "')",
    r"input.l.exists(a, a.matches('[^\\pL]{200}'))",
    "'\ud800' == ''",
    "'a\n' == ''",
    "input.a == 1\0 || nothing",
    "input.a; input.b",
    "input.a = 1",
    "1 == 1.0",
    "'a' + 1",
]

HOSTILE: list[tuple[str, dict[str, Json]]] = [
    ("input.l.all(a, input.l.all(b, a >= 0))", {"l": ITEMS}),
    ("input.l.all(a, input.l.all(b, input.l.all(c, input.l.all(d, true))))", {"l": ITEMS}),
    ("input.l.filter(a, input.l.filter(b, true) != []) != []", {"l": ITEMS}),
    (
        "input.l.all(a, input.l.all(b, !input.s.contains(input.t)))",
        {"l": FEW, "s": "a" * 40_000, "t": "a" * 20_000 + "b"},
    ),
    ("input.l.all(a, !input.s.contains('aab'))", {"l": ITEMS, "s": LONG}),
    ("input.l.all(a, input.l.all(b, string(bytes(input.s)) != ''))", {"l": FEW, "s": LONG}),
    ("input.l.all(a, input.l.all(b, size(input.s) > 1))", {"l": FEW, "s": LONG}),
    ("input.l.all(a, input.l.all(b, !input.s.matches('(x+x+)+y')))", {"l": FEW, "s": LONG}),
    (r"input.l.all(a, !input.s.matches('(.*a.{90}){2}b'))", {"l": ITEMS, "s": LONG}),
    ("||".join(["input.s.matches('(.*a.{90}){2}b')"] * 24), {"s": LONG}),
    (r"input.l.exists(a, ''.matches('\\pLx'))", {"l": ITEMS}),
    (r"input.l.exists(a, ''.matches('[^\\pN]x'))", {"l": ITEMS}),
    ("input.l.exists(a, ''.matches('(a{30}b?){30}x'))", {"l": ITEMS}),
    ("input.s.matches('(a?){90}a{90}')", {"s": "a" * 90}),
    ("input.s.matches('(a*)*b')", {"s": LONG}),
    ("input.s.matches('(a|aa)+$')", {"s": LONG + "b"}),
    ("input.l.all(a, input.l.all(b, input.m == input.m))", {"l": FEW, "m": [ITEMS] * 6}),
    ("input.l.all(a, input.l.all(b, !(-1 in input.m)))", {"l": FEW, "m": ITEMS}),
    ("input.l.all(a, input.l.all(b, [" + ",".join("a" * 460) + "] != []))", {"l": FEW}),
    (
        "(" + "+".join(["input.l"] * 20) + ").all(a, input.s != input.t)",
        {"l": FEW, "s": LONG[:30_000], "t": LONG[:30_000]},
    ),
    ("[1,2,3].all(a, [1,2,3].all(b, [1,2,3].all(c, [1,2,3].all(d, [1,2,3].all(e, a > 0)))))", {}),
    ("input.l", {"l": [*ITEMS, 1]}),
    ("input.l", {"l": "a" * 65_536}),
    ("input.l", {"l": {str(number): None for number in range(1_001)}}),
    ("input.l", {"l": ["a" * 700] * 100}),
    ("size(" + "+".join(["input.s"] * 30) + ")", {"s": LONG}),
    ("+".join(["input.s"] * 30), {"s": LONG}),
    ("[" + ",".join(["input.s"] * 120) + "]", {"s": LONG}),
    ("input.s == 'a'", {"s": "a\0b"}),
    ("input.s == 'a'", {"s": "\ud800"}),
    ("input.n > 1", {"n": 2**70}),
    ("input.n > 1", {"n": 2**63}),
    ("0.0 / 0.0", {}),
    ("1.0 / 0.0", {}),
    ("9223372036854775807 + 1", {}),
    ("9223372036854775807", {}),
    ("-9223372036854775808 / -1", {}),
    ("1 % 0", {}),
    ("int('9' + input.s)", {"s": LONG}),
    ("timestamp('9999-12-31T23:59:59Z') + duration('1s')", {}),
    ("duration('1s')", {}),
    ("type(1)", {}),
    ("bytes('a')", {}),
    ("{1: 2}", {}),
    ("-" * 900 + "1", {}),
    ("!" * 900 + "true", {}),
    ("input.__class__", {}),
    ("input.__class__.__mro__", {}),
    ("input['__globals__']", {}),
]


def _deep(levels: int) -> Json:
    value: Json = 1
    for _ in range(levels):
        value = [value]
    return value


class Lazy(Mapping[str, Json]):
    """A mapping of names that records the requested roots."""

    def __init__(self, values: dict[str, Json]) -> None:
        self.values_by_name = values
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> Json:
        self.asked.append(name)
        return self.values_by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("input.a", {"a": 1}, 1),
        ("input.a", {"a": None}, None),
        ("input.a", {"a": "x"}, "x"),
        ("input.a", {"a": 1.5}, 1.5),
        ("input.a", {"a": [1, {"b": [True, None, "é"]}]}, [1, {"b": [True, None, "é"]}]),
        ("input.a[1].b", {"a": [0, {"b": 2}]}, 2),
        ("input['a b']", {"a b": 3}, 3),
        ("input[input.k]", {"a": 4, "k": "a"}, 4),
        ("input.a == 1.0", {"a": 1}, True),
        ("input.a > 1.5", {"a": 2}, True),
        ("double(input.a) + 1.0", {"a": 1}, 2.0),
        ("input.a.matches('(?i)YES')", {"a": "yes"}, True),
        (r"input.a.matches('^\\d{4}-\\d{2}-\\d{2}$')", {"a": "2026-11-24"}, True),
        ("input.l.exists(c, c.name == 'pay')", {"l": [{"name": "ask"}, {"name": "pay"}]}, True),
        ("input.l.filter(c, c.n > 1)", {"l": [{"n": 1}, {"n": 2}]}, [{"n": 2}]),
        ("input.l.exists_one(c, c == 1)", {"l": [1, 2]}, True),
        ("size(input.l) + 1", {"l": [1, 2]}, 3),
        ("{'a': input.a, 'l': [1, input.a]}", {"a": 2}, {"a": 2, "l": [1, 2]}),
        ("input.a ? 'x' : 'y'", {"a": False}, "y"),
        ("[1].all(input, .input.a == 1)", {"a": 1}, True),
        ("type(input.a) == string", {"a": "x"}, True),
        ("input.a in ['timeout', 'overloaded']", {"a": "timeout"}, True),
    ],
)
def test_an_expression_returns_a_json_value(text: str, values: dict[str, Json], expected: Json) -> None:
    result = evaluate(parse(text), {"input": values})

    assert (result, type(result)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("input.a > 1", {}),
        ("input.a > 1", {"a": "x"}),
        ("input.a > 1", {"a": None}),
        ("input.a[3] > 1", {"a": [1]}),
        ("input.a[-1] > 1", {"a": [1]}),
        ("1 / input.a > 1", {"a": 0}),
        ("input.a + 1 > 1", {"a": 1.0}),
        ("input.a", {"a": 1}),
        ("input.a", {"a": "true"}),
        ("has(input.a.b)", {}),
        ("has(input.a.b)", {"a": "text"}),
        ("has(input.a.b)", {"a": [1]}),
        ("input.a && true", {"a": 1}),
        ("loops.x.iteration > 1", {}),
    ],
)
def test_a_failing_condition_is_an_error_and_never_false(text: str, values: dict[str, Json]) -> None:
    with pytest.raises(ExpressionError):
        holds(parse(text), {"input": values})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("has(outputs.a) && outputs.a.n > 1", False),
        ("outputs.a.n > 1 && has(outputs.a)", False),
        ("!has(outputs.a) || outputs.a.n > 1", True),
        ("outputs.a.n > 1 || true", True),
        ("has(outputs.b)", True),
        ("has(outputs.b.n)", True),
        ("has(outputs.l[0].n)", True),
    ],
)
def test_and_and_or_ignore_an_error_if_the_other_side_decides(text: str, expected: bool) -> None:
    assert holds(parse(text), {"outputs": {"b": {"n": None}, "l": [{"n": 1}]}}) is expected


@pytest.mark.parametrize("value", ["a\0b", ["a\0b"], {"a\0": 1}, "\ud800", 2**53, [2**63], 2**70])
def test_values_misread_by_the_library_are_errors(value: Json) -> None:
    with pytest.raises(ExpressionError):
        evaluate(parse("input.a != 'a'"), {"input": {"a": value}})


@pytest.mark.parametrize("text", ["9007199254740992", "1.0 / 0.0", "{1: 2}", "type(1)", "duration('1s')", "bytes('a')"])
def test_a_result_that_json_cannot_represent_is_an_error(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(parse(text), {})


def test_only_the_roots_in_the_expression_are_requested() -> None:
    names = Lazy({"input": {"a": 1}, "usage": {"total_tokens": 1}, "outputs": {}})

    assert holds(parse("input.a == 1 && !has(outputs.x)"), names)
    assert sorted(names.asked) == ["input", "outputs"]


def test_only_the_paths_in_the_expression_are_passed_to_cel() -> None:
    names: dict[str, Json] = {
        "outputs": {"review": {"text": "x" * 200_000, "data": {"score": 9}}, "big": ["x"] * 5_000}
    }

    assert holds(parse("has(outputs.review) && outputs.review.data.score > 8 && has(outputs.big)"), names)
    with pytest.raises(ExpressionError, match="65,536 bytes"):
        evaluate(parse("size(outputs.review)"), names)


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        (["x"] * 1_000, True),
        (["x"] * 1_001, False),
        ("x" * 65_534, True),
        ("x" * 65_535, False),
        ("é" * 32_767, True),
        ("é" * 32_768, False),
        (_deep(16), True),
        (_deep(17), False),
    ],
)
def test_the_values_passed_to_cel_are_limited(value: Json, fits: bool) -> None:
    expression = parse("input.a != null")
    if fits:
        assert holds(expression, {"input": {"a": value}})
    else:
        with pytest.raises(ExpressionError):
            holds(expression, {"input": {"a": value}})


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("outputs.a.b", [Read(("outputs", "a", "b"), False)]),
        ("outputs['a'].b[0].c", [Read(("outputs", "a", "b", 0, "c"), False)]),
        ("has(outputs.a)", [Read(("outputs", "a"), True)]),
        ("has(outputs.a.b)", [Read(("outputs", "a", "b"), False)]),
        ("has(outputs.a) && outputs.a.b > 1", [Read(("outputs", "a"), True), Read(("outputs", "a", "b"), True)]),
        ("!has(outputs.a) || outputs.a.b > 1", [Read(("outputs", "a"), True), Read(("outputs", "a", "b"), True)]),
        ("has(outputs.a) || outputs.a.b > 1", [Read(("outputs", "a"), True), Read(("outputs", "a", "b"), False)]),
        ("has(outputs.a) ? outputs.a.b : 1", [Read(("outputs", "a"), True), Read(("outputs", "a", "b"), True)]),
        ("has(outputs.a) ? 1 : outputs.a.b", [Read(("outputs", "a"), True), Read(("outputs", "a", "b"), False)]),
        ("has(outputs.a) && outputs.b.c > 1", [Read(("outputs", "a"), True), Read(("outputs", "b", "c"), False)]),
        ("'a' in outputs && outputs.a.b > 1", [Read(("outputs",), False), Read(("outputs", "a", "b"), True)]),
        ("input.l.exists(c, c.n > input.m)", [Read(("input", "l"), False), Read(("input", "m"), False)]),
        ("outputs[input.k].x", [Read(("outputs",), False), Read(("input", "k"), False)]),
        ("[1].all(input, input > 0)", []),
    ],
)
def test_an_expression_knows_its_reads(text: str, reads: list[Read]) -> None:
    expression = parse(text)

    assert sorted(expression.reads, key=repr) == sorted(reads, key=repr)
    assert expression.names == {read.path[0] for read in reads}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input.a > 1", "bool"),
        ("input.a", "dyn"),
        ("[1]", "list"),
        ("{'a': 1}", "map"),
        ("'a'", "string"),
        ("size(input.a)", "int"),
        ("1.5", "double"),
        ("null", "null"),
        ("type(1)", "other"),
        ("input.a ? 1 : 2", "int"),
    ],
)
def test_an_expression_knows_the_type_of_its_result(text: str, expected: str) -> None:
    assert parse(text).result_type == expected


def test_an_expression_that_reads_nothing_is_a_constant() -> None:
    assert parse("1 + 1 == 2").constant is True
    assert parse("null").constant is None
    assert parse("1 / 0 == 1").constant is MISSING
    assert parse("input.a == 1").constant is MISSING


def test_equal_texts_share_one_expression() -> None:
    assert parse("input.shared > 1") is parse("input.shared > 1")


def test_additional_names_can_be_allowed() -> None:
    expression = parse("params.memory && input.a == 1", frozenset({"params"}))

    assert expression.names == {"params", "input"}
    assert holds(expression, {"params": {"memory": True}, "input": {"a": 1}})


def test_a_bad_expression_has_a_position() -> None:
    with pytest.raises(BadExpression) as refused:
        parse("input.a &&\n nothing == 1")

    assert refused.value.position == 12
    assert refused.value.message == "undeclared reference to 'nothing'"


def test_an_error_names_a_key_in_the_text_but_never_a_value() -> None:
    with pytest.raises(ExpressionError, match="reads a key `a` that does not exist"):
        evaluate(parse("input.a"), {"input": {}})
    with pytest.raises(ExpressionError, match="reads a key that does not exist") as failed:
        evaluate(parse("input[input.k]"), {"input": {"k": "canary"}})
    assert "canary" not in failed.value.message


def test_strings_that_resemble_raw_strings_are_accepted() -> None:
    assert evaluate(parse("input.r == \"r'a'\" // b'c'"), {"input": {"r": "r'a'"}}) is True
    assert evaluate(parse("'' == \"\" && 'a\\'' != ''"), {}) is True


@pytest.mark.parametrize("text", REFUSED_WHEN_SAVED)
def test_unsafe_expressions_are_refused_when_saved(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(BadExpression):
        parse(text)
    assert time.perf_counter() - started < 0.25


def test_hostile_expressions_are_bounded_in_time_and_memory() -> None:
    """Each ends within 0.25 s and 100 MiB above the start, in a process that would be killed beyond 1 GiB."""
    program = (
        "import json, resource, sys, time\n"
        "from engine.errors import ExpressionError\n"
        "from engine.expressions.cel import BadExpression, evaluate, parse\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "parse('true')\n"
        "for text, values in json.load(sys.stdin):\n"
        "    before, started = peak(), time.process_time()\n"
        "    try:\n"
        "        outcome = type(evaluate(parse(text), {'input': values})).__name__\n"
        "    except (BadExpression, ExpressionError) as error:\n"
        "        outcome = type(error).__name__\n"
        "    print(json.dumps([text, outcome, time.process_time() - started, peak() - before]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(HOSTILE),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, len(rows)) == (0, len(HOSTILE)), done.stderr[-500:]
    assert [row for row in rows if row[2] >= 0.25 or row[3] >= 100] == []


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("input.l.exists(c, c.name == 'pay')", {"l": [{"name": "x" * 40}] * 1_000}),
        ("input.l.filter(c, c.score > 3.5)", {"l": [{"score": 4, "note": "x" * 30}] * 1_000}),
        (r"input.l.exists(c, c.matches('^\\d{4}-\\d{2}$'))", {"l": ["2026-11-24"] * 1_000}),
        ("input.l.all(c, c in input.m)", {"l": [1] * 300, "m": [0, 1]}),
        ("input.s.contains('refund') || input.s.matches('(?i)money back')", {"s": LONG}),
    ],
)
def test_ordinary_expressions_on_large_values_are_accepted(text: str, values: dict[str, Json]) -> None:
    evaluate(parse(text), {"input": values})
