"""Attack: JSON that gets deeper inside a workflow. The serialiser writes behind its buffer where it is too deep."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.server_process import ServerProcess, server_process

ROUNDS = 100
NODES = 20


def wraps_itself(**policy: str) -> dict[str, Any]:
    """A loop whose every round puts the variable `x` into 20 more lists."""
    nodes: list[dict[str, Any]] = [
        {"id": "start", "type": "start"},
        {"id": "x", "type": "variable", "config": {"variable_name": "x", "value": "deep"}},
        {"id": "loop", "type": "loop", "config": {"max_iterations": ROUNDS}},
        *(
            {"id": f"n{number}", "type": "variable", "config": {"variable_name": "x", "value": ["{{ variables.x }}"]}}
            for number in range(NODES)
        ),
        {"id": "end", "type": "end", "config": {"output": {"done": True}}},
    ]
    path = ["start", "x", "loop", *(f"n{number}" for number in range(NODES)), "loop"]
    edges: list[dict[str, Any]] = [{"source": source, "target": target} for source, target in pairwise(path)]
    for edge in edges:
        if edge["source"] == "loop":
            edge["when"] = "continue"
    edges.append({"source": "loop", "target": "end", "when": "exit"})
    return {
        "schema": "spanloom/1",
        "name": "wraps itself",
        "nodes": nodes,
        "edges": edges,
        "limits": {"max_node_executions": 2_000},
        **policy,
    }


@pytest.fixture
async def watched(migrated_sqlite_url: str, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server that ends itself as soon as memory behind a buffer is written."""
    async with server_process(tmp_path, migrated_sqlite_url, environment={"PYTHONMALLOC": "debug"}) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("policy", [{}, {"durability": "step"}, {"durability": "step", "on_lost": "resume"}])
async def test_a_variable_that_wraps_itself_ends_its_execution_and_nothing_else(
    watched: ServerProcess, policy: dict[str, str]
) -> None:
    async with httpx.AsyncClient(base_url=watched.url, timeout=60) as client:
        body = {"source": {"kind": "graph", "graph": wraps_itself(**policy)}, "input": {"message": "hi"}}
        answers = await asyncio.gather(*(client.post("/v1/executions", json=body) for _ in range(4)))
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "failed"
        assert answer.json()["error_type"] == "output_invalid"
        assert "64 levels" in answer.json()["error_message"]
    assert watched.is_running
    assert watched.starts == 1
