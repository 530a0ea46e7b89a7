"""With an OTLP endpoint named, a lone Jaeger shows the same tree as the record."""

import asyncio

import httpx2
import pytest

from engine.database.database import Database
from telemetry.reads.traces import TraceSpan, get_trace
from tests.services.jaeger.server import Jaeger
from tests.telemetry.bookkeeper import bookkeeper

Edges = set[tuple[str, str | None, str]]


async def shown(jaeger: Jaeger, trace_id: str, spans: int) -> Edges:
    """Return span id, parent and name of each span of a trace, once Jaeger has all of them."""
    async with httpx2.AsyncClient(trust_env=False) as client, asyncio.timeout(10):
        while True:
            answer = await client.get(f"{jaeger.query_url}/api/traces/{trace_id}")
            found = answer.json()["data"][0]["spans"] if answer.status_code == 200 else []
            if len(found) >= spans:
                return {(span["spanID"], _parent(span), span["operationName"]) for span in found}
            await asyncio.sleep(0.02)


def _parent(span: dict[str, list[dict[str, str]]]) -> str | None:
    parents = [reference["spanID"] for reference in span["references"] if reference["refType"] == "CHILD_OF"]
    return parents[0] if parents else None


def edges(spans: list[TraceSpan]) -> Edges:
    """Return span id, parent and name of the stored spans."""
    return {(span.span_id, span.parent_span_id, span.name) for span in spans}


@pytest.mark.jaeger
async def test_a_lone_jaeger_has_the_tree_of_the_record(
    jaeger: Jaeger, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", jaeger.otlp_http)
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    async with Database(migrated_url) as database, bookkeeper(database) as keeper:
        story = await keeper.completed()
        async with database.read() as connection:
            trace = await get_trace(connection, story.identity.execution_id, "default")
        assert trace is not None
        assert trace.seal.complete
        trace_id = story.tracker.trace_id
        assert trace_id is not None
        assert await shown(jaeger, trace_id, len(trace.spans)) == edges(trace.spans)
