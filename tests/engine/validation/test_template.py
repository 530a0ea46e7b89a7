"""Templates: their parameters, what they become, and where issues of what they become point."""

from dataclasses import replace
from typing import Any

import pytest

from engine.graph import Json, JsonObject
from engine.report import ValidationReport
from engine.resources import Resources, Template
from engine.templates.template import load_builtin
from engine.tools.builtin import builtin_tools
from engine.validation.template import validate_template
from tests.engine.validation.graphs import RESOURCES, VALIDATOR, Shelf, document, model, node, resources

LINE = "start>ask ask>end"
TEXT: JsonObject = {"type": "string"}
FLAG: JsonObject = {"type": "boolean"}


def parameters(*required: str, **properties: Json) -> JsonObject:
    """A closed schema of parameters."""
    return {"type": "object", "additionalProperties": False, "required": [*required], "properties": properties}


def template(graph: JsonObject, properties: JsonObject | None = None, **defaults: Json) -> Template:
    """A template of a graph."""
    return Template(
        id="t",
        key="t",
        version=1,
        name="T",
        description="",
        category="",
        tags=(),
        parameters=parameters() if properties is None else properties,
        defaults=defaults,
        graph=graph,
    )


def report(given: Template, on: Resources = RESOURCES) -> ValidationReport:
    return validate_template(given, validator=VALIDATOR, owner="local", resources=on)


def found(given: Template) -> set[tuple[str, str]]:
    return {(issue.code, issue.pointer) for issue in report(given).issues}


def ask(config: JsonObject, **fields: Any) -> JsonObject:
    """A graph with one model node."""
    return document(LINE, {"ask": node("model", config, stream=True, **fields)})


def param(name: str) -> Json:
    return {"$param": name}


SAID = template(ask({"prompt": param("text")}), parameters(text=TEXT), text="hello")


def test_a_good_template_has_no_issue_and_the_hash_of_its_graph() -> None:
    assert not report(SAID).issues
    assert report(SAID).content_hash is not None


@pytest.mark.parametrize("builtin", load_builtin(), ids=lambda each: each.key)
def test_every_built_in_template_is_valid(builtin: Template) -> None:
    everything = replace(
        resources(),
        tools=builtin_tools(),
        retrievers={"files": _AnyOptions()},
    )
    assert not [issue for issue in report(builtin, everything).issues if issue.severity == "error"]


class _AnyOptions(Shelf):
    options_schema: JsonObject = {}


