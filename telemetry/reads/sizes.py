"""The size of the database and of its tables, as far as that can be read at small cost."""

from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

MOST_PAGES = 65_536
"""SQLite reads the whole file to find the size of a table; files with more pages (256 MiB) are not read."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes in bytes. `tables` counts each table with its indexes; it is empty where that would be costly."""

    total: int = 0
    free: int | None = None
    """Free pages within the file; null on PostgreSQL."""
    tables: dict[str, int] = field(default_factory=dict)


async def read_sizes(connection: AsyncConnection) -> Sizes:
    """The sizes now."""
    return await (_of_sqlite if connection.dialect.name == "sqlite" else _of_postgres)(connection)


async def _of_postgres(connection: AsyncConnection) -> Sizes:
    total = (await connection.execute(text("SELECT pg_database_size(current_database())"))).scalar_one()
    rows = await connection.execute(
        text(
            "SELECT c.relname, pg_total_relation_size(c.oid) FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = current_schema() AND c.relkind = 'r' ORDER BY c.relname"
        )
    )
    return Sizes(total, None, {row[0]: row[1] for row in rows})


async def _of_sqlite(connection: AsyncConnection) -> Sizes:
    pages, free, page_bytes = [
        (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
        for name in ("page_count", "freelist_count", "page_size")
    ]
    has_statistics = (
        await connection.execute(text("SELECT count(*) FROM pragma_module_list WHERE name = 'dbstat'"))
    ).scalar_one()
    if not has_statistics or pages > MOST_PAGES:
        return Sizes(pages * page_bytes, free * page_bytes)
    rows = await connection.execute(
        text(
            "SELECT s.tbl_name, SUM(d.pgsize) FROM dbstat d JOIN sqlite_schema s ON s.name = d.name"
            " WHERE d.aggregate = TRUE GROUP BY s.tbl_name ORDER BY s.tbl_name"
        )
    )
    return Sizes(pages * page_bytes, free * page_bytes, {row[0]: row[1] for row in rows})
