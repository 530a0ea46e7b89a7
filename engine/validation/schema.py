"""The schema layer: reads a document as a `WorkflowGraph` and writes every default into it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from engine.documents.json_schema import compiled
from engine.documents.json_text import to_json
from engine.documents.schema_branches import UnusableSchema
from engine.documents.strict_json import escape
from engine.expressions.prompts import BadPrompt, parse_json
from engine.expressions.prompts import parse as parse_prompt
from engine.graph import (
    DEFAULT_INPUT_SCHEMA,
    ERROR_LABEL,
    RESERVED_IDS,
    ContinuePolicy,
    Durability,
    Json,
    JsonObject,
    Node,
    WorkflowGraph,
    is_id,
)
from engine.nodes.base import DEFAULT_MAX_TOKENS, TRANSIENT, NodeBase, NodeConfig, placed_texts
from engine.nodes.registry import NODE_TYPES
from engine.report import Layer
from engine.validation.config_faults import faults_of
from engine.validation.pydantic_findings import findings_of
from engine.validation.rules import Finding, Near

MAX_DOCUMENT_BYTES = 1 << 20
MAX_CONFIG_BYTES = 64 << 10
MAX_PROMPT_BYTES = 32 << 10
MAX_JSON_SCHEMA_BYTES = 16 << 10
MAX_METADATA_BYTES = 16 << 10
MAX_EXPRESSION_CHARACTERS = 1_000
MAX_EXPRESSIONS_CHARACTERS = 32 << 10
MAX_NODES = 200
MAX_EDGES = 1_000
MAX_VARIABLES = 1_000


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document as far as it could be read. `graph` is null if it is not one; `configs` are by index of the node."""

    document: JsonObject
    graph: WorkflowGraph | None
    configs: Mapping[int, NodeConfig]
    findings: tuple[Finding, ...]
    """The faults found while reading."""

    def type_of(self, index: int) -> type[NodeBase[Any]]:
        """The class of the type of a node whose config could be read."""
        nodes = cast("list[JsonObject]", self.document["nodes"])
        return NODE_TYPES[str(nodes[index]["type"])]


def parse(document: JsonObject) -> Parsed:
    """Read the graph and, also where that fails, the configs of all nodes whose type is known."""
    findings: list[Finding] = []
    graph: WorkflowGraph | None = None
    try:
        graph = WorkflowGraph.model_validate(document)
    except ValidationError as error:
        findings.extend(findings_of(error, document, WorkflowGraph))
    configs: dict[int, NodeConfig] = {}
    for index, node in _objects(document, "nodes"):
        found = _read_config(node, f"/nodes/{index}")
        if isinstance(found, NodeConfig):
            configs[index] = found
        else:
            findings.extend(found)
    return Parsed(document, graph, configs, tuple(findings))


def normalise(graph: WorkflowGraph, configs: Mapping[int, NodeConfig]) -> WorkflowGraph:
    """The graph with every default written in, so that later defaults do not change it."""
    defaults = graph.model_defaults
    durability = graph.durability or _default_durability(graph, configs)
    return graph.model_copy(
        update={
            "nodes": [_normal_node(node, configs[index]) for index, node in enumerate(graph.nodes)],
            "edges": [
                edge.model_copy(update={"id": edge.id if edge.id is not None else f"e{index}"})
                for index, edge in enumerate(graph.edges)
            ],
            "model_defaults": defaults.model_copy(update={"max_tokens": defaults.max_tokens or DEFAULT_MAX_TOKENS}),
            "durability": durability,
            "on_lost": graph.on_lost or ("resume" if durability == "step" else "fail"),
        }
    )


def _default_durability(graph: WorkflowGraph, configs: Mapping[int, NodeConfig]) -> Durability:
    """A run that may park needs checkpoints after every step."""
    parks = any(NODE_TYPES[node.type].may_park(configs[index]) for index, node in enumerate(graph.nodes))
    return "step" if parks else "none"


def _normal_node(node: Node, config: NodeConfig) -> Node:
    node_type = NODE_TYPES[node.type]
    retry = node.retry or node_type.default_retry
    if retry is not None and retry.retry_on is None:
        default = node_type.default_retry
        retry_on = default.retry_on if default is not None else None
        retry = retry.model_copy(update={"retry_on": list(retry_on or TRANSIENT)})
    timeout = node.timeout_seconds if node.timeout_seconds is not None else node_type.default_timeout_seconds
    name = node.name if node.name is not None else node.id
    return node.model_copy(
        update={"config": config.model_dump(mode="json"), "name": name, "retry": retry, "timeout_seconds": timeout}
    )


