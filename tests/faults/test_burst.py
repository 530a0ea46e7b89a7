"""F5: a burst of executions whose callers say that their traces are not recorded: every span is in the books."""

import asyncio
from collections import Counter
from itertools import pairwise

import httpx2
import pytest
from sqlalchemy import func, select

from engine.database.database import Database
from engine.graph import JsonObject
from telemetry.store.tables import executions, spans
from tests.api.harness import Service, running
from tests.engine.harness import graph
from tests.faults.figures import Figures, short_or_long
from tests.faults.invariants import violations

EXECUTIONS = short_or_long(500, 2_000)
SPANS = 10
"""Of each execution: the root, eight nodes and a model call."""

STEPS = [f"step{number}" for number in range(5)]


def _step(id_: str) -> JsonObject:
    return {"id": id_, "type": "variable", "config": {"variable_name": "x", "value": 1}}


TEN_SPANS: JsonObject = graph(
    [
        {"id": "ask", "type": "model", "stream": True},
        *(_step(id_) for id_ in STEPS),
    ],
    ["start -> ask", "ask -> step0", *(f"{a} -> {b}" for a, b in pairwise(STEPS)), "step4 -> end"],
)


@pytest.mark.slow
async def test_a_burst_is_in_the_books_to_the_last_span(migrated_url: str, figures: Figures) -> None:
    with figures("F5", unsampled_callers=EXECUTIONS) as figure:
        async with running(migrated_url) as service:
            answers = await asyncio.gather(*(start(service, number) for number in range(EXECUTIONS)))
            statuses = Counter(answer.json().get("status") for answer in answers)
            figure.hit("unsampled callers", statuses["completed"])
            traces = await recorded_traces(service.runtime.database)
            figure.reach("records", len(traces), at_least=EXECUTIONS)
            figure.reach("spans", await stored_spans(service.runtime.database), at_least=SPANS * EXECUTIONS)
            figure.none("violations", await violations(service.runtime.database))
        assert traces == {trace_of(number) for number in range(EXECUTIONS)}


async def start(service: Service, number: int) -> httpx2.Response:
    """Run the graph for a caller whose trace is not sampled."""
    body: JsonObject = {"source": {"kind": "graph", "graph": TEN_SPANS}, "input": {"message": f"run {number}"}}
    headers = {"traceparent": f"00-{trace_of(number)}-{number + 1:016x}-00"}
    return await service.client.post("/v1/executions", json=body, headers=headers, timeout=300)


def trace_of(number: int) -> str:
    """The caller's trace id."""
    return f"{number + 1:032x}"


async def recorded_traces(database: Database) -> set[str]:
    """The trace of each record."""
    async with database.read() as connection:
        return set((await connection.execute(select(executions.c.trace_id))).scalars())


async def stored_spans(database: Database) -> int:
    """How many there are."""
    async with database.read() as connection:
        return (await connection.execute(select(func.count()).select_from(spans))).scalar_one()
