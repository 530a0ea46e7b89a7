"""Clients of a real server, each of which logs every answer to disk before it uses it.

`sent`, before a request leaves; `accepted`, with the id, once the server has said it; `ended`, with the status that the
answer or the closing frame tells; `refused`, where nothing was accepted; `unreachable`, where nobody was there; `cut`,
where the connection broke: then an execution may exist, and must be whole. `read` is what a look at it told.
"""

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

import httpx2

from engine.graph import JsonObject
from tests.engine.harness import graph
from tests.faults.ledger import Ledger

SECONDS = 120.0
SLUG = "faulty"
_BROKEN = (httpx2.TransportError, httpx2.StreamError)

ASK: JsonObject = graph([{"id": "ask", "type": "model", "stream": True}], ["start -> ask", "ask -> end"])
AGENT: JsonObject = graph(
    [
        {"id": "answer", "type": "model", "stream": True, "retry": {"max_attempts": 2, "initial_delay_seconds": 0}},
        {"id": "tools", "type": "tools", "config": {"allowed_tools": ["calculate"]}},
    ],
    ["start -> answer", "answer -tool_calls-> tools", "tools -> answer", "answer -final-> end"],
)
SOURCES: tuple[JsonObject, ...] = (
    {"kind": "template", "template": "universal_chat"},
    {"kind": "definition", "definition": SLUG},
    {"kind": "graph", "graph": ASK},
    {"kind": "chat"},
)
"""Of every kind; the definition has to be stored first, with the graph `AGENT`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream."""

    event: str
    data: JsonObject
    id: str


@dataclass(slots=True)
class Told:
    """What one client knows about one execution at the end."""

    number: int
    execution_id: str | None = None
    status: str | None = None
    """The terminal status; null if the client never learned it."""
    refused: str | None = None
    """The code of the problem."""
    was_cut: bool = False
    """The connection broke; it may exist."""
    was_unreachable: bool = False
    """There was no connection, and nothing can have come of it."""
    frames: list[Frame] = field(default_factory=list)


@dataclass(slots=True)
class Clients:
    """Any number of clients of one address, and their common ledger."""

    base_url: str
    ledger: Ledger
    http: httpx2.AsyncClient
    numbers: "count[int]" = field(default_factory=lambda: count(1))
    outcomes: Counter[str] = field(default_factory=Counter)
    newest: "deque[str]" = field(default_factory=lambda: deque(maxlen=50))
    """The last ids that were accepted."""

    @property
    def accepted(self) -> list[str]:
        """The ids that clients received, read from the file."""
        return [str(fact["id"]) for fact in self.ledger.of("accepted")]

    async def start(
        self,
        *,
        number: int | None = None,
        streaming: bool | None = None,
        source: JsonObject | None = None,
        message: str | None = None,
        headers: Mapping[str, str] | None = None,
        mode: str | None = None,
        **more: object,
    ) -> Told:
        """Run an execution as its number says: the sources in turn, every other round of them streamed."""
        number = next(self.numbers) if number is None else number
        streaming = number // len(SOURCES) % 2 == 1 if streaming is None else streaming
        body: JsonObject = {
            "source": SOURCES[number % len(SOURCES)] if source is None else source,
            "input": {"message": message or f"run {number}"},
            "tags": {"number": f"{number}"},
            "mode": mode or ("stream" if streaming else "wait"),
            **more,  # type: ignore[dict-item]  # the callers name fields of a request
        }
        told = Told(number)
        await self.ledger.write(what="sent", number=number, mode=body["mode"])
        try:
            await self._post(body, dict(headers or {}), told)
        except httpx2.ConnectError:
            told.was_unreachable = True
            await self.ledger.write(what="unreachable", number=number)
        except _BROKEN as error:
            told.was_cut = True
            await self.ledger.write(what="cut", number=number, id=told.execution_id, error=type(error).__name__)
        self.outcomes[told.status or told.refused or ("unreachable" if told.was_unreachable else "cut")] += 1
        return told

    async def read(self, execution_id: str) -> str | None:
        """The status of an execution as the API answers; null if no server responds."""
        try:
            answer = await self.http.get(f"/v1/executions/{execution_id}")
        except _BROKEN:
            return None
        if answer.status_code != 200:
            return None
        record = answer.json()
        await self.ledger.write(what="read", id=execution_id, status=record["status"], attempt=record["attempt"])
        return str(record["status"])

    async def watch(self, stop: asyncio.Event, random: Random, *, pause_seconds: float = 0.05) -> None:
        """Read random accepted executions until stopped: a status must never go back."""
        while not stop.is_set():
            if self.newest:
                await self.read(random.choice(self.newest))
            await asyncio.sleep(pause_seconds)

    async def _post(self, body: JsonObject, headers: dict[str, str], told: Told) -> None:
        async with self.http.stream("POST", "/v1/executions", json=body, headers=headers) as answer:
            id_ = answer.headers.get("x-execution-id")
            if answer.status_code >= 400:
                await self._refused(answer, told, id_)
                return
            told.execution_id = id_
            self.newest.append(str(id_))
            await self.ledger.write(what="accepted", number=told.number, id=id_, http_status=answer.status_code)
            if body["mode"] == "stream":
                async for frame in frames_of(answer):
                    told.frames.append(frame)
                    if frame.event in ("completed", "failed", "cancelled"):
                        told.status = frame.event
            else:
                document = json.loads(await answer.aread())
                told.status = document["status"] if answer.status_code == 200 else None
        if told.status is not None:
            await self.ledger.write(what="ended", number=told.number, id=id_, status=told.status)

    async def _refused(self, answer: httpx2.Response, told: Told, id_: str | None) -> None:
        """A refusal that names an execution does not count as one, since that execution may exist."""
        problem = json.loads(await answer.aread())
        told.refused = str(problem.get("code"))
        what = "refused" if id_ is None else "cut"
        await self.ledger.write(
            what=what, number=told.number, id=id_, http_status=answer.status_code, code=told.refused
        )


async def frames_of(answer: httpx2.Response) -> AsyncIterator[Frame]:
    """The frames of an event stream, without the one that holds only `retry`."""
    async for event in httpx2.EventSource(answer):
        if event.data:
            data = event.json()
            assert isinstance(data, dict)
            yield Frame(event.event, data, event.id)


@asynccontextmanager
async def clients(base_url: str, file: Path, *, seconds: float = SECONDS) -> AsyncIterator[Clients]:
    """Clients with a ledger in that file. Connections are not kept: each request finds a server as it is then."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx2.AsyncClient(base_url=base_url, trust_env=False, timeout=seconds, limits=limits) as http:
        yield Clients(base_url, Ledger(file), http)
