"""Finds what is due and deletes it in small transactions, so that executions go on meanwhile; a job of the keeper.

A transaction is small enough to hold its locks for some hundredths of a second, and after each there is a pause as
long. Each is complete in itself: a process that dies in between has lost nothing, and the next run goes on.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from sqlalchemy import func, select, text
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import database_time
from engine.database.database import Database
from engine.database.failures import DATABASE_ERRORS
from engine.store import control_reads
from telemetry.health import Health
from telemetry.records.rollups import first_id
from telemetry.retention.aged import AGED, Aged, Key, count
from telemetry.retention.erasure import erase_stored
from telemetry.retention.holds import FIND, Hold
from telemetry.retention.pages import give_back
from telemetry.retention.periods import Periods, Policy, read_rules
from telemetry.retention.stores import CONTENT, Batch, Deleted, Erase, Store, list_stores

EVERY_SECONDS = 600.0
FIRST_SECONDS = 60.0
"""A service that is often started again deletes, too."""
PAGE = 500
"""Executions, or rows, that are looked at in one read."""
_WANTED_SECONDS = 0.04
"""How long a transaction is to take."""
_SMALLEST, _FIRST, _LARGEST = 25, 50, 200
"""Executions in a transaction. Fewer would only add transactions: then it is the machine that is busy."""
_LOCK_KEY = 0x72657465
"""The advisory lock on PostgreSQL: of several keepers one deletes at a time."""
_TAKEN_SECONDS = 0.05

log = logging.getLogger(__name__)


@dataclass(slots=True)
class TableReport:
    """The rows of one table that were deleted, or would be."""

    rows: int = 0
    oldest: datetime | None = None
    """When the oldest of their executions ended, or the time of the oldest row."""

    def add(self, rows: int, oldest: datetime | None) -> None:
        """Count further rows."""
        self.rows += rows
        if oldest is not None and rows:
            self.oldest = oldest if self.oldest is None else min(self.oldest, oldest)


@dataclass(slots=True)
class RetentionReport:
    """What was deleted, or would be, by table; and how many executions are kept though they are due, by reason."""

    tables: dict[str, TableReport] = field(default_factory=dict)
    held: Counter[Hold] = field(default_factory=Counter)
    pages_given_back: int = 0
    longest_seconds: float = 0.0
    """The longest transaction."""

    def add(self, rows: Counter[str], oldest: datetime | None) -> None:
        """Count further rows."""
        for table, number in rows.items():
            self.tables.setdefault(table, TableReport()).add(number, oldest)

    @property
    def rows(self) -> Counter[str]:
        """The number of rows, by table."""
        return Counter({table: one.rows for table, one in self.tables.items()})


_Work = Callable[[AsyncConnection], Awaitable[Deleted]]


class _Pace:
    """The number of executions per transaction, by how long the last ones took."""

    def __init__(self) -> None:
        self.size = _FIRST

    def note(self, seconds: float) -> None:
        """Half as many after a slow transaction, twice as many after a quick one."""
        if seconds > _WANTED_SECONDS:
            self.size = max(_SMALLEST, self.size // 2)
        elif seconds < _WANTED_SECONDS / 2:
            self.size = min(_LARGEST, self.size * 2)


class Retention:
    """Deletes what is due in one database."""

    def __init__(
        self,
        database: Database,
        periods: Periods | None = None,
        health: Health | None = None,
        *,
        erase: Erase = erase_stored,
    ) -> None:
        """`erase` deletes content whose control row stays; the default leaves the outbox out."""
        self._stores = list_stores(erase)
        self._database = database
        self._periods = periods or Periods()
        self._health = health or Health()
        self._health.rows_pruned.update(dict.fromkeys(self._tables(), 0))
        self._pace = _Pace()

    async def run(self, every_seconds: float = EVERY_SECONDS) -> None:
        """Delete what is due, regularly, until cancelled."""
        seconds = min(FIRST_SECONDS, every_seconds)
        while True:
            await asyncio.sleep(seconds)
            seconds = every_seconds
            try:
                report = await self.delete_due()
            except DATABASE_ERRORS as error:
                log.warning("rows that are due could not be deleted; trying again", extra={"error": str(error)})
            else:
                if report.rows.total():
                    log.info("rows that were due were deleted", extra={"rows": dict(report.rows)})

    async def find_due(self) -> RetentionReport:
        """What `delete_due` would delete now. Raises `Unavailable`."""
        policy, now = await self._policy()
        report = RetentionReport()
        for store in self._stores:
            async for records in self._due_pages(store, policy, now, report):
                await self._count(store, records, report)
        async with self._database.read() as connection:
            for aged in AGED:
                rows, oldest = await count(connection, aged, now - aged.period(self._periods))
                report.add(Counter({aged.table.name: rows}), oldest)
        return report

    async def delete_due(self) -> RetentionReport:
        """Delete everything that is due now. Raises `Unavailable`."""
        policy, now = await self._policy()
        report = RetentionReport()
        for store in self._stores:
            async for records in self._due_pages(store, policy, now, report):
                await self._delete_page(store, records, report)
        for aged in AGED:
            await self._delete_aged(aged, now - aged.period(self._periods), report)
        report.pages_given_back = await give_back(self._database)
        return report

    async def _policy(self) -> tuple[Policy, datetime]:
        async with self._database.read() as connection:
            return Policy(self._periods, await read_rules(connection)), await database_time(connection)

    async def _due_pages(
        self, store: Store, policy: Policy, now: datetime, report: RetentionReport
    ) -> AsyncIterator[list[RowMapping]]:
        """The executions that are due, page by page in the order of their ids."""
        shortest = store.period(policy.shortest)
        if shortest is None:
            return
        after, before = "", first_id(now - shortest)
        held: Counter[Hold] = Counter()
        while True:
            async with self._database.read() as connection:
                ids = list((await connection.execute(store.page(after, before, PAGE))).scalars())
                found = await _read(connection, store, ids)
                records = [record for record in found if _is_due(record, store, policy, now)]
                free, reasons = await _split_by_holds(connection, store, records)
            held.update(reasons)
            if free:
                yield free
            if len(ids) < PAGE:
                break
            after = ids[-1]
        report.held |= held  # the same executions, for the most part, as in other stores

    async def _count(self, store: Store, records: Sequence[RowMapping], report: RetentionReport) -> None:
        async with self._database.read() as connection:
            for rows in (store.rows, *store.also):
                chosen = rows.chosen(connection.dialect, [record["id"] for record in records])
                number = await connection.execute(select(func.count()).select_from(rows.table).where(*chosen))
                report.add(Counter({store.name or rows.table.name: number.scalar_one()}), _oldest(records))

    async def _delete_page(self, store: Store, records: Sequence[RowMapping], report: RetentionReport) -> None:
        left = list(records)
        while left:
            batch = left[: self._pace.size]
            done = await self._transact(partial(_delete_batch, store, [record["id"] for record in batch]), report)
            self._note(done.rows, _oldest(batch), report)
            if done.is_all:
                left = left[len(batch) :]

    async def _delete_aged(self, aged: Aged, before: datetime, report: RetentionReport) -> None:
        after: Key | None = None
        while True:
            async with self._database.read() as connection:
                found = await connection.execute(aged.page(after, before, self._pace.size))
                page = [(row[0], row[1]) for row in found]
            if not page:
                return
            done = await self._transact(partial(_delete_rows, aged, [id_ for _, id_ in page]), report)
            self._note(done.rows, page[0][0], report)
            after = page[-1]

    async def _transact(self, work: _Work, report: RetentionReport) -> Deleted:
        """Do the work in one transaction, then let others write for as long."""
        done: Deleted | None = None
        while done is None:
            async with self._database.begin() as connection:
                began = time.monotonic()
                if await _is_ours(connection):
                    done = await work(connection)
            seconds = time.monotonic() - began
            await asyncio.sleep(_TAKEN_SECONDS if done is None else seconds)
        self._pace.note(seconds)
        report.longest_seconds = max(report.longest_seconds, seconds)
        return done

    def _tables(self) -> set[str]:
        """The names under which deleted rows are counted."""
        of_stores = {rows.table.name for store in self._stores for rows in (store.rows, *store.also)}
        return {*of_stores, *(aged.table.name for aged in AGED), CONTENT}

    def _note(self, deleted: Counter[str], oldest: datetime | None, report: RetentionReport) -> None:
        report.add(deleted, oldest)
        self._health.rows_pruned.update(deleted)


async def _delete_batch(store: Store, ids: Sequence[str], connection: AsyncConnection) -> Deleted:
    """Look again under a lock, and delete."""
    await control_reads.lock(connection, ids)
    locked = await _read(connection, store, ids, lock=True)
    free, _ = await _split_by_holds(connection, store, locked)
    return await store.delete(connection, Batch(free, await database_time(connection)))


async def _delete_rows(aged: Aged, ids: Sequence[str], connection: AsyncConnection) -> Deleted:
    return Deleted(await aged.delete(connection, ids, await database_time(connection)))


async def _is_ours(connection: AsyncConnection) -> bool:
    """Whether no other process deletes at this moment. SQLite has a single writer anyway."""
    if connection.dialect.name == "sqlite":
        return True
    lock = text("SELECT pg_try_advisory_xact_lock(:key)")
    return bool((await connection.execute(lock, {"key": _LOCK_KEY})).scalar_one())


async def _read(
    connection: AsyncConnection, store: Store, ids: Sequence[str], *, lock: bool = False
) -> list[RowMapping]:
    """Those of these executions that have ended, by id."""
    if not ids:
        return []
    statement = store.described.those_of(connection.dialect, ids)
    return list((await connection.execute(statement.with_for_update() if lock else statement)).mappings())


def _is_due(record: RowMapping, store: Store, policy: Policy, now: datetime) -> bool:
    period = store.period(policy.of(record))
    return period is not None and record["completed_at"] < now - period


async def _split_by_holds(
    connection: AsyncConnection, store: Store, records: Sequence[RowMapping]
) -> tuple[list[RowMapping], Counter[Hold]]:
    """The records that nothing holds back, and how many each reason does."""
    free, reasons = list(records), Counter[Hold]()
    for hold in store.holds:
        if not free:
            break
        found = await FIND[hold](connection, [record["id"] for record in free])
        kept = [record for record in free if record["id"] not in found]
        reasons[hold] += len(free) - len(kept)
        free = kept
    return free, +reasons


def _oldest(records: Sequence[RowMapping]) -> datetime | None:
    return min((record["completed_at"] for record in records), default=None)
