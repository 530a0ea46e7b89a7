"""P8 queries the cost per template over 30 days: our roll-ups against the execution rows with a covering index.

Execution rows are inserted directly; the product's code computes the roll-ups from the same values.
"""

import asyncio
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from bench.harness import ROUNDS, Effort, Goal, Report, Row
from engine.database import migrations
from engine.database.database import Database
from telemetry.reads.cost import cost
from telemetry.reads.cost_query import CostFilter
from telemetry.records.rollups import CallDelta, CountedExecution, Deltas, EndDelta
from telemetry.signals.records import EPOCH
from telemetry.store.bulk import BulkInsert
from telemetry.store.tables import executions
from tests.services.cache import ServiceMissing
from tests.services.postgres import server as postgres

EXECUTIONS: dict[Effort, int] = {"smoke": 500, "short": 50_000, "full": 1_000_000}
DAYS, TEMPLATES, MODELS = 40, 20, 3
NEWEST = datetime(2026, 11, 20, 15, tzinfo=EPOCH.tzinfo)
SINCE = NEWEST - timedelta(days=30)
_PAGE = 5_000
_COLUMNS = (
    "id",
    "owner_id",
    "status",
    "attempt",
    "rank",
    "seq",
    "workflow_name",
    "workflow_source",
    "template_id",
    "template_version",
    "record_level",
    "queued_at",
    "completed_at",
    "duration_ms",
    "input_tokens",
    "output_tokens",
    "cost_nano_usd",
    "unpriced_calls",
    "waste_nano_usd",
    "unfinished_calls",
    "model_calls",
    "tool_calls",
    "nodes_total",
    "nodes_failed",
    "nodes_retried",
    "spans_stored",
    "tags",
    "params",
)
_INSERT = BulkInsert(executions, _COLUMNS, "")
_INDEX = {
    "postgresql": "(queued_at, template_id) INCLUDE (input_tokens, output_tokens, cost_nano_usd, model_calls)",
    "sqlite": "(queued_at, template_id, input_tokens, output_tokens, cost_nano_usd, model_calls)",
}
_RAW = (
    select(
        executions.c.template_id,
        func.count(),
        *(func.sum(executions.c[name]) for name in ("model_calls", "input_tokens", "output_tokens", "cost_nano_usd")),
    )
    .where(executions.c.queued_at >= SINCE, executions.c.queued_at < NEWEST)
    .group_by(executions.c.template_id)
)

Answer = dict[str, tuple[int, ...]]
"""For each template: executions, calls, input tokens, output tokens, nano-USD."""


@dataclass(frozen=True, slots=True)
class _Timed:
    """The median duration of a query in ms, and its answer."""

    ms: float
    answer: Answer


def measure(effort: Effort) -> Report:
    """Measure both queries on both databases."""
    rows: list[Row] = []
    goals: list[Goal] = []
    notes: list[str] = []
    for name, open_url in {"PostgreSQL": _postgres_url, "SQLite": _sqlite_url}.items():
        try:
            with open_url() as url:
                rollups, raw = asyncio.run(_compare(url, effort))
        except ServiceMissing as missing:
            notes.append(f"{name} not measured: {missing}")
            continue
        assert rollups.answer == raw.answer, f"{name}: the sums differ"
        gain = raw.ms / rollups.ms
        row: dict[str, str | float] = {
            "database": name,
            "executions": EXECUTIONS[effort],
            "roll-ups ms": rollups.ms,
            "raw ms": raw.ms,
        }
        rows.append({**row, "times faster": gain})
        if name == "PostgreSQL":
            goals = [Goal("roll-ups, ms", rollups.ms, 5.0), Goal("times faster", gain, 100.0, at_least=True)]
    notes.append("wall time; both queries give equal sums for every template")
    if effort != "full":
        notes.append("the goals are for 10 million executions; only the query of raw rows slows down with their number")
    return Report("P8", f"cost per template over 30 days ({TEMPLATES} templates)", rows, goals, notes)


