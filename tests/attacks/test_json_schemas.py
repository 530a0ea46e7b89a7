"""Attack: JSON Schemas whose check, or whose error, takes exponential time and memory."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from engine.documents.json_schema import compiled
from engine.documents.schema_branches import MAX_BRANCHES, UnusableSchema, count_branches
from engine.engine import ExecutionEngine
from engine.graph import Json, JsonObject
from engine.resources import Effect, ToolContext, ToolSpec
from tests.engine.harness import scripted_resources
from tests.engine.validation.graphs import document, model, report

SECONDS = 2.0
"""Of the processor; a quarter of one on a quiet machine, and over a minute before."""
MEBIBYTES = 100


def doubling(levels: int) -> dict[str, Any]:
    """Each level tries the next one twice."""
    definitions: dict[str, Any] = {
        f"l{level}": {"anyOf": [{"$ref": f"#/$defs/l{level + 1}"}, {"$ref": f"#/$defs/l{level + 1}"}]}
        for level in range(levels)
    }
    return {"$ref": "#/$defs/l0", "$defs": {**definitions, f"l{levels}": {"type": "string"}}}


def doubling_inside(keyword: str) -> dict[str, Any]:
    """Each level tries itself twice on what is inside the value."""
    inside = {"x": {"$ref": "#"}} if keyword in ("properties", "patternProperties") else {"$ref": "#"}
    return {"anyOf": [{keyword: inside}, {keyword: inside, "minProperties": 1}]}


@pytest.mark.parametrize("levels", [24, 40, 200])
def test_alternatives_that_multiply_are_refused(levels: int) -> None:
    with pytest.raises(UnusableSchema, match="Over 1,000 branches"):
        compiled(doubling(levels))


GRAPHS = [
    ("/input_schema", document(input_schema=doubling(24))),
    (
        "/nodes/2/config/response_schema",
        document("start>m m>end", {"m": model(model="scripted", response_schema=doubling(24))}),
    ),
    (
        "/nodes/2/config/response_schema",
        document(
            "start>a a>end:approved a>end:rejected",
            {"a": ("approval", {"prompt": "Go on?", "response_schema": doubling(24)})},
        ),
    ),
]


@pytest.mark.parametrize(("place", "graph"), GRAPHS)
def test_no_schema_of_a_workflow_may_multiply(place: str, graph: JsonObject) -> None:
    began = time.process_time()
    issues = [issue for issue in report(graph).issues if issue.code == "schema.bad_json_schema"]
    assert time.process_time() - began < SECONDS
    assert [(issue.pointer, issue.message.split(".")[0]) for issue in issues] == [
        (place, "Over 1,000 branches may have to be tried for one value")
    ]


@dataclass(frozen=True, slots=True)
class Doubling:
    """A tool whose parameters multiply."""

    spec: ToolSpec = field(default_factory=lambda: ToolSpec("doubling", "Doubles.", doubling(24)))
    effect: Effect = "read"

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        return None


def test_no_schema_of_a_tool_may_multiply() -> None:
    with pytest.raises(UnusableSchema, match="tool 'doubling': parameters: Over 1,000 branches"):
        ExecutionEngine(scripted_resources(tools=[Doubling()]))


@pytest.mark.parametrize(
    "keyword", ["properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "items", "contains"]
)
def test_alternatives_that_multiply_inside_the_value_are_refused(keyword: str) -> None:
    with pytest.raises(UnusableSchema, match="Over 1,000 branches"):
        compiled(doubling_inside(keyword))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$dynamicRef": "#somewhere"},
        {"properties": {"x": {"$id": "http://127.0.0.1:9/other", "$ref": "#/$defs/a"}}},
    ],
)
def test_references_to_nowhere_elsewhere_and_themselves_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(UnusableSchema):
        compiled(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "value": {"type": "integer"}}},
        {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"next": {"$ref": "#"}}}]},
        {"type": "array", "items": {"$ref": "#"}},
        {"oneOf": [{"properties": {"kind": {"const": number}}} for number in range(300)]},
    ],
)
def test_trees_lists_and_many_alternatives_are_possible(schema: dict[str, Any]) -> None:
    assert count_branches(schema) <= MAX_BRANCHES
    compiled(schema)


LARGE: dict[str, tuple[Any, Any]] = {
    "many items": ({"items": {"anyOf": [{"type": "string"}, {"minimum": 5}] * 240}}, [1] * 100_000),
    "many branches": (doubling(7), [1] * 100_000),
    "both": ({"items": doubling(7) | {"$defs": {}}} | {"$defs": doubling(7)["$defs"]}, [[1] * 50_000]),
    "a long text": ({"properties": {"a": {"maxLength": 5}}}, {"a": "x" * 250_000}),
    "a long text and many branches": ({"anyOf": [{"maxLength": 5}] * 900}, "x" * 250_000),
    "branches that fit at last": ({"items": {"anyOf": [{"minimum": 5}] * 980 + [{}]}}, [1] * 100_000),
    "unique items, many times": ({"anyOf": [{"uniqueItems": True}] * 900 + [{}]}, [*range(60_000), 1]),
    "unique items": ({"uniqueItems": True}, [[number % 99] for number in range(50_000)]),
}


def test_what_does_not_fit_is_said_in_little_time_and_memory() -> None:
    """In a process of its own, whose peak of memory is not that of another test."""
    program = (
        "import json, resource, sys, time\n"
        "from engine.documents.json_schema import compiled\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "for name, (schema, value) in json.load(sys.stdin).items():\n"
        "    checked = compiled(schema, mask='the value')\n"
        "    before, started = peak(), time.process_time()\n"
        "    said = checked.find_mismatch(value).message\n"
        "    print(json.dumps([name, said, time.process_time() - started, peak() - before]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(LARGE), capture_output=True, text=True, check=True
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, said, *_ in results if said] == list(LARGE)
    assert [result for result in results if result[2] > SECONDS or result[3] > MEBIBYTES] == []


def test_objects_that_a_value_is_compared_with_count() -> None:
    schema: dict[str, Any] = {"items": {"not": {"enum": [{"a": number} for number in range(1_500)]}}}
    with pytest.raises(UnusableSchema, match="Over 1,000 branches"):
        compiled(schema)
    compiled({"enum": [f"text {number}" for number in range(5_000)]})


def test_many_patterns_read_no_long_text() -> None:
    checked = compiled({"$defs": {"p": {"pattern": "^(\\w{1,50}x){1,20}$"}}, "anyOf": [{"$ref": "#/$defs/p"}] * 400})
    began = time.process_time()
    mismatch = checked.find_mismatch("x" * 250_000)
    assert time.process_time() - began < SECONDS
    assert mismatch is not None
    assert "too much text" in mismatch.message
    assert checked.find_mismatch("y" * 1_000) is not None
    assert checked.find_mismatch("yx") is None


@pytest.mark.parametrize("name", ["$schema", "$id"])
def test_a_schema_of_another_draft_or_address_is_read_as_one_of_ours(name: str) -> None:
    for value in ("http://json-schema.org/draft-07/schema#", "https://example.com/meta", "root"):
        schema: dict[str, Any] = {
            name: value,
            "properties": {"a": {"$ref": "#/definitions/x", "minimum": 10}},
            "definitions": {"x": {"type": "integer"}},
        }
        checked = compiled(schema)
        mismatch = checked.find_mismatch({"a": 5})
        assert mismatch is not None
        assert (mismatch.path, mismatch.keyword) == (("a",), "minimum")
        assert checked.find_mismatch({"a": 12}) is None


def test_the_place_in_a_large_value_is_found() -> None:
    schema: dict[str, Any] = {
        "$defs": {"row": {"properties": {"name": {"type": "string"}, "tags": {"items": {"enum": ["a", "b"]}}}}},
        "properties": {"text": {"type": "string"}, "rows": {"items": {"$ref": "#/$defs/row"}}},
    }
    rows: list[Any] = [{"name": "n", "tags": ["a"] * 500} for _ in range(90)]
    rows[50]["tags"][7] = "c"
    mismatch = compiled(schema).find_mismatch({"text": "t" * 200_000, "rows": rows})
    assert mismatch is not None
    assert mismatch.path == ("rows", 50, "tags", 7)
    assert mismatch.keyword == "enum"
