"""Makes the OpenAPI document: FastAPI's, plus our problems, request bodies, stream events and webhooks."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.http.request_bodies import NoBody
from api.http.responses import openapi_responses
from api.schemas.decisions import CancelBody, ResumeBody
from api.schemas.keys import KeyBody
from api.schemas.problems import ProblemDocument
from api.schemas.scores import ScoreBody
from api.schemas.webhooks import EndpointBody, EndpointChange, RedeliverBody, RotateBody
from engine.events import EventType
from engine.request import ExecutionRequest
from engine.result import ExecutionResult
from telemetry.webhooks.payloads import DATA_MODELS

_REFERENCE = "#/components/schemas/{model}"
_STOCK = ("HTTPValidationError", "ValidationError")
_HEADERS = {
    "X-Correlation-ID": "The caller's id for the request, or the trace id.",
    "traceresponse": "Trace and span of the request, in the format of `traceparent`.",
    "X-Content-Type-Options": "`nosniff`.",
    "Cache-Control": "`no-store`.",
    "X-Execution-ID": "The id of the execution that the problem is about.",
    "WWW-Authenticate": "How to send a key, and why the given one does not do.",
    "Retry-After": "Seconds after which another try makes sense.",
    "Link": "The path of the next page, with `rel` `next`; absent on the last page.",
}
_EVERYWHERE = ("X-Correlation-ID", "traceresponse", "X-Content-Type-Options", "Cache-Control")
_BY_STATUS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("401", "403"), ("WWW-Authenticate", "X-Execution-ID")),
    **dict.fromkeys(("400", "404", "409", "422"), ("X-Execution-ID",)),
    **dict.fromkeys(("429", "503"), ("X-Execution-ID", "Retry-After")),
}
_PAGED = ("_list", "_list_endpoints", "_list_deliveries", "_trace")
BODIES: tuple[type[BaseModel], ...] = (
    ExecutionRequest,
    CancelBody,
    ScoreBody,
    ResumeBody,
    EndpointBody,
    EndpointChange,
    RotateBody,
    RedeliverBody,
    KeyBody,
    NoBody,
)
"""Every body of a request."""

_ANSWERS: tuple[type[BaseModel], ...] = (ExecutionResult, ProblemDocument, *DATA_MODELS.values())


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the application."""
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, separate_input_output_schemas=True
    )
    schemas = document["components"]["schemas"]
    for name in _STOCK:
        schemas.pop(name, None)
    schemas |= _schemas() | _events() | {"StreamFrame": _frame()}
    for operation in (one for path in document["paths"].values() for one in path.values()):
        _drop_stock_answers(operation)
        if "security" in operation:
            _add_refusals(operation["responses"])
        for status, response in operation["responses"].items():
            response["headers"] = _headers(operation["operationId"], status) | response.get("headers", {})
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    document["webhooks"] = {type_: {"post": _webhook(type_, model)} for type_, model in DATA_MODELS.items()}
    return document


def _add_refusals(responses: dict[str, Any]) -> None:
    """Add the problems of requests without a key or a scope."""
    for status, refused in openapi_responses({}, "unauthenticated", "missing_scope", everywhere=()).items():
        own = responses.get(str(status))
        description = refused["description"] + (f"; {own['description']}" if own else "")
        responses[str(status)] = refused | {"description": description}


def _headers(operation_id: str, status: str) -> dict[str, Any]:
    """The headers that every response has, those of its status, and the link to the next page of a list."""
    names = [*_EVERYWHERE, *_BY_STATUS.get(status, ())]
    if status == "200" and operation_id.endswith(_PAGED):
        names.append("Link")
    return {name: {"description": _HEADERS[name], "schema": {"type": "string"}} for name in names}


def _schemas() -> dict[str, Any]:
    wanted: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in BODIES]
    wanted += [(model, "serialization") for model in _ANSWERS]
    _, definitions = models_json_schema(wanted, ref_template=_REFERENCE)
    found: dict[str, Any] = definitions["$defs"]
    return found


def _drop_stock_answers(operation: dict[str, Any]) -> None:
    """Remove the 422 and the JSON of unknown form that FastAPI adds to routes that describe none."""
    answers = operation["responses"]
    for status, answer in list(answers.items()):
        content = answer.get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if schema == {}:
            del content["application/json"]
        if schema is not None and (not content or schema.get("$ref", "").endswith("HTTPValidationError")):
            del answers[status]


def _webhook(type_: str, data: type[BaseModel]) -> dict[str, Any]:
    """The request that an endpoint receives, by Standard Webhooks: at least once, in any order."""
    headers = {
        "webhook-id": "`evt_<event id>`, the same for every attempt.",
        "webhook-timestamp": "The time of this attempt, in seconds since 1970.",
        "webhook-signature": "`v1,<base64>`; two signatures during the rotation of a secret.",
    }
    body = {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"const": type_},
            "timestamp": {"type": "string", "format": "date-time"},
            "data": {"$ref": _REFERENCE.format(model=data.__name__)},
        },
    }
    return {
        "tags": ["webhooks"],
        "operationId": f"webhook_{type_.replace('.', '_')}",
        "summary": (data.__doc__ or "").strip().splitlines()[0],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": meaning, "schema": {"type": "string"}}
            for name, meaning in headers.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "2XX": {
                "description": "The endpoint received the event. After any other response the request is repeated."
            },
            "410": {"description": "The endpoint is gone. It is disabled and receives nothing more."},
        },
    }


def _frame() -> dict[str, Any]:
    """A frame of the event stream, in the terms of the specification of server-sent events."""
    types = [*EventType, "stream_error"]
    return {
        "description": "One server-sent event. `stream_error` has no `id` and holds a problem: the stream broke.",
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string", "enum": types},
            "id": {"type": "string", "pattern": "^[0-9]+-[0-9]+$", "description": "`<attempt>-<seq>`"},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {
                    "oneOf": [
                        {"$ref": "#/components/schemas/ExecutionEvent"},
                        {"$ref": "#/components/schemas/ProblemDocument"},
                    ]
                },
            },
        },
    }


def _events() -> dict[str, Any]:
    """The `data` of a frame: an `ExecutionEvent`, with node fields if it is about a node."""
    closing = [type_ for type_ in EventType if type_.is_closing]
    others = [type_ for type_ in EventType if not type_.is_closing]
    kinds = {"ProgressEvent": _event(others, "EventData"), "ClosingEvent": _event(closing, "ExecutionResult")}
    return kinds | {
        "ExecutionEvent": {
            "description": "One event of an execution. The last event of a stream holds the result.",
            "oneOf": [{"$ref": _REFERENCE.format(model=name)} for name in kinds],
        },
        "EventData": {"type": "object", "additionalProperties": True, "description": "What happened, by `type`."},
    }


def _event(types: list[EventType], data: str) -> dict[str, Any]:
    fields = {
        "type": {"type": "string", "enum": types},
        "seq": {"type": "integer", "minimum": 1},
        "execution_id": {"type": "string"},
        "attempt": {"type": "integer", "minimum": 1},
        "at": {"type": "string", "format": "date-time"},
        "node_id": {"type": "string"},
        "node_type": {"type": "string"},
        "path": {"type": "string"},
        "visit": {"type": "integer", "minimum": 1},
        "node_attempt": {"type": "integer", "minimum": 1},
        "data": {"$ref": _REFERENCE.format(model=data)},
    }
    required = ["type", "seq", "execution_id", "attempt", "at", "data"]
    return {"type": "object", "required": required, "properties": fields}
