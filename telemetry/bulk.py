"""Many rows in one statement, on both databases.

SQLite gets a list of `VALUES`, in a few fixed lengths so that its cache of compiled statements is hit; PostgreSQL gets
one array per column and `unnest`s them, so that its statement is always the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy import JSON, Dialect, Table
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.store.base import UtcTime, json_text

Cell = object
Convert = Callable[[Any], Any]

_MAX_PARAMETERS = 8_192
"""Below SQLite's limit of 32,766; longer statements are no faster."""


@dataclass(frozen=True, slots=True)
class _Plan:
    head: str
    tail: str
    converters: list[tuple[int, Convert]]
    lengths: tuple[int, ...]
    """How many rows a statement takes, longest first; empty: any number (PostgreSQL)."""


class BulkInsert:
    """`INSERT … ON CONFLICT … RETURNING` for rows of one table.

    `conflict` and `returning` are SQL that both databases understand. Rows are tuples in the order of `columns`; no two
    of one call may have the same key.
    """

    def __init__(self, table: Table, columns: Sequence[str], conflict: str, returning: Sequence[str] = ()) -> None:
        self._table = table
        self._columns = list(columns)
        self._conflict = conflict
        self._returning = ", ".join(returning)
        self._plans: dict[str, _Plan] = {}

    async def run(self, connection: AsyncConnection, rows: Sequence[tuple[Cell, ...]]) -> list[tuple[Any, ...]]:
        """Write the rows; what `returning` names, for each row that was inserted or updated."""
        if not rows:
            return []
        plan = self._plan(connection.dialect)
        stored = [_convert(row, plan.converters) for row in rows] if plan.converters else rows
        returned: list[tuple[Any, ...]] = []
        for statement, parameters in self._statements(plan, stored):
            result = await connection.exec_driver_sql(statement, parameters)
            if self._returning:
                returned.extend(tuple(row) for row in result)
        return returned

    def _statements(self, plan: _Plan, rows: Sequence[tuple[Cell, ...]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
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
            lengths = tuple(n for n in (256, 64, 16, 4, 1) if n * len(self._columns) <= _MAX_PARAMETERS)
            return _Plan(f"INSERT INTO {self._table.name} ({names}) VALUES ", tail, converters, lengths)
        arrays, selected = self._arrays(dialect)
        head = f"INSERT INTO {self._table.name} ({names}) SELECT {selected} FROM unnest({arrays}) AS rows ({names})"
        return _Plan(head, tail, converters, ())

    def _converter(self, name: str, dialect: Dialect) -> Convert | None:
        """How a cell of the column is written; times and JSON go past SQLAlchemy's slower ways to the same text."""
        type_ = self._table.c[name].type
        if isinstance(type_, UtcTime):
            return _utc_text if dialect.name == "sqlite" else None
        if isinstance(type_, JSON):
            return _json_text
        return type_.dialect_impl(dialect).bind_processor(dialect)

    def _arrays(self, dialect: Dialect) -> tuple[str, str]:
        arrays, selected = [], []
        for number, name in enumerate(self._columns, start=1):
            type_ = self._table.c[name].type
            sql_type = type_.compile(dialect)
            # JSON travels as text: an array of JSON would need a codec of its own.
            is_json = isinstance(type_, JSON)
            arrays.append(f"${number}::{'TEXT' if is_json else sql_type}[]")
            selected.append(f"{name}::{sql_type}" if is_json else name)
        return ", ".join(arrays), ", ".join(selected)


def _utc_text(time: datetime | None) -> str | None:
    """As SQLAlchemy stores it; the time is in UTC."""
    return None if time is None else time.isoformat(" ", "microseconds")[:26]


def _json_text(value: object) -> str | None:
    return None if value is None else json_text(value)


def _convert(row: tuple[Cell, ...], converters: list[tuple[int, Convert]]) -> tuple[Cell, ...]:
    cells = list(row)
    for position, convert in converters:
        cells[position] = convert(cells[position])
    return tuple(cells)
