"""A model server that attacks its client. It speaks the protocols of OpenAI, Anthropic and Gemini.

The name of the model chooses the attack: a node with `openai` and `endless` is answered without an end. It is a plain
socket server, since no HTTP library would send what this one sends.
"""

import asyncio
import itertools
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from tests.faults.hostile_wire import Anthropic, Called, Counts, Dialect, Gemini, OpenAI

KEY = "sk-hostile-0123456789abcdef"
MEGABYTE = 1_000_000
TOOL = "calculate"

_DIALECTS: Mapping[str, Dialect] = {"openai": OpenAI(), "anthropic": Anthropic(), "google": Gemini()}
PROVIDERS = tuple(_DIALECTS)

_BATCH_BYTES = 65_536
_EVENTS = "text/event-stream"


@dataclass(slots=True)
class Wire:
    """One answer on its way: `dialect` and `streams` are those of the request."""

    writer: asyncio.StreamWriter
    dialect: Dialect
    streams: bool
    counts: Counts | None
    elsewhere: str
    """An address of another origin."""

    async def begin(self, *, status: str = "200 OK", **headers: str) -> None:
        """Send the head; a body in chunks follows. `content_type` is what was asked for, unless it is given."""
        given = {"content_type": _EVENTS if self.streams else "application/json", **headers}
        lines = [f"HTTP/1.1 {status}", "transfer-encoding: chunked", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in given.items()]
        await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        """Send a chunk of the body."""
        if data:
            await self.raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def send_all(self, events: Iterator[bytes]) -> None:
        """Send events without pause, many at once."""
        batch = bytearray()
        for event in events:
            batch += event
            if len(batch) >= _BATCH_BYTES:
                await self.send(bytes(batch))
                batch.clear()
        await self.send(bytes(batch))

    async def end(self) -> None:
        """End the body as HTTP says."""
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()
        await asyncio.sleep(0)

    async def answer(self, events: Iterator[bytes], whole: Callable[[], bytes], *, calls: bool = False) -> None:
        """Send the events between opening and closing, or the whole reply if no stream was asked for."""
        await self.begin()
        if self.streams:
            await self.send(self.dialect.opening(self.counts))
            await self.send_all(events)
            await self.send(self.dialect.closing(self.counts, calls=calls))
        else:
            await self.send(whole())
        await self.end()


Attack = Callable[[Wire], Awaitable[None]]


async def _honest(wire: Wire) -> None:
    pieces = iter([wire.dialect.text("Hello "), wire.dialect.text("there")])
    await wire.answer(pieces, lambda: wire.dialect.whole("Hello there", [], wire.counts))


async def _endless(wire: Wire, piece: Callable[[Dialect], bytes]) -> None:
    await wire.begin(content_type=_EVENTS)
    await wire.send(wire.dialect.opening(wire.counts))
    await wire.send_all(itertools.repeat(piece(wire.dialect)))


async def _dripping(wire: Wire) -> None:
    """One byte at a time."""
    dialect = wire.dialect
    await wire.begin()
    events = dialect.opening(wire.counts) + dialect.text("Hello there") + dialect.closing(wire.counts, calls=False)
    for byte in events if wire.streams else dialect.whole("Hello there", [], wire.counts):
        await wire.send(bytes([byte]))
    await wire.end()


async def _huge_reply(wire: Wire) -> None:
    """200 MB, in one document or one line of a stream."""
    whole = wire.dialect.text("@") if wire.streams else wire.dialect.whole("@", [], wire.counts)
    before, _, after = whole.partition(b"@")
    await wire.begin()
    await wire.send(before)
    for _ in range(200):
        await wire.send(b"a" * MEGABYTE)
    await wire.send(after)
    await wire.end()


async def _many_calls(wire: Wire) -> None:
    """100,000 calls of tools; in a stream each is an event."""
    dialect, number = wire.dialect, 100_000
    events = (dialect.call(index, TOOL) for index in range(number))
    await wire.answer(events, lambda: dialect.whole("", [Called(TOOL)] * number, wire.counts), calls=True)


