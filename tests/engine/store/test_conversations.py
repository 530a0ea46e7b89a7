"""The messages and summary that a conversation adds to the next execution."""

import pytest

from engine.database.database import Database
from engine.graph import JsonObject
from engine.resources import History
from engine.store.conversations import NewMessages, StoredConversations, append, create_missing, set_summaries


def said(number: int, role: str = "user") -> JsonObject:
    return {"id": f"m{number}", "role": role, "content": f"text {number}"}


async def write(database: Database, *messages: JsonObject, summary: JsonObject | None = None) -> None:
    async with database.begin() as connection:
        await create_missing(connection, {"c1": "ann"})
        await append(connection, [NewMessages("c1", "e1", messages)])
        if summary is not None:
            await set_summaries(connection, {"c1": summary})


async def read(database: Database, limit: int = 50, owner: str = "ann") -> History | None:
    return await StoredConversations(database).history("c1", owner, limit)


async def ids(database: Database, limit: int = 50) -> list[str]:
    history = await read(database, limit)
    assert history is not None
    return [message["id"] for message in history.messages]


async def test_messages_come_back_in_the_order_they_were_said(database: Database) -> None:
    await write(database, said(3), said(1))
    await write(database, said(2))
    assert await ids(database) == ["m3", "m1", "m2"]


async def test_only_the_newest_messages_are_read(database: Database) -> None:
    await write(database, *(said(number) for number in range(10)))
    assert await ids(database, limit=3) == ["m7", "m8", "m9"]


async def test_messages_that_the_summary_covers_are_left_out(database: Database) -> None:
    await write(database, said(1), said(2), said(3), summary={"text": "short", "covers": "m2"})
    history = await read(database)
    assert history == History(
        "c1", {"text": "short", "covers": "m2"}, [{"id": "m3", "role": "user", "content": "text 3"}]
    )


async def test_a_summary_of_a_message_that_is_gone_covers_nothing(database: Database) -> None:
    await write(database, said(1), summary={"text": "short", "covers": "gone"})
    assert await ids(database) == ["m1"]


async def test_a_history_never_begins_with_an_answer_to_a_call_that_is_cut_off(database: Database) -> None:
    await write(database, said(1), said(2, "assistant"), said(3, "tool"), said(4, "tool"), said(5, "assistant"))
    assert await ids(database, limit=3) == ["m5"]


async def test_a_known_message_is_not_added_again(database: Database) -> None:
    await write(database, said(1))
    await write(database, said(1), said(2))
    assert await ids(database) == ["m1", "m2"]


@pytest.mark.parametrize("owner", ["bob", ""])
async def test_a_foreign_conversation_does_not_exist(database: Database, owner: str) -> None:
    await write(database, said(1))
    assert await read(database, owner=owner) is None


async def test_making_a_conversation_again_keeps_its_owner(database: Database) -> None:
    await write(database, said(1))
    async with database.begin() as connection:
        await create_missing(connection, {"c1": "bob"})
    assert await read(database, owner="bob") is None
    assert await ids(database) == ["m1"]
