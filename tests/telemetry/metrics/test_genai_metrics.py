"""Model calls and tool calls are counted under the names, labels and bounds of the GenAI conventions."""

import re

import pytest
from prometheus_client import CollectorRegistry

from engine.resources import ModelReply
from engine.testing.models import ScriptedModel
from engine.usage import TOKEN_KINDS
from telemetry.metrics.span_metrics import SpanMetrics
from telemetry.reads.workflow_labels import OTHER
from telemetry.signals.records import Batch
from tests.telemetry.bookkeeper import ANSWER, REQUEST, Listener

CALL = {
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
    "server_address",
    "server_port",
    "workflow_name",
}
SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, float("inf")]
FORMER = "gen_ai_client_token_usage"


def counted(*, former_names: bool = True) -> CollectorRegistry:
    """The metrics of an execution with two model calls, one of them without usage, and a tool call."""
    registry, listener = CollectorRegistry(), Listener()
    story = listener.begin()
    story.answer()
    story.tool()
    story.cancelled_call()
    story.tracker.complete()
    SpanMetrics(registry, former_names=former_names).feed(Batch.of(listener.signals()))
    return registry


def samples(registry: CollectorRegistry, name: str) -> list[tuple[dict[str, str], float]]:
    found = [sample for family in registry.collect() for sample in family.samples if sample.name == name]
    return [(sample.labels, sample.value) for sample in found]


def test_calls_have_the_labels_and_bounds_of_the_conventions() -> None:
    registry = counted()
    [*bounds] = {
        float(labels["le"]) for labels, _ in samples(registry, "gen_ai_client_inference_duration_seconds_bucket")
    }
    assert sorted(bounds) == SECONDS
    for labels, _ in samples(registry, "gen_ai_client_inference_duration_seconds_count"):
        assert labels.keys() == CALL | {"error_type"}
    [(labels, calls)] = samples(registry, "gen_ai_execute_tool_duration_seconds_count")
    assert labels == {
        "gen_ai_tool_name": "calculate",
        "gen_ai_tool_type": "function",
        "workflow_name": labels["workflow_name"],
        "error_type": "",
    }
    assert calls == 1


def test_tokens_are_counted_and_a_call_without_usage_counts_nothing() -> None:
    registry = counted()
    for name, expected in (("input_tokens", ANSWER.input_tokens), ("output_tokens", ANSWER.output_tokens)):
        found = samples(registry, f"gen_ai_client_inference_usage_{name}_total")
        assert sum(value for _, value in found) == expected
        assert all(labels.keys() == CALL | {"gen_ai_token_modality"} for labels, _ in found)
        assert {labels["gen_ai_token_modality"] for labels, _ in found} == {"unknown"}
        assert sum(value for _, value in samples(registry, f"gen_ai_client_inference_operation_{name}_count")) == 1


@pytest.mark.parametrize("former_names", [True, False])
def test_each_kind_of_token_is_there_and_the_former_metric_only_if_wanted(former_names: bool) -> None:
    names = {family.name for family in counted(former_names=former_names).collect()}
    kinds = {kind.genai_key.replace(".", "_") for kind in TOKEN_KINDS}
    assert {match[1] for name in names if (match := re.match("gen_ai_client_inference_usage_(.*)", name))} == kinds
    assert (FORMER in names) is former_names


def test_a_server_that_names_its_models_at_will_floods_nothing_and_takes_no_names_from_others() -> None:
    registry, listener = CollectorRegistry(), Listener()
    story = listener.begin()
    node = story.node("model")
    answers = [("liar", f"m{number}") for number in range(300)] + [("honest", "honest-2026-11-30")]
    for asked, answered in answers:
        call = node.model_call(ScriptedModel([], model=asked), REQUEST)
        call.complete(ModelReply(text="hi", usage=ANSWER, model=answered))
    SpanMetrics(registry, former_names=True).feed(Batch.of(listener.signals()))
    for name in ("duration_seconds_count", "usage_input_tokens_total", "operation_output_tokens_count"):
        found = samples(registry, f"gen_ai_client_inference_{name}")
        told = [labels["gen_ai_response_model"] for labels, _ in found if labels["gen_ai_request_model"] == "liar"]
        assert len(told) == 21  # twenty names, and one for all others
        assert OTHER in told
        assert "honest-2026-11-30" in [labels["gen_ai_response_model"] for labels, _ in found]
