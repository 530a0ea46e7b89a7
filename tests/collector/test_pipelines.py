"""Real executions through a real Collector: the store, the metrics and the two routes of the receiver say the same."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from engine.graph import JsonObject
from engine.testing.models import Call, Fail, Say, Step
from engine.tracing import semconv
from engine.usage import Usage
from telemetry.signals import otlp
from tests.collector.observation import a_span, calls, in_jaeger, scraped, send, send_body, series, tags
from tests.collector.receiver import EVENTS, SPANS, WEBHOOKS, Receiver
from tests.conftest import StartCollector
from tests.services.collector.server import INGEST_TOKEN, Collector
from tests.services.jaeger.server import Jaeger
from tests.services.prometheus.server import Json, JsonDocument, Prometheus
from tests.workflow_runner import WorkflowRunner, request, streamed, workflow_runner

pytestmark = [pytest.mark.collector, pytest.mark.jaeger]

CHAT: JsonObject = {"kind": "chat", "params": {"enable_tools": True}}
TEMPLATE: JsonObject = {"kind": "template", "template": "universal_chat"}
ALL_TOKENS = Usage(
    input_tokens=50, output_tokens=9, cache_read_tokens=20, cache_write_tokens=10, reasoning_tokens=4, total_tokens=59
)


NEW_METRICS = {
    "gen_ai_client_inference_duration_seconds_bucket",
    "gen_ai_client_inference_time_to_first_chunk_seconds_bucket",
    "gen_ai_client_inference_operation_input_tokens_bucket",
    "gen_ai_client_inference_operation_output_tokens_bucket",
    "gen_ai_client_inference_usage_input_tokens_total",
    "gen_ai_client_inference_usage_output_tokens_total",
    "gen_ai_client_inference_usage_cache_read_input_tokens_total",
    "gen_ai_client_inference_usage_cache_write_input_tokens_total",
    "gen_ai_client_inference_usage_reasoning_output_tokens_total",
    "gen_ai_execute_tool_duration_seconds_bucket",
}
"""Of the GenAI conventions 0.1.0, as Prometheus calls them."""
FORMER_METRIC = "gen_ai_client_token_usage_bucket"


@dataclass(slots=True)
class SentSignals:
    """What was executed, as the books have it."""

    spans: dict[str, dict[str, str]]
    """By trace: span id and name."""
    event_ids: list[str]
    embedded: str
    """The service's own /metrics, in OpenMetrics."""

    def span_ids(self) -> list[str]:
        """All of them."""
        return sorted(id_ for trace in self.spans.values() for id_ in trace)


