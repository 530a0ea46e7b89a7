"""Inserts many rows in one statement, on both databases.

SQLite gets a list of `VALUES`, in a few fixed lengths so that its cache of compiled statements is hit. PostgreSQL gets
one array per column and `unnest`s them, so that its statement is always the same. From 200 rows on PostgreSQL uses
COPY, which is the fastest way. COPY cannot handle conflicts, so it fills a temporary table first, or the table itself
if most rows are new.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, TypeVar
from zlib import crc32

from asyncpg import UniqueViolationError  # type: ignore[import-untyped]  # asyncpg ships no types
from sqlalchemy import JSON, Dialect, Table
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import UtcTime, json_text

Cell = object
Row = tuple[Cell, ...]
Convert = Callable[[Any], Any]

_F = TypeVar("_F")

_MAX_PARAMETERS = 16_384
"""Below SQLite's limit of 32,766; longer statements are no faster."""

_LENGTHS = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Rows per statement of SQLite. A statement takes four trips to its thread and back, so few statements are best."""

_COPIED_FROM = 200
"""From this many rows on a temporary table is worth its round trips."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """A temporary table in PostgreSQL; it belongs to the connection and is empty when a transaction starts."""

    name: str
    create: str
    insert: str
    """Moves its rows into the table."""


@dataclass(frozen=True, slots=True)
class _Plan:
    head: str
    tail: str
    converters: list[tuple[int, Convert]]
    lengths: tuple[int, ...] = ()
    """The numbers of rows a statement may have, largest first; empty for any number (PostgreSQL)."""
    stage: _Stage | None = None


class BulkInsert:
    """`INSERT … ON CONFLICT … RETURNING` for rows of one table.

    `conflict` and `returning` are SQL that both databases understand. Rows are tuples in the order of `columns`; no two
    rows of one call may have the same key. `mostly_new` promises that conflicts are rare and ignored, and that
    `returning` names written columns: then many rows are copied straight into PostgreSQL's table, and go through the
    temporary table only if one of them exists already.
    """

    def __init__(
        self,
        table: Table,
        columns: Sequence[str],
        conflict: str,
        returning: Sequence[str] = (),
        *,
        mostly_new: bool = False,
    ) -> None:
        self._table = table
        self._columns = list(columns)
        self._conflict = conflict
        self._returning = ", ".join(returning)
        self._returned_positions = [columns.index(name) for name in returning] if mostly_new else []
        self._mostly_new = mostly_new
        self._plans: dict[str, _Plan] = {}

    async def run(self, connection: AsyncConnection, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        """Write the rows; returns the `returning` columns of each row that was inserted or updated."""
        return await self.run_each(connection, rows, _itself)

    async def run_each(
        self, connection: AsyncConnection, facts: Sequence[_F], row_of: Callable[[_F], Row]
    ) -> list[tuple[Any, ...]]:
        """Write the row of each fact, as `run` does. A COPY makes rows while the server stores earlier ones."""
        if not facts:
            return []
        plan = self._plan(connection.dialect)
        if plan.stage is not None and len(facts) >= _COPIED_FROM:
            return await self._copy(connection, plan, plan.stage, lambda: map(row_of, facts))
        returned: list[tuple[Any, ...]] = []
        for statement, parameters in self._statements(plan, list(_converted(map(row_of, facts), plan.converters))):
            result = await connection.exec_driver_sql(statement, parameters)
            if self._returning:
                returned.extend(tuple(row) for row in result)
        return returned

    async def _copy(
        self, connection: AsyncConnection, plan: _Plan, stage: _Stage, rows: Callable[[], Iterator[Row]]
    ) -> list[tuple[Any, ...]]:
        if self._mostly_new and (stored := await self._copy_new(connection, plan, rows())) is not None:
            return stored
        await connection.exec_driver_sql(stage.create)
        # An earlier call may have filled it in the same transaction. TRUNCATE would create a new file.
        await connection.exec_driver_sql(f"DELETE FROM {stage.name}")
        await self._copy_into(connection, stage.name, _converted(rows(), plan.converters))
        result = await connection.exec_driver_sql(stage.insert)
        return [tuple(row) for row in result] if self._returning else []

    async def _copy_new(
        self, connection: AsyncConnection, plan: _Plan, rows: Iterator[Row]
    ) -> list[tuple[Any, ...]] | None:
        """Copy all rows and return their `returning` columns; null if a row existed already, and none was stored."""
        stored: list[tuple[Any, ...]] = []

        def noted() -> Iterator[Row]:
            for row in rows:
                stored.append(tuple([row[position] for position in self._returned_positions]))
                yield row

        try:
            async with connection.begin_nested():
                await self._copy_into(connection, self._table.name, _converted(noted(), plan.converters))
        except UniqueViolationError:
            return None
        return stored

    async def _copy_into(self, connection: AsyncConnection, table: str, rows: Iterator[Row]) -> None:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.copy_records_to_table(table, records=rows, columns=self._columns)

    def _statements(self, plan: _Plan, rows: Sequence[Row]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        if not plan.lengths:
            yield plan.head + plan.tail, tuple(map(list, zip(*rows, strict=True)))
            return
        one = "(" + ", ".join("?" * len(self._columns)) + ")"
        start = 0
        for length in plan.lengths:
            while len(rows) - start >= length:
                part = rows[start : start + length]
                yield plan.head + ", ".join([one] * length) + plan.tail, tuple(chain.from_iterable(part))
                start += length

    def _plan(self, dialect: Dialect) -> _Plan:
        plan = self._plans.get(dialect.name)
        if plan is None:
            plan = self._plans[dialect.name] = self._make_plan(dialect)
        return plan

    def _make_plan(self, dialect: Dialect) -> _Plan:
        names = ", ".join(self._columns)
        tail = f" {self._conflict}" + (f" RETURNING {self._returning}" if self._returning else "")
        found = ((position, self._converter(name, dialect)) for position, name in enumerate(self._columns))
        converters = [(position, convert) for position, convert in found if convert is not None]
        if dialect.name == "sqlite":
            lengths = tuple(n for n in _LENGTHS if n * len(self._columns) <= _MAX_PARAMETERS)
            return _Plan(f"INSERT INTO {self._table.name} ({names}) VALUES ", tail, converters, lengths)
        columns = [self._column(name, dialect) for name in self._columns]
        arrays = ", ".join(f"${number}::{column.sent_as}[]" for number, column in enumerate(columns, start=1))
        head = (
            f"INSERT INTO {self._table.name} ({names}) SELECT {', '.join(column.selected for column in columns)} FROM "
        )
        return _Plan(
            f"{head}unnest({arrays}) AS rows ({names})", tail, converters, stage=self._stage(columns, head, tail)
        )

    def _stage(self, columns: Sequence["_Column"], head: str, tail: str) -> _Stage:
        described = ", ".join(f"{column.name} {column.sent_as}" for column in columns)
        name = f"staged_{self._table.name}_{crc32(described.encode()):08x}"
        create = f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ({described}) ON COMMIT DELETE ROWS"
        return _Stage(name, create, f"{head}{name}{tail}")

    def _converter(self, name: str, dialect: Dialect) -> Convert | None:
        """The conversion of a cell; for times and JSON a faster one than SQLAlchemy's, with the same text."""
        type_ = self._table.c[name].type
        if isinstance(type_, UtcTime):
            return _utc_text if dialect.name == "sqlite" else None
        if isinstance(type_, JSON):
            return _json_text
        return type_.dialect_impl(dialect).bind_processor(dialect)

    def _column(self, name: str, dialect: Dialect) -> "_Column":
        type_ = self._table.c[name].type
        sql_type = type_.compile(dialect)
        # JSON travels as text: the driver has no codec of its own for it.
        return (
            _Column(name, "TEXT", f"{name}::{sql_type}") if isinstance(type_, JSON) else _Column(name, sql_type, name)
        )


@dataclass(frozen=True, slots=True)
class _Column:
    """A column as PostgreSQL receives it."""

    name: str
    sent_as: str
    selected: str


def _utc_text(time: datetime | None) -> str | None:
    """The text that SQLAlchemy stores for a time in UTC."""
    return None if time is None else time.isoformat(" ", "microseconds")[:26]


def _json_text(value: object) -> str | None:
    return None if value is None else json_text(value)


def _itself(row: Row) -> Row:
    return row


def _converted(rows: Iterable[Row], converters: list[tuple[int, Convert]]) -> Iterator[Row]:
    if not converters:
        yield from rows
        return
    for row in rows:
        cells = list(row)
        for position, convert in converters:
            cells[position] = convert(cells[position])
        yield tuple(cells)
