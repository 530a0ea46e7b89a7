"""The commented exporters of otel-collector.yaml: uncommented, each sends to the right path, with its headers.

`validate` does not do: it takes `heders:` as well.
"""

import asyncio
import re
from pathlib import Path

import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from engine.tracing import semconv
from tests.collector.observation import a_span, send
from tests.conftest import StartCollector
from tests.inbox import Received, listening
from tests.services.collector.server import CONFIG

NOWHERE = "http://127.0.0.1:9"
"""Nothing listens on the port of `discard`."""
EXAMPLES = {
    "otlp_http/langfuse": (
        "LANGFUSE_HOST",
        {"LANGFUSE_BASIC_AUTH": "cGs6c2s="},
        "/api/public/otel/v1/traces",
        {"authorization": "Basic cGs6c2s="},
    ),
    "otlp_http/phoenix": (
        "PHOENIX_HOST",
        {"PHOENIX_API_KEY": "key"},
        "/v1/traces",
        {"authorization": "Bearer key"},
    ),
    "otlp_http/mlflow": (
        "MLFLOW_HOST",
        {"MLFLOW_EXPERIMENT_ID": "7"},
        "/v1/traces",
        {"x-mlflow-experiment-id": "7"},
    ),
    "otlp_http/tempo": ("TEMPO_OTLP_ENDPOINT", {}, "/v1/traces", {}),
}
"""Variable of the address, other variables, path and headers of what arrives."""
UNSENT = {"datadog"}
"""Not in the small binary."""
_BLOCK = r"^  # ({name}:.*\n(?:  #   .*\n)+)"


def commented() -> list[str]:
    """The names of the commented exporters."""
    return re.findall(r"^  # ([a-z_]+(?:/[a-z]+)?):(?: #.*)?$", CONFIG.read_text(), re.MULTILINE)


def with_example(tool: str, text: str | None = None) -> str:
    """The file with one example uncommented and in use."""
    block = re.compile(_BLOCK.format(name=re.escape(tool)), re.MULTILINE)
    found = block.sub(
        lambda match: re.sub(r"^  # ", "  ", f"  # {match[1]}", flags=re.MULTILINE), text or CONFIG.read_text(), count=1
    )
    return found.replace("exporters: [otlp_http/jaeger]", f"exporters: [otlp_http/jaeger, {tool}]", 1)


def test_every_example_is_tried() -> None:
    assert set(commented()) == EXAMPLES.keys() | UNSENT


@pytest.mark.parametrize("tool", sorted(EXAMPLES.keys() | UNSENT))
def test_an_example_is_an_exporter_when_it_is_uncommented(tool: str) -> None:
    config = yaml.safe_load(with_example(tool))
    assert config["exporters"][tool].keys() <= {"endpoint", "headers", "api"}
    assert tool in config["service"]["pipelines"]["traces/store"]["exporters"]


@pytest.mark.collector
@pytest.mark.parametrize("tool", EXAMPLES)
async def test_an_example_sends_to_the_right_path_with_its_headers(
    start_collector: StartCollector, tmp_path: Path, tool: str
) -> None:
    request = await _sent(start_collector, tmp_path, tool, with_example(tool))
    _, _, path, headers = EXAMPLES[tool]
    assert request.path == path
    assert request.headers["content-type"] == "application/x-protobuf"
    assert {name: request.headers.get(name) for name in headers} == headers
    traces = ExportTraceServiceRequest.FromString(request.body)
    assert [span.name for span in traces.resource_spans[0].scope_spans[0].spans] == ["chat small"]


@pytest.mark.collector
async def test_the_collector_itself_takes_a_misspelt_key(start_collector: StartCollector, tmp_path: Path) -> None:
    tool = "otlp_http/mlflow"
    text = with_example(tool).replace("headers: { x-mlflow", "heders: { x-mlflow", 1)
    request = await _sent(start_collector, tmp_path, tool, text)
    assert "x-mlflow-experiment-id" not in request.headers


async def _sent(start_collector: StartCollector, folder: Path, tool: str, text: str) -> Received:
    """What arrives at the tool when a Collector with this file is given one span."""
    config = folder / "with-example.yaml"
    config.write_text(text)
    variable, environment, _, _ = EXAMPLES[tool]
    elsewhere = {"JAEGER_OTLP_ENDPOINT": NOWHERE, "RECORDS_OTLP_ENDPOINT": NOWHERE}
    with listening() as inbox:
        collector = start_collector(config, **elsewhere, **environment, **{variable: inbox.url})
        await send(collector, {semconv.SCOPE_GENAI: [a_span("chat small")]})
        assert await asyncio.to_thread(inbox.wait_for, lambda: inbox.requests != [])
    return inbox.requests[0]
