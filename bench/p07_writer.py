"""P7 compares the record writer on PostgreSQL to a raw COPY of the same rows.

COPY gets finished rows and does not detect duplicates. The writer gets signals, makes rows, roll-ups and the seal's
count from them, and accepts the same signals again. Each runs in one transaction.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types

from bench.executions import EXECUTIONS, SPANS, Exporting, exporting
from bench.harness import ROUNDS, Effort, Goal, Report, Row
from engine.database import migrations
from engine.database.database import Database
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reconcile.audit import check_books
from telemetry.records.consumer import Records
from telemetry.signals import otlp
from telemetry.signals.records import Batch, Signal
from tests.services.postgres import server as postgres
from tests.telemetry.bookkeeper import decide

BATCHES: dict[Effort, int] = {"smoke": 1, "short": 4, "full": 4}
"""Batches of `EXECUTIONS` per transaction; the shipper puts four into one request."""

_WRITER = "the record writer"
_SAME = "the record writer, the same again"
_PLAIN = "COPY, tables without indexes"
_INDEXED = "COPY, tables with the same indexes and constraints"
_LIKE = {"plain": "", "indexed": "INCLUDING ALL"}


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that the writer has stored for one batch."""

    spans: list[asyncpg.Record]
    executions: list[asyncpg.Record]


def measure(effort: Effort) -> Report:
    """Measure the wall time of writer and COPY, in turns."""
    with postgres.serve() as server:
        url = server.create_database()
        try:
            taken = asyncio.run(_compare(url, effort))
        finally:
            server.drop_database(url)
    spans = BATCHES[effort] * EXECUTIONS * SPANS
    rows: list[Row] = [
        {"way": name, "spans": spans, "ms": median(its), "spans/s": spans / median(its) * 1e3, **_against(taken, name)}
        for name, its in taken.items()
    ]
    goals = [
        Goal(f"rows per second against {name}", _ratio(taken, name), 0.40, at_least=True) for name in (_INDEXED, _PLAIN)
    ]
    notes = (
        "one transaction each, on a server that does not wait for the disk; only the writer makes roll-ups",
        "COPY gets the rows that the writer stored; they are read before its measurement starts",
    )
    return Report("P7", "records into PostgreSQL", rows, goals, notes)


def _against(taken: dict[str, list[float]], name: str) -> dict[str, float]:
    copies = {"of indexed COPY": _INDEXED, "of plain COPY": _PLAIN}
    return {column: _speed(taken[name], taken[copy]) for column, copy in copies.items()}


def _ratio(taken: dict[str, list[float]], copy: str) -> float:
    return _speed(taken[_WRITER], taken[copy])


def _speed(its: list[float], other: list[float]) -> float:
    """Return the median speed of `its` relative to `other`, round by round."""
    return median(theirs / ours for ours, theirs in zip(its, other, strict=True))


async def _compare(url: str, effort: Effort) -> dict[str, list[float]]:
    await migrations.upgrade(url)
    taken: dict[str, list[float]] = {name: [] for name in (_PLAIN, _INDEXED, _WRITER, _SAME)}
    async with Database(url) as database, _connected(url) as connection, _exporting() as export:
        await _make_copies(connection)
        for turn in range(ROUNDS[effort] + 1):
            found = await _round(database, connection, await _signals(export, BATCHES[effort]))
            if turn:  # the first round is a warm-up
                for name, milliseconds in found.items():
                    taken[name].append(milliseconds)
        await decide(database)
        assert await check_books(database) == []
    return taken


async def _round(database: Database, connection: asyncpg.Connection, signals: list[Signal]) -> dict[str, float]:
    found = {_WRITER: await _timed(lambda: _write(database, signals))}
    rows = await _read(connection, {signal.identity.execution_id for signal in signals})
    found[_SAME] = await _timed(lambda: _write(database, signals))
    for name, copy in {_PLAIN: "plain", _INDEXED: "indexed"}.items():
        found[name] = await _timed(partial(_copy, connection, copy, rows))
    for copy in _LIKE:
        assert await connection.fetchval(f"SELECT count(*) FROM {copy}_spans") == await connection.fetchval(
            "SELECT count(*) FROM spans"
        ), "COPY and the writer have not stored the same number of rows"
    return found


async def _timed(run: Callable[[], Awaitable[None]]) -> float:
    """Run it and return the milliseconds it took."""
    began = time.perf_counter()
    await run()
    return (time.perf_counter() - began) * 1e3


async def _write(database: Database, signals: list[Signal]) -> None:
    pipeline = Pipeline([Records()])
    async with database.begin() as connection:
        await pipeline.apply(connection, Batch.of(signals))
    assert pipeline.health.dead_letters == {"records": 0}


async def _copy(connection: asyncpg.Connection, copy: str, rows: _Rows) -> None:
    async with connection.transaction():
        await connection.copy_records_to_table(f"{copy}_spans", records=rows.spans)
        await connection.copy_records_to_table(f"{copy}_executions", records=rows.executions)


async def _read(connection: asyncpg.Connection, ids: set[str]) -> _Rows:
    return _Rows(
        await connection.fetch("SELECT * FROM spans WHERE execution_id = ANY($1)", sorted(ids)),
        await connection.fetch("SELECT * FROM executions WHERE id = ANY($1)", sorted(ids)),
    )


async def _make_copies(connection: asyncpg.Connection) -> None:
    for copy, including in _LIKE.items():
        for table in ("spans", "executions"):
            await connection.execute(f"CREATE TABLE {copy}_{table} (LIKE {table} {including})")


async def _signals(export: Exporting, batches: int) -> list[Signal]:
    bodies = [await export() for _ in range(batches)]
    return [
        signal
        for body in bodies
        for decoded in (otlp.decode_traces(body.traces), otlp.decode_logs(body.logs))
        for signal in decoded.signals
    ]


@asynccontextmanager
async def _exporting() -> AsyncIterator[Exporting]:
    """Export executions whose control rows and outbox are in a separate database."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'control.db'}"
        await migrations.upgrade(url)
        async with exporting(url) as export:
            yield export


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
