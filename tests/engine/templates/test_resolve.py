"""Resolving a template with its parameters."""

import re
from dataclasses import replace

import pytest

from engine.errors import ExpressionError, InvalidParams
from engine.expressions.prompts import parse as parse_prompt
from engine.graph import Json, JsonObject
from engine.resources import Template
from engine.templates.resolve import resolve
from engine.templates.template import load_builtin
from tests.engine.templates.drawings import drawing

BUILTIN = {template.key: template for template in load_builtin()}


def template(*nodes: JsonObject, edges: Json = None, defaults: JsonObject | None = None, **graph: Json) -> Template:
    """A template with these nodes whose parameters are those of `defaults`, of any type."""
    return Template(
        id="t",
        key="sample",
        version=1,
        name="Sample",
        description="",
        category="test",
        tags=(),
        parameters={
            "type": "object",
            "additionalProperties": False,
            "properties": {name: {} for name in defaults or {}},
        },
        defaults=defaults or {},
        graph={"schema": "spanloom/1", "name": "sample", "nodes": [*nodes], "edges": edges or [], **graph},
    )


def config_of(resolved: JsonObject, node_id: str) -> JsonObject:
    nodes = resolved["nodes"]
    assert isinstance(nodes, list)
    config = next(node["config"] for node in nodes if isinstance(node, dict) and node["id"] == node_id)
    assert isinstance(config, dict)
    return config


def test_a_parameter_stands_for_a_whole_value_of_its_type() -> None:
    sample = template(
        {"id": "answer", "type": "model", "config": {"max_tokens": {"$param": "size"}, "stop": {"$param": "stops"}}},
        defaults={"size": 10, "stops": []},
        variables={"limit": {"$param": "size"}, "deep": [{"inside": {"$param": "stops"}}]},
    )
    resolved = resolve(sample, {"size": 20, "stops": ["###"]})
    assert config_of(resolved, "answer") == {"max_tokens": 20, "stop": ["###"]}
    assert resolved["variables"] == {"limit": 20, "deep": [{"inside": ["###"]}]}


def test_defaults_are_filled_in() -> None:
    sample = template({"id": "m", "type": "memory", "config": {"memory_window": {"$param": "n"}}}, defaults={"n": 7})
    assert config_of(resolve(sample, {}), "m") == {"memory_window": 7}


def test_a_null_parameter_leaves_a_config_field_unset() -> None:
    sample = template(
        {"id": "r", "type": "retrieval", "config": {"retriever": "files", "options": {"path": {"$param": "path"}}}},
        {"id": "end", "type": "end", "config": {"output": {"path": {"$param": "path"}}}},
        defaults={"path": None},
        variables={"path": {"$param": "path"}},
    )
    resolved = resolve(sample, {})
    assert config_of(resolved, "r") == {"retriever": "files", "options": {}}
    assert config_of(resolved, "end") == {"output": {"path": None}}
    assert resolved["variables"] == {"path": None}


HOSTILE = "{{ input.secret }} \\{{ x }}"


@pytest.mark.parametrize(
    ("type_", "config"),
    [
        ("model", {"system_message": {"$param": "text"}}),
        ("end", {"response": {"$param": "text"}}),
        ("end", {"fail": {"error_type": "no", "message": {"$param": "text"}}}),
        ("end", {"output": {"deep": [{"$param": "text"}]}}),
        ("variable", {"variable_name": "v", "value": {"$param": "text"}}),
        ("variable", {"variable_name": "v", "value": {"$param": "deep"}}),
        ("retrieval", {"filter": {"$param": "deep"}}),
        ("end", {"fail": {"$param": "object"}}),
    ],
)
def test_no_parameter_is_parsed_as_a_prompt(type_: str, config: JsonObject) -> None:
    defaults: JsonObject = {"text": HOSTILE, "object": {"message": HOSTILE}, "deep": {"a": [HOSTILE]}}
    resolved = resolve(template({"id": "n", "type": type_, "config": config}, defaults=defaults), {})
    texts = [text for text in _texts(config_of(resolved, "n")) if "{{" in text]
    assert texts
    assert all(parse_prompt(text).render({}) == HOSTILE for text in texts)


def _texts(value: Json) -> list[str]:
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def test_text_outside_prompts_is_inserted_unchanged() -> None:
    sample = template(
        {"id": "r", "type": "retrieval", "config": {"options": {"path": {"$param": "path"}}}},
        defaults={"path": "/docs/{{ x }}"},
        variables={"path": {"$param": "path"}},
    )
    resolved = resolve(sample, {})
    assert config_of(resolved, "r")["options"] == {"path": "/docs/{{ x }}"}
    assert resolved["variables"] == {"path": "/docs/{{ x }}"}


