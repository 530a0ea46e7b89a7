"""The operations of the Python client: one module per group of routes, each method blocking and for asyncio."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from fastapi.routing import APIRoute
from pydantic import BaseModel

from api.service.app import openapi_document, routes
from api.service.openapi import BODIES
from engine.graph import JsonObject

HOME = "api/client/operations"
_RENAMED = {"from": "since", "to": "until", "Idempotency-Key": "idempotency_key"}
_BODIES = {model.__name__: model for model in BODIES}
_TYPES = {"integer": "int", "boolean": "bool", "string": "str", "array": "Sequence[str]"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a method; `name` is that of HTTP."""

    name: str
    place: str
    type: str

    @property
    def argument(self) -> str:
        """Its name in Python."""
        return _RENAMED.get(self.name, self.name)


@dataclass(frozen=True, slots=True)
class Operation:
    """One route as a method of the client."""

    group: str
    name: str
    method: str
    path: str
    summary: str
    parameters: tuple[Parameter, ...]
    body: type[BaseModel] | None
    answers: dict[int, type[BaseModel] | None]


def client_modules() -> dict[str, str]:
    """The text of each module, by its path."""
    groups: dict[str, list[Operation]] = defaultdict(list)
    for operation in _operations():
        groups[operation.group].append(operation)
    texts = {f"{HOME}/{group}.py": _module(group, found) for group, found in sorted(groups.items())}
    return texts | {f"{HOME}/groups.py": _groups(sorted(groups))}


def _operations() -> Iterator[Operation]:
    paths = cast("dict[str, dict[str, JsonObject]]", openapi_document()["paths"])
    for route in (one.original_route for one in routes() if isinstance(one.original_route, APIRoute)):
        for method in sorted((route.methods or set()) - {"HEAD"}):
            described = paths.get(route.path, {}).get(method.lower())
            answers = _answers(route)
            if described is not None and answers:
                yield _operation(route, method, described, answers)


def _operation(route: APIRoute, method: str, described: Any, answers: dict[int, type[BaseModel] | None]) -> Operation:
    group, _, name = str(described["operationId"]).partition("_")
    body = described.get("requestBody")
    schema = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2] if body else None
    return Operation(
        group,
        name,
        method,
        route.path,
        str(described["summary"]),
        tuple(_parameter(each) for each in described.get("parameters", [])),
        _BODIES[schema] if schema and schema != "NoBody" else None,
        answers,
    )


def _answers(route: APIRoute) -> dict[int, type[BaseModel] | None]:
    """The documents of the good answers; none for pages, metrics and streams, which are no documents."""
    good = {int(status): answer for status, answer in route.responses.items() if str(status).startswith("2")}
    documents = {status: cast("type[BaseModel] | None", answer.get("model")) for status, answer in good.items()}
    is_document = all(model is not None or status == 204 for status, model in documents.items())
    return documents if is_document else {}


def _parameter(described: Any) -> Parameter:
    schema = described["schema"]
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    kind = kinds[0] if len(kinds) == 1 else {"type": "string"}
    type_ = "datetime" if kind.get("format") == "date-time" else _TYPES[kind.get("type", "string")]
    return Parameter(described["name"], described["in"], type_)


def _module(group: str, operations: list[Operation]) -> str:
    name = _class(group)
    parts = [
        f'"""The {group} of the API. Generated from its routes by `python -m docs.generate`."""',
        *_imports(operations),
        *(_call(each) for each in operations),
        *_facade(name, "Connection", operations, ""),
        *_facade(f"Async{name}", "AsyncConnection", operations, "async "),
    ]
    return _formatted("\n".join(parts))


def _imports(operations: list[Operation]) -> Iterator[str]:
    models = {model for each in operations for model in (*each.answers.values(), each.body) if model is not None}
    yield "from collections.abc import Sequence"
    yield "from datetime import datetime"
    yield "from uuid import uuid4"
    yield "from api.client.calls import Call, segment"
    yield "from api.client.connection import AsyncConnection, Connection"
    for model in sorted(models, key=lambda model: (model.__module__, model.__name__)):
        yield f"from {model.__module__} import {model.__name__}"


