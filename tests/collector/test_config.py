"""otel-collector.yaml: the Collector takes it, and every name in it is one that we emit."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import httpx2
import pytest
import yaml
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult

from engine.security.redaction import SECRET_SHAPES
from engine.tracing import semconv
from telemetry.signals.otlp import traces_request
from tests.collector.observation import a_span
from tests.conftest import found
from tests.services.collector import server as collector_service
from tests.services.collector.server import CONFIG, INGEST_TOKEN, MANIFEST, OTLP_TOKEN, Collector

Yaml: TypeAlias = "bool | int | float | str | list[Yaml] | dict[str, Yaml] | None"

LABELS = {"gen_ai.token.type", "gen_ai.token.modality"}
"""Keys of metrics that stand on no span."""
METRICS = {
    *(each.name for each in semconv.RENAMED_METRICS),
    semconv.FORMER_TOKEN_METRIC,
    "gen_ai.client.inference.duration",
    "gen_ai.client.inference.time_to_first_chunk",
    "gen_ai.client.inference.operation.input_tokens",
    "gen_ai.client.inference.operation.output_tokens",
    "gen_ai.execute_tool.duration",
    "workflow.cost.usd",
}
CALLERS = {"workflow.trace.keep"}
"""What a caller may set on a span of its own."""
RESOURCE = {"service.name", "deployment.environment.name"}
SAMPLED = "tail_sampling], exporters"

NAME = re.compile(r"\b(?:workflow|gen_ai|openinference|error|service|deployment)\.[a-z_]+(?:\.[a-z_]+)*")


def text() -> str:
    return CONFIG.read_text()


def document() -> dict[str, Yaml]:
    loaded: dict[str, Yaml] = yaml.safe_load(text())
    return loaded


def at(*keys: str) -> dict[str, Yaml]:
    node: Yaml = document()
    for key in keys:
        assert isinstance(node, dict)
        node = node[key]
    assert isinstance(node, dict)
    return node


def values(node: Yaml) -> Iterator[str]:
    """Every text in a part of the document that stands for a value, not for a component."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for each in node:
            yield from values(each)
    elif isinstance(node, dict):
        for each in node.values():
            yield from values(each)


def named() -> set[str]:
    """Every attribute key in processors and connectors; regular expressions and prose have none."""
    texts = [*values(document()["processors"]), *values(document()["connectors"])]
    plain = [
        each for each in texts if "delete_matching_keys" not in each and "event_name" not in each and " " not in each
    ]
    looked_up = [key for each in texts for key in re.findall(r'attributes\["([^"]+)"\]', each)]
    return {name for each in [*plain, *looked_up] for name in NAME.findall(each) if name == each}


def validate(*configs: Path, **environment: str) -> str:
    return found(lambda: collector_service.validate(*configs, **environment))


@pytest.mark.collector
def test_the_collector_takes_the_file() -> None:
    assert validate(CONFIG) == ""


@pytest.mark.collector
def test_the_collector_takes_the_file_with_sampling_on(sampled: Path) -> None:
    assert SAMPLED in sampled.read_text()
    assert validate(sampled) == ""


@pytest.mark.collector
def test_the_collector_refuses_a_name_that_is_none(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text().replace("exporters: [otlp_http/jaeger]", "exporters: [otlp_http/jäger]", 1))
    assert "jäger" in validate(wrong)


def test_every_attribute_in_the_file_is_one_that_we_emit() -> None:
    assert named() - semconv.ATTRIBUTES.keys() - LABELS - METRICS - CALLERS - RESOURCE == set()


def test_the_search_for_attributes_finds_them() -> None:
    assert named() >= {
        semconv.WORKFLOW_NAME,
        semconv.ERROR_TYPE,
        semconv.CALL_TOKENS["input_tokens"],
        semconv.COST_NANO_USD,
        semconv.TIME_TO_FIRST_TOKEN,
        semconv.EXECUTION_STATUS,
    } | (LABELS | METRICS | CALLERS | RESOURCE)


def test_what_is_content_is_stripped_and_nothing_else_of_ours() -> None:
    [of_spans] = set(values(at("processors", "transform/strip_content")["trace_statements"])) - {"span"}
    [of_events] = set(values(at("processors", "transform/strip_content")["log_statements"])) - {"log"}
    assert of_spans.replace("span.attributes", "log.attributes") == of_events
    pattern = of_spans.split('"')[1].replace("\\\\", "\\")
    assert {key for key in semconv.ATTRIBUTES if re.search(pattern, key)} == semconv.TRACE_ONLY_KEYS


def test_scopes_and_events_are_told_apart_as_the_bookkeeper_does() -> None:
    [of_spans] = _conditions("filter/engine_spans")
    assert f'"^{re.escape(semconv.SCOPE_PREFIX)}"'.replace("\\", "\\\\") in of_spans
    [ours], [others] = _conditions("filter/workflow_events"), _conditions("filter/app_logs")
    assert ours == f"not {others}", "every log goes to one branch"
    pattern = ours.split('"')[1].replace("\\\\", "\\")
    assert all(re.search(pattern, event.value) for event in semconv.Event)