@pytest.fixture
async def sent(collector: Collector, migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> SentSignals:
    """Executions of a chat with a tool, a streamed template and a failing one, sent to the Collector."""
    for name, value in collector.sender_environment.items():
        monkeypatch.setenv(name, value)
    async with workflow_runner(migrated_sqlite_url) as runner:
        await execute(runner)
        spans, events = runner.emitted(), runner.journalled()
        _, exposition = await runner.runtime.metrics.exposition("application/openmetrics-text")
    by_trace: dict[str, dict[str, str]] = {}
    for span in spans:
        assert span.context
        by_trace.setdefault(f"{span.context.trace_id:032x}", {})[f"{span.context.span_id:016x}"] = span.name
    ids = sorted(str((event.log_record.attributes or {})[semconv.EVENT_ID]) for event in events)
    return SentSignals(by_trace, ids, exposition.decode())


async def execute(runner: WorkflowRunner) -> None:
    script: list[Step] = [
        Call("calculate", {"expression": "6 * 7"}),
        Say("It is 42."),
        Say("Streamed.", usage=ALL_TOKENS),
        Say("Counted wrongly.", usage=Usage(input_tokens=-1, output_tokens=1)),
    ]
    engine = runner.engine(script)
    await engine.execute(request(CHAT, "what is 6 * 7?"))
    await streamed(engine, request(TEMPLATE))
    await engine.execute(request(TEMPLATE))
    await runner.engine([Fail("auth")]).execute(request(TEMPLATE))


async def test_records_and_webhooks_get_every_signal_once(sent: SentSignals, receiver: Receiver) -> None:
    assert await asyncio.to_thread(receiver.wait_for, lambda: receiver.has(len(sent.span_ids()), len(sent.event_ids)))
    assert receiver.span_ids() == sent.span_ids()
    assert receiver.event_ids(EVENTS) == sent.event_ids
    assert receiver.event_ids(WEBHOOKS) == sent.event_ids
    assert receiver.paths == {SPANS, EVENTS, WEBHOOKS}
    assert {each["authorization"] for each in receiver.headers} == {f"Bearer {INGEST_TOKEN}"}
    assert {each["content-type"] for each in receiver.headers} == {"application/x-protobuf"}


async def test_the_store_shows_every_trace(sent: SentSignals, jaeger: Jaeger) -> None:
    for trace_id, spans in sent.spans.items():
        found = await in_jaeger(jaeger, trace_id, len(spans))
        assert {str(span["spanID"]): str(span["operationName"]) for span in found} == spans


async def test_the_metrics_are_those_of_the_service_itself(sent: SentSignals, collector: Collector) -> None:
    own = series(sent.embedded)
    assert {name for name, _ in own} >= {
        "traces_span_metrics_calls_total",
        "traces_span_metrics_duration_seconds_bucket",
        *NEW_METRICS,
        FORMER_METRIC,
        "workflow_cost_usd_total",
        "workflow_usage_rejected_total",
        "workflow_time_to_first_token_seconds_bucket",
    }
    made = await scraped(collector, lambda text: calls(text) == len(sent.span_ids()))
    assert series(made) == pytest.approx(own, rel=1e-9)


async def test_both_leave_out_former_names_on_request(
    start_collector: StartCollector, migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt_in = "database/dup, gen_ai_latest_experimental"
    collector = start_collector(OTEL_SEMCONV_STABILITY_OPT_IN=opt_in)
    for name, value in {**collector.sender_environment, "OTEL_SEMCONV_STABILITY_OPT_IN": opt_in}.items():
        monkeypatch.setenv(name, value)
    async with workflow_runner(migrated_sqlite_url) as runner:
        await execute(runner)
        sent = len(runner.emitted())
        _, exposition = await runner.runtime.metrics.exposition("application/openmetrics-text")
    made = await scraped(collector, lambda text: calls(text) == sent)
    names = {name for name, _ in series(made)}
    assert names >= NEW_METRICS
    assert FORMER_METRIC not in names
    assert series(made) == pytest.approx(series(exposition.decode()), rel=1e-9)


@pytest.mark.prometheus
async def test_prometheus_has_them_with_a_way_to_the_trace(
    collector: Collector,
    start_prometheus: Callable[[JsonDocument], Prometheus],
    migrated_sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target: Json = {
        "job_name": "collector",
        "honor_labels": True,
        "static_configs": [{"targets": [collector.metrics_address]}],
    }
    prometheus = start_prometheus({"global": {"scrape_interval": "250ms"}, "scrape_configs": [target]})
    for name, value in collector.sender_environment.items():
        monkeypatch.setenv(name, value)
    begun = time.time()
    async with workflow_runner(migrated_sqlite_url) as runner:
        await execute(runner)
        spans = runner.emitted()
    traces = {f"{span.context.trace_id:032x}" for span in spans if span.context}
    model_calls = [span.attributes for span in spans if span.attributes and semconv.COST_SOURCE in span.attributes]
    cost = sum(int(str(each.get(semconv.COST_NANO_USD, 0))) for each in model_calls)

    await eventually(lambda: prometheus.value("sum(traces_span_metrics_calls_total)") == len(spans))
    assert round((prometheus.value('sum(workflow_cost_usd_total{job="spanloom"})') or 0) * 1e9) == cost
    assert cost > 0
    failed = 'sum(traces_span_metrics_calls_total{workflow_execution_status="failed",workflow_name="universal_chat"})'
    assert prometheus.value(failed) == 1
    assert prometheus.value('sum(gen_ai_client_token_usage_count{gen_ai_token_type="cache_read"})') is not None
    streamed_ones = [span for span in spans if semconv.TIME_TO_FIRST_TOKEN in (span.attributes or {})]
    assert prometheus.value("sum(workflow_time_to_first_token_seconds_count)") == len(streamed_ones) > 0

    found = prometheus.exemplars("traces_span_metrics_duration_seconds_bucket", start=begun, end=time.time() + 1)
    assert found
    assert {exemplar["labels"]["trace_id"] for each in found for exemplar in each["exemplars"]} <= traces


async def test_content_and_other_libraries_reach_the_store_only(
    collector: Collector, receiver: Receiver, jaeger: Jaeger
) -> None:
    ours = a_span(
        "chat small",
        **{
            semconv.INPUT_MESSAGES: "geheim",
            "input.value": "geheim",
            semconv.PROVIDER: "openai",
            semconv.SIGNAL_SIGNATURE: "0" * 32,
        },
    )
    others = a_span("GET /", **{semconv.INPUT_MESSAGES: "other"})
    await send(collector, {semconv.SCOPE_GENAI: [ours], "fastapi": [others]})

    assert await asyncio.to_thread(receiver.wait_for, lambda: receiver.has(1))
    [kept] = receiver.spans
    assert {each.key for each in kept.attributes} == {semconv.PROVIDER, semconv.SIGNAL_SIGNATURE}
    assert receiver.scopes == {semconv.SCOPE_GENAI}
    [shown] = await in_jaeger(jaeger, ours.trace_id.hex(), 1)
    assert tags(shown)[semconv.INPUT_MESSAGES] == "geheim"
    assert semconv.SIGNAL_SIGNATURE not in tags(shown)
    assert await in_jaeger(jaeger, others.trace_id.hex(), 1)
    assert calls(await scraped(collector, lambda text: calls(text) >= 1)) == 1


async def test_a_secret_is_masked_in_the_store_and_left_as_said_in_the_record(
    collector: Collector, receiver: Receiver, jaeger: Jaeger
) -> None:
    secret = "sk-" + "a1b2c3d4" * 4
    one = a_span("chat small", **{semconv.ERROR_MESSAGE: f"refused {secret} twice", "http.request.header.cookie": "c"})
    await send(collector, {semconv.SCOPE_GENAI: [one]})
    [shown] = await in_jaeger(jaeger, one.trace_id.hex(), 1)
    assert tags(shown)[semconv.ERROR_MESSAGE] == "refused **** twice"
    assert tags(shown)["http.request.header.cookie"] == "****"
    assert await asyncio.to_thread(receiver.wait_for, lambda: receiver.has(1))
    assert any(secret in each.value.string_value for each in receiver.spans[0].attributes)


async def eventually(reached: Callable[[], bool]) -> None:
    """Return once that is true."""
    async with asyncio.timeout(20):
        while True:
            if await asyncio.to_thread(reached):
                return
            await asyncio.sleep(0.1)


async def test_a_score_reaches_the_records(collector: Collector, receiver: Receiver) -> None:
    said = {semconv.EVENT_ID: "score", semconv.EVALUATION_NAME: "rating"}
    score = LogRecord(event_name=semconv.Event.EVALUATION_RESULT.value, time_unix_nano=time.time_ns())
    score.attributes.extend(KeyValue(key=key, value=AnyValue(string_value=text)) for key, text in said.items())
    other = LogRecord(event_name="gen_ai.client.inference.operation.details", time_unix_nano=time.time_ns())
    parcels = [(semconv.SCOPE_ENGINE, each.SerializeToString()) for each in (other, score)]
    await send_body(collector, "logs", otlp.logs_request({"service.name": "spanloom"}, parcels))

    assert await asyncio.to_thread(receiver.wait_for, lambda: bool(receiver.event_ids(EVENTS)))
    assert receiver.event_ids(EVENTS) == ["score"]
