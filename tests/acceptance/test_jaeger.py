"""With an OTLP endpoint a trace is in a real Jaeger right after its execution, with the same tree as the record's."""

import asyncio
import json
import time
import urllib.error
import urllib.request

import pytest

from engine.graph import JsonObject
from engine.testing.models import Call, Say
from telemetry.reads.traces import Trace
from tests.services.jaeger.server import Jaeger
from tests.workflow_runner import drawing, request, workflow_runner

SOON_SECONDS = 2.0
PATIENCE_SECONDS = 15.0
TREE = """
invoke_workflow universal_chat  completed
  execute_node start
  execute_node memory
  execute_node answer
    chat scripted-1
  execute_node tools
    execute_tool calculate
  execute_node answer
    chat scripted-1
  execute_node end
"""


@pytest.mark.jaeger
async def test_a_trace_is_in_jaeger_soon_with_the_tree_of_the_record(
    jaeger: Jaeger, migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", jaeger.otlp_http)
    template: JsonObject = {"kind": "template", "template": "universal_chat", "params": {"enable_tools": True}}
    async with workflow_runner(migrated_sqlite_url) as runner:
        engine = runner.engine([Call("calculate", {"expression": "6 * 7"}), Say("It is 42.")])
        result = await engine.execute(request(template))
        ended = time.monotonic()
        trace = await runner.trace(result.execution_id)
        found = await asyncio.to_thread(wait_for, jaeger, str(result.metadata.trace_id), len(trace.spans))
        waited = time.monotonic() - ended

    assert drawing(trace.spans) == TREE
    assert found == told(trace)
    assert waited < SOON_SECONDS


def told(trace: Trace) -> dict[str, tuple[str, str | None]]:
    """Span id to name and parent, as the books have them."""
    return {span.span_id: (span.name, span.parent_span_id) for span in trace.spans}


def wait_for(jaeger: Jaeger, trace_id: str, spans: int) -> dict[str, tuple[str, str | None]]:
    """Return the spans that Jaeger has, once it has this number of spans."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    found: dict[str, tuple[str, str | None]] = {}
    while len(found) < spans and time.monotonic() < deadline:
        found = stored(jaeger, trace_id)
        time.sleep(0.05)
    return found


def stored(jaeger: Jaeger, trace_id: str) -> dict[str, tuple[str, str | None]]:
    try:
        with urllib.request.urlopen(f"{jaeger.query_url}/api/traces/{trace_id}", timeout=5) as response:
            spans = json.load(response)["data"][0]["spans"]
    except urllib.error.HTTPError as error:
        error.close()
        return {}
    return {
        span["spanID"]: (span["operationName"], next((one["spanID"] for one in span["references"]), None))
        for span in spans
    }
