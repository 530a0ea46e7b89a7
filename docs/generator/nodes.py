"""The page of node types: config, labels, output, retries, timeouts."""

import json
from typing import Any, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.generator.markdown import code, codes, field_docs, page, prose, table
from engine.graph import Edge, Json, JsonObject, Limits, ModelDefaults, Node, Retry, WorkflowGraph
from engine.nodes.base import NodeBase, NodeConfig, Place
from engine.nodes.registry import NODE_TYPES

_LANGUAGES = {"prompt": "prompt", "json_prompt": "JSON with prompts", "condition": "CEL condition", "expression": "CEL"}
_BOUNDS = {
    "minimum": "≥",
    "maximum": "≤",
    "exclusiveMinimum": ">",
    "exclusiveMaximum": "<",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "minItems": "length ≥",
    "maxItems": "length ≤",
    "pattern": "matching",
}
LONGEST_DEFAULT = 60
"""Characters of a default value that are shown."""


def node_types_page() -> str:
    """One section per node type, in the order of the registry."""
    intro = (
        "A node is `{id, type, config}` and, where its type allows it, `on_error`, `retry`, `timeout_seconds` and "
        "`stream`. Every type is one file below `engine/nodes/`; this page is read from their classes."
    )
    return page("Node types", intro, *(_section(node_type) for node_type in NODE_TYPES.values()))


def document_page() -> str:
    """The fields of the workflow document."""
    intro = "A workflow is one JSON document. Unknown fields are refused and nothing is converted."
    parts = [
        f"## {title}\n\n{prose(model.__doc__)}\n\n{fields_table(model)}"
        for title, model in (
            ("Graph", WorkflowGraph),
            ("Node", Node),
            ("Edge", Edge),
            ("Limits", Limits),
            ("Model defaults", ModelDefaults),
            ("Retry", Retry),
        )
    ]
    return page("Workflow document", intro, *parts)


def fields_table(model: type[BaseModel]) -> str:
    """Every field: its type, default and meaning."""
    meanings = field_docs(model)
    shapes = cast("JsonObject", model.model_json_schema(by_alias=False).get("properties", {}))
    rows = [
        (
            code(field.alias or name),
            _type(field, cast("JsonObject", shapes[name])),
            _default(field),
            field.description or meanings.get(name, ""),
        )
        for name, field in model.model_fields.items()
    ]
    return table(("field", "type", "default", "meaning"), rows)


def _section(node_type: type[NodeBase[Any]]) -> str:
    config = node_type.Config
    parts = [
        f"## {node_type.type}",
        node_type.description,
        fields_table(config) or "It has no config.",
        *(f"`{model.__name__}`: {prose(model.__doc__)}\n\n{fields_table(model)}" for model in _nested(config)),
        table(("what", "value"), _facts(node_type)),
    ]
    return "\n\n".join(parts)


def _facts(node_type: type[NodeBase[Any]]) -> list[tuple[str, str]]:
    properties = node_type.output_schema.get("properties", {})
    assert isinstance(properties, dict)
    retry = node_type.default_retry
    timeout = node_type.default_timeout_seconds
    labels = _labels(node_type)
    return [
        ("category", node_type.category),
        *([("labels", labels)] if labels else []),
        ("output", codes(properties) or "none"),
        ("`on_error`", "allowed" if node_type.catches else "not allowed"),
        ("`retry`", _retry(retry, node_type) if retry else "not allowed"),
        (
            "`timeout_seconds`",
            f"{timeout:g} by default" if timeout else "allowed" if node_type.allows_timeout else "no",
        ),
        ("`stream`", "allowed" if node_type.streams else "not allowed"),
    ]


def _labels(node_type: type[NodeBase[Any]]) -> str:
    """The labels of a node with the default config."""
    if not any(field.is_required() for field in node_type.Config.model_fields.values()):
        return codes(node_type.labels(node_type.Config()))
    config: NodeConfig = node_type.Config.model_construct()
    try:
        return codes(node_type.labels(config))
    except AttributeError:
        # A required field has no default, so the labels that are made of it are not known here.
        return "depend on the config"


def _retry(retry: Retry, node_type: type[NodeBase[Any]]) -> str:
    scope = "per call" if node_type.retries_calls else "per visit"
    attempts = "1 attempt" if retry.max_attempts == 1 else f"{retry.max_attempts} attempts"
    return f"{attempts} {scope} by default" + (f", on {codes(retry.retry_on)}" if retry.retry_on else "")


def _nested(config: type[BaseModel]) -> list[type[BaseModel]]:
    """Documents of ours inside the config's fields."""
    found = [
        part
        for field in config.model_fields.values()
        for part in _parts(field.annotation)
        if isinstance(part, type) and issubclass(part, BaseModel)
    ]
    return list(dict.fromkeys(found))


def _parts(annotation: Any) -> list[Any]:
    inner = [part for argument in getattr(annotation, "__args__", ()) for part in _parts(argument)]
    return [annotation, *inner]


def _type(field: FieldInfo, schema: JsonObject) -> str:
    place = next((mark for mark in field.metadata if isinstance(mark, Place)), None)
    shape = schema_type(schema)
    if place is None:
        return shape
    return _LANGUAGES[place.language] + (" or null" if "null" in shape else "")


def schema_type(schema: Json) -> str:
    """A JSON Schema in a few words."""
    if not isinstance(schema, dict):
        return "JSON"
    if "$ref" in schema:
        return code(str(schema["$ref"]).rpartition("/")[2])
    branches = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(branches, list):
        return " or ".join(dict.fromkeys(map(schema_type, branches)))
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if isinstance(schema.get("enum"), list):
        return " ".join(code(json.dumps(value)) for value in cast("list[Json]", schema["enum"]))
    name = schema.get("type")
    if name == "array":
        name = f"list of {schema_type(schema.get('items'))}"
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema]
    return ", ".join([str(name or "JSON"), *bounds])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: object = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(value, ensure_ascii=False)
    return code(text if len(text) <= LONGEST_DEFAULT else text[: LONGEST_DEFAULT - 1] + "…")
