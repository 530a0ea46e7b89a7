"""The hourly comparison of the books: its schedule, the claim of one process, and the stored reports."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

import httpx2
import orjson
from pydantic import TypeAdapter
from sqlalchemy import and_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import insert
from engine.database.database import Database
from engine.documents.json_text import to_json
from engine.errors import SpanloomError
from engine.graph import JsonObject
from telemetry.reconcile.compare import compare_books
from telemetry.reconcile.findings import CounterOutcome, ReconcileReport, count_by_check
from telemetry.reconcile.pages import next_hour
from telemetry.reconcile.prometheus import SETTLE, Prometheus, compare_counters
from telemetry.reconcile.window import DAY, Window, floor_hour
from telemetry.store.tables import reconcile_runs

MAX_STORED_DIFFERENCES = 200
"""The differences listed in a stored report; its count covers all of them."""

_WAIT = timedelta(minutes=10)
"""How long after an hour its run is due, so that all signals of the hour have been stored."""
_LOOK_BACK = DAY
_LONGEST = timedelta(days=31)
_GIVEN_UP = timedelta(minutes=15)
"""A run that has not finished after this time is taken over by another process."""
_POLL_SECONDS = 60.0
_PROMETHEUS_SECONDS = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReconcileRun:
    """A finished hourly run."""

    scheduled_for: datetime
    started_at: datetime
    finished_at: datetime
    differences: int
    drift_nano_usd: int
    report: ReconcileReport


async def reconcile(
    database: Database,
    since: datetime,
    until: datetime,
    *,
    prometheus_url: str | None,
    settle: timedelta = SETTLE,
) -> ReconcileReport:
    """Compare all books: records and roll-ups by whole hours, counters from `since` to `until`."""
    report = await compare_books(database, Window.around(since, until))
    if prometheus_url is None:
        return replace(report, counters=[CounterOutcome("all", False, "SPANLOOM_PROMETHEUS_URL is not set")])
    client = httpx2.AsyncClient(timeout=_PROMETHEUS_SECONDS, trust_env=False)
    async with database.read() as connection, client:
        prometheus = Prometheus(client, prometheus_url)
        compared = await compare_counters(connection, prometheus, since, until, settle=settle)
    return replace(report, differences=[*report.differences, *compared.differences], counters=compared.outcomes)


class ReconcileJob:
    """Compares the books once an hour, in one process per database."""

    def __init__(
        self,
        database: Database,
        prometheus_url: str | None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._prometheus_url = prometheus_url
        self._clock = clock
        self._done: datetime | None = None

    async def run(self) -> None:
        """Run hourly until cancelled."""
        while True:
            try:
                await self.run_if_due()
            except (SpanloomError, SQLAlchemyError, OSError) as error:
                log.warning("the books could not be compared; trying again", extra={"error": str(error)})
            await asyncio.sleep(_POLL_SECONDS)

    async def run_if_due(self) -> ReconcileReport | None:
        """Compare up to the last full hour; null if that run is done or another process has claimed it."""
        hour = floor_hour(self._clock() - _WAIT)
        if hour == self._done:
            return None
        since = await self._since(hour)
        if not await self._claim(hour, since):
            return None
        report = await reconcile(self._database, since, hour, prometheus_url=self._prometheus_url)
        await self._store(hour, report)
        self._done = hour
        if report.differences:
            log.error(
                "the books disagree; `spanloom reconcile` lists the differences",
                extra={"differences": len(report.differences), "since": str(since)},
            )
        return report

    async def _since(self, hour: datetime) -> datetime:
        """A day before the hour, or as far back as is not settled: drift stays visible, and no hour is left out."""
        c = reconcile_runs.c
        newest = select(c.since, c.until, c.differences).order_by(c.scheduled_for.desc()).limit(1)
        # A clock that was ahead for a while has left runs of hours that are still to come.
        before = (c.finished_at.is_not(None), c.scheduled_for < hour)
        async with self._database.read() as connection:
            last = (await connection.execute(newest.where(*before))).one_or_none()
            first = await next_hour(connection, Window(hour - _LONGEST, hour)) if last is None else None
        usual = hour - _LOOK_BACK
        if last is None:
            return usual if first is None else min(first, usual)
        settled: datetime = last.since if last.differences else last.until
        return max(min(settled, usual), hour - _LONGEST)

    async def _claim(self, hour: datetime, since: datetime) -> bool:
        now = self._clock()
        c = reconcile_runs.c
        async with self._database.begin() as connection:
            statement = insert(connection.dialect, reconcile_runs).values(
                scheduled_for=hour, started_at=now, since=since, until=hour
            )
            abandoned = and_(c.finished_at.is_(None), c.started_at < now - _GIVEN_UP)
            claimed = await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[c.scheduled_for], set_={"started_at": now, "since": since}, where=abandoned
                ).returning(c.scheduled_for)
            )
            return claimed.first() is not None

    async def _store(self, hour: datetime, report: ReconcileReport) -> None:
        async with self._database.begin() as connection:
            await connection.execute(
                update(reconcile_runs)
                .where(reconcile_runs.c.scheduled_for == hour)
                .values(
                    finished_at=self._clock(),
                    differences=len(report.differences),
                    drift_nano_usd=report.drift_nano_usd,
                    report=_document(report),
                )
            )


async def list_runs(
    connection: AsyncConnection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    before: datetime | None = None,
    limit: int = 50,
) -> list[ReconcileRun]:
    """Finished runs, newest first; `since` and `until` bound their hour, `before` ends the previous page."""
    c = reconcile_runs.c
    statement = select(reconcile_runs).where(c.finished_at.is_not(None)).order_by(c.scheduled_for.desc()).limit(limit)
    if since is not None:
        statement = statement.where(c.scheduled_for >= since)
    if until is not None:
        statement = statement.where(c.scheduled_for < until)
    if before is not None:
        statement = statement.where(c.scheduled_for < before)
    return [
        ReconcileRun(
            row["scheduled_for"],
            row["started_at"],
            row["finished_at"],
            row["differences"],
            row["drift_nano_usd"],
            _REPORT.validate_python(row["report"], strict=False),
        )
        for row in (await connection.execute(statement)).mappings()
    ]


_REPORT = TypeAdapter(ReconcileReport)


def _document(report: ReconcileReport) -> JsonObject:
    counts = count_by_check(report.differences)
    stored = replace(report, differences=report.differences[:MAX_STORED_DIFFERENCES], by_check=counts)
    document: JsonObject = orjson.loads(to_json(asdict(stored)))
    return document
