"""The trace of an execution whose process was killed is one tree, through the API and the command line."""

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import aliased

from engine.database.database import Database
from engine.graph import JsonObject
from telemetry.signals.records import Kind
from telemetry.store.tables import spans
from tests.engine.harness import graph
from tests.faults.figures import Figures
from tests.faults.world import FAST, World, world
from tests.services.process import SPANLOOM

SECONDS = 150
COMMITTED_AT_ONCE = {**FAST, "SPANLOOM_CONTENT": "full"}
"""A call whose content is kept is committed as it ends, and its node a little later."""


def branch(name: str) -> list[JsonObject]:
    """A model call, and then a wait."""
    return [
        {"id": name, "type": "model", "config": {"append_to_messages": False}},
        {"id": f"after_{name}", "type": "delay", "config": {"duration_seconds": 2}},
    ]


FORK: JsonObject = graph(
    [
        {"id": "fork", "type": "variable", "config": {"variable_name": "n", "value": 1}},
        *branch("left"),
        *branch("right"),
        {"id": "join", "type": "variable", "config": {"variable_name": "n", "value": 2}},
    ],
    [
        *("start -> fork", "fork -> left", "fork -> right", "left -> after_left", "right -> after_right"),
        *("after_left -> join", "after_right -> join", "join -> end"),
    ],
)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("on_lost", ["fail", "retry"])
async def test_a_kill_between_a_call_and_the_end_of_its_node_leaves_one_tree(
    migrated_url: str, tmp_path: Path, figures: Figures, on_lost: str
) -> None:
    with figures("F1", orphans=1) as figure:
        async with (
            world(migrated_url, tmp_path, figure, settings=COMMITTED_AT_ONCE) as around,
            asyncio.timeout(SECONDS),
        ):
            while not (orphaned := await orphans(around.database, LEAVES)):
                await around.server.close()
                await around.server.start()
                await kill_during(around, on_lost)
            figure.hit("orphans", len(orphaned))
            await around.server.start()
            await around.settled()
            figure.none("left orphans", await orphans(around.database, (Kind.NODE, *LEAVES)))
            figure.none("violations", await around.violations())
            for id_ in {*orphaned}:
                assert await roots(around, id_) == 1
                assert re.search(LOST_NODE, text := await drawn(around, id_)), text


async def kill_during(around: World, on_lost: str) -> None:
    """Run an execution, and kill its server as soon as a model call is stored whose node is not."""
    begun = around.callers.start(
        source={"kind": "graph", "graph": FORK},
        streaming=False,
        overrides={"on_lost": on_lost},
        on_disconnect="continue",
    )
    client = asyncio.create_task(begun, name="client")
    while not client.done():
        if await orphans(around.database, LEAVES):
            await around.server.kill()
            break
        await asyncio.sleep(0.005)
    await client


LOST_NODE = r"[├└] (left|right) .*\n.*failed: engine_lost\n.*└ chat "
LEAVES = (Kind.MODEL, Kind.TOOL, Kind.RETRIEVAL)


async def orphans(database: Database, kinds: Iterable[Kind]) -> list[str]:
    """The execution of each stored span of these kinds whose parent is not stored."""
    parent = aliased(spans)
    is_orphan = spans.c.parent_span_id.is_not(None) & parent.c.span_id.is_(None)
    has_parent = (parent.c.span_id == spans.c.parent_span_id) & (parent.c.execution_id == spans.c.execution_id)
    async with database.read() as connection:
        rows = await connection.execute(
            select(spans.c.execution_id)
            .outerjoin(parent, has_parent)
            .where(is_orphan, spans.c.kind.in_([kind.value for kind in kinds]))
        )
        return list(rows.scalars())


async def roots(around: World, execution_id: str) -> int:
    """How many spans of the trace stand below no other, as the API tells."""
    answer = await around.callers.http.get(f"/v1/executions/{execution_id}/trace")
    assert answer.status_code == 200, answer.text
    found = answer.json()["spans"]
    ids = {span["span_id"] for span in found}
    return sum(span["parent_span_id"] not in ids for span in found)


async def drawn(around: World, execution_id: str) -> str:
    """The trace as the command line draws it."""
    process = await asyncio.create_subprocess_exec(
        *SPANLOOM,
        *("trace", execution_id),
        cwd=around.server.folder,
        env={**around.server._environment(), "NO_COLOR": "1", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()
