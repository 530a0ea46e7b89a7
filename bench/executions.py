"""Real executions of 11 spans and two events each, as the Collector is sent them: what P6 and P7 store.

Root, five nodes and the end, two model calls and two tool calls; accepted and finished in a database by the journal of
the Collector mode, so that the receiver knows them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.workflows import chat, engine, request
from engine.database.database import Database
from engine.graph import JsonObject
from telemetry.collector import outbox
from telemetry.collector.outbox import RECORDS
from telemetry.health import Health
from telemetry.journal.journal import Journal
from telemetry.journal.sinks import OutboxSink
from telemetry.sdk.providers import build_telemetry
from telemetry.signals.otlp import logs_request, traces_request

EXECUTIONS = 100
"""In a batch, so that it has 1,100 spans."""

SPANS = 11
"""Of an execution."""

_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Exported:
    """OTLP requests with all spans and all events of a batch of executions."""

    traces: bytes
    logs: bytes


Exporting = Callable[[], Awaitable[Exported]]


@asynccontextmanager
async def exporting(url: str) -> AsyncIterator[Exporting]:
    """Call it for a new batch. The database has the schema; it keeps control and outbox as the Collector mode does."""
    telemetry = build_telemetry()
    async with Database(url) as database:
        sink = OutboxSink([RECORDS], health=Health(), on_commit=lambda: None)
        async with Journal(database, sink) as journal, engine(telemetry, journal) as made:
            telemetry.add(journal.spans, journal.events)
            wanted = request(_graph())

            async def export() -> Exported:
                results = await asyncio.gather(*(made.execute(wanted) for _ in range(EXECUTIONS)))
                assert {result.status for result in results} == {"completed"}
                async with database.begin() as connection:
                    spans = await outbox.claim(connection, are_events=False, max_bytes=_MAX_BYTES)
                    events = await outbox.claim(connection, are_events=True, max_bytes=_MAX_BYTES)
                assert len(spans) == EXECUTIONS * SPANS
                return Exported(
                    traces_request(telemetry.resource, ((one.scope, one.payload) for one in spans)),
                    logs_request(telemetry.resource, ((one.scope, one.payload) for one in events)),
                )

            yield export


def _graph() -> JsonObject:
    """The chat of the other benchmarks without its retrieval."""
    graph = chat()
    nodes, edges = graph["nodes"], graph["edges"]
    assert isinstance(nodes, list)
    assert isinstance(edges, list)
    kept = [node for node in nodes if isinstance(node, dict) and node["id"] != "retrieval"]
    others = [edge for edge in edges if isinstance(edge, dict) and "retrieval" not in edge.values()]
    return graph | {"nodes": [*kept], "edges": [*others, {"source": "memory", "target": "ask"}]}