def sizes(parsed: Parsed) -> Iterator[Finding]:
    """schema.too_large: parts of the document above their size limit."""
    yield from _metadata_size(parsed.document, "")
    for part in ("nodes", "edges"):
        for index, item in _objects(parsed.document, part):
            yield from _metadata_size(item, f"/{part}/{index}")
    for index, node in _objects(parsed.document, "nodes"):
        yield from _over(node.get("config"), MAX_CONFIG_BYTES, f"/nodes/{index}/config", "The config")
    for index, config in parsed.configs.items():
        yield from _text_sizes(config, f"/nodes/{index}/config")
    yield from _expression_sizes(parsed)


def _metadata_size(item: JsonObject, pointer: str) -> Iterator[Finding]:
    yield from _over(item.get("metadata"), MAX_METADATA_BYTES, f"{pointer}/metadata", "The metadata")


def _over(value: Json, limit: int, pointer: str, what: str) -> Iterator[Finding]:
    size = len(to_json(value))
    if size > limit:
        data: JsonObject = {"bytes": size, "limit": limit}
        yield Finding("schema.too_large", pointer, f"{what} is larger than {limit:,} bytes.", data=data)


def _text_sizes(config: NodeConfig, pointer: str) -> Iterator[Finding]:
    for text in placed_texts(config, pointer):
        if text.place.language in ("prompt", "json_prompt"):
            yield from _over(text.value, MAX_PROMPT_BYTES, text.pointer, "The prompt")


def _expression_sizes(parsed: Parsed) -> Iterator[Finding]:
    total = 0
    for pointer, text in _expression_texts(parsed):
        total += len(text)
        if len(text) > MAX_EXPRESSION_CHARACTERS:
            message = f"The expression has more than {MAX_EXPRESSION_CHARACTERS:,} characters."
            yield Finding("schema.too_large", pointer, message)
    if total > MAX_EXPRESSIONS_CHARACTERS:
        message = f"All expressions together have more than {MAX_EXPRESSIONS_CHARACTERS:,} characters."
        yield Finding("schema.too_large", "", message, data={"characters": total})


def _expression_texts(parsed: Parsed) -> Iterator[tuple[str, str]]:
    for index, edge in _objects(parsed.document, "edges"):
        condition = edge.get("condition")
        if isinstance(condition, str):
            yield f"/edges/{index}/condition", condition
    for index, config in parsed.configs.items():
        for text in placed_texts(config, f"/nodes/{index}/config"):
            if text.place.language in ("condition", "expression"):
                yield text.pointer, str(text.value)


def ids(parsed: Parsed) -> Iterator[Finding]:
    """schema.bad_id and schema.not_allowed_here: reserved words as ids and labels."""
    for index, node in _objects(parsed.document, "nodes"):
        own = node.get("id")
        if isinstance(own, str) and own in RESERVED_IDS:
            yield Finding("schema.bad_id", f"/nodes/{index}/id", "The id is a reserved word of CEL.")
    for index, config in parsed.configs.items():
        for place, label in parsed.type_of(index).own_labels(config).items():
            if label == ERROR_LABEL:
                pointer = f"/nodes/{index}/config{place}"
                yield Finding("schema.not_allowed_here", pointer, "The label `error` is reserved for failures.")


def duplicate_ids(parsed: Parsed) -> Iterator[Finding]:
    """schema.duplicate_id: two nodes or two edges with the same id; an edge without an id has the id e<index>."""
    for part in ("nodes", "edges"):
        seen: set[Json] = set()
        for index, item in _objects(parsed.document, part):
            own = item.get("id")
            name = own if isinstance(own, str) else f"e{index}" if part == "edges" else None
            if name is not None and name in seen:
                yield Finding(
                    "schema.duplicate_id", f"/{part}/{index}/id", f"Duplicate id{_quoted(name)}; ids must be unique."
                )
            seen.add(name)


def exclusive_fields(parsed: Parsed) -> Iterator[Finding]:
    """schema.exclusive_fields: edges with two fields of which only one may be set."""
    for index, edge in _objects(parsed.document, "edges"):
        if edge.get("when") is not None and edge.get("condition") is not None:
            message = "An edge can have `when` or `condition`, not both."
            yield Finding("schema.exclusive_fields", f"/edges/{index}", message)


def own_faults(parsed: Parsed) -> Iterator[Finding]:
    """What node types find in their own configs, such as fields that contradict each other."""
    for index, config in parsed.configs.items():
        yield from faults_of(parsed.type_of(index), config, f"/nodes/{index}/config", Layer.SCHEMA)


