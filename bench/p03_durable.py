"""P3 compares durable executions, 64 at a time: our journal and LangGraph's SQLite saver, both with FULL sync."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from sqlalchemy import func, select
from uuid_utils.compat import uuid7

from bench.harness import Effort, Goal, Report, Row, Runner, Variant, Work, check_equal, compare, side_by_side
from bench.workflows import OURS, RAW, SPANS, engine, raw_answer, request, run_ours
from engine.database import migrations
from engine.database.database import Database
from telemetry.journal.journal import Journal
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reconcile.audit import check_books
from telemetry.records.consumer import Records
from telemetry.sdk.providers import build_telemetry
from telemetry.store.tables import spans

GRAPH = "chain10"
CONCURRENT = 64
EXECUTIONS: dict[Effort, int] = {"smoke": 4, "short": 128, "full": 384}


@asynccontextmanager
async def _raw(durability: Literal["sync", "async", "exit"]) -> AsyncIterator[Runner]:
    graph, start = RAW[GRAPH]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with AsyncSqliteSaver.from_conn_string(str(folder / "raw.db")) as saver:
            await saver.setup()
            await saver.conn.execute("PRAGMA synchronous = FULL")
            app = graph.compile(checkpointer=saver)

            async def run(number: int) -> Work:
                config = RunnableConfig(configurable={"thread_id": str(uuid4())})
                return Work(raw_answer(await app.ainvoke(start, config, durability=durability)))

            yield lambda executions: side_by_side(run, executions, CONCURRENT)


@asynccontextmanager
async def _ours() -> AsyncIterator[Runner]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'ours.db'}"
        await migrations.upgrade(url)
        telemetry = build_telemetry()
        async with Database(url, synchronous="FULL") as database, Journal(database, Pipeline([Records()])) as journal:
            telemetry.add(journal.spans, journal.events)
            wanted = request(OURS[GRAPH])
            async with engine(telemetry, journal) as made:

                async def run(number: int) -> Work:
                    return await run_ours(made, wanted)

                async def run_all(executions: int) -> Work:
                    first = str(uuid7())
                    work = await side_by_side(run, executions, CONCURRENT)
                    stored = await _stored(database, first)
                    return Work(work.answer, stored // executions)

                yield run_all
            assert await check_books(database) == []


async def _stored(database: Database, first: str) -> int:
    """Count the stored spans of executions after this id."""
    async with database.read() as connection:
        return int(await connection.scalar(select(func.count()).where(spans.c.execution_id > first)) or 0)


VARIANTS: dict[str, Variant] = {
    "LangGraph + AsyncSqliteSaver": partial(_raw, "async"),
    "LangGraph + AsyncSqliteSaver, one checkpoint at the end": partial(_raw, "exit"),
    "ours": _ours,
}


def measure(effort: Effort) -> Report:
    """Measure the CPU time of one execution and the executions per second."""
    found = compare("p03_durable", VARIANTS, executions=EXECUTIONS[effort], effort=effort)
    check_equal(found, spans={"ours": SPANS[GRAPH]})
    saver = found["LangGraph + AsyncSqliteSaver"]
    rows: list[Row] = [
        {
            "variant": name,
            "CPU µs": its.cpu_us,
            "wall µs": its.wall_us,
            "executions/s": 1e6 / its.wall_us,
            "ratio of CPU": its.ratio(saver),
        }
        for name, its in found.items()
    ]
    notes = (
        "LangGraph keeps a checkpoint per step; ours the acceptance, the result, and every span, event and roll-up.",
    )
    goal = Goal("CPU against AsyncSqliteSaver", found["ours"].ratio(saver), 0.10)
    return Report("P3", f"durable {GRAPH}, {CONCURRENT} at a time, SQLite with FULL sync", rows, [goal], notes)
