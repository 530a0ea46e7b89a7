"""Who a request comes from: keys that count, and those that do not."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from api.access import gate as gates
from api.access import keys
from api.access.gate import Gate
from api.access.keys import KeyHasher, NewKey
from api.access.principal import OPEN, Unauthenticated
from engine.database.database import Database

OLD, NEW = "o" * 40, "n" * 40
UNKNOWN = "spl_aaaaaaaaaaaa_" + "b" * 43


@dataclass(slots=True)
class Door:
    """A gate over a database, and what was asked of the database."""

    database: Database
    gate: Gate

    async def make(self, secret: str = OLD, **more: object) -> tuple[str, str]:
        """A key of ann: its id and its text."""
        given = {"owner": "ann", "name": "laptop", "scopes": ["executions:read"]} | more
        async with self.database.begin() as connection:
            made, text = await keys.create(connection, NewKey(**given), KeyHasher(lambda: [secret]))  # type: ignore[arg-type]  # names and types are those of the fields
        return made.id, text

    async def key(self, key_id: str) -> keys.ApiKey:
        """The key as it is stored."""
        async with self.database.read() as connection:
            return await keys.get(connection, key_id)


@pytest.fixture
async def door(migrated_url: str) -> AsyncIterator[Door]:
    """An open gate that knows two secret keys."""
    async with Database(migrated_url) as database:
        gate = Gate(database, KeyHasher(lambda: [NEW, OLD]), is_closed=False)
        yield Door(database, gate)
        await gate.close()


def bearer(text: str) -> list[str]:
    """The header with a key."""
    return [f"Bearer {text}"]


async def test_without_keys_the_user_of_the_machine_is_the_default_owner(door: Door) -> None:
    assert await door.gate.admit([]) == OPEN
    assert await door.gate.admit(["Basic dXNlcjpwYXNz"]) == OPEN


async def test_a_key_says_who_asks(door: Door) -> None:
    key_id, text = await door.make()
    principal = await door.gate.admit(bearer(text))
    assert (principal.owner, principal.key_id, principal.key_name) == ("ann", key_id, "laptop")
    assert principal.may("executions:read")
    assert not principal.may("executions:run")


async def test_once_there_is_a_key_every_request_needs_one(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await door.gate.admit([]) == OPEN
    key_id, _ = await door.make()
    monkeypatch.setattr(gates, "CACHE_SECONDS", 0.0)
    async with door.database.begin() as connection:
        await keys.revoke(connection, key_id)
    for headers in ([], ["Basic dXNlcjpwYXNz"], ["Bearer abc"], ["Bearer"], bearer(UNKNOWN)):
        with pytest.raises(Unauthenticated):
            await door.gate.admit(headers)


async def test_a_closed_gate_asks_for_a_key_before_there_is_one(door: Door) -> None:
    closed = Gate(door.database, KeyHasher(lambda: [NEW]), is_closed=True)
    with pytest.raises(Unauthenticated):
        await closed.admit([])


@pytest.mark.parametrize("text", [UNKNOWN, "spl_short", f"{UNKNOWN}x", f"{UNKNOWN[:-1]}-"])
async def test_a_wrong_key_is_refused_also_where_none_is_needed(door: Door, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await door.gate.admit(bearer(text))


async def test_the_id_without_the_secret_is_nothing(door: Door) -> None:
    _, text = await door.make()
    await door.gate.admit(bearer(text))
    with pytest.raises(Unauthenticated):
        await door.gate.admit(bearer(text[:-1] + ("a" if text[-1] != "a" else "b")))


async def test_two_keys_are_none(door: Door) -> None:
    _, text = await door.make()
    with pytest.raises(Unauthenticated):
        await door.gate.admit(bearer(text) * 2)


async def test_a_key_expires_also_while_it_is_remembered(door: Door) -> None:
    _, text = await door.make(expires_at=datetime.now(UTC) + timedelta(seconds=0.5))
    await door.gate.admit(bearer(text))
    await asyncio.sleep(0.6)
    with pytest.raises(Unauthenticated, match="expired"):
        await door.gate.admit(bearer(text))


async def test_a_key_that_another_process_has_revoked_is_refused_within_the_time_of_the_cache(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gates.CACHE_SECONDS < 5
    monkeypatch.setattr(gates, "CACHE_SECONDS", 0.2)
    key_id, text = await door.make()
    await door.gate.admit(bearer(text))
    async with door.database.begin() as connection:
        await keys.revoke(connection, key_id)
    await asyncio.sleep(0.25)
    with pytest.raises(Unauthenticated, match="revoked"):
        await door.gate.admit(bearer(text))


async def test_a_key_that_this_process_has_revoked_is_refused_at_once(door: Door) -> None:
    key_id, text = await door.make()
    await door.gate.admit(bearer(text))
    async with door.database.begin() as connection:
        await keys.revoke(connection, key_id)
    door.gate.forget(key_id)
    with pytest.raises(Unauthenticated, match="revoked"):
        await door.gate.admit(bearer(text))


async def test_requests_with_one_key_read_it_once_and_write_once(door: Door) -> None:
    """Not one commit per request: the use is noted once a minute."""
    _, text = await door.make()
    statements: list[str] = []
    for engine in {id(each): each for each in (door.database._reader, door.database._writer)}.values():
        event.listen(
            engine.sync_engine,
            "before_cursor_execute",
            lambda connection, cursor, statement, *rest: statements.append(statement),
        )
    for _ in range(50):
        await door.gate.admit(bearer(text))
    await door.gate.close()
    assert sum("SELECT" in statement for statement in statements) == 1
    assert sum("UPDATE" in statement for statement in statements) == 1


async def test_a_used_key_moves_to_the_newest_secret_key(door: Door) -> None:
    key_id, text = await door.make(secret=OLD)
    await door.gate.admit(bearer(text))
    await door.gate.close()
    assert (await door.key(key_id)).last_used_at is not None
    later = Gate(door.database, KeyHasher(lambda: [NEW]), is_closed=False)
    assert (await later.admit(bearer(text))).owner == "ann"


async def test_the_cache_is_bounded(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "MAX_CACHED", 2)
    for _ in range(4):
        await door.gate.admit(bearer((await door.make())[1]))
    assert len(door.gate._known) == 2
