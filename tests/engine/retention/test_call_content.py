"""What calls said is stored once, compressed, and read page by page."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from engine.database.database import Database
from engine.ledger import CallContent
from engine.retention import call_content
from engine.store import tables

AT = datetime(2026, 1, 1, tzinfo=UTC)


def a_call(number: int, text: str = "hi") -> CallContent:
    """The content of a call that ended so many seconds later."""
    document = f'{{"gen_ai.output.messages":["{text}"]}}'
    return CallContent(f"{number:016x}", "chat", "ask", document, AT + timedelta(seconds=number // 2), ["x"])


async def test_calls_are_read_in_their_order_page_by_page(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        async with database.begin() as connection:
            await call_content.keep(connection, [("e1", 1, a_call(number)) for number in (4, 2, 1, 3, 0)])
            await call_content.keep(connection, [("e2", 1, a_call(0))])
        seen: list[call_content.StoredCall] = []
        async with database.read() as connection:
            while page := await call_content.read(
                connection, "e1", limit=2, after=(seen[-1].at, seen[-1].call_id) if seen else None
            ):
                seen += page
    assert [int(call.call_id, 16) for call in seen] == [0, 1, 2, 3, 4]
    assert (seen[0].content, seen[0].cut, seen[0].at) == ({"gen_ai.output.messages": ["hi"]}, ["x"], AT)


async def test_a_repeated_commit_stores_a_call_once(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        for text in ("first", "second"):
            async with database.begin() as connection:
                await call_content.keep(connection, [("e1", 1, a_call(1, text))])
        async with database.read() as connection:
            [call] = await call_content.read(connection, "e1", limit=9)
    assert call.content == {"gen_ai.output.messages": ["first"]}


async def test_it_is_compressed_and_can_be_forgotten(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        async with database.begin() as connection:
            await call_content.keep(connection, [("e1", 1, a_call(1, "zebra " * 10_000)), ("e2", 1, a_call(2))])
        async with database.begin() as connection:
            stored = (await connection.execute(select(tables.call_content.c.document))).scalars()
            assert max(map(len, stored)) < 1_000
            await call_content.forget(connection, ["e1"])
            left = (await connection.execute(select(tables.call_content.c.execution_id))).scalars()
            assert list(left) == ["e2"]
