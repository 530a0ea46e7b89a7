"""API keys: their form, what is stored of them, and whose they are."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from api.access import keys
from api.access.keys import KeyHasher, NewKey
from api.access.tables import api_keys
from engine.database.database import Database
from engine.errors import NotFound
from engine.security.keys import SecretKeyMissing
from engine.security.redaction import REDACTED, redact

HASHER = KeyHasher(lambda: ["x" * 64])


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    """A database with the schema."""
    async with Database(migrated_url) as opened:
        yield opened


async def make(database: Database, owner: str = "ann", name: str = "laptop") -> tuple[keys.ApiKey, str]:
    """A key of this owner."""
    async with database.begin() as connection:
        return await keys.create(connection, NewKey(owner, name, ["executions:read"]), HASHER)


async def test_a_key_has_its_form_and_is_redacted_in_texts(database: Database) -> None:
    made, text = await make(database)
    assert re.fullmatch(r"spl_[A-Za-z0-9]{12}_[A-Za-z0-9]{43}", text)
    assert keys.id_of(text) == made.id
    assert redact(f"the key {text} is wrong") == f"the key {REDACTED} is wrong"


async def test_the_database_does_not_hold_the_key(database: Database) -> None:
    _, text = await make(database)
    async with database.read() as connection:
        [row] = (await connection.execute(select(api_keys))).all()
    assert row.hmac == HASHER.hashes(text)[0]
    assert text.rpartition("_")[2] not in repr(row)


@pytest.mark.parametrize("wrong", ["", "spl_", "spl_aaaaaaaaaaaa_", "sk-abc", "spl_aaaaaaaaaaaa_" + "é" * 43])
def test_another_text_is_no_key(wrong: str) -> None:
    assert keys.id_of(wrong) is None
    assert keys.id_of(f"spl_aaaaaaaaaaaa_{'b' * 43}\n") is None


def test_without_a_secret_key_there_are_no_keys() -> None:
    with pytest.raises(SecretKeyMissing):
        KeyHasher(list).hashes("spl_aaaaaaaaaaaa_" + "b" * 43)


async def test_a_list_has_the_keys_of_its_owner_newest_first_in_pages(database: Database) -> None:
    ids = [(await make(database, name=str(number)))[0].id for number in range(5)]
    await make(database, owner="bob")
    found: list[str] = []
    after = None
    async with database.read() as connection:
        while True:
            page, after = await keys.list_keys(connection, "ann", limit=2, after=after)
            found += [key.id for key in page]
            if after is None:
                break
        everyone, _ = await keys.list_keys(connection, None)
    assert found == ids[::-1]
    assert len(everyone) == 6


async def test_only_its_owner_reads_and_revokes_a_key(database: Database) -> None:
    made, _ = await make(database)
    async with database.begin() as connection:
        with pytest.raises(NotFound):
            await keys.get(connection, made.id, "bob")
        with pytest.raises(NotFound):
            await keys.revoke(connection, made.id, "bob")
        assert (await keys.get(connection, made.id, "ann")).revoked_at is None
        revoked = (await keys.revoke(connection, made.id, "ann")).revoked_at
        assert revoked is not None
        assert abs(datetime.now(UTC) - revoked) < timedelta(minutes=1)
        assert (await keys.revoke(connection, made.id, "ann")).revoked_at == revoked


async def test_revoked_keys_are_still_keys(database: Database) -> None:
    async with database.begin() as connection:
        assert not await keys.are_there_any(connection)
    made, _ = await make(database)
    async with database.begin() as connection:
        await keys.revoke(connection, made.id)
        assert await keys.are_there_any(connection)
