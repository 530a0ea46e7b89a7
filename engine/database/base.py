"""The parts of every table: shared metadata, column types, and SQL functions that work on both databases.

The tables of the engine and of the bookkeeper share one `metadata`, so that one migration history covers both.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    ColumnElement,
    Dialect,
    Float,
    MetaData,
    Table,
    Text,
    any_,
    bindparam,
    func,
    literal,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import DateTime, TypeDecorator

from engine.documents.json_text import to_json

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

JsonColumn = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""JSON, written by `json_text`. None is SQL NULL."""


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC, timezone-aware in and out on both databases; a naive one is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a timezone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class now_sql(FunctionElement[datetime]):
    """The database's clock when the statement runs. Leases and due times are compared with it."""

    type = UtcTime()
    inherit_cache = True


@compiles(now_sql, "postgresql")
def _now_on_postgres(element: now_sql, compiler: SQLCompiler, **kw: Any) -> str:
    return "statement_timestamp()"


@compiles(now_sql, "sqlite")
def _now_on_sqlite(element: now_sql, compiler: SQLCompiler, **kw: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


async def database_time(connection: AsyncConnection) -> datetime:
    """The database's clock now."""
    now: datetime = (await connection.execute(select(now_sql()))).scalar_one()
    return now


class later_sql(FunctionElement[datetime]):
    """The database's clock plus a number of seconds (a float, as a bound parameter)."""

    type = UtcTime()
    inherit_cache = True

    def __init__(self, seconds: float) -> None:
        super().__init__(literal(seconds, Float()))


@compiles(later_sql, "postgresql")
def _later_on_postgres(element: later_sql, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(statement_timestamp() + {compiler.process(element.clauses, **kw)} * interval '1 second')"


@compiles(later_sql, "sqlite")
def _later_on_sqlite(element: later_sql, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+.3f seconds', {seconds}))"


def json_text(value: object) -> str:
    """A value as JSON text that both databases accept: `storable`, with null for NaN."""
    try:
        text = to_json(value)
    except TypeError:
        text = to_json(storable(value))
    if rb"\u0000" in text:
        text = to_json(storable(value))
    return text.decode()


def storable(value: Any) -> Any:
    """The value with U+FFFD for NULs and lone surrogates: models write them, PostgreSQL refuses them."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {storable(key): storable(each) for key, each in value.items()}
    return [storable(each) for each in value] if isinstance(value, list | tuple) else value


def one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    """A CHECK that a text column holds one of these values (or NULL where the column allows it)."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def among(dialect: Dialect, column: Column[str], values: Collection[str]) -> ColumnElement[bool]:
    """The condition that a text column holds one of these values, as one parameter; `IN` needs one for each."""
    if dialect.name == "postgresql":
        return column == any_(bindparam(None, list(values), type_=postgresql.ARRAY(Text)))
    listed = func.json_each(json_text(list(values))).table_valued("value")
    return column.in_(select(listed.c.value))


def insert(dialect: Dialect, table: Table) -> "postgresql.Insert | sqlite.Insert":
    """An INSERT that knows `ON CONFLICT`, which both databases spell alike."""
    return postgresql.insert(table) if dialect.name == "postgresql" else sqlite.insert(table)
