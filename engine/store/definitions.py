"""Stores definitions: graphs under a slug, with a new version whenever the content changes."""

from typing import Any

from sqlalchemy import Row, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from engine.database.base import insert, now_sql
from engine.database.database import Database
from engine.graph import JsonObject
from engine.resources import Definition
from engine.store.tables import workflow_definitions


class StoredDefinitions:
    """`engine.resources.Definitions` over the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, slug_or_id: str, version: int | None, owner: str) -> Definition | None:
        """Find a definition of this owner by slug or id, or a public definition of another owner by id."""
        async with self._database.read() as connection:
            return await find_definition(connection, slug_or_id, version, owner)


async def find_definition(
    connection: AsyncConnection, slug_or_id: str, version: int | None, owner: str
) -> Definition | None:
    """Return a version of a definition, or its latest. A matching slug takes precedence over a matching id."""
    table = workflow_definitions
    own = table.c.owner_id == owner
    query = select(table).where(
        or_((table.c.slug == slug_or_id) & own, (table.c.definition_id == slug_or_id) & (own | table.c.is_public))
    )
    if version is not None:
        query = query.where(table.c.version == version)
    rows = await connection.execute(
        query.order_by(table.c.definition_id == slug_or_id, table.c.version.desc()).limit(1)
    )
    row = rows.one_or_none()
    return None if row is None else _read(row)


async def save_definition(
    connection: AsyncConnection, owner: str, slug: str, name: str, graph_document: JsonObject, content_hash: str
) -> Definition:
    """Return the latest version if its content is the same; otherwise store the content as the next version."""
    while True:
        latest = await _latest(connection, owner, slug)
        if latest is not None and latest.content_hash == content_hash:
            return _read(latest)
        statement = insert(connection.dialect, workflow_definitions).values(
            definition_id=latest.definition_id if latest else str(uuid7()),
            version=latest.version + 1 if latest else 1,
            owner_id=owner,
            slug=slug,
            name=name,
            description="",
            graph=graph_document,
            content_hash=content_hash,
            tags=[],
            is_public=False,
            metadata={},
            created_at=now_sql(),
        )
        # No row is returned if another writer has stored this version in the meantime: read the latest again.
        rows = await connection.execute(statement.on_conflict_do_nothing().returning(*workflow_definitions.c))
        if (row := rows.one_or_none()) is not None:
            return _read(row)


async def _latest(connection: AsyncConnection, owner: str, slug: str) -> Row[Any] | None:
    table = workflow_definitions
    rows = await connection.execute(
        select(table).where(table.c.owner_id == owner, table.c.slug == slug).order_by(table.c.version.desc()).limit(1)
    )
    return rows.one_or_none()


def _read(row: Row[Any]) -> Definition:
    return Definition(id=row.definition_id, slug=row.slug, version=row.version, name=row.name, graph=row.graph)
