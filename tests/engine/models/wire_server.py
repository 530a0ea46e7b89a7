"""A server that answers every request with the same bytes, and models of providers that talk to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from engine.models.registry import PROVIDERS, LangChainModels, ProviderSettings
from engine.resources import ChatModel

KEY = "a-key-of-no-known-shape-0123"


@dataclass
class Server:
    """Answers every request with the same bytes and records the requests."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.lower().splitlines() if line.startswith("content-length")
        )
        self.requests.append(head + (await reader.readexactly(length)).decode())
        kind = "text/event-stream" if self.body.startswith((b"data:", b"event:")) else "application/json"
        headers = {"content-type": kind, "content-length": str(len(self.body)), "connection": "close", **self.headers}
        lines = [f"HTTP/1.1 {self.status} X", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + self.body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def serving(provider: str, server: Server, model: str | None = None) -> AsyncIterator[ChatModel]:
    """A model of the provider that talks to the server; by default the provider's default model."""
    listener = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    models = LangChainModels({provider: ProviderSettings(KEY, f"http://{host}:{port}")})
    try:
        yield models.get(provider, model or PROVIDERS[provider].default_model)
    finally:
        await models.aclose()
        listener.close()
        await listener.wait_closed()


def sse(*events: Mapping[str, object]) -> bytes:
    """The events of a stream, named by their type where they have one."""
    named = [
        (f"event: {event['type']}\n" if "type" in event else "") + f"data: {json.dumps(event)}\n\n" for event in events
    ]
    return "".join(named).encode()
