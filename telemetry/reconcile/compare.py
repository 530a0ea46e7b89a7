"""Compares the books within a window: everything about each execution, then the roll-ups of its hours and days.

Each hour is read page by page in a snapshot of its own, so that neither the window's length nor its load changes how
much memory is used. Differences are reported with the ids of the rows that differ, and never repaired. Rows that
retention has deleted are no difference: records carry marks of it, and the sums of the rows stand in `pruned_rollups`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from telemetry.reconcile.bills import read_bills
from telemetry.reconcile.control_checks import check_control
from telemetry.reconcile.findings import Check, Difference, Findings, ReconcileReport
from telemetry.reconcile.pages import ExecutionBooks, occupied_days, occupied_hours, read_pages
from telemetry.reconcile.record_checks import TERMINAL, check_record, has_digest
from telemetry.reconcile.rollup_checks import add_to, check_day, check_hour, check_outside
from telemetry.reconcile.stray_rows import find_strays
from telemetry.reconcile.webhook_checks import Endpoints, check_webhooks, column_told_by, read_endpoints
from telemetry.reconcile.window import DAY, Window
from telemetry.records.rollups import Deltas, first_id
from telemetry.store.retention_tables import pruned_rollups
from telemetry.store.tables import DIGEST_COLUMNS, executions, spans

_BREATH = 20
"""Executions between two times that other tasks of this process run."""


async def compare_books(database: Database, window: Window) -> ReconcileReport:
    """Compare all books of a window; `prometheus.py` compares counters."""
    findings, now = Findings(), datetime.now(UTC)
    async with _snapshot(database) as connection:
        hours = await occupied_hours(connection, window)
        findings.differences += [each async for each in find_strays(connection, window, now)]
        await check_outside(connection, findings)
    for hour in hours:
        async with _snapshot(database) as connection:
            await _compare_hour(connection, hour, findings)
    async with _snapshot(database) as connection:
        for day in await occupied_days(connection, window, hours):
            await check_day(connection, day, findings)
        bills = await read_bills(connection, window.holds(spans.c.execution_id))
    return ReconcileReport(
        window.since,
        window.until,
        now,
        findings.executions,
        findings.rollup_rows,
        findings.differences,
        unfinished=findings.unfinished,
        in_outbox=findings.in_outbox,
        without_digest=findings.without_digest,
        bills=bills,
    )


@asynccontextmanager
async def _snapshot(database: Database) -> AsyncIterator[AsyncConnection]:
    """A connection whose statements all see the same state."""
    async with database.read() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        yield connection


async def _compare_hour(connection: AsyncConnection, hour: Window, findings: Findings) -> None:
    deltas, endpoints = Deltas(), await read_endpoints(connection)
    await deltas.add_pruned(connection, pruned_rollups.c.bucket_hour == hour.since)
    undigested: list[str] = []
    async for page in read_pages(connection, hour):
        for number, books in enumerate(page):
            add_to(deltas, books)
            _count(books, findings, undigested)
            if not books.in_outbox:
                findings.differences += _compare_execution(books, endpoints)
            if number % _BREATH == 0:
                await asyncio.sleep(0)
    await check_hour(connection, hour, deltas, findings)
    await _judge(connection, hour, undigested, findings)


def _compare_execution(books: ExecutionBooks, endpoints: Endpoints) -> list[Difference]:
    """The differences of one execution, each column of its record once, however many books contradict it."""
    of_record: dict[str, Difference] = {}
    others: list[Difference] = []
    for one in (*check_record(books), *check_control(books), *check_webhooks(books, endpoints)):
        known = of_record.get(column_told_by(one))
        if known is not None and one.check in _AGAINST_RECORD:
            if known.check is not one.check and one.check is Check.CONTROL:
                of_record[one.column] = replace(known, cause=_RECORD_ALONE)
        elif one.check in (Check.RECORD, Check.CONTROL):
            of_record[one.column] = one
        else:
            others.append(one)
    return [*of_record.values(), *others]


_AGAINST_RECORD = (Check.RECORD, Check.CONTROL, Check.WEBHOOK)
_RECORD_ALONE = "the record was changed after it was stored: its spans and its result agree on another value"


def _count(books: ExecutionBooks, findings: Findings, undigested: list[str]) -> None:
    findings.in_outbox += books.in_outbox
    if books.record is None:
        return
    has_ended = books.record["status"] in TERMINAL
    findings.executions += has_ended
    findings.unfinished += not has_ended
    if not has_digest(books.record, len(books.spans)):
        undigested.append(books.id)


async def _judge(connection: AsyncConnection, hour: Window, undigested: list[str], findings: Findings) -> None:
    """Records without a digest are old, unless records had digests a day before: no upgrade takes so long."""
    if not undigested:
        return
    c = executions.c
    older = select(c.id).where(c.id < first_id(hour.since - DAY), c[DIGEST_COLUMNS[1]].is_not(None))
    if (await connection.execute(older.order_by(c.id.desc()).limit(1))).first() is None:
        findings.without_digest += len(undigested)
        return
    findings.differences += [
        Difference(Check.SPAN, id_, DIGEST_COLUMNS[1], None, None, _NO_DIGEST) for id_ in undigested
    ]


_NO_DIGEST = "the record's digest was removed, or a program from before the digests still stores spans"
