"""The description of the service: committed, complete, and true of its answers."""

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import jsonschema_rs
import pytest

from api.service.app import openapi_document
from engine.graph import Json, JsonObject
from engine.testing.models import Hold
from tests.api.harness import Service, request, running

DOCUMENT: JsonObject = openapi_document()
COMPONENTS = cast("dict[str, dict[str, JsonObject]]", DOCUMENT["components"])
SCHEMAS = COMPONENTS["schemas"]


def test_every_operation_has_an_id_a_summary_and_problems() -> None:
    ids = []
    for path, operation in operations():
        ids.append(operation["operationId"])
        assert operation["summary"], path
        responses = operation["responses"]
        assert isinstance(responses, dict)
        assert {"421", "422", "500", "503"} <= responses.keys(), path
    assert len(set(ids)) == len(ids)


def test_every_reference_leads_somewhere() -> None:
    names = {reference.rpartition("/")[2] for reference in references(DOCUMENT)}
    assert names <= SCHEMAS.keys()
    assert "HTTPValidationError" not in SCHEMAS


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/executions", "ExecutionPage"),
        ("/v1/executions/{id}", "Execution"),
        ("/v1/executions/{id}/trace", "TraceAnswer"),
        ("/v1/analytics/cost?group_by=day&group_by=template", "CostAnswer"),
        ("/healthz", "Health"),
        ("/readyz", "Readiness"),
        ("/nowhere", "ProblemDocument"),
        ("/v1/executions?limit=0", "ProblemDocument"),
    ],
)
async def test_answers_are_what_the_description_says(service: Service, path: str, name: str) -> None:
    started = (await service.start()).json()
    fits(started, "ExecutionResult")
    answer = await service.client.get(path.replace("{id}", started["execution_id"]))
    fits(answer.json(), name)


async def test_events_are_what_the_description_says(service: Service) -> None:
    for frame in await service.frames():
        fits(frame.data, "ExecutionEvent")


async def test_an_unfinished_execution_is_what_the_description_says(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold()]) as service:
        answer = await service.start("?wait_seconds=1", on_disconnect="continue")
        fits(answer.json(), "Execution")
        service.model.release.set()
        await asyncio.wait_for(service.ended(answer.json()["id"]), 10)


def test_every_example_of_a_body_is_one() -> None:
    bodies = [cast("Any", operation["requestBody"]) for _, operation in operations() if "requestBody" in operation]
    contents = [body["content"]["application/json"] for body in bodies]
    examples = [(content["schema"], each) for content in contents for each in content.get("examples", {}).values()]
    assert examples
    for schema, example in examples:
        jsonschema_rs.validator_for({**schema, "components": COMPONENTS}).validate(example["value"])


def test_the_requests_of_these_tests_are_what_the_description_says() -> None:
    fits(request(mode="stream"), "ExecutionRequest")


def fits(document: Json, name: str) -> None:
    """The document is what the description says of that name; nothing more is there than is said."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": COMPONENTS}
    jsonschema_rs.validator_for(schema).validate(document)
    described = SCHEMAS[name].get("properties")
    if isinstance(document, dict) and isinstance(described, dict) and name != "ExecutionRequest":
        assert document.keys() == described.keys()


def operations() -> Iterator[tuple[str, JsonObject]]:
    paths = DOCUMENT["paths"]
    assert isinstance(paths, dict)
    for path, item in paths.items():
        assert isinstance(item, dict)
        for operation in item.values():
            assert isinstance(operation, dict)
            yield path, operation


def references(value: Json) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield str(value["$ref"])
        for child in value.values():
            yield from references(child)
    elif isinstance(value, list):
        for child in value:
            yield from references(child)
