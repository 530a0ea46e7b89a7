"""Reads request bodies as strict JSON, validates them, and turns validation errors into problems."""

from collections.abc import Mapping
from itertools import islice
from typing import Any, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from api.http.problems import MAX_ERRORS, Problem
from api.schemas.problems import InputError
from api.schemas.values import shown
from engine.documents.strict_json import MalformedJson, escape, read_json
from engine.graph import Document, Json
from engine.validation.pydantic_findings import findings_of
from engine.validation.rules import issues_of

Body = TypeVar("Body", bound=BaseModel)


class NoBody(Document):
    """A request that says everything by its path: `{}`."""


_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "int_parsing": "wrong_type",
    "bool_parsing": "wrong_type",
    "datetime_from_date_parsing": "wrong_type",
    "timezone_aware": "wrong_type",
}
"""Codes of errors in query and path, by Pydantic's error type; all other types are `out_of_range`."""


async def read_body(request: Request, model: type[Body], *, optional: bool = False) -> Body:
    """The body as a model. An empty body is refused, or means the model's defaults if `optional`. Raises `Problem`.

    The content type is asked for without a body too: a page of another site could send any other POST.
    """
    data = await request.body()
    _check_content_type(request)
    if not data and optional:
        return model()
    if not data:
        raise Problem("malformed_json", "The request body is empty. Send a JSON document.")
    try:
        document = read_json(data)
    except MalformedJson as error:
        raise Problem("malformed_json", str(error)) from None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise _invalid_body(error, document, model) from None


def invalid_parameters(error: RequestValidationError) -> Problem:
    """The problem for invalid query and path parameters."""
    errors = []
    for found in error.errors():
        place, *steps = found["loc"]
        code = _CODES.get(found["type"], "out_of_range")
        pointer = "".join(f"/{escape(step)}" for step in steps)
        part: Literal["path", "query"] = "path" if place == "path" else "query"
        errors.append(InputError(place=part, pointer=pointer, code=code, message=_sentence(found)))
    return _invalid(errors, len(errors))


def _sentence(found: Mapping[str, Any]) -> str:
    """A sentence about the error of a parameter, with the valid values where there is a list of them."""
    if _CODES.get(found["type"]) == "unknown_field":
        return "There is no parameter of this name."
    if found["type"] not in ("literal_error", "enum"):
        return f"{found['msg'].removeprefix('Value error, ').removesuffix('.')}."
    name = next((step for step in reversed(found["loc"]) if isinstance(step, str)), "")
    valid = found["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
    given = shown(found["input"])
    return f"Unknown {name}{f' {given}' if given else ''}. Valid values: {valid}."


def _check_content_type(request: Request) -> None:
    """Refuse bodies that are not JSON. This also stops form posts from other sites."""
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if media_type.strip().lower() != "application/json" or charset not in ("", "utf-8", "utf8"):
        raise Problem("unsupported_media_type", "Send Content-Type: application/json, also with an empty body.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem("unsupported_media_type", "Send the body without a content encoding.")


def _invalid_body(error: ValidationError, document: Json, model: type[BaseModel]) -> Problem:
    errors = []
    findings = list(islice(findings_of(error, document, model), MAX_ERRORS))
    for finding, issue in zip(findings, issues_of(findings), strict=True):
        message = finding.message if finding.hint is None else f"{finding.message} {issue.hint}"
        code = finding.code.removeprefix("schema.")
        errors.append(InputError(place="body", pointer=finding.pointer, code=code, message=message))
    return _invalid(errors, error.error_count())


def _invalid(errors: list[InputError], count: int) -> Problem:
    first = errors[0]
    rest = f" And {count - 1} more." if count > 1 else ""
    where = f"the {first.place}" + (f" at {first.pointer}" if first.pointer else "")
    return Problem("invalid_request", f"In {where}: {first.message}{rest}", errors=errors)
