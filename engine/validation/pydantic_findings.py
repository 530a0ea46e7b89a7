"""Pydantic's errors as findings of the schema layer, with pointers into the document as sent."""

from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from engine.documents.strict_json import escape
from engine.graph import (
    ContinuePolicy,
    Edge,
    FailPolicy,
    Json,
    Limits,
    ModelDefaults,
    Node,
    Retry,
    RoutePolicy,
    WorkflowGraph,
)
from engine.nodes.registry import NODE_TYPES
from engine.validation.rules import Finding, Near

_CODES = {
    "missing": "missing_field",
    "union_tag_not_found": "missing_field",
    "extra_forbidden": "unknown_field",
    "union_tag_invalid": "out_of_range",
    "literal_error": "out_of_range",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "finite_number": "out_of_range",
    "string_too_short": "out_of_range",
    "string_too_long": "out_of_range",
    "string_pattern_mismatch": "out_of_range",
    "too_short": "out_of_range",
    "too_long": "too_many",
}
"""Any other type of error is `wrong_type`."""

_NAMES = {"id", "when", "label", "default", "variable_name"}
"""Fields whose pattern is that of ids."""

_LIMITS = ("gt", "ge", "lt", "le", "min_length", "max_length", "expected")
_RANGE_WORDS = {
    "gt": "above {}",
    "ge": "at least {}",
    "lt": "below {}",
    "le": "at most {}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
    "expected": "one of {}",
}


def findings_of(error: ValidationError, document: Json, pointer: str = "") -> Iterator[Finding]:
    """One finding per error; `document` is what was validated and stands at `pointer`."""
    for details in error.errors(include_url=False, include_context=True):
        yield _finding(details, document, pointer)


def _finding(details: ErrorDetails, document: Json, pointer: str) -> Finding:
    steps, field = _locate(details["loc"], document)
    code = "schema." + _code(details, field)
    where = pointer + "".join(f"/{escape(step)}" for step in steps)
    near = Near(field, _FIELDS.keys() - {field}) if code == "schema.unknown_field" else None
    return Finding(code, where, _message(code, details, field), data=_data(details, field), near=near)


def _locate(location: tuple[int | str, ...], document: Json) -> tuple[list[int | str], str]:
    """The steps of pydantic's location that exist in the document (it adds union tags), and the field's name."""
    steps: list[int | str] = []
    value = document
    for step in location:
        for child in _child(value, step):
            steps.append(step)
            value = child
    names = [step for step in location if isinstance(step, str)]
    return steps, names[-1] if names else ""


def _child(value: Json, step: int | str) -> list[Json]:
    """What stands at a step below a value: one value, or none."""
    if isinstance(value, dict):
        return [value[step]] if isinstance(step, str) and step in value else []
    return value[step : step + 1] if isinstance(value, list) and isinstance(step, int) else []


def _code(details: ErrorDetails, field: str) -> str:
    code = _CODES.get(details["type"], "wrong_type")
    if field == "schema" and code == "out_of_range":
        return "version"
    if field in _REQUIRED and (details["input"] is None or details["input"] == ""):
        return "missing_field"
    if details["type"] == "string_pattern_mismatch" and field in _NAMES:
        return "bad_id"
    return code


def _message(code: str, details: ErrorDetails, field: str) -> str:
    match code:
        case "schema.missing_field":
            return f"The field `{field}` is missing or empty."
        case "schema.unknown_field":
            return "There is no field of this name here."
        case "schema.version":
            return "This is no known version of the schema."
        case "schema.bad_id":
            return f"The field `{field}` is no name."
        case "schema.wrong_type":
            return f"The field `{field}` does not have the declared type."
        case "schema.too_many":
            return f"The list `{field}` may have {_range(details)}."
        case _:
            return f"The field `{field}` must be {_range(details)}."


def _range(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if details["type"] == "union_tag_invalid":
        return f"one of {context['expected_tags']}"
    found = [_RANGE_WORDS[name].format(context[name]) for name in _LIMITS if name in context]
    return " and ".join(found) or "of the declared form"


def _data(details: ErrorDetails, field: str) -> dict[str, Json]:
    context = details.get("ctx", {})
    numbers: dict[str, Json] = {name: context[name] for name in _LIMITS if isinstance(context.get(name), int | float)}
    return {"field": field, **numbers} if field else numbers


def _models() -> Iterator[type[BaseModel]]:
    yield from (WorkflowGraph, Node, Edge, Limits, ModelDefaults, Retry, FailPolicy, ContinuePolicy, RoutePolicy)
    for node_type in NODE_TYPES.values():
        yield node_type.Config
        for field in node_type.Config.model_fields.values():
            yield from _models_in(field)


def _models_in(field: FieldInfo) -> Iterator[type[BaseModel]]:
    """The models that a field holds directly, as one of a union, or in a list."""
    open_types = [field.annotation]
    while open_types:
        found = open_types.pop()
        if isinstance(found, type) and issubclass(found, BaseModel):
            yield found
        else:
            open_types.extend(get_args(found))


_FIELDS = {field.alias or name: field for model in _models() for name, field in model.model_fields.items()}
_REQUIRED = {
    field.alias or name for model in _models() for name, field in model.model_fields.items() if field.is_required()
}