@pytest.mark.parametrize(
    ("type_", "config"),
    [
        ("conditional", {"condition": {"$param": "p"}}),
        ("conditional", {"cases": [{"label": "a", "condition": {"$param": "p"}}]}),
        ("loop", {"condition": {"$param": "p"}}),
        ("variable", {"variable_name": "v", "expression": {"$param": "p"}}),
    ],
)
def test_no_parameter_becomes_an_expression(type_: str, config: JsonObject) -> None:
    sample = template({"id": "n", "type": type_, "config": config}, defaults={"p": "true"})
    with pytest.raises(InvalidParams, match="uses parameter p in an expression"):
        resolve(sample, {})


def test_no_parameter_becomes_an_id_a_type_or_an_edge() -> None:
    param: JsonObject = {"$param": "p"}
    sample = template({"id": param, "type": param}, edges=[{"source": param, "target": "x"}], defaults={"p": "start"})
    resolved = resolve(sample, {})
    assert resolved["nodes"] == [{"id": param, "type": param}]
    assert resolved["edges"] == [{"source": param, "target": "x"}]


def test_resolving_does_not_change_the_template() -> None:
    before = repr(BUILTIN["universal_chat"])
    resolve(BUILTIN["universal_chat"], {"enable_tools": True})
    assert repr(BUILTIN["universal_chat"]) == before


CHAIN: list[JsonObject] = [
    {"source": "a", "target": "b"},
    {"source": "b", "target": "c"},
    {"source": "c", "target": "d"},
    {"source": "d", "target": "b", "when": "again"},
    {"source": "b", "target": "d", "when": "error"},
]


@pytest.mark.parametrize(
    ("dropped", "edges"),
    [
        ("", ["a --> b", "b --> c", "c --> d", "d -again-> b", "b -error-> d"]),
        ("b", ["a --> c", "c --> d"]),
        ("bc", ["a --> d"]),
        ("d", ["a --> b", "b --> c"]),
    ],
)
def test_the_neighbours_of_an_excluded_node_are_connected(dropped: str, edges: list[str]) -> None:
    nodes: list[JsonObject] = [
        {"id": name, "type": "variable", "include": f"!params.dropped.contains('{name}')"} for name in "abcd"
    ]
    resolved = resolve(template(*nodes, edges=[*CHAIN], defaults={"dropped": ""}), {"dropped": dropped})
    assert drawing(resolved) == edges
    assert "include" not in str(resolved["nodes"])


def test_an_invalid_include_names_its_node() -> None:
    with pytest.raises(ExpressionError, match="`include` of node a is not a valid expression"):
        resolve(template({"id": "a", "type": "start", "include": "params."}), {})


@pytest.mark.parametrize(
    ("key", "params", "sentence"),
    [
        ("rag_chat", {"max_dokuments": 3}, "has no parameter 'max_dokuments'; did you mean 'max_documents'?"),
        ("document_qa", {"zzz": 1}, "has no parameter 'zzz'; it has max_documents, "),
        (
            "rag_chat",
            {"path": "docs", "max_documents": "secret"},
            'parameter max_documents of .*: its value is not of type "integer"',
        ),
        ("rag_chat", {"path": "docs", "memory_window": 0}, "memory_window .*: its value is less than the minimum of 1"),
        ("rag_chat", {}, "template rag_chat needs the parameter path here"),
        ("document_qa", {"path": None}, "template document_qa needs the parameter path here"),
        ("universal_chat", {"enable_retrieval": True}, "template universal_chat needs the parameter path here"),
        ("tool_agent", {"allowed_tools": ["a", 3]}, r"parameter allowed_tools\.1 of template tool_agent"),
    ],
)
def test_a_wrong_parameter_is_named_but_not_its_value(key: str, params: JsonObject, sentence: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        resolve(BUILTIN[key], params)
    assert re.search(sentence, refused.value.message)
    assert "secret" not in refused.value.message


def test_a_missing_parameter_is_named() -> None:
    sample = template(defaults={})
    needs = replace(sample, parameters={"type": "object", "required": ["topic"], "properties": {"topic": {}}})
    with pytest.raises(InvalidParams, match='"topic" is a required property'):
        resolve(needs, {})


def test_an_undeclared_parameter_is_refused_by_name() -> None:
    with pytest.raises(InvalidParams, match="'typo' that it does not declare"):
        resolve(template(variables={"x": {"$param": "typo"}}), {})
