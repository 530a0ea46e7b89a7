"""Clients that send byte by byte, too much, or nothing, over raw sockets to a real `spanloom serve`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from api.settings import Settings
from engine.graph import JsonObject
from tests.faults.server_process import ServerProcess, server_process

HEADER_SECONDS = 1.0
BODY_SECONDS = 2.0
MOST_CONNECTIONS = 20
LIMITS = {
    "SPANLOOM_HEADER_SECONDS": str(HEADER_SECONDS),
    "SPANLOOM_BODY_SECONDS": str(BODY_SECONDS),
    "SPANLOOM_MAX_CONNECTIONS": str(MOST_CONNECTIONS),
}
GRACE_SECONDS = 10.0
"""How much later than its deadline a busy machine may end a connection."""

HEAD = b"POST /v1/executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
DELAYED: JsonObject = {
    "schema": "spanloom/1",
    "name": "delayed",
    "nodes": [
        {"id": "start", "type": "start"},
        {"id": "wait", "type": "delay", "config": {"duration_seconds": 3 * BODY_SECONDS}},
        {"id": "end", "type": "end"},
    ],
    "edges": [{"source": "start", "target": "wait"}, {"source": "wait", "target": "end"}],
}
"""It takes longer than any request may take to arrive."""


class Peer:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.began = time.monotonic()

    @classmethod
    async def of(cls, server: ServerProcess) -> "Peer":
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    async def send_slowly(self, data: Callable[[int], bytes], pause: float = 0.05) -> None:
        """One byte at a time until the server hangs up."""
        sent = 0
        try:
            while not self.reader.at_eof():
                self.writer.write(data(sent))
                await self.writer.drain()
                sent += 1
                await asyncio.sleep(pause)
        except OSError:
            return

    async def rest(self, seconds: float = 30.0) -> bytes:
        """Everything until the server hangs up."""
        received = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(seconds):
                while more := await self.reader.read(65_536):
                    received += more
        self.writer.close()
        return received

    @property
    def age(self) -> float:
        """Seconds since the connection was opened."""
        return time.monotonic() - self.began


@pytest.fixture(scope="module")
def settings() -> Settings:
    """The settings of a service that nobody has set up."""
    return Settings()


@pytest.fixture
async def server(migrated_sqlite_url: str, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A real server with short deadlines and few connections."""
    async with server_process(tmp_path, migrated_sqlite_url, environment=LIMITS) as started:
        yield started


def test_the_limits_are_on_without_any_setting(settings: Settings) -> None:
    assert (settings.header_seconds, settings.body_seconds, settings.max_connections) == (10.0, 60.0, 512)


SLOW: dict[str, tuple[bytes, Callable[[int], bytes], float]] = {
    "a header letter by letter": (HEAD + b"X-Slow: ", lambda _: b"a", HEADER_SECONDS),
    "headers line by line": (HEAD, lambda sent: b"X-%d: a\r\n" % sent, HEADER_SECONDS),
    "a request line letter by letter": (b"GET /", lambda _: b"a", HEADER_SECONDS),
    "empty lines": (b"", lambda sent: b"\r\n"[sent % 2 : sent % 2 + 1], HEADER_SECONDS),
    "nothing": (b"", lambda _: b"", HEADER_SECONDS),
    "a body byte by byte": (HEAD + b"Content-Length: 1000\r\n\r\n", lambda _: b" ", BODY_SECONDS),
    "chunks of a byte": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", lambda _: b"1\r\n \r\n", BODY_SECONDS),
    "no body": (HEAD + b"Content-Length: 1000\r\n\r\n", lambda _: b"", BODY_SECONDS),
}


async def test_a_request_that_does_not_arrive_is_given_up(server: ServerProcess) -> None:
    async def attack(case: str) -> None:
        begin, more, seconds = SLOW[case]
        peer = await Peer.of(server)
        peer.writer.write(begin)
        sending = asyncio.create_task(peer.send_slowly(more), name=case)
        received = await peer.rest()
        age = peer.age
        await sending
        assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), (case, received)
        problem = json.loads(received.partition(b"\r\n\r\n")[2])
        assert problem["code"] == "request_timeout"
        assert seconds * 0.9 <= age <= seconds + GRACE_SECONDS, (case, age)

    await asyncio.gather(*map(attack, SLOW))
    assert await is_well(server)