async def _huge_event(wire: Wire) -> None:
    """5 MB of values in one document or event."""
    values = "[" + "1," * (5 * MEGABYTE // 2) + "1]"
    whole = wire.dialect.whole("", [Called(TOOL, f'{{"x": {values}}}')], wire.counts)
    await wire.begin()
    await wire.send(b'data: {"choices": ' + values.encode() + b"}\n\n" if wire.streams else whole)
    await wire.end()


async def _huge_arguments(wire: Wire, piece: str, first: str = '{"x": "') -> None:
    """50 MB of arguments."""
    dialect = wire.dialect
    pieces = itertools.repeat(dialect.arguments(0, piece), 50 * MEGABYTE // len(piece))
    events = itertools.chain([dialect.call(0, TOOL), dialect.arguments(0, first)], pieces, [dialect.arguments(0, '"}')])
    whole = partial(dialect.whole, "", [Called(TOOL, json.dumps({"x": "a" * 50 * MEGABYTE}))], wire.counts)
    await wire.answer(events, whole, calls=True)


async def _reasoning(wire: Wire) -> None:
    """100 MB of reasoning."""
    pieces = itertools.repeat(wire.dialect.reasoning("thinking " * 100), 100 * MEGABYTE // 900)
    await wire.answer(pieces, lambda: wire.dialect.whole("Hello", [], wire.counts))


async def _endless_headers(wire: Wire) -> None:
    await wire.raw(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        await wire.raw(f"x-header-{number}: {'a' * 1_000}\r\n".encode())


async def _gzip_bomb(wire: Wire) -> None:
    """A GB of spaces in a MB."""
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    await wire.begin(content_encoding="gzip")
    await wire.send(packer.compress(b'data: {"x": "' if wire.streams else b'{"x": "'))
    for _ in range(1_000):
        await wire.send(packer.compress(b" " * MEGABYTE))
    await wire.send(packer.flush())
    await wire.end()


async def _malformed(wire: Wire, document: bytes) -> None:
    await wire.begin()
    await wire.send(b"data: " + document + b"\n\n" if wire.streams else document)
    await wire.end()


async def _many_lines(wire: Wire) -> None:
    """One event of a stream in a million lines."""
    await wire.begin(content_type=_EVENTS)
    for _ in range(100):
        await wire.send(b"data: 1\n" * 10_000)
    await wire.end()


async def _redirect(wire: Wire) -> None:
    await wire.begin(status="307 Temporary Redirect", location=f"{wire.elsewhere}/v1/chat/completions")
    await wire.end()


async def _cut(wire: Wire) -> None:
    """The connection is reset in the middle."""
    await wire.begin()
    await wire.send(wire.dialect.opening(wire.counts) + wire.dialect.text("Hello "))
    wire.writer.transport.abort()


async def _unfinished(wire: Wire) -> None:
    """The body ends as it should, the answer does not."""
    await wire.begin()
    await wire.send(wire.dialect.opening(None) + wire.dialect.text("Hello "))
    await wire.end()


async def _frugal_call(wire: Wire) -> None:
    """OpenAI's protocol without what can be left out: the arguments of the first piece, the name and id of the next."""
    begun = b'{"index": 0, "id": "call-1", "function": {"name": "calculate"}}'
    pieces = [begun, *(b'{"index": 0, "function": {"arguments": "%s"}}' % text for text in (b'{\\"x', b'\\": 1}'))]
    events = [b'data: {"choices": [{"index": 0, "delta": {"tool_calls": [%s]}}]}\n\n' % piece for piece in pieces]
    await wire.begin()
    await wire.send(b"".join(events) + wire.dialect.closing(wire.counts, calls=True))
    await wire.end()


async def _wrong_type(wire: Wire) -> None:
    dialect = wire.dialect
    events = dialect.opening(wire.counts) + dialect.text("Hello there") + dialect.closing(wire.counts, calls=False)
    await wire.begin(content_type="text/html")
    await wire.send(events if wire.streams else dialect.whole("Hello there", [], wire.counts))
    await wire.end()


ATTACKS: Mapping[str, Attack] = {
    "honest": _honest,
    "endless": partial(_endless, piece=lambda dialect: dialect.text("word ")),
    "endless-reasoning": partial(_endless, piece=lambda dialect: dialect.reasoning("word ")),
    "endless-nothing": partial(_endless, piece=lambda dialect: dialect.nothing()),
    "endless-comments": partial(_endless, piece=lambda dialect: b": still here\n\n"),
    "dripping": _dripping,
    "huge-reply": _huge_reply,
    "huge-event": _huge_event,
    "many-calls": _many_calls,
    "huge-arguments": partial(_huge_arguments, piece="a" * 100),
    "huge-broken-arguments": partial(_huge_arguments, piece="x" * 100_000, first="x"),
    "reasoning": _reasoning,
    "endless-headers": _endless_headers,
    "gzip-bomb": _gzip_bomb,
    "malformed": partial(_malformed, document=b'{"choices": [{"delta": '),
    "nested": partial(_malformed, document=b"[" * 10_000),
    "not-utf-8": partial(_malformed, document=b'{"choices": "\xff\xfe"}'),
    "many-lines": _many_lines,
    "redirect": _redirect,
    "cut": _cut,
    "unfinished": _unfinished,
    "wrong-type": _wrong_type,
    "frugal-call": _frugal_call,
}
"""What the server does, by the name of the model."""


@dataclass(slots=True)
class HostileProvider:
    """The server. `counts` is what its answers say of their tokens."""

    counts: Counts = field(default_factory=Counts)
    url: str = ""
    elsewhere: str = ""
    """Another origin, which must never be asked."""
    news: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)
    """The attacks that were asked for, in order."""
    strayed: list[bytes] = field(default_factory=list)
    """What the other origin was sent."""
    _serving: "set[asyncio.Task[None]]" = field(default_factory=set)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a service ask here, whatever the provider."""
        return {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": self.url,
            "GOOGLE_API_KEY": KEY,
            "GOOGLE_GEMINI_BASE_URL": self.url,
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; a client that leaves ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            path, body = await _request(reader)
            provider = _provider(path)
            name = path.rpartition("/")[2].partition(":")[0] if provider == "google" else str(body["model"])
            streams = "streamGenerateContent" in path or bool(body.get("stream"))
            self.news.put_nowait(name)
            await ATTACKS[name](Wire(writer, _DIALECTS[provider], streams, self.counts, self.elsewhere))
        writer.close()

    async def close(self) -> None:
        """End all answers."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving)

    async def stray(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Note what was sent to the other origin."""
        self.strayed.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()


def _provider(path: str) -> str:
    if path.endswith("enerateContent"):
        return "google"
    return "anthropic" if path.endswith("/messages") else "openai"


async def _request(reader: asyncio.StreamReader) -> tuple[str, dict[str, object]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    length = next(int(line.partition(":")[2]) for line in head if line.lower().startswith("content-length"))
    return head[0].split()[1].partition("?")[0], json.loads(await reader.readexactly(length))


@asynccontextmanager
async def hostile_provider() -> AsyncIterator[HostileProvider]:
    """The server on loopback, in the loop of the test, until the block ends."""
    made = HostileProvider()
    serving = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    other = await asyncio.start_server(made.stray, "127.0.0.1", 0)
    made.url, made.elsewhere = (_url(server) for server in (serving, other))
    try:
        yield made
    finally:
        serving.close()
        other.close()
        await made.close()


def _url(server: asyncio.Server) -> str:
    host, port = server.sockets[0].getsockname()
    return f"http://{host}:{port}"
