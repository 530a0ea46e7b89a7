"""A Collector that misbehaves on request: between shipper and receiver it delays, repeats, mixes and drops signals.

Like the real one it splits events to records and webhooks, asks again after 503, and gives up on other errors.
"""

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import httpx2
import uvicorn
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.service.server import listen, url_of
from telemetry.signals import otlp
from tests.services.collector.server import INGEST_TOKEN

TOKEN = INGEST_TOKEN
"""As the real one's."""

PROTOBUF = "application/x-protobuf"

Mood = Literal["takes", "rejects", "refuses", "fails", "redirects", "dawdles", "swallows", "babbles"]
Path = Literal["/v1/traces", "/v1/logs", "/webhooks/v1/logs"]
Item = tuple[str, bytes]
"""Scope, and one encoded span or event."""


def always(mood: Mood) -> Callable[[], Mood]:
    """A mood that never changes."""
    return lambda: mood


def by_chance(random: Random, **weights: int) -> Callable[[], Mood]:
    """A mood chosen at random for each request."""
    moods: list[Mood] = ["takes", "rejects", "refuses", "fails", "redirects", "dawdles", "swallows"]
    return lambda: random.choices(moods, [weights.get(mood, 0) for mood in moods])[0]


@dataclass(slots=True)
class MisbehavingCollector:
    """The fake Collector between shipper and receiver."""

    url: str
    receiver_url: str
    mood: Callable[[], Mood]
    random: Random
    token: str = TOKEN
    repeats: float = 0.0
    """The share of batches that are sent twice."""
    asked: Counter[Mood] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    """Responses of the receiver, by status."""
    dropped: int = 0
    sizes: list[int] = field(default_factory=list)
    """Sizes of the requests in bytes."""
    poison: str | None = None
    """A signal whose requests are refused."""
    got: set[str] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)
    """The scope of each signal received."""
    queues: dict[Path, list[Item]] = field(
        default_factory=lambda: {"/v1/traces": [], "/v1/logs": [], "/webhooks/v1/logs": []}
    )

    async def take(self, request: Request) -> Response:
        """Handle a request of the shipper."""
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.sizes.append(len(body))
        if self.poison is not None and self.poison in ids_in(request.url.path, body):
            return Response(status_code=400)
        mood = self.mood()
        self.asked[mood] += 1
        match mood:
            case "fails":
                return Response(status_code=self.random.choice([500, 502, 503]))
            case "refuses":
                return Response(status_code=400)
            case "redirects":
                return Response(status_code=307, headers={"Location": self.url})
            case "babbles":
                return Response("Hello, this is a web site", media_type="text/html")
            case "dawdles":
                await asyncio.sleep(0.3)
        items = list(unpacked(request.url.path, body))
        self.seen += [scope for scope, _ in items]
        rejected = self.random.sample(items, (len(items) + 1) // 2) if mood == "rejects" else []
        if mood != "swallows":
            self._queue(request.url.path, [item for item in items if item not in rejected])
        if not rejected:
            self.got |= ids_in(request.url.path, body)
        return Response(_answer(request.url.path, len(rejected)), media_type=PROTOBUF)

    def ids(self) -> set[str]:
        """The accepted signals."""
        return self.got

    def _queue(self, path: str, items: list[Item]) -> None:
        if path == "/v1/traces":
            self.queues["/v1/traces"] += items
        else:
            self.queues["/v1/logs"] += items
            self.queues["/webhooks/v1/logs"] += items

    async def forward(self) -> None:
        """Forward queued signals until cancelled, shuffled and in batches of another size."""
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
            while True:
                await asyncio.sleep(0.01)
                for path, queue in self.queues.items():
                    self.random.shuffle(queue)
                    batch = [queue.pop() for _ in range(min(len(queue), self.random.randint(1, 200)))]
                    if batch:
                        await self._send(client, path, batch)

    async def _send(self, client: httpx2.AsyncClient, path: Path, batch: list[Item]) -> None:
        build = otlp.traces_request if path == "/v1/traces" else otlp.logs_request
        headers = {"content-type": PROTOBUF, "content-encoding": "gzip", "authorization": f"Bearer {self.token}"}
        answer = await client.post(
            f"{self.receiver_url}/internal/otlp{path}", content=gzip.compress(build({}, batch)), headers=headers
        )
        self.answered[answer.status_code] += 1
        if answer.status_code == 503:
            self.queues[path] += batch
        elif answer.status_code != 200:
            self.dropped += len(batch)
        elif self.random.random() < self.repeats:
            self.queues[path] += batch


def ids_in(path: str, body: bytes) -> set[str]:
    """The signals of a request."""
    decode = otlp.decode_traces if path == "/v1/traces" else otlp.decode_logs
    return {otlp.signal_id(signal) for signal in decode(body).signals}


def unpacked(path: str, body: bytes) -> Iterator[Item]:
    """Every span or event of a request."""
    if path == "/v1/traces":
        for spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in spans.scope_spans:
                yield from ((scope.scope.name, span.SerializeToString()) for span in scope.spans)
        return
    for logs in ExportLogsServiceRequest.FromString(body).resource_logs:
        for log_scope in logs.scope_logs:
            yield from ((log_scope.scope.name, record.SerializeToString()) for record in log_scope.log_records)


def _answer(path: str, rejected: int) -> bytes:
    if path == "/v1/traces":
        traces = ExportTracePartialSuccess(rejected_spans=rejected, error_message="no") if rejected else None
        return ExportTraceServiceResponse(partial_success=traces).SerializeToString()
    logs = ExportLogsPartialSuccess(rejected_log_records=rejected, error_message="no") if rejected else None
    return ExportLogsServiceResponse(partial_success=logs).SerializeToString()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def misbehaving(
    receiver_url: str, mood: Callable[[], Mood], *, seed: int = 1, repeats: float = 0.0, forwards: bool = True
) -> AsyncIterator[MisbehavingCollector]:
    """A Collector that forwards accepted signals to the receiver."""
    with listen("127.0.0.1", 0) as listener:
        made = MisbehavingCollector(url_of(listener), receiver_url, mood, Random(seed), repeats=repeats)
        app = Starlette(routes=[Route(path, made.take, methods=["POST"]) for path in ("/v1/traces", "/v1/logs")])
        server = _Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve([listener]))
        forwarding = asyncio.create_task(made.forward() if forwards else asyncio.Event().wait())
        try:
            yield made
        finally:
            server.should_exit = True
            await serving
            forwarding.cancel()
            await asyncio.gather(forwarding, return_exceptions=True)
