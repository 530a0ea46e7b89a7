"""One request of 1 MiB does not hold up the others, whatever is in it: a real server, and its time on the processor."""

import asyncio
import os
import re
from pathlib import Path

import httpx2
import pytest

from api.service.app import openapi_document
from tests.api.harness import UNKNOWN_ID, client_of
from tests.attacks.hostile_bodies import BODIES, SIZE
from tests.faults.server_process import server_process

MOST_SECONDS = 0.6
"""On the processor, for all that a request causes, on a machine with other things to do; 0.2 on a quiet one."""
_TICKS = os.sysconf("SC_CLK_TCK")
_POSTS = sorted(path for path, item in openapi_document()["paths"].items() if {"post", "patch"} & item.keys())


def test_the_bodies_are_as_large_as_the_limit_lets_them_be() -> None:
    assert len(BODIES) > 40
    assert {name for name, body in BODIES.items() if len(body) > SIZE + 1_024} == set()
    assert sum(len(body) for body in BODIES.values()) > 0.7 * SIZE * len(BODIES)


@pytest.mark.slow
async def test_no_body_holds_up_the_other_requests(migrated_sqlite_url: str, tmp_path: Path) -> None:
    async with server_process(tmp_path, migrated_sqlite_url) as server, client_of(server.url) as client:
        costs: dict[str, float] = {}
        for name, body in BODIES.items():
            before = processor_seconds(server.pid)
            answer = await client.post("/v1/executions", content=body)
            assert answer.status_code < 500, (name, answer.text)
            await well(client)
            costs[name] = processor_seconds(server.pid) - before
        assert {name: round(cost, 2) for name, cost in costs.items() if cost > MOST_SECONDS} == {}


@pytest.mark.slow
async def test_no_route_is_held_up_by_unknown_fields(migrated_sqlite_url: str, tmp_path: Path) -> None:
    costly = ("unknown fields", "empty arrays", "many parameters", "a duplicate behind many objects")
    async with server_process(tmp_path, migrated_sqlite_url) as server, client_of(server.url) as client:
        made = await client.post("/v1/webhooks/endpoints", json={"url": "https://1.1.1.1/", "events": ["webhook.test"]})
        ids = {"endpoint_id": made.json().get("id", UNKNOWN_ID)}
        for path in _POSTS:
            method = "PATCH" if path.endswith("{endpoint_id}") else "POST"
            url = re.sub(r"\{(\w+)\}", lambda name: ids.get(name[1], UNKNOWN_ID), path)
            before = processor_seconds(server.pid)
            answers = [await client.request(method, url, content=BODIES[name]) for name in costly]
            assert {answer.status_code for answer in answers} <= {200, 400, 404, 422}, path
            assert processor_seconds(server.pid) - before <= MOST_SECONDS * len(costly), path


async def well(client: httpx2.AsyncClient) -> None:
    """The server has nothing left to do for a moment."""
    await asyncio.sleep(0.05)
    assert (await client.get("/healthz")).status_code == 200


def processor_seconds(pid: int) -> float:
    """The time that a process has used so far, in user mode and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
