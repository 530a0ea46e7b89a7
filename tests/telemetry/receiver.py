"""A receiver of webhooks as its author would write it: the `standardwebhooks` library verifies every call."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from standardwebhooks import Webhook
from starlette.types import Receive, Scope, Send

from engine.graph import JsonObject
from engine.security.addresses import Exceptions
from engine.security.egress import Egress


@dataclass(frozen=True, slots=True)
class Call:
    """One verified call."""

    id: str
    path: str
    body: bytes
    document: JsonObject
    headers: dict[str, str]
    query: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the receiver answers; `hangs` answers never."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hangs: bool = False


@dataclass(slots=True)
class Receiver:
    """What came, and what is answered. A path has the secret of its endpoint; without one nothing is verified."""

    url: str = ""
    secrets: dict[str, str] = field(default_factory=dict)
    answer: Callable[[Call], Reply] = lambda call: Reply()
    calls: list[Call] = field(default_factory=list)
    accepted: list[Call] = field(default_factory=list)
    """Those that were answered with 2xx."""
    in_flight: int = 0
    most_in_flight: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets those go that hang."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            reply = self._take(await _read(scope, receive))
            if reply.hangs:
                await self.released.wait()
            headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
            await asyncio.sleep(0)
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            await send({"type": "http.response.body", "body": reply.body})
        finally:
            self.in_flight -= 1

    def _take(self, call: Call) -> Reply:
        if call.path in self.secrets:
            Webhook(self.secrets[call.path]).verify(call.body, call.headers)
        reply = self.answer(call)
        self.calls.append(call)
        if 200 <= reply.status < 300 and not reply.hangs:
            self.accepted.append(call)
        self.news.set()
        return reply

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until something holds of what came."""
        async with asyncio.timeout(30):
            while not done():
                self.news.clear()
                await self.news.wait()

    def egress(self) -> Egress:
        """What may be reached: this receiver."""
        return Egress(Exceptions.parse([self.url.removeprefix("http://")]))


async def _read(scope: Scope, receive: Receive) -> Call:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    return Call(headers["webhook-id"], scope["path"], body, json.loads(body), headers, scope["query_string"].decode())


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that listens on loopback."""
    receiver = Receiver()
    server = uvicorn.Server(uvicorn.Config(receiver, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        receiver.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(server.serve([listener]), name="receiver")
        yield receiver
        receiver.released.set()
        server.should_exit = True
        await serving
