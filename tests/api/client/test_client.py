"""The client with a real service: every route has a method, and runs survive connections that are cut."""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from api.client.client import AsyncClient, Client
from api.client.errors import ServerProblem, Unreachable
from api.client.operations.groups import Groups
from api.schemas.executions import Execution
from api.service.app import openapi_document
from engine.request import ExecutionRequest, TemplateSource
from engine.result import Status
from tests.faults.proxy import proxy
from tests.faults.server_process import server_process

WITHOUT_DOCUMENT = {"executions_events", "operations_metrics", "operations_runbook"}
"""Streams, metrics and pages: `events()` follows the stream."""
ASKED = ExecutionRequest(source=TemplateSource(kind="template", template="universal_chat"), input={"message": "hi"})


def _methods() -> Iterator[str]:
    for group, operations in vars(Groups(None)).items():  # type: ignore[arg-type]  # nothing is sent
        for name, _ in inspect.getmembers(operations, inspect.ismethod):
            if not name.startswith("_"):
                yield f"{group}_{name}"


def test_every_route_that_answers_with_a_document_is_a_method() -> None:
    routes = (one for path in openapi_document()["paths"].values() for one in path.values())
    assert {route["operationId"] for route in routes} - WITHOUT_DOCUMENT == set(_methods())


@pytest.mark.slow
async def test_a_script_runs_lists_and_follows_executions(migrated_url: str, tmp_path: Path) -> None:
    async with server_process(tmp_path, migrated_url) as server:
        await asyncio.to_thread(_use, server.url)


def _use(url: str) -> None:
    with Client(url) as client:
        result = client.run("universal_chat", {"message": "hi"}, team="support")
        assert result.status == Status.COMPLETED
        assert [one.id for one in client.executions.list(template="universal_chat").items] == [result.execution_id]
        assert client.executions.get(result.execution_id).tags == {"team": "support"}
        assert client.analytics.cost(group_by=["template"]).total.cost_nano_usd == result.cost_nano_usd

        events = list(client.stream(ASKED))
        assert events[-1].data["response"] == result.response
        assert [event.type for event in client.events(events[-1].execution_id)][-1:] in ([], ["completed"])
        queued = client.executions.start(ASKED.model_copy(update={"mode": "async"}))
        assert isinstance(queued, Execution)
        assert [event.type for event in client.events(queued.id)][-1] == "completed"
        with pytest.raises(ServerProblem) as refused:
            client.executions.cancel(result.execution_id)
        assert (refused.value.code, refused.value.status) == ("already_finished", 409)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_runs_over_connections_that_are_cut_happen_once_and_are_told_whole(
    migrated_url: str, tmp_path: Path
) -> None:
    async with server_process(tmp_path, migrated_url) as server, proxy(server.url, Random(7)) as way:
        way.cuts = 0.1
        async with AsyncClient(way.url) as client:
            streamed = await asyncio.gather(*(_streamed(client) for _ in range(20)))
            results = await asyncio.gather(*(client.execute(ASKED) for _ in range(20)))
        async with AsyncClient(server.url) as client:
            page = await client.executions.list(limit=200)
    assert way.hits["cut"] >= 8, dict(way.hits)
    assert {one.id for one in page.items} == {*streamed, *(result.execution_id for result in results)}
    assert len(page.items) == 40
    assert {one.status for one in page.items} == {Status.COMPLETED}


async def _streamed(client: AsyncClient) -> str:
    """Follow one execution to its end; its id."""
    events = [event async for event in client.stream(ASKED)]
    places = [(event.attempt, event.seq) for event in events]
    assert places == sorted(set(places))
    assert events[-1].type == "completed"
    return events[-1].execution_id


async def test_a_server_that_is_not_there_is_told_in_a_sentence() -> None:
    with pytest.raises(Unreachable, match="cannot be reached"):
        async with AsyncClient("http://127.0.0.1:9") as client:
            await client.operations.health()
