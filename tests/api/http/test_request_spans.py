"""The spans of HTTP requests: which there are by setting, their names, and their links to queued executions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tests.api.harness import UNKNOWN_ID, Service, ended, running

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", 0xB7AD6B7169203331
PARENT = {"traceparent": f"00-{TRACE}-{CALLER:016x}-01"}
CHAT = {"source": {"kind": "template", "template": "universal_chat"}, "input": {"message": "hi"}}


@asynccontextmanager
async def watched(url: str, **settings: object) -> AsyncIterator[tuple[Service, InMemorySpanExporter]]:
    """A service and the spans that it exports."""
    spans = InMemorySpanExporter()
    async with running(url, None, **settings) as service:
        service.runtime.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
        yield service, spans


def names(spans: InMemorySpanExporter) -> list[str]:
    """The names of the HTTP spans."""
    return [span.name for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]


def root_of(spans: InMemorySpanExporter) -> ReadableSpan:
    """The root span of the one execution."""
    [root] = [span for span in spans.get_finished_spans() if span.name.startswith("invoke_workflow ")]
    return root


async def look_around(service: Service) -> None:
    """Requests that start nothing."""
    for path in (
        "/healthz",
        "/readyz",
        "/metrics",
        "/runbook",
        "/v1/executions",
        f"/v1/executions/{UNKNOWN_ID}",
        "/nowhere",
    ):
        await service.client.get(path)
    await service.client.post(f"/v1/executions/{UNKNOWN_ID}/cancel", json={})


STARTED = "POST /v1/executions universal_chat"


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("starts", [STARTED]),
        ("none", []),
        (
            "all",
            [
                "GET /v1/executions",
                "GET /v1/executions/{execution_id}",
                "GET",
                "POST /v1/executions/{execution_id}/cancel",
                STARTED,
            ],
        ),
    ],
)
async def test_by_default_only_the_spans_of_starts_are_exported(
    migrated_sqlite_url: str, setting: str, found: list[str]
) -> None:
    async with watched(migrated_sqlite_url, http_spans=setting) as (service, spans):
        await look_around(service)
        assert (await service.client.post("/v1/executions", json=CHAT)).json()["status"] == "completed"
        assert names(spans) == found


@pytest.mark.parametrize("mode", ["wait", "stream"])
async def test_the_span_of_a_start_is_named_after_its_workflow_and_is_above_it(
    migrated_sqlite_url: str, mode: str
) -> None:
    async with watched(migrated_sqlite_url) as (service, spans):
        answer = await service.client.post("/v1/executions", json={**CHAT, "mode": mode}, headers=PARENT)
        assert answer.status_code == 200
        root = root_of(spans)
        [server] = [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert server.name == STARTED
    assert root.parent is not None
    assert root.parent.span_id == server.context.span_id
    assert (server.links, root.links) == ((), ())


async def test_a_queued_execution_is_a_root_of_its_own_and_both_spans_link_to_each_other(
    migrated_sqlite_url: str,
) -> None:
    async with watched(migrated_sqlite_url) as (service, spans):
        answer = await service.client.post("/v1/executions", json={**CHAT, "mode": "async"}, headers=PARENT)
        told = answer.json()
        found = await ended(service, told["id"])
        root = root_of(spans)
        [server] = [span for span in spans.get_finished_spans() if span.name == STARTED]
    assert (found["trace_id"], found["root_span_id"]) == (told["trace_id"], told["root_span_id"]), "from the start"
    assert (f"{root.context.trace_id:032x}", f"{root.context.span_id:016x}") == (told["trace_id"], told["root_span_id"])
    assert root.parent is None
    assert f"{server.context.trace_id:032x}" == TRACE != told["trace_id"]
    assert [link.context.span_id for link in root.links] == [server.context.span_id]
    assert [link.context.span_id for link in server.links] == [root.context.span_id]


async def test_a_retry_links_to_the_request_and_to_the_original(migrated_sqlite_url: str) -> None:
    async with watched(migrated_sqlite_url) as (service, spans):
        first = (await service.client.post("/v1/executions", json=CHAT)).json()["execution_id"]
        original = root_of(spans)
        spans.clear()
        again = (await service.client.post(f"/v1/executions/{first}/retry", json={})).json()["id"]
        await ended(service, again)
        root = root_of(spans)
        [server] = [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert server.name == "POST /v1/executions/{execution_id}/retry universal_chat"
    assert root.context.trace_id not in (server.context.trace_id, original.context.trace_id)
    assert {link.context.span_id for link in root.links} == {server.context.span_id, original.context.span_id}


@pytest.mark.parametrize(("mode", "joins"), [("wait", True), ("async", False)])
async def test_without_its_span_a_request_leaves_the_execution_to_the_caller(
    migrated_sqlite_url: str, mode: str, joins: bool
) -> None:
    """A parent that nobody exports would be a hole in the trace."""
    async with watched(migrated_sqlite_url, http_spans="none") as (service, spans):
        answer = await service.client.post("/v1/executions", json={**CHAT, "mode": mode}, headers=PARENT)
        assert answer.headers["traceresponse"].split("-")[1] == TRACE
        await ended(service, answer.headers["X-Execution-ID"])
        root = root_of(spans)
    assert ((root.parent.span_id if root.parent else None) == CALLER) is joins
    assert ([link.context.span_id for link in root.links] == [CALLER]) is not joins


async def test_a_request_without_a_caller_and_without_a_span_starts_a_trace(migrated_sqlite_url: str) -> None:
    async with watched(migrated_sqlite_url, http_spans="none") as (service, spans):
        await service.client.post("/v1/executions", json=CHAT)
        root = root_of(spans)
    assert (root.parent, root.links) == (None, ())