@pytest.mark.parametrize(
    "secret",
    [
        "sk-" + "a1" * 10,
        "AIza" + "b" * 35,
        "AKIA" + "A1" * 8,
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMII",
        "bearer abcdefghijklmnop",
        "Basic YW5uYTpnZWhlaW0x",
        "whsec_abcdefgh+ijk/lmnop==",
        "https://anna:geheim@example.org/x",
    ],
)
def test_a_shape_that_the_engine_redacts_the_collector_masks(secret: str) -> None:
    assert SECRET_SHAPES.search(secret)
    blocked = at("processors", "redaction/secrets")["blocked_values"]
    assert any(re.search(pattern, secret) for pattern in values(blocked))


@pytest.mark.parametrize("key", sorted(semconv.ATTRIBUTES))
def test_no_key_of_ours_is_masked(key: str) -> None:
    blocked = at("processors", "redaction/secrets")["blocked_key_patterns"]
    assert not any(re.fullmatch(pattern, key) for pattern in values(blocked))


def test_every_variable_is_explained_and_has_its_default_there() -> None:
    head, _, body = text().partition("\nextensions:")
    shipped = "\n".join(line for line in body.splitlines() if not line.lstrip().startswith("#"))
    used = dict(re.findall(r"\$\{env:([A-Z_]+)(?::-([^}]*))?\}", shipped))
    explained = dict(re.findall(r"^#   ([A-Z_]{8,}) .*?(?:\(([^()]*)\))?$", head, re.MULTILINE))
    assert used == explained


@pytest.mark.collector
@pytest.mark.parametrize("token", ["OTELCOL_TOKEN", "SPANLOOM_INGEST_TOKEN"])
def test_the_collector_does_not_start_without_a_token(token: str) -> None:
    assert "token" in validate(CONFIG, **{token: ""})


@pytest.mark.collector
async def test_every_way_in_asks_for_the_token(collector: Collector) -> None:
    span = traces_request({}, [(semconv.SCOPE_GENAI, a_span("chat small").SerializeToString())])
    for shown, is_taken in ((None, False), ("wrong", False), (INGEST_TOKEN, False), (OTLP_TOKEN, True)):
        headers = {"authorization": f"Bearer {shown}"} if shown else {}
        for path in ("traces", "logs", "metrics"):
            body = span if path == "traces" else b""
            with httpx2.Client(trust_env=False) as client:
                kind = {"content-type": "application/x-protobuf"}
                answer = client.post(f"{collector.otlp_http}/v1/{path}", content=body, headers=kind | headers)
            assert answer.status_code == (200 if is_taken else 401), (shown, path)
        exporter = OTLPSpanExporter(f"127.0.0.1:{collector.grpc_port}", insecure=True, headers=headers, timeout=5)
        done = await asyncio.to_thread(exporter.export, [])
        assert (done is SpanExportResult.SUCCESS) == is_taken, shown
        exporter.shutdown()


def test_nothing_is_acknowledged_before_it_is_on_disk() -> None:
    assert [name for name in at("processors") if name.split("/")[0] == "batch"] == []
    for name in ("records", "webhooks"):
        assert at("extensions", f"file_storage/{name}")["fsync"] is True
        exporter = at("exporters", f"otlp_http/{name}")
        assert exporter["auth"] == {"authenticator": "bearertokenauth/ingest"}
        retry, queue = exporter["retry_on_failure"], exporter["sending_queue"]
        assert isinstance(retry, dict)
        assert isinstance(queue, dict)
        assert retry["max_elapsed_time"] == "0s", "it never gives up"
        assert queue["storage"] == f"file_storage/{name}"


def test_the_fork_stands_before_what_thins_and_masks() -> None:
    pipelines = at("service", "pipelines")
    for name, pipeline in pipelines.items():
        assert isinstance(pipeline, dict)
        processors = pipeline["processors"]
        assert isinstance(processors, list)
        if name != "traces/store":
            assert "tail_sampling" not in processors
        if name not in ("traces/store", "logs/app"):
            assert "redaction/secrets" not in processors
        assert ("memory_limiter" in processors) == name.endswith("/in")


def test_the_small_binary_has_every_component_of_the_file() -> None:
    built = re.findall(
        r"/([a-z]+?)(?:extension|receiver|processor|exporter|connector)? v0\.161\.0", MANIFEST.read_text()
    )
    names = [name for part in ("extensions", "receivers", "processors", "exporters", "connectors") for name in at(part)]
    modules = {name.split("/")[0].replace("_", "") for name in names}
    assert modules - {*built} == set()


def _conditions(name: str) -> list[str]:
    return list(values({key: node for key, node in at("processors", name).items() if key != "error_mode"}))