BAD = {
    "parameters are not closed": (
        replace(SAID, parameters={"type": "object", "properties": {"text": TEXT}}),
        "/parameters",
    ),
    "neither required nor a default": (replace(SAID, defaults={}), "/parameters/properties/text"),
    "required without example": (
        replace(SAID, defaults={}, parameters=parameters("text", text=TEXT)),
        "/parameters/properties/text",
    ),
    "a default against the schema": (replace(SAID, defaults={"text": 1}), "/parameters"),
    "a default of nothing": (replace(SAID, defaults={"text": "a", "more": 1}), "/parameters"),
    "an example against the schema": (
        replace(SAID, defaults={}, parameters=parameters("text", text={**TEXT, "examples": [1]})),
        "/parameters",
    ),
    "unknown": (replace(SAID, graph=ask({"prompt": param("txt")})), "/graph/nodes/2/config/prompt"),
    "not only $param": (
        replace(SAID, graph=ask({"prompt": {"$param": "text", "x": 1}})),
        "/graph/nodes/2/config/prompt",
    ),
    "no name": (replace(SAID, graph=ask({"prompt": {"$param": 1}})), "/graph/nodes/2/config/prompt"),
    "in a type": (replace(SAID, graph=document(nodes={"x": {"type": param("text")}})), "/graph/nodes/2/type"),
    "in an edge": (
        replace(SAID, graph=document(edges=[{"source": "start", "target": "end", "condition": param("text")}])),
        "/graph/edges/0/condition",
    ),
    "in an expression": (
        replace(SAID, graph=document(nodes={"x": ("loop", {"condition": param("text")})})),
        "/graph/nodes/2/config/condition",
    ),
    "include that does not parse": (
        replace(SAID, graph=ask({"prompt": param("text")}, include="params.")),
        "/graph/nodes/2/include",
    ),
    "include over something else": (
        replace(SAID, graph=ask({"prompt": param("text")}, include="params.other")),
        "/graph/nodes",
    ),
    "seven booleans": (
        template(
            ask({}, include=" || ".join(f"params.b{index}" for index in range(7))),
            parameters(**{f"b{index}": FLAG for index in range(7)}),
            **{f"b{index}": True for index in range(7)},
        ),
        "/graph/nodes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_parameter_is_an_error(case: str) -> None:
    given, pointer = BAD[case]
    assert ("schema.bad_parameter", pointer) in found(given)


def test_an_example_stands_for_a_required_parameter() -> None:
    given = replace(SAID, defaults={}, parameters=parameters("text", text={**TEXT, "examples": ["hello"]}))
    assert not found(given)


def test_an_example_is_used_where_only_one_choice_requires_a_parameter() -> None:
    optional: JsonObject = {"type": ["string", "null"]}
    flagged: JsonObject = {
        **parameters(flag=FLAG, text={**optional, "examples": ["hello"]}),
        "if": {"properties": {"flag": {"const": True}}},
        "then": {"properties": {"text": TEXT}},
    }
    graph = ask({"prompt": param("text")}, include="params.flag")
    assert not report(template(graph, flagged, flag=False, text=None)).counts.error
    without: JsonObject = {**flagged, "properties": {"flag": FLAG, "text": optional}}
    assert ("schema.bad_parameter", "/parameters") in found(template(graph, without, flag=False, text=None))


def test_six_booleans_are_accepted() -> None:
    given = template(
        ask({}, include=" || ".join(f"params.b{index}" for index in range(6))),
        parameters(**{f"b{index}": FLAG for index in range(6)}),
        **{f"b{index}": True for index in range(6)},
    )
    assert {code for code, _ in found(given)} <= {"structure.nothing_streams"}


def test_an_unused_parameter_is_a_warning() -> None:
    unused = replace(SAID, graph=ask({}))
    assert found(unused) == {("schema.unused_parameter", "/parameters/properties/text")}
    assert report(unused).valid


def test_a_graph_without_nodes_is_an_error() -> None:
    assert ("schema.missing_field", "/graph") in found(template({}))
    assert ("schema.missing_field", "/graph/nodes/0") in found(template({"nodes": [{}]}))
    assert ("schema.wrong_type", "/graph/edges/0") in found(template({"nodes": [], "edges": [1]}))


def test_an_optional_node_needs_exactly_one_successor() -> None:
    fork = document("start>f f>a f>b a>end b>end", {"f": node("model", include="params.flag", stream=True)})
    given = template(fork, parameters(flag=FLAG), flag=True)
    assert ("structure.bypass", "/graph/nodes/2") in found(given)
    line = template(ask({}, include="params.flag"), parameters(flag=FLAG), flag=True)
    assert "structure.bypass" not in {code for code, _ in found(line)}


def test_an_issue_of_one_combination_names_it_and_points_into_the_template() -> None:
    drawing = "start>first first>second second>end"
    graph = document(
        drawing,
        {
            "first": node("model", include="params.flag", stream=True),
            "second": model(prompt="{{ outputs.first.text }}"),
        },
    )
    issues = {issue.code: issue for issue in report(template(graph, parameters(flag=FLAG), flag=True)).issues}
    missing = issues["structure.unknown_name"]
    assert missing.pointer == "/graph/nodes/3/config/prompt"
    assert missing.data == {"params": {"flag": False}}


def test_an_issue_at_a_limit_or_an_edge_points_into_the_template() -> None:
    graph = document("start>a a>end", edges=[{"source": "start", "target": "a"}, {"source": "a", "target": "b"}])
    assert ("structure.unknown_node", "/graph/edges/1/target") in found(template(graph))
    assert ("schema.out_of_range", "/graph/limits/run_seconds") in found(template(document(limits={"run_seconds": 0})))
