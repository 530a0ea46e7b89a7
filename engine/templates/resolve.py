"""Make a graph document from a template and its parameters."""

import difflib
from collections.abc import Mapping
from typing import Any, cast, get_args

from pydantic import BaseModel

from engine.documents.json_schema import Mismatch, compiled
from engine.errors import ExpressionError, InvalidParams
from engine.expressions.cel import BadExpression, holds, parse
from engine.expressions.prompts import escape
from engine.graph import Json, JsonObject
from engine.nodes.base import Place
from engine.nodes.registry import NODE_TYPES
from engine.resources import Template

PARAM = "$param"

_PARAMS = frozenset({"params"})

Path = tuple[str | int, ...]


def resolve(template: Template, params: JsonObject) -> JsonObject:
    """The graph document of a template with these parameters.

    `{"$param": "name"}` is replaced by the parameter's value, except in ids, types, edges and expressions. In a node's
    config a null parameter leaves its field unset. Text inserted into a prompt is escaped, so that a parameter is never
    parsed as a prompt. Raises `InvalidParams`, and `ExpressionError` for an undecidable `include`.
    """
    values = checked_params(template, params)
    graph = _without_excluded(template.graph, values)
    nodes = cast("list[JsonObject]", graph["nodes"])
    rest = {name: _put_in(value, values) for name, value in graph.items() if name not in ("nodes", "edges")}
    return {**rest, "nodes": [_put_into_node(node, values) for node in nodes], "edges": graph["edges"]}


def checked_params(template: Template, params: JsonObject) -> JsonObject:
    """The parameters with their defaults. Raises `InvalidParams` with the parameter's name, never its value."""
    properties = template.parameters.get("properties")
    known = list(properties) if isinstance(properties, dict) else []
    for name in params:
        if name not in known:
            raise InvalidParams(f"template {template.key} has no parameter {name!r}{_nearest(name, known)}")
    values = {**template.defaults, **params}
    problem = compiled(template.parameters, mask="its value").find_mismatch(values)
    if problem is not None:
        raise InvalidParams(_sentence(template, problem, values))
    return values


def _sentence(template: Template, problem: Mismatch, values: JsonObject) -> str:
    where = ".".join(str(step) for step in problem.path)
    if where in values and values[where] is None:
        return f"template {template.key} needs the parameter {where} here"
    if where:
        return f"parameter {where} of template {template.key}: {problem.message}"
    return f"the parameters of template {template.key}: {problem.message}"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; it has {', '.join(sorted(known))}" if known else "; it has none"


def _without_excluded(graph: JsonObject, values: JsonObject) -> JsonObject:
    """The graph without the nodes whose `include` is false; their neighbours are connected."""
    nodes: list[JsonObject] = []
    edges = cast("list[JsonObject]", graph.get("edges", []))
    for node in cast("list[JsonObject]", graph["nodes"]):
        if "include" in node and not _is_included(node, values):
            edges = _joined(edges, node["id"])
        else:
            nodes.append({name: value for name, value in node.items() if name != "include"})
    return {**graph, "nodes": cast(Json, nodes), "edges": cast(Json, edges)}


def _is_included(node: JsonObject, values: JsonObject) -> bool:
    try:
        return holds(parse(str(node["include"]), _PARAMS), {"params": values})
    except BadExpression as error:
        raise ExpressionError(
            f"the `include` of node {node['id']} is not a valid expression: {error.message}"
        ) from error


def _joined(edges: list[JsonObject], dropped: Json) -> list[JsonObject]:
    """Redirect plain edges to a removed node to the target of its only plain edge; remove its other edges."""
    next_targets = [edge["target"] for edge in edges if edge["source"] == dropped and _is_plain(edge)]
    joined: list[JsonObject] = []
    for edge in edges:
        if dropped not in (edge["source"], edge["target"]):
            joined.append(edge)
        elif edge["source"] != dropped and _is_plain(edge) and len(next_targets) == 1:
            joined.append({**edge, "target": next_targets[0]})
    return joined


def _is_plain(edge: JsonObject) -> bool:
    return edge.get("when") is None and edge.get("condition") is None


def _put_into_node(node: JsonObject, values: JsonObject) -> JsonObject:
    node_type = NODE_TYPES.get(str(node.get("type")))
    config_type = node_type.Config if node_type else None
    put: JsonObject = {}
    for name, value in node.items():
        if name in ("id", "type"):
            put[name] = value
        elif name == "config":
            put[name] = _put_into_config(value, values, config_type)
        else:
            put[name] = _put_in(value, values)
    return put


def _put_in(value: Json, values: JsonObject) -> Json:
    """The value with its parameters replaced, in a place where prompts are not parsed."""
    name = _param_name(value, values)
    if name is not None:
        return values[name]
    if isinstance(value, dict):
        return {key: _put_in(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_put_in(item, values) for item in value]
    return value


def _put_into_config(value: Json, values: JsonObject, config: type[BaseModel] | None, path: Path = ()) -> Json:
    name = _param_name(value, values)
    if name is not None:
        return _as_data(values[name], config, path, name)
    if isinstance(value, dict):
        set_items = {key: item for key, item in value.items() if not _leaves_unset(item, values, config, path)}
        return {key: _put_into_config(item, values, config, (*path, key)) for key, item in set_items.items()}
    if isinstance(value, list):
        return [_put_into_config(item, values, config, (*path, index)) for index, item in enumerate(value)]
    return value


def _leaves_unset(item: Json, values: JsonObject, config: type[BaseModel] | None, path: Path) -> bool:
    """Whether the item is a null parameter, and not part of a value that is passed on whole."""
    name = _param_name(item, values)
    return name is not None and values[name] is None and _place(config, path) is None


def _as_data(value: Json, config: type[BaseModel] | None, path: Path, name: str) -> Json:
    """A parameter's value, escaped so that its texts are never parsed. Raises `InvalidParams` in an expression."""
    if isinstance(value, dict):
        return {key: _as_data(item, config, (*path, key), name) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_data(item, config, (*path, index), name) for index, item in enumerate(value)]
    place = _place(config, path)
    if place is None or not isinstance(value, str):
        return value
    if place.language in ("condition", "expression"):
        raise InvalidParams(
            f"the template uses parameter {name} in an expression; expressions must not contain parameters"
        )
    return escape(value)


def _place(config: type[BaseModel] | None, path: Path) -> Place | None:
    """The language of the texts at a path of a config; null if they are not parsed."""
    for step in path:
        if isinstance(step, int):
            continue
        field = config.model_fields.get(step) if config else None
        if field is None:
            return None
        mark = next((mark for mark in field.metadata if isinstance(mark, Place)), None)
        if mark is not None:
            return mark
        config = _model_in(field.annotation)
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside a field's annotation: plain, optional or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


def _param_name(value: Json, values: Mapping[str, Json]) -> str | None:
    if not isinstance(value, dict) or set(value) != {PARAM}:
        return None
    name = str(value[PARAM])
    if name not in values:
        raise InvalidParams(f"the template uses a parameter {name!r} that it does not declare")
    return name
