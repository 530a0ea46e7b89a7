"""A TCP proxy with faults: connections are cut at random, delayed, half-open or refused. It fits any protocol."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 16 * 1024


@dataclass(slots=True, eq=False)
class _Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter

    def cut(self) -> None:
        """Reset both ends, so that the next read or write fails at once."""
        for end in (self.client, self.server):
            _reset(end)


@dataclass(slots=True)
class Proxy:
    """A proxy before a server. Settings apply from the next chunk or connection."""

    host: str
    port: int
    random: Random
    cuts: float = 0.0
    """The share of chunks at which the connection is cut instead of passing them on."""
    delay_seconds: float = 0.0
    """The longest delay of a chunk."""
    is_refusing: bool = False
    """New connections are reset."""
    is_half_open: bool = False
    """Connections stay open, but nothing passes in either direction."""
    listens_at: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    """Faults that really happened: cut, delayed, swallowed, refused."""
    _links: dict[_Link, None] = field(default_factory=dict)
    _pumps: "set[asyncio.Task[None]]" = field(default_factory=set)

    @property
    def url(self) -> str:
        """For HTTP."""
        return f"http://127.0.0.1:{self.listens_at}"

    def through(self, url: str) -> str:
        """The same URL, with the way through here."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self.listens_at}"))

    async def until_idle(self) -> None:
        """No connection is open any more."""
        while self._links:
            await asyncio.wait(self._pumps)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._links)

    def cut_all(self) -> int:
        """Cut every open connection; returns how many."""
        links = list(self._links)
        for link in links:
            link.cut()
        self.hits["cut"] += len(links)
        return len(links)

    def cut_one(self) -> bool:
        """Cut a connection at random; false if there is none."""
        links = list(self._links)
        if not links:
            return False
        self.random.choice(links).cut()
        self.hits["cut"] += 1
        return True

    def heal(self) -> None:
        """No more faults. A connection that lost bytes while half-open is cut: its protocol could not go on."""
        self.cuts = self.delay_seconds = 0.0
        self.is_refusing = False
        if self.is_half_open:
            self.is_half_open = False
            self.cut_all()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        if self.is_refusing:
            self.hits["refused"] += 1
            _reset(writer)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, server_writer)
        self._links[link] = None
        try:
            await self._both(self._pump(reader, server_writer, link), self._pump(server_reader, writer, link))
        finally:
            self._links.pop(link, None)
            for end in (writer, server_writer):
                end.close()

    async def _both(self, *ways: Coroutine[None, None, None]) -> None:
        pumps = {asyncio.create_task(way, name="proxy") for way in ways}
        self._pumps |= pumps
        try:
            await asyncio.gather(*pumps)
        finally:
            self._pumps -= pumps

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, link: _Link) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while chunk := await source.read(_CHUNK):
                if self.is_half_open:
                    self.hits["swallowed"] += 1
                    continue
                if self.cuts and self.random.random() < self.cuts:
                    self.hits["cut"] += 1
                    link.cut()
                    return
                if self.delay_seconds:
                    self.hits["delayed"] += 1
                    await asyncio.sleep(self.random.uniform(0, self.delay_seconds))
                target.write(chunk)
                await target.drain()
            if target.can_write_eof() and not self.is_half_open:
                target.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST rather than FIN, as a machine does that knows nothing of the connection."""
    handle = writer.get_extra_info("socket")
    if handle is not None and not writer.is_closing():
        with suppress(OSError):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def proxy(url: str, random: Random) -> AsyncIterator[Proxy]:
    """A proxy before the server of this URL."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    made = Proxy(parts.hostname, parts.port or 80, random)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.listens_at = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.is_refusing = True
        made.cut_all()
        async with asyncio.timeout(10):
            await made.until_idle()
