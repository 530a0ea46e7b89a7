"""Structure rules of what expressions and prompts read: names and fields that exist, outputs that are there."""

from collections.abc import Callable, Iterator

from engine.graph import ContinuePolicy, Json
from engine.nodes.approval import ApprovalConfig
from engine.nodes.conditional import ConditionalNode
from engine.nodes.loop import LoopNode
from engine.nodes.model import ModelConfig
from engine.nodes.variable import VariableConfig
from engine.runtime.names import NAMES
from engine.validation.checked_graph import CheckedGraph
from engine.validation.rules import Finding, Near

_COMPOSED = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "patternProperties")
"""Keywords by which a JSON Schema has properties that are not listed under `properties`."""


def unknown_name(checked: CheckedGraph) -> Iterator[Finding]:
    """A root that does not exist, or a node, loop or conditional that does not."""
    of_type = {
        "outputs": list(checked.nodes),
        "loops": [node.id for node in checked.graph.nodes if node.type == LoopNode.type],
        "results": [node.id for node in checked.graph.nodes if node.type == ConditionalNode.type],
    }
    what = {"outputs": "node", "loops": "loop node", "results": "conditional node"}
    for read in checked.reads:
        root, name = str(read.path[0]), read.second
        if root not in NAMES:
            yield read.finding("structure.unknown_name", "There is nothing of this name.", Near(root, NAMES))
        elif root in of_type and name is not None and name not in of_type[root]:
            message = f"`{root}` names a {what[root]} that does not exist."
            yield read.finding("structure.unknown_name", message, Near(name, of_type[root], f"{root}."))


def unset_variable(checked: CheckedGraph) -> Iterator[Finding]:
    """A variable is read that nothing sets and the graph does not declare."""
    known = set(checked.graph.variables)
    for config in checked.configs.values():
        if isinstance(config, VariableConfig) and config.operation != "get":
            known.add(config.variable_name)
    message = "Nothing sets the variable."
    for read in checked.reads:
        if read.path[0] == "variables" and read.second is not None and read.second not in known:
            yield read.finding("structure.unset_variable", message, Near(read.second, known, "variables."))
    for node_id, config in checked.configs.items():
        if isinstance(config, VariableConfig) and config.variable_name not in known:
            yield checked.at_node("structure.unset_variable", node_id, message, place="/config/variable_name")


def maybe_missing(checked: CheckedGraph) -> Iterator[Finding]:
    """An output is read that not every path to here has written, and nothing provides for that."""
    for read in checked.reads:
        name = read.second
        if read.path[0] != "outputs" or read.safe or name not in checked.nodes or read.node_id not in checked.written:
            continue
        written_by_itself = read.edge_id is not None and name == read.node_id
        if name not in checked.written[read.node_id] and not written_by_itself:
            message = f"Not every path to here has run `{name}`."
            yield read.finding("structure.maybe_missing", message)


def unknown_output_field(checked: CheckedGraph) -> Iterator[Finding]:
    """A field is read that the type's output, or the `response_schema`, does not have."""
    for read in checked.reads:
        name = read.second
        if read.path[0] != "outputs" or name is None or name not in checked.nodes:
            continue
        policy = checked.nodes[name].on_error
        if isinstance(policy, ContinuePolicy) and policy.output != {}:
            continue
        near = _first_unknown(read.path[2:], _output_schema(checked, name))
        if near is not None:
            message = f"The output of `{name}` has no such field."
            yield read.finding("structure.unknown_output_field", message, near)


def _output_schema(checked: CheckedGraph, node_id: str) -> Json:
    schema = checked.type_of(node_id).output_schema
    config, properties = checked.configs[node_id], schema.get("properties")
    if isinstance(config, ModelConfig) and isinstance(properties, dict):
        data: Json = config.response_schema if config.response_schema is not None else {"properties": {}}
        return {**schema, "properties": {**properties, "data": data}}
    if isinstance(config, ApprovalConfig) and isinstance(properties, dict) and config.response_schema is not None:
        return {**schema, "properties": {**properties, "data": config.response_schema}}
    return schema


def _first_unknown(path: tuple[str | int, ...], schema: Json) -> Near | None:
    for step in path:
        if not isinstance(step, str) or not isinstance(schema, dict) or any(key in schema for key in _COMPOSED):
            return None
        properties = schema.get("properties")
        if not isinstance(properties, dict) or schema.get("additionalProperties", False) is not False:
            return None
        if step not in properties:
            return Near(step, properties)
        schema = properties[step]
    return None


CHECKS: dict[str, Callable[[CheckedGraph], Iterator[Finding]]] = {
    "structure.unknown_name": unknown_name,
    "structure.unset_variable": unset_variable,
    "structure.maybe_missing": maybe_missing,
    "structure.unknown_output_field": unknown_output_field,
}
"""The check of each code."""
