"""Which version of a template or definition a caller means."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import func, select, update

from engine.database.database import Database
from engine.execution.defaults import BuiltinTemplates
from engine.resources import Template
from engine.store.definitions import StoredDefinitions, save_definition
from engine.store.tables import workflow_definitions, workflow_templates
from engine.store.templates import StoredTemplates, sync_builtin
from engine.templates.template import load_builtin


async def sync(database: Database, *templates: Template) -> list[tuple[str, int]]:
    async with database.begin() as connection:
        return [(item.key, item.version) for item in await sync_builtin(connection, templates)]


def chat() -> Template:
    return next(template for template in load_builtin() if template.key == "universal_chat")


async def test_stored_built_ins_are_the_files(database: Database) -> None:
    await sync(database, *load_builtin())
    stored = StoredTemplates(database)
    for template in load_builtin():
        assert await stored.find(template.key, None, "ann") == template
        assert await stored.find(template.id, 1, "bob") == template
        assert await BuiltinTemplates().find(template.key, None, "ann") == template


async def test_syncing_the_built_ins_again_writes_nothing(database: Database) -> None:
    assert len(await sync(database, *load_builtin())) == len(load_builtin())
    assert await sync(database, *load_builtin()) == []


async def test_changed_content_is_the_next_version_and_the_old_one_stays(database: Database) -> None:
    await sync(database, chat())
    changed = replace(chat(), description="Better")
    assert await sync(database, changed) == [("universal_chat", 2)]
    stored = StoredTemplates(database)
    latest, first = await stored.find("universal_chat", None, "ann"), await stored.find("universal_chat", 1, "ann")
    assert latest == replace(changed, version=2)
    assert first == chat()


async def test_two_processes_store_the_built_ins_once(database: Database) -> None:
    written = await asyncio.gather(*(sync(database, *load_builtin()) for _ in range(3)))
    assert sorted(map(len, written)) == [0, 0, len(load_builtin())]


async def test_an_own_template_goes_before_the_built_in_of_its_key(database: Database) -> None:
    await sync(database, chat())
    await own(database, "t1", "ann", is_public=False)
    stored = StoredTemplates(database)
    mine, theirs = await stored.find("universal_chat", None, "ann"), await stored.find("universal_chat", None, "bob")
    assert mine is not None
    assert theirs is not None
    assert (mine.id, theirs.id) == ("t1", chat().id)
    assert await stored.find("universal_chat", 2, "ann") is None


async def test_a_foreign_template_is_found_by_id_and_only_if_it_is_public(database: Database) -> None:
    await sync(database, chat())
    await own(database, "shown", "ann", is_public=True, key="shown_key")
    await own(database, "hidden", "ann", is_public=False, key="hidden_key")
    stored = StoredTemplates(database)
    assert await stored.find("shown", None, "bob") is not None
    assert await stored.find("shown_key", None, "bob") is None
    assert await stored.find("hidden", None, "bob") is None
    assert await stored.find("hidden", None, "ann") is not None


async def own(
    database: Database, template_id: str, owner: str, *, is_public: bool, key: str = "universal_chat"
) -> None:
    """Return a copy of the built-in chat template with this owner."""
    changed = {
        "template_id": template_id,
        "owner_id": owner,
        "key": key,
        "is_builtin": False,
        "is_public": is_public,
    }
    async with database.begin() as connection:
        rows = await connection.execute(select(workflow_templates).where(workflow_templates.c.template_id == chat().id))
        await connection.execute(workflow_templates.insert().values({**rows.mappings().one(), **changed}))


async def test_an_unknown_template_or_version_is_null(database: Database) -> None:
    await sync(database, chat())
    stored = StoredTemplates(database)
    assert await stored.find("no_such", None, "ann") is None
    assert await stored.find("universal_chat", 7, "ann") is None
    assert await BuiltinTemplates().find("universal_chat", 2, "ann") is None


async def save(database: Database, owner: str = "ann", slug: str = "mine", content: str = "h1") -> tuple[str, int]:
    async with database.begin() as connection:
        saved = await save_definition(connection, owner, slug, "Mine", {"name": content, "nodes": []}, content)
    return saved.id, saved.version


async def test_equal_content_makes_no_new_version_of_a_definition(database: Database) -> None:
    first = await save(database)
    assert await save(database) == first
    assert await save(database, content="h2") == (first[0], 2)
    assert await save(database, content="h1") == (first[0], 3)


async def test_a_definition_is_found_by_slug_or_id_in_any_version(database: Database) -> None:
    id_, _ = await save(database)
    await save(database, content="h2")
    stored = StoredDefinitions(database)
    for name in ("mine", id_):
        latest, first = await stored.find(name, None, "ann"), await stored.find(name, 1, "ann")
        assert latest is not None
        assert first is not None
        assert (latest.version, latest.graph["name"], first.graph["name"]) == (2, "h2", "h1")
        assert await stored.find(name, 3, "ann") is None
        assert await stored.find(name, None, "bob") is None


async def test_a_public_definition_is_found_by_its_id(database: Database) -> None:
    id_, _ = await save(database)
    async with database.begin() as connection:
        await connection.execute(update(workflow_definitions).values(is_public=True))
    stored = StoredDefinitions(database)
    assert await stored.find(id_, None, "bob") is not None
    assert await stored.find("mine", None, "bob") is None


async def test_owners_may_use_the_same_slug(database: Database) -> None:
    ann, bob = await save(database), await save(database, owner="bob", content="h2")
    assert ann[0] != bob[0]
    assert (ann[1], bob[1]) == (1, 1)


async def test_writers_of_one_slug_make_one_definition(database: Database) -> None:
    saved = await asyncio.gather(*(save(database, content=f"h{number}") for number in range(6)))
    assert len({id_ for id_, _ in saved}) == 1
    assert sorted(version for _, version in saved) == [1, 2, 3, 4, 5, 6]
    async with database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(workflow_definitions))).scalar_one() == 6


@pytest.mark.parametrize("version", [None, 1])
async def test_a_missing_definition_is_null(database: Database, version: int | None) -> None:
    assert await StoredDefinitions(database).find("mine", version, "ann") is None
