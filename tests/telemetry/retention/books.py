"""Shared by the tests of retention: periods after which everything is due, and a comparison of the books."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from engine.database.database import Database
from telemetry.reconcile.audit import check_books
from telemetry.reconcile.job import ReconcileJob
from telemetry.reconcile.window import floor_hour
from telemetry.records.rollups import rebuild
from telemetry.retention.periods import Periods
from telemetry.store.tables import execution_rollups, execution_rollups_daily

AGO = timedelta(seconds=-1)
"""A period that is over at once, whichever clock is ahead."""
LONG = timedelta(days=3_650)

KEPT = Periods(content=LONG, spans=LONG, idempotency=LONG, webhooks=LONG, dead_letters=LONG)
ALL = Periods(content=AGO, spans=AGO, records=AGO, idempotency=AGO, webhooks=AGO, dead_letters=AGO)
_HOURS: Iterator[int] = itertools.count(2)


async def compare_now(database: Database) -> list[str]:
    """The hourly comparison, over everything up to now; the differences as sentences."""
    ahead = floor_hour(datetime.now(UTC)) + timedelta(hours=next(_HOURS) % 20 + 2, minutes=30)
    report = await ReconcileJob(database, None, clock=lambda: ahead).run_if_due()
    return [] if report is None else list(map(str, report.differences))


async def rollups(database: Database) -> list[tuple[object, ...]]:
    """All roll-up rows."""
    found: list[tuple[object, ...]] = []
    async with database.read() as connection:
        for table in (execution_rollups, execution_rollups_daily):
            rows = await connection.execute(select(table).order_by(*table.primary_key))
            found += [tuple(row) for row in rows]
    return found


async def check_history(database: Database) -> None:
    """The books agree, and a rebuild gives the roll-ups that are there."""
    assert await check_books(database) == []
    before = await rollups(database)
    async with database.begin() as connection:
        await rebuild(connection)
    assert await rollups(database) == before