async def test_the_rest_of_a_refused_body_cannot_be_sent_forever(server: ServerProcess) -> None:
    peer = await Peer.of(server)
    peer.writer.write(b"POST /v1/executions HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000000\r\n\r\n")
    sending = asyncio.create_task(peer.send_slowly(lambda _: b" "), name="sending")
    received = await peer.rest()
    await sending
    assert received.startswith(b"HTTP/1.1 421 ")
    assert received.count(b"HTTP/1.1") == 1
    assert peer.age <= BODY_SECONDS + GRACE_SECONDS


async def test_a_response_may_take_longer_than_any_deadline(server: ServerProcess) -> None:
    async def ask(mode: str, after: bytes) -> bytes:
        body = json.dumps(
            {"source": {"kind": "graph", "graph": DELAYED}, "input": {"message": "hi"}, "mode": mode}
        ).encode()
        peer = await Peer.of(server)
        peer.writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body + after)
        return await peer.rest()

    answers = await asyncio.gather(
        ask("wait", b""), ask("stream", b""), ask("wait", b"GET /healthz HT"), ask("stream", HEAD + b"\r\n")
    )
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'"status":"completed"' in answer, answer.decode()


async def test_headers_are_bounded(server: ServerProcess) -> None:
    large = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"a" * 64_000 + b"\r\n\r\n"
    tried = {
        "one header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 65_536 + b"\r\n\r\n",
        "an endless header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000,
        "many headers": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 11_000 + b"\r\n",
        "a long path": b"GET /" + b"a" * 65_536 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    }
    for case, sent in tried.items():
        peer = await Peer.of(server)
        peer.writer.write(sent)
        received = await peer.rest()
        assert received.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n"), (case, received)
        assert json.loads(received.partition(b"\r\n\r\n")[2])["code"] == "headers_too_large"
    peer = await Peer.of(server)
    peer.writer.write(large + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 65_536)
    await peer.rest()  # the server hangs up
    for sent in (large, large + large, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3_000):
        peer = await Peer.of(server)
        peer.writer.write(sent.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n")
        received = await peer.rest()
        assert received.count(b"HTTP/1.1 200 OK") == sent.count(b"GET ")


async def test_trailers_are_bounded_and_are_no_headers(server: ServerProcess) -> None:
    body = b'{"source":{"kind":"chat"},"input":{"message":"hi"}}'
    head = (
        b"POST /v1/executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(body), body)
    )
    for trailers in (b"a: b\r\n" * 300_000, b"a: " + b"b" * 5_000_000 + b"\r\n"):
        peer = await Peer.of(server)
        peer.writer.write(head + trailers + b"\r\n")
        assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")
    peer = await Peer.of(server)
    peer.writer.write(head + b"Content-Type: text/plain\r\n\r\n")
    assert (await peer.rest()).startswith(b"HTTP/1.1 200 ")


async def test_one_address_has_few_connections(server: ServerProcess) -> None:
    assert await is_well(server)
    peers = [await Peer.of(server) for _ in range(MOST_CONNECTIONS)]
    refused = await (await Peer.of(server)).rest()
    assert refused.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nretry-after: 5\r\n" in refused.lower()
    assert json.loads(refused.partition(b"\r\n\r\n")[2])["code"] == "too_many_connections"
    for peer in peers:
        peer.writer.close()
        await peer.writer.wait_closed()
    async with asyncio.timeout(30):
        while True:
            if await is_well(server):
                return
            await asyncio.sleep(0.1)


async def is_well(server: ServerProcess) -> bool:
    """Whether an honest client is served."""
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=10) as client:
        return (await client.get("/healthz")).status_code == 200