def _call(each: Operation) -> str:
    """The function that makes the request."""
    return "\n".join(
        (
            f"def {each.name}_call({_arguments(each)}) -> Call[{_type(each)}]:",
            f'    """The call of `{each.name}`."""',
            f"    return Call({', '.join(_call_arguments(each))})",
        )
    )


def _call_arguments(each: Operation) -> Iterator[str]:
    query = [parameter for parameter in each.parameters if parameter.place == "query"]
    answers = ", ".join(f"{status}: {model and model.__name__}" for status, model in each.answers.items())
    yield f'"{each.method}"'
    yield _path(each)
    yield f"{{{answers}}}"
    if query:
        yield "query={" + ", ".join(f'"{one.name}": {one.argument}' for one in query) + "}"
    if each.body is not None:
        yield "body=body"
    headers = [parameter for parameter in each.parameters if parameter.place == "header"]
    if headers:
        yield "headers={" + ", ".join(f'"{one.name}": {_header(one)}' for one in headers) + "}"
    if any(one.name == "wait_seconds" for one in query):
        yield "seconds=(wait_seconds or 60) + 30"


def _header(parameter: Parameter) -> str:
    """A key is made where none is given, so that every start can be repeated."""
    return "idempotency_key or str(uuid4())" if parameter.name == "Idempotency-Key" else parameter.argument


def _path(each: Operation) -> str:
    path, names = each.path, [one.name for one in each.parameters if one.place == "path"]
    for name in names:
        path = path.replace(f"{{{name}}}", f"{{segment({name})}}")
    return f'{"f" if names else ""}"{path}"'


def _facade(name: str, connection: str, operations: list[Operation], mode: str) -> Iterator[str]:
    yield f"class {name}:"
    yield f'    """{operations[0].group.capitalize()}, as methods of a client."""'
    yield f"    def __init__(self, connection: {connection}) -> None:"
    yield "        self._connection = connection"
    for each in operations:
        names = ", ".join(_passed(each))
        yield f"    {mode}def {each.name}(self, {_arguments(each)}) -> {_type(each)}:"
        yield f'        """{each.summary}."""'
        yield f"        return {'await ' if mode else ''}self._connection.send({each.name}_call({names}))"


def _arguments(each: Operation) -> str:
    found = [f"{one.argument}: str" for one in each.parameters if one.place == "path"]
    if each.body is not None:
        is_needed = any(field.is_required() for field in each.body.model_fields.values())
        found.append(f"body: {each.body.__name__}" + ("" if is_needed else " | None = None"))
    others = [f"{one.argument}: {one.type} | None = None" for one in each.parameters if one.place != "path"]
    return ", ".join([*found, *(["*", *others] if others else [])])


def _passed(each: Operation) -> Iterator[str]:
    yield from (one.argument for one in each.parameters if one.place == "path")
    if each.body is not None:
        yield "body"
    yield from (f"{one.argument}={one.argument}" for one in each.parameters if one.place != "path")


def _type(each: Operation) -> str:
    return " | ".join(dict.fromkeys(model.__name__ if model else "None" for model in each.answers.values()))


def _class(group: str) -> str:
    return "".join(word.capitalize() for word in group.split("-"))


def _groups(groups: list[str]) -> str:
    """The classes that hold all groups: the base of each client."""
    lines = ['"""All groups of operations. Generated from the routes by `python -m docs.generate`."""']
    lines += ["from api.client.connection import AsyncConnection, Connection"]
    lines += [f"from {HOME.replace('/', '.')}.{one} import {_class(one)}, Async{_class(one)}" for one in groups]
    for prefix in ("", "Async"):
        lines += [f"class {prefix}Groups:", '    """The operations of a client, by group."""']
        lines += [f"    def __init__(self, connection: {prefix}Connection) -> None:"]
        lines += [f"        self.{one} = {prefix}{_class(one)}(connection)" for one in groups]
    return _formatted("\n".join(lines))


def _formatted(text: str) -> str:
    """The text as the formatter leaves it, without imports that are not used."""
    for command in (("check", "--fix", "--select", "F401,I"), ("format",)):
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", f"{HOME}/generated.py", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text