def not_allowed_here(parsed: Parsed) -> Iterator[Finding]:
    """schema.not_allowed_here: fields that the node's type does not have."""
    for index, node in enumerate(parsed.graph.nodes if parsed.graph else ()):
        node_type = NODE_TYPES.get(node.type)
        if node_type is None:
            continue
        given = {
            "on_error": node.on_error.policy != "fail" and not node_type.catches,
            "retry": node.retry is not None and node_type.default_retry is None,
            "timeout_seconds": node.timeout_seconds is not None and not node_type.allows_timeout,
            "stream": node.stream and not node_type.streams,
        }
        for field in (field for field, misplaced in given.items() if misplaced):
            message = f"A node of type `{node.type}` has no `{field}`."
            yield Finding("schema.not_allowed_here", f"/nodes/{index}/{field}", message, node_id=node.id)
        if isinstance(node.on_error, ContinuePolicy) and node.on_error.label == ERROR_LABEL:
            message = "The label `error` is reserved for failures."
            yield Finding("schema.not_allowed_here", f"/nodes/{index}/on_error/label", message, node_id=node.id)


def json_schemas(parsed: Parsed) -> Iterator[Finding]:
    """schema.bad_json_schema and schema.too_large: the JSON Schemas of the graph."""
    found: list[tuple[str, JsonObject]] = []
    own = parsed.document.get("input_schema")
    if isinstance(own, dict) and own != DEFAULT_INPUT_SCHEMA:
        found.append(("/input_schema", own))
    for index, config in parsed.configs.items():
        schemas = parsed.type_of(index).json_schemas(config)
        found += [(f"/nodes/{index}/config{place}", schema) for place, schema in schemas.items()]
    for pointer, schema in found:
        yield from _over(schema, MAX_JSON_SCHEMA_BYTES, pointer, "The JSON Schema")
        yield from _bad_json_schema(schema, pointer)


def _bad_json_schema(schema: JsonObject, pointer: str) -> Iterator[Finding]:
    try:
        compiled(schema)
    except UnusableSchema as error:
        place = "".join(f"/{escape(step)}" for step in error.path)
        yield Finding("schema.bad_json_schema", pointer + place, str(error))


def prompts(parsed: Parsed) -> Iterator[Finding]:
    """schema.bad_prompt: prompts that do not parse."""
    for index, config in parsed.configs.items():
        for text in placed_texts(config, f"/nodes/{index}/config"):
            try:
                if text.place.language == "prompt":
                    parse_prompt(str(text.value))
                elif text.place.language == "json_prompt":
                    parse_json(text.value)
            except BadPrompt as error:
                yield Finding("schema.bad_prompt", text.pointer, error.message)


CHECKS: dict[str, Callable[[Parsed], Iterator[Finding]]] = {
    "schema.too_large": sizes,
    "schema.bad_id": ids,
    "schema.duplicate_id": duplicate_ids,
    "schema.exclusive_fields": exclusive_fields,
    "schema.config": own_faults,
    "schema.not_allowed_here": not_allowed_here,
    "schema.bad_json_schema": json_schemas,
    "schema.bad_prompt": prompts,
}
"""The checks that follow the reading of a document, by the main code of each."""


def _quoted(name: object) -> str:
    """An id to quote in a message, unless it is not a valid id and could hold anything."""
    return f" `{name}`" if is_id(str(name)) else ""


def too_many(document: JsonObject) -> Iterator[Finding]:
    """schema.too_many: more nodes, edges or variables than a graph may have. Nothing else is read then."""
    for part, limit in (("nodes", MAX_NODES), ("edges", MAX_EDGES), ("variables", MAX_VARIABLES)):
        items = document.get(part)
        if isinstance(items, list | dict) and len(items) > limit:
            data: JsonObject = {"count": len(items), "limit": limit}
            yield Finding(
                "schema.too_many",
                f"/{part}",
                f"The graph has {len(items):,} {part}; at most {limit:,} are allowed.",
                data=data,
            )


def _objects(document: JsonObject, part: str) -> Iterator[tuple[int, JsonObject]]:
    """The objects in a list of the document, by index; other values are reported while reading."""
    items = document.get(part)
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield index, item


def _read_config(node: JsonObject, pointer: str) -> NodeConfig | list[Finding]:
    name = node.get("type")
    if not isinstance(name, str):
        return []
    node_type = NODE_TYPES.get(name)
    if node_type is None:
        hint = f"Node types: {', '.join(NODE_TYPES)}."
        message = "There is no such node type."
        return [Finding("schema.unknown_node_type", f"{pointer}/type", message, hint=hint, near=Near(name, NODE_TYPES))]
    config = node.get("config", {})
    if not isinstance(config, dict):
        return []
    try:
        return node_type.Config.model_validate(config)
    except ValidationError as error:
        return list(findings_of(error, config, node_type.Config, f"{pointer}/config"))
