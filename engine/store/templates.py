"""Stores templates: finds the version that a caller names, and stores the built-in templates."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import rfc8785
from sqlalchemy import Row, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import insert, now_sql
from engine.database.database import Database
from engine.resources import Template
from engine.store.tables import BUILTIN_OWNER, workflow_templates

_SYNC_LOCK = 0x5350_4C54
"""Any fixed number. This advisory lock makes processes that start together store the built-ins in turn."""


class StoredTemplates:
    """`engine.resources.Templates` over the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key_or_id: str, version: int | None, owner: str) -> Template | None:
        """Find a template by key or id; see `find_template`."""
        async with self._database.read() as connection:
            return await find_template(connection, key_or_id, version, owner)


async def find_template(
    connection: AsyncConnection, key_or_id: str, version: int | None, owner: str
) -> Template | None:
    """Return a version of a template, or its latest; null if this owner cannot see any.

    The owner's own template takes precedence over the built-in one with the same key. Public templates of other owners
    are found by id only.
    """
    table = workflow_templates
    visible = table.c.owner_id.in_([owner, BUILTIN_OWNER])
    matches = or_(
        (table.c.key == key_or_id) & visible,
        (table.c.template_id == key_or_id) & (visible | table.c.is_public),
    )
    wanted = table.c.is_latest if version is None else table.c.is_latest | (table.c.version == version)
    rows = (await connection.execute(select(table).where(matches, wanted))).all()
    latest = [row for row in rows if row.is_latest]
    if not latest:
        return None
    template_id = min(latest, key=lambda row: (row.owner_id != owner, row.owner_id != BUILTIN_OWNER)).template_id
    versions = [row for row in rows if row.template_id == template_id]
    return next((_read(row) for row in versions if row.version == version or version is None), None)


async def sync_builtin(connection: AsyncConnection, templates: Sequence[Template]) -> list[Template]:
    """Store the built-in templates and return the versions that were written.

    A template whose content has changed gets a new version. Safe to repeat and to run in two processes at once.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SYNC_LOCK})
    table = workflow_templates
    rows = await connection.execute(
        select(table.c.template_id, table.c.version, table.c.content_hash).where(table.c.is_latest, table.c.is_builtin)
    )
    known = {row.template_id: row for row in rows}
    written: list[Template] = []
    for template in templates:
        latest = known.get(template.id)
        if latest is not None and latest.content_hash == template_hash(template):
            continue
        await connection.execute(update(table).where(table.c.template_id == template.id).values(is_latest=False))
        written.append(await _insert_builtin(connection, template, 1 if latest is None else latest.version + 1))
    return written


def template_hash(template: Template) -> str:
    """Return `sha256:` and the hex digest of a version's content, without its id and number."""
    content = {name: value for name, value in asdict(template).items() if name not in ("id", "version", "is_builtin")}
    return "sha256:" + hashlib.sha256(rfc8785.dumps(content)).hexdigest()


async def _insert_builtin(connection: AsyncConnection, template: Template, version: int) -> Template:
    values = asdict(template) | {
        "template_id": template.id,
        "version": version,
        "owner_id": BUILTIN_OWNER,
        "content_hash": template_hash(template),
        "is_builtin": True,
        "is_public": True,
        "is_latest": True,
        "created_at": now_sql(),
    }
    del values["id"]
    statement = insert(connection.dialect, workflow_templates).values(values)
    row = await connection.execute(statement.returning(*workflow_templates.c))
    return _read(row.one())


def _read(row: Row[Any]) -> Template:
    return Template(
        id=row.template_id,
        key=row.key,
        version=row.version,
        name=row.name,
        description=row.description,
        category=row.category,
        tags=tuple(row.tags),
        parameters=row.parameters,
        defaults=row.defaults,
        graph=row.graph,
        required_tools=tuple(row.required_tools),
        required_retrievers=tuple(row.required_retrievers),
        is_builtin=row.is_builtin,
    )
