"""The proxy passes everything on, until it is told otherwise; then what it did is counted."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.faults.proxy import Proxy, proxy


@pytest.fixture
async def echo() -> AsyncIterator[Proxy]:
    """A proxy before a server that says everything back."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with proxy(f"tcp://user@127.0.0.1:{port}/name", Random(1)) as made:
        yield made
    server.close()


async def say(between: Proxy, *lines: bytes) -> list[bytes]:
    """What comes back for these lines over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", between.listens_at)
    try:
        heard = []
        for line in lines:
            writer.write(line)
            heard.append(await reader.readline())
        return heard
    finally:
        writer.close()


async def test_without_faults_everything_passes(echo: Proxy) -> None:
    assert await say(echo, b"one\n", b"two\n") == [b"one\n", b"two\n"]
    assert echo.hits.total() == 0


async def test_connections_are_cut_at_random(echo: Proxy) -> None:
    echo.cuts = 0.3
    outcomes = await asyncio.gather(*(say(echo, *[b"x\n"] * 5) for _ in range(20)), return_exceptions=True)
    broken = [one for one in outcomes if isinstance(one, BaseException) or b"" in one]
    assert 0 < len(broken) <= echo.hits["cut"]


async def test_an_open_connection_is_cut_when_told(echo: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.listens_at)
    writer.write(b"x\n")
    assert await reader.readline() == b"x\n"
    assert echo.cut_one()
    with pytest.raises(ConnectionError):
        await reader.readline()
    writer.close()


async def test_new_connections_are_refused_until_it_is_healed(echo: Proxy) -> None:
    echo.is_refusing = True
    with pytest.raises(ConnectionError):
        await say(echo, b"x\n")
    echo.heal()
    assert await say(echo, b"x\n") == [b"x\n"]
    assert echo.hits["refused"] == 1


async def test_a_half_open_connection_stays_and_says_nothing(echo: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.listens_at)
    echo.is_half_open = True
    writer.write(b"x\n")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.readline()
    assert (echo.connections, echo.hits["swallowed"]) == (1, 1)
    echo.heal()
    with pytest.raises(ConnectionError):
        await reader.readline()
    writer.close()


async def test_chunks_are_held_back(echo: Proxy) -> None:
    echo.delay_seconds = 0.01
    assert await say(echo, b"x\n") == [b"x\n"]
    assert echo.hits["delayed"] == 2


async def test_a_url_is_led_through_it(echo: Proxy) -> None:
    way = f"postgresql://me@127.0.0.1:{echo.listens_at}/books"
    assert echo.through("postgresql://me@db.internal:5432/books") == way
