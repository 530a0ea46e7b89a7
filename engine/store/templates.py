"""Stored templates: which version a caller means, and how the built-in ones come in."""

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
"""Any fixed number: two processes that start together bring the built-ins in one after the other."""


class StoredTemplates:
    """`engine.resources.Templates` over the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key_or_id: str, version: int | None, owner: str) -> Template | None:
        """By key the owner's own before the built-in one; by id also what another owner made public."""
        async with self._database.read() as connection:
            return await find_template(connection, key_or_id, version, owner)


async def find_template(
    connection: AsyncConnection, key_or_id: str, version: int | None, owner: str
) -> Template | None:
    """A version of the template that the key or id means to this owner, or its latest."""
    table = workflow_templates
    visible = table.c.owner_id.in_([owner, BUILTIN_OWNER])
    meant = or_(
        (table.c.key == key_or_id) & visible,
        (table.c.template_id == key_or_id) & (visible | table.c.is_public),
    )
    wanted = table.c.is_latest if version is None else table.c.is_latest | (table.c.version == version)
    rows = (await connection.execute(select(table).where(meant, wanted))).all()
    latest = [row for row in rows if row.is_latest]
    if not latest:
        return None
    template_id = min(latest, key=lambda row: (row.owner_id != owner, row.owner_id != BUILTIN_OWNER)).template_id
    versions = [row for row in rows if row.template_id == template_id]
    return next((_read(row) for row in versions if row.version == version or version is None), None)


async def sync_builtin(connection: AsyncConnection, templates: Sequence[Template]) -> list[Template]:
    """Bring the built-in templates in; one whose content has changed becomes its next version. Gives what was written.

    Harmless when repeated, and safe when two processes start together.
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
    """`sha256:` and the hex digest of everything a version says, its number excepted."""
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
