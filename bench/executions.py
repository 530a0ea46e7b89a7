"""Runs the executions that P6 and P7 store, and exports them as the Collector receives them.

An execution has 11 spans (root, five nodes and the end, two model calls and two tool calls) and two events. The journal
of the Collector mode accepts and finishes it in a database, so that the receiver knows it.
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
from telemetry.collector.signature import Signer
from telemetry.health import Health
from telemetry.journal.journal import Journal
from telemetry.journal.sinks import OutboxSink
from telemetry.sdk.providers import build_telemetry
from telemetry.signals.otlp import logs_request, traces_request

EXECUTIONS = 100
"""Executions per batch, which then has 1,100 spans."""

SPANS = 11
"""Spans per execution."""

SECRET_KEY = "0123456789abcdef" * 4
"""Signs the signals; the receiver that is measured must have the same."""

SIGNER = Signer(lambda: (SECRET_KEY,))

_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Exported:
    """The OTLP requests with all spans and all events of a batch of executions."""

    traces: bytes
    logs: bytes


Exporting = Callable[[], Awaitable[Exported]]


@asynccontextmanager
async def exporting(url: str) -> AsyncIterator[Exporting]:
    """Yield a function that runs and exports a new batch.

    The database must have the schema; it holds the control rows and the outbox, as in the Collector mode.
    """
    telemetry = build_telemetry()
    async with Database(url) as database:
        sink = OutboxSink([RECORDS], health=Health(), signer=SIGNER, on_commit=lambda: None)
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
    """Return the chat graph of the other benchmarks without its retrieval node."""
    graph = chat()
    nodes, edges = graph["nodes"], graph["edges"]
    assert isinstance(nodes, list)
    assert isinstance(edges, list)
    kept = [node for node in nodes if isinstance(node, dict) and node["id"] != "retrieval"]
    others = [edge for edge in edges if isinstance(edge, dict) and "retrieval" not in edge.values()]
    return graph | {"nodes": [*kept], "edges": [*others, {"source": "memory", "target": "ask"}]}