async def _compare(url: str, effort: Effort) -> tuple[_Timed, _Timed]:
    await migrations.upgrade(url)
    async with Database(url) as database:
        await _fill(database, EXECUTIONS[effort])
        await _analyse(url)
        async with database.read() as connection:
            rounds = 3 * ROUNDS[effort]
            return await _time(lambda: _from_rollups(connection), rounds), await _time(lambda: _raw(connection), rounds)


async def _time(query: Callable[[], Awaitable[Answer]], rounds: int) -> _Timed:
    answer = await query()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        assert await query() == answer
        taken.append((time.perf_counter() - began) * 1e3)
    return _Timed(statistics.median(taken), answer)


async def _from_rollups(connection: AsyncConnection) -> Answer:
    report = await cost(connection, CostFilter(since=SINCE, until=NEWEST), ["template"])
    return {
        str(row.group[0]): (
            row.sums.executions,
            row.sums.model_calls,
            row.sums.input_tokens,
            row.sums.output_tokens,
            row.sums.priced_nano_usd,
        )
        for row in report.rows
    }


async def _raw(connection: AsyncConnection) -> Answer:
    return {str(row[0]): tuple(map(int, row[1:])) for row in await connection.execute(_RAW)}


async def _fill(database: Database, number: int) -> None:
    """Write the rows page by page, then the roll-ups and the index."""
    deltas = Deltas()
    numbers = iter(_executions(number, deltas))
    while page := [row for _, row in zip(range(_PAGE), numbers, strict=False)]:
        async with database.begin() as connection:
            await _INSERT.run(connection, page)
    async with database.begin() as connection:
        await deltas.write(connection)
        await connection.exec_driver_sql(f"CREATE INDEX bench_raw ON executions {_INDEX[database.dialect_name]}")


def _executions(number: int, deltas: Deltas) -> Iterator[tuple[object, ...]]:
    """Yield rows spread over the days before `NEWEST`, and add them to the roll-ups in `deltas`."""
    chance = random.Random(1)
    step = timedelta(days=DAYS) / number
    for index in range(number):
        at = NEWEST - timedelta(days=DAYS) + step * index
        id_ = _id(at, index)
        template, tokens = f"template-{chance.randrange(TEMPLATES)}", (chance.randrange(5_000), chance.randrange(800))
        nano_usd = tokens[0] * 150 + tokens[1] * 600
        execution = CountedExecution(id_, "default", template, "template", template, 1)
        model = f"model-{chance.randrange(MODELS)}"
        deltas.add_call(
            CallDelta(execution, "provider", model, [*tokens, None, None, None], nano_usd, wasted=False, failed=False)
        )
        deltas.add_end(EndDelta(execution, "completed", 1_200, at))
        first = (id_, "default", "completed", 1, 2, 2, template, "template", template, 1, "full", at, at, 1_200)
        yield (*first, *tokens, nano_usd, 0, 0, 0, 1, 0, 5, 0, 0, 7, {}, {})


def _id(at: datetime, index: int) -> str:
    """Return a UUIDv7 for this time."""
    digits = f"{(at - EPOCH) // timedelta(milliseconds=1):012x}7{index >> 32 & 0xFFF:03x}8{index & 0xFFFFFFFF:015x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


async def _analyse(url: str) -> None:
    """Update the planner's statistics and allow index-only scans, so that the raw query is as fast as possible."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute("ANALYZE")
        return
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("VACUUM (ANALYZE) executions")
        await connection.execute("VACUUM (ANALYZE) execution_rollups")
        await connection.execute("VACUUM (ANALYZE) execution_rollups_daily")
    finally:
        await connection.close()


@contextmanager
def _postgres_url() -> Iterator[str]:
    with postgres.serve() as server:
        url = server.create_database()
        try:
            yield url
        finally:
            server.drop_database(url)


@contextmanager
def _sqlite_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{Path(folder) / 'bench.db'}"
