"""Turns pydantic's errors into findings of the schema layer, with pointers into the document as sent."""

from collections.abc import Iterator
from itertools import islice
from typing import Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from engine.documents.strict_json import escape
from engine.graph import ID_PATTERN, Json, json_type
from engine.report import MAX_ISSUES
from engine.validation.rules import MAX_NAME, Finding, Near

UNKNOWN_VALUE = "unknown_value"
"""The type of an error of our own validators whose message is a sentence and may be shown as it is."""

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
    UNKNOWN_VALUE: "out_of_range",
    "string_too_short": "out_of_range",
    "string_too_long": "out_of_range",
    "string_pattern_mismatch": "out_of_range",
    "too_short": "out_of_range",
    "too_long": "too_many",
}
"""Any other type of error is `wrong_type`."""

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}

_LIMITS = ("gt", "ge", "lt", "le", "min_length", "max_length", "expected")
_RANGE_WORDS = {
    "gt": "above {}",
    "ge": "at least {}",
    "lt": "below {}",
    "le": "at most {}",
    "min_length": "at least {} characters long",
    "max_length": "at most {} characters long",
    "expected": "one of {}",
}


def findings_of(error: ValidationError, document: Json, model: type[BaseModel], pointer: str = "") -> Iterator[Finding]:
    """One finding per error, at most one more than a report has. `document` stands at `pointer` and is no `model`."""
    for details in islice(error.errors(include_url=False, include_context=True), MAX_ISSUES + 1):
        yield _finding(details, document, model, pointer)


def _finding(details: ErrorDetails, document: Json, model: type[BaseModel], pointer: str) -> Finding:
    steps, field = _locate(details["loc"], document)
    siblings = _fields_at(model, details["loc"][:-1])
    code = "schema." + _code(details, field, siblings)
    where = pointer + "".join(f"/{escape(step)}" for step in steps)
    hint, near = None, None
    if code == "schema.unknown_field":
        near = Near(field, siblings)
        hint = f"Remove it. Fields here: {', '.join(siblings) or 'none'}."
    elif details["type"] == "union_tag_not_found":
        tags = _tags(model, details)
        hint = f"Set `{_discriminator(details)}` to one of: {', '.join(tags)}."
    return Finding(code, where, _message(code, details, field), hint=hint, data=_data(details, field), near=near)


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
    """The value at a step below another, as a list of one; empty if there is none."""
    if isinstance(value, dict):
        return [value[step]] if isinstance(step, str) and step in value else []
    return value[step : step + 1] if isinstance(value, list) and isinstance(step, int) else []


def _models_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The models that may stand at a location: several where it is a union whose member is not known."""
    models = [model]
    for step in location:
        if isinstance(step, int):
            continue
        tagged = [each for each in models if step in _literals(each)]
        if len(models) > 1 and tagged:
            models = tagged
        else:
            fields = [field for each in models for name, field in _fields(each).items() if name == step]
            models = [found for field in fields for found in _models_in(field)]
    return models


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> dict[str, FieldInfo]:
    """The fields that may stand at a location, by their names in the document."""
    return {name: field for each in _models_at(model, location) for name, field in _fields(each).items()}


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_in(field: FieldInfo) -> Iterator[type[BaseModel]]:
    """The models that a field holds directly, as one of a union, or in a list or an object."""
    open_types = [field.annotation]
    while open_types:
        found = open_types.pop()
        if isinstance(found, type) and issubclass(found, BaseModel):
            yield found
        else:
            open_types.extend(get_args(found))


def _literals(model: type[BaseModel], name: str | None = None) -> list[str]:
    """The values of a model's Literal fields, or of one of them: a union's member is told by such a value."""
    types = [field.annotation for own, field in _fields(model).items() if name in (None, own)]
    return [str(tag) for found in types if get_origin(found) is Literal for tag in get_args(found)]


def _tags(model: type[BaseModel], details: ErrorDetails) -> list[str]:
    members = _models_at(model, details["loc"])
    return sorted({tag for member in members for tag in _literals(member, _discriminator(details))})


def _discriminator(details: ErrorDetails) -> str:
    return str(details.get("ctx", {})["discriminator"]).strip("'")


def _code(details: ErrorDetails, field: str, siblings: dict[str, FieldInfo]) -> str:
    code = _CODES.get(details["type"], "wrong_type")
    if field == "schema" and code == "out_of_range":
        return "version"
    required = field in siblings and siblings[field].is_required()
    is_empty = details["input"] == "" and details["type"] == "string_too_short"
    if is_empty or (required and details["input"] in (None, "")):
        return "missing_field"
    if details.get("ctx", {}).get("pattern") == ID_PATTERN:
        return "bad_id"
    return code


def _message(code: str, details: ErrorDetails, field: str) -> str:
    if details["type"] == UNKNOWN_VALUE:
        return details["msg"]
    is_item = isinstance(details["loc"][-1], int) if details["loc"] else False
    name = f"`{field[:MAX_NAME]}`" if field else "the document"
    what = f"An item of {name}" if is_item else name[0].upper() + name[1:]
    match code:
        case "schema.missing_field":
            return _missing(details, what)
        case "schema.unknown_field":
            return f"There is no field {name} here."
        case "schema.version":
            return "The version in `schema` is not known."
        case "schema.bad_id":
            return f"{what} is not a valid name."
        case "schema.wrong_type":
            return f"{what} must be {_EXPECTED.get(details['type'], 'of another type')}, not {_type(details['input'])}."
        case _:
            return f"{what} must {_range(details)}."


def _missing(details: ErrorDetails, what: str) -> str:
    if details["type"] == "union_tag_not_found":
        return f"{what} has no `{_discriminator(details)}`."
    if details["type"] == "missing":
        return f"The field {what} is missing."
    return f"{what} must not be {'null' if details['input'] is None else 'empty'}."


def _type(value: Json) -> str:
    """The JSON type of a value, with its article."""
    if isinstance(value, int) and not isinstance(value, bool):
        return "an integer"
    if isinstance(value, float) and not value.is_integer():
        return "a number with a fraction"
    kind = json_type(value)
    return kind if kind == "null" else f"{'an' if kind in ('array', 'object') else 'a'} {kind}"


def _range(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    match details["type"]:
        case "union_tag_invalid":
            return f"have as `{_discriminator(details)}` one of {context['expected_tags']}"
        case "too_short":
            return f"have at least {context['min_length']} items"
        case "too_long":
            return f"have at most {context['max_length']} items"
        case "string_pattern_mismatch":
            return f"match the pattern {context['pattern']}"
    found = [_RANGE_WORDS[name].format(_plain(context[name])) for name in _LIMITS if name in context]
    return f"be {' and '.join(found)}" if found else "be a finite number"


def _plain(limit: object) -> object:
    return f"{limit:,g}" if isinstance(limit, float) else limit


def _data(details: ErrorDetails, field: str) -> dict[str, Json]:
    context = details.get("ctx", {})
    numbers: dict[str, Json] = {name: context[name] for name in _LIMITS if isinstance(context.get(name), int | float)}
    return {"field": field, **numbers} if field else numbers
