"""Sends signals to a Collector and observes the results in the trace store and in its metrics."""

import asyncio
import time
from collections.abc import Callable
from typing import Literal

import httpx2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from engine.usage import TOKEN_KINDS
from tests.services.collector.server import OTLP_TOKEN, Collector
from tests.services.jaeger.server import Jaeger

FAMILIES = (
    "traces_span_metrics_calls",
    "traces_span_metrics_duration_seconds",
    "gen_ai_client_inference_duration_seconds",
    "gen_ai_client_inference_time_to_first_chunk_seconds",
    "gen_ai_client_inference_operation_input_tokens",
    "gen_ai_client_inference_operation_output_tokens",
    *(f"gen_ai_client_inference_usage_{kind.genai_key.replace('.', '_')}" for kind in TOKEN_KINDS),
    "gen_ai_execute_tool_duration_seconds",
    "gen_ai_client_token_usage",
    "workflow_cost_usd",
    "workflow_usage_rejected",
    "workflow_time_to_first_token_seconds",
)
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
Shown = dict[str, "Shown | list[Shown] | str | int"]


def a_span(name: str, **attributes: str) -> Span:
    """A span in a new trace."""
    ids, now = RandomIdGenerator(), time.time_ns()
    return Span(
        trace_id=ids.generate_trace_id().to_bytes(16, "big"),
        span_id=ids.generate_span_id().to_bytes(8, "big"),
        name=name,
        start_time_unix_nano=now - 1_000_000,
        end_time_unix_nano=now,
        attributes=[KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in attributes.items()],
    )


async def send(collector: Collector, spans: dict[str, list[Span]]) -> None:
    """Send spans, by scope, to the Collector."""
    scopes = [ScopeSpans(scope=InstrumentationScope(name=name), spans=them) for name, them in spans.items()]
    service = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value="house"))])
    body = ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=service, scope_spans=scopes)])
    await send_body(collector, "traces", body.SerializeToString())


async def send_body(collector: Collector, signal: Literal["traces", "logs"], body: bytes) -> None:
    """Send an export request to the Collector."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        headers = {"content-type": "application/x-protobuf", "authorization": f"Bearer {OTLP_TOKEN}"}
        (await client.post(f"{collector.otlp_http}/v1/{signal}", content=body, headers=headers)).raise_for_status()


async def in_jaeger(jaeger: Jaeger, trace_id: str, spans: int) -> list[Shown]:
    """The spans of a trace; waits until the store has that many."""
    async with httpx2.AsyncClient(trust_env=False) as client, asyncio.timeout(20):
        while True:
            answer = await client.get(f"{jaeger.query_url}/api/traces/{trace_id}")
            found: list[Shown] = answer.json()["data"][0]["spans"] if answer.status_code == 200 else []
            if len(found) >= spans:
                return found
            await asyncio.sleep(0.05)


def tags(shown: Shown) -> dict[str, str]:
    """The attributes of a span as Jaeger shows them."""
    found = shown["tags"]
    assert isinstance(found, list)
    return {str(tag["key"]): str(tag["value"]) for tag in found}


async def scraped(collector: Collector, enough: Callable[[str], bool]) -> str:
    """The Collector's metrics as OpenMetrics; waits until `enough` holds."""
    accept = {"accept": "application/openmetrics-text;version=1.0.0"}
    async with httpx2.AsyncClient(trust_env=False) as client, asyncio.timeout(20):
        while True:
            answer = await client.get(f"http://{collector.metrics_address}/metrics", headers=accept)
            if answer.status_code == 200 and enough(answer.text):
                return answer.text
            await asyncio.sleep(0.1)


def calls(exposition: str) -> float:
    """The number of spans counted."""
    return sum(value for (name, _), value in series(exposition).items() if name == "traces_span_metrics_calls_total")


def series(exposition: str) -> Series:
    """Name and labels to value, of the metrics made from spans. Empty labels count as absent, as in Prometheus."""
    found: Series = {}
    for family in text_string_to_metric_families(exposition):  # type: ignore[no-untyped-call]  # untyped at its source
        if family.name not in FAMILIES:
            continue
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            labels = {(key, value) for key, value in sample.labels.items() if value and key not in ("job", "instance")}
            found[sample.name, frozenset(labels)] = sample.value
    return found
