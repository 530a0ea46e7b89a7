"""Structure rules of what expressions and prompts read: names and fields that exist, outputs that are there."""

from collections.abc import Callable, Iterator

from engine.graph import ContinuePolicy, Json
from engine.runtime.names import NAMES
from engine.validation.checked_graph import CheckedGraph
from engine.validation.rules import Finding, Near

MAX_COMPARISONS = 2_000
"""Names that are compared for likeness at most, since a document can read any number of fields."""
_COMPOSED = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "patternProperties")
"""Keywords by which a JSON Schema has properties that are not listed under `properties`."""


def unknown_name(checked: CheckedGraph) -> Iterator[Finding]:
    """A root that does not exist, or a node, loop or conditional that does not."""
    of_type = {
        "outputs": list(checked.nodes),
        "loops": checked.nodes_of(lambda node_type: node_type.read_under == "loops"),
        "results": checked.nodes_of(lambda node_type: node_type.read_under == "results"),
    }
    what = {"outputs": "node", "loops": "loop node", "results": "conditional node"}
    for read in checked.reads:
        root, name = str(read.path[0]), read.second
        if root not in NAMES:
            yield read.finding("structure.unknown_name", "There is no such name.", Near(root, NAMES))
        elif root in of_type and name is not None and name not in of_type[root]:
            message = f"There is no such {what[root]}."
            yield read.finding("structure.unknown_name", message, Near(name, of_type[root], f"{root}."))


def unset_variable(checked: CheckedGraph) -> Iterator[Finding]:
    """A variable is read that nothing sets and the graph does not declare."""
    known = set(checked.graph.variables)
    known.update(name for _, config, node_type in checked.typed if (name := node_type.variable_set(config)) is not None)
    message = "No node sets this variable, and the graph does not declare it."
    for read in checked.reads:
        if read.path[0] == "variables" and read.second is not None and read.second not in known:
            yield read.finding("structure.unset_variable", message, Near(read.second, known, "variables."))
    for node_id, config, node_type in checked.typed:
        for pointer, name in node_type.variables_read(config).items():
            if name not in known:
                yield checked.at_node("structure.unset_variable", node_id, message, place=f"/config{pointer}")


def maybe_missing(checked: CheckedGraph) -> Iterator[Finding]:
    """An output is read that not every path to here has written, and nothing provides for that."""
    for read in checked.reads:
        name, guaranteed = read.second, checked.guaranteed.get(read.node_id)
        if read.path[0] != "outputs" or read.safe or name not in checked.nodes or guaranteed is None:
            continue
        written_by_itself = read.edge_id is not None and name == read.node_id
        if name not in guaranteed and not written_by_itself:
            message = f"`{name}` has not run on every path that leads here."
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
        near = _first_unknown(read.path[2:], checked.type_of(name).output_schema_for(checked.configs[name]))
        if near is not None:
            message = f"The output of `{name}` has no such field."
            yield read.finding("structure.unknown_output_field", message, near)


def unknown_input_field(checked: CheckedGraph) -> Iterator[Finding]:
    """A field of the input is read that `input_schema` excludes, or that looks like a mistyped declared field.

    A schema without `additionalProperties` (the default one too) allows more fields than it declares, so there only a
    name that is close to a declared one is reported, and only where nothing provides for its absence.
    """
    schema = checked.graph.input_schema
    is_closed = schema.get("additionalProperties") is False
    comparisons = MAX_COMPARISONS
    for read in checked.reads:
        near = _first_unknown(read.path[1:], schema) if read.path[0] == "input" else None
        if near is None or (read.safe and not is_closed):
            continue
        if not is_closed:
            comparisons -= len(near.known)
            if comparisons < 0 or near.question() is None:
                continue
        yield read.finding("structure.unknown_input_field", "The `input_schema` declares no such field.", near)


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
    "structure.unknown_input_field": unknown_input_field,
}
"""The check of each code."""
