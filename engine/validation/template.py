"""Validate a template by validating its graphs: with defaults and examples, for every choice of optional nodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from engine.documents.json_schema import compiled
from engine.documents.schema_branches import UnusableSchema
from engine.documents.strict_json import escape
from engine.errors import ExpressionError, InvalidParams
from engine.expressions.cel import BadExpression, Expression
from engine.expressions.cel import parse as parse_expression
from engine.graph import Json, JsonObject
from engine.report import Issue, Layer, Severity, ValidationReport
from engine.resources import Resources, Template
from engine.templates.resolve import PARAM, resolve
from engine.validation.rules import Finding, report_of
from engine.validation.validator import WorkflowValidator

MAX_INCLUDE_BOOLEANS = 6

_PARAMS = frozenset({"params"})
_CLOSED_FIELDS = frozenset({"id", "type", "include", "condition", "expression"})
"""Fields of nodes and configs that must not contain parameters."""


def validate_template(
    template: Template, *, validator: WorkflowValidator, owner: str, resources: Resources
) -> ValidationReport:
    """The report of a template; pointers are into its parameters, defaults and graph.

    The hash is that of the graph with defaults and examples. If an issue appears only with some combination of the
    booleans in `include`, its data contains the first such combination.
    """
    checked = _Subject(template)
    findings = [finding for rule in _RULES for finding in rule(checked)]
    if any(finding.actual_severity is Severity.ERROR for finding in findings):
        return report_of(findings)
    results = list(_resolved(checked, validator, owner, resources))
    found = {(finding.code, finding.pointer): finding for result in reversed(results) for finding in result.findings}
    layers = max((result.layers for result in results), key=len)
    return report_of([*findings, *found.values()], content_hash=results[0].content_hash, layers=layers)


@dataclass(frozen=True, slots=True)
class _Result:
    """The findings for the graph of one choice, with pointers into the template."""

    findings: tuple[Finding, ...]
    layers: Sequence[Layer] = (Layer.SCHEMA,)
    content_hash: str | None = None


def _resolved(checked: "_Subject", validator: WorkflowValidator, owner: str, resources: Resources) -> Iterator[_Result]:
    """The graph with its defaults, then every combination of the booleans."""
    booleans = sorted(checked.include_booleans)
    choices: list[JsonObject] = [{}]
    choices += [dict(zip(booleans, values, strict=True)) for values in product([False, True], repeat=len(booleans))]
    for choice in choices:
        try:
            document = _document(checked, choice)
        except (InvalidParams, ExpressionError) as error:
            finding = Finding("schema.bad_parameter", "/parameters", error.message, data=_named(choice))
            yield _Result((finding,))
        else:
            report = validator.validate(document, owner=owner, resources=resources).report
            found = tuple(_into_template(issue, checked, document, choice) for issue in report.issues)
            yield _Result(found, report.layers, report.content_hash)


def _document(checked: "_Subject", choice: JsonObject) -> JsonObject:
    """The graph of one choice. If this choice requires further parameters, their examples are used too."""
    try:
        return resolve(checked.template, {**checked.needed_examples, **choice})
    except InvalidParams:
        return resolve(checked.template, {**checked.examples, **choice})


def _named(choice: JsonObject) -> JsonObject:
    return {"params": choice} if choice else {}


def _into_template(issue: Issue, checked: "_Subject", document: JsonObject, choice: JsonObject) -> Finding:
    """The issue as a finding whose pointer refers to the template, in which excluded nodes still count."""
    steps = issue.pointer.split("/")[1:]
    if len(steps) > 1 and steps[0] in ("nodes", "edges"):
        original = checked.position(steps[0], _items(document, steps[0])[int(steps[1])])
        steps = steps[:1] if original is None else [steps[0], str(original), *steps[2:]]
    pointer = "/graph" + "".join(f"/{step}" for step in steps)
    return Finding(
        issue.code,
        pointer,
        issue.message,
        node_id=issue.node_id,
        edge_id=issue.edge_id,
        hint=issue.hint,
        severity=issue.severity,
        data={**issue.data, **_named(choice)},
    )


@dataclass(frozen=True, slots=True)
class _Use:
    """A `$param` in the graph: its pointer and its name, which is null if the `$param` is malformed."""

    pointer: str
    name: str | None


class _Subject:
    """A template with its declared parameters and their uses, as the rules need them."""

    def __init__(self, template: Template) -> None:
        self.template = template
        properties = template.parameters.get("properties")
        self.properties: JsonObject = properties if isinstance(properties, dict) else {}
        required = template.parameters.get("required")
        self.required = {str(name) for name in required} if isinstance(required, list) else set()
        self.examples: JsonObject = {
            name: examples[0]
            for name, schema in self.properties.items()
            if template.defaults.get(name) is None
            and isinstance(schema, dict)
            and isinstance(examples := schema.get("examples"), list)
            and examples
        }
        """A value for each parameter that has an example and either no default or a null one."""
        self.needed_examples: JsonObject = {
            name: example for name, example in self.examples.items() if name not in template.defaults
        }
        """The examples of parameters without any default."""
        self.nodes = _items(template.graph, "nodes")
        self.edges = _items(template.graph, "edges")
        self.uses = list(_uses(template.graph))
        self.includes = {
            f"/graph/nodes/{index}/include": _include(node)
            for index, node in enumerate(self.nodes)
            if "include" in node
        }
        self.include_names = {
            path[1]
            for parsed in self.includes.values()
            if isinstance(parsed, Expression)
            for path in (read.path for read in parsed.reads)
            if len(path) > 1 and isinstance(path[1], str)
        }
        self.include_booleans = {name for name in self.include_names if self._is_boolean(name)}

    def position(self, part: str, item: JsonObject) -> int | None:
        """The index in the template of a node or edge of the resolved graph; null for a redirected edge."""
        if part == "nodes":
            return next(index for index, node in enumerate(self.nodes) if node.get("id") == item.get("id"))
        return self.edges.index(item) if item in self.edges else None

    def _is_boolean(self, name: str) -> bool:
        schema = self.properties.get(name)
        return isinstance(schema, dict) and schema.get("type") == "boolean"


def _shaped(checked: _Subject) -> Iterator[Finding]:
    """The graph can be resolved: its nodes have ids and its edges both ends."""
    for part, fields in (("nodes", ("id",)), ("edges", ("source", "target"))):
        items = checked.template.graph.get(part, [] if part == "edges" else None)
        if not isinstance(items, list):
            yield Finding("schema.missing_field", "/graph", f"The graph has no list `{part}`.")
            continue
        for index, item in enumerate(items):
            pointer = f"/graph/{part}/{index}"
            if not isinstance(item, dict):
                yield Finding("schema.wrong_type", pointer, f"An item of `{part}` must be an object.")
            elif any(not isinstance(item.get(field), str) for field in fields):
                yield Finding("schema.missing_field", pointer, f"It must name {' and '.join(fields)}.")


def _declared(checked: _Subject) -> Iterator[Finding]:
    """`parameters` is a closed JSON Schema object, and each property has a default or an example."""
    parameters = checked.template.parameters
    if parameters.get("type") != "object" or parameters.get("additionalProperties") is not False:
        message = "`parameters` must be an object schema with `additionalProperties: false`."
        yield Finding("schema.bad_parameter", "/parameters", message)
    try:
        compiled(parameters)
    except UnusableSchema as error:
        yield Finding("schema.bad_json_schema", "/parameters", str(error))
    for name in checked.properties:
        pointer = f"/parameters/properties/{escape(name)}"
        if name not in checked.required and name not in checked.template.defaults:
            yield Finding("schema.bad_parameter", pointer, "The parameter is not required and has no default.")
        elif name not in checked.template.defaults and name not in checked.examples:
            yield Finding("schema.bad_parameter", pointer, "The parameter is required and has no example.")


def _used(checked: _Subject) -> Iterator[Finding]:
    """Each `$param` names a declared parameter in an allowed place, and every parameter is used."""
    for use in checked.uses:
        if use.name is None:
            yield Finding("schema.bad_parameter", use.pointer, 'A parameter must be written {"$param": "name"}.')
        elif use.name not in checked.properties:
            yield Finding("schema.bad_parameter", use.pointer, "The template declares no parameter of this name.")
        if not _may_stand(use.pointer):
            message = "Ids, types, edges and expressions must not contain parameters."
            yield Finding("schema.bad_parameter", use.pointer, message)
    used = {use.name for use in checked.uses} | checked.include_names
    for name in checked.properties:
        if name not in used:
            pointer = f"/parameters/properties/{escape(name)}"
            yield Finding("schema.unused_parameter", pointer, "Nothing uses the parameter.")


def _may_stand(pointer: str) -> bool:
    steps = pointer.split("/")[2:]
    if steps[0] == "nodes":
        return len(steps) > 2 and _CLOSED_FIELDS.isdisjoint(steps[2:])
    return steps[0] != "edges"


def _included(checked: _Subject) -> Iterator[Finding]:
    """Every `include` is an expression over declared parameters, with at most `MAX_INCLUDE_BOOLEANS` booleans."""
    for pointer, parsed in checked.includes.items():
        if parsed is None:
            yield Finding("schema.wrong_type", pointer, "`include` must be an expression.")
        elif isinstance(parsed, BadExpression):
            yield Finding("schema.bad_parameter", pointer, parsed.message)
    for name in sorted(checked.include_names - checked.properties.keys()):
        message = f"`include` reads a parameter `{name}` that does not exist."
        yield Finding("schema.bad_parameter", "/graph/nodes", message)
    if len(checked.include_booleans) > MAX_INCLUDE_BOOLEANS:
        message = f"More than {MAX_INCLUDE_BOOLEANS} booleans decide which nodes are included."
        yield Finding("schema.bad_parameter", "/graph/nodes", message)


def _bypassed(checked: _Subject) -> Iterator[Finding]:
    """structure.bypass: an optional node with incoming edges needs exactly one plain edge to its successor."""
    for index, node in enumerate(checked.nodes):
        if "include" in node:
            plain = [edge for edge in checked.edges if edge.get("when") is None and edge.get("condition") is None]
            entered = any(edge.get("target") == node.get("id") for edge in plain)
            successors = sum(edge.get("source") == node.get("id") for edge in plain)
            if entered and successors != 1:
                message = f"Without the node {successors} plain edges lead on; exactly one is needed."
                yield Finding("structure.bypass", f"/graph/nodes/{index}", message)


_RULES = (_shaped, _declared, _used, _included, _bypassed)


def _include(node: JsonObject) -> Expression | BadExpression | None:
    text = node["include"]
    if not isinstance(text, str):
        return None
    try:
        return parse_expression(text, _PARAMS)
    except BadExpression as error:
        return error


def _uses(graph: JsonObject) -> Iterator[_Use]:
    open_values: list[tuple[Json, str]] = [(graph, "/graph")]
    while open_values:
        value, pointer = open_values.pop()
        if isinstance(value, dict) and PARAM in value:
            name = value[PARAM]
            yield _Use(pointer, name if isinstance(name, str) and len(value) == 1 else None)
        elif isinstance(value, dict):
            open_values.extend((child, f"{pointer}/{escape(key)}") for key, child in value.items())
        elif isinstance(value, list):
            open_values.extend((child, f"{pointer}/{index}") for index, child in enumerate(value))


def _items(document: JsonObject, part: str) -> list[JsonObject]:
    """The nodes or edges of a graph document that are objects."""
    items = document.get(part)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
