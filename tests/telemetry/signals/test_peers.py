"""What is added to our spans for other tools follows from our own attributes alone."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.security.printable import one_line
from engine.tracing import semconv
from engine.tracing.semconv import Operation
from telemetry.signals import peers
from telemetry.signals.records import Attributes

NODE: Attributes = {semconv.NODE_ID: "answer"}


def of(operation: Operation, **attributes: str | int | bool) -> Attributes:
    """What is added to a span of this kind; attributes by their names in `semconv`."""
    return peers.added_to(
        {semconv.OPERATION: operation.value} | {getattr(semconv, k): v for k, v in attributes.items()}
    )


@pytest.mark.parametrize(
    ("attributes", "added"),
    [
        (NODE, {"openinference.span.kind": "CHAIN"}),
        ({semconv.OPERATION: "invoke_workflow"}, {"openinference.span.kind": "CHAIN"}),
        ({semconv.OPERATION: "retrieval"}, {"openinference.span.kind": "RETRIEVER"}),
        ({semconv.OPERATION: "execute_tool"}, {"openinference.span.kind": "TOOL", "mlflow.spanType": "TOOL"}),
        ({semconv.OPERATION: "chat"}, {}),
        ({semconv.OPERATION: ["chat"]}, {"openinference.span.kind": "CHAIN"}),
    ],
)
def test_each_kind_of_span_has_its_kind_and_a_model_call_none(attributes: Attributes, added: Attributes) -> None:
    assert peers.added_to(attributes) == added


def test_an_execution_says_its_cost_in_dollars_its_conversation_and_its_user() -> None:
    added = of(Operation.WORKFLOW, COST_NANO_USD=1_234_567_890, CONVERSATION_ID="c-1", USER_ID="sha256:1")
    assert added == {
        "openinference.span.kind": "CHAIN",
        "workflow.cost.usd": 1.23456789,
        "session.id": "c-1",
        "user.id": "sha256:1",
    }


def test_a_call_repeats_its_reasoning_tokens_and_its_cost_in_parts() -> None:
    added = peers.added_to(
        {
            semconv.OPERATION: "chat",
            semconv.CALL_TOKENS["reasoning_tokens"]: 20,
            semconv.COST_NANO_USD: 300,
            semconv.INPUT_COST_NANO_USD: 100,
        }
    )
    assert added["llm.token_count.completion_details.reasoning"] == 20
    costs = orjson.loads(str(added["mlflow.llm.cost"]))
    assert costs == {"total_cost": 3e-07, "input_cost": 1e-07, "output_cost": 2e-07}
    assert orjson.loads(str(of(Operation.CHAT, COST_NANO_USD=300)["mlflow.llm.cost"])) == {"total_cost": 3e-07}


def test_an_unknown_cost_is_not_said_to_be_nothing() -> None:
    assert of(Operation.WORKFLOW) == {"openinference.span.kind": "CHAIN"}
    assert of(Operation.CHAT, INPUT_COST_NANO_USD=100) == {}


@pytest.mark.parametrize("document", ["", "{", "[]", "null", '["a"]', '{"": "x"}', 7, ["a"], None])
def test_tags_that_are_none_add_nothing(document: object) -> None:
    added = peers.added_to({semconv.OPERATION: "invoke_workflow", semconv.TAGS: document})  # type: ignore[dict-item]  # hostile
    assert added == {"openinference.span.kind": "CHAIN"}


@given(st.dictionaries(st.text(max_size=70), st.text(max_size=70), max_size=40))
def test_whatever_tags_say_they_stay_below_their_prefixes(tags: dict[str, str]) -> None:
    document = orjson.dumps({key.encode("utf-8", "replace").decode(): value for key, value in tags.items()}).decode()
    added = of(Operation.WORKFLOW, TAGS=document)
    own = {key: value for key, value in added.items() if not key.startswith(semconv.PEER_PREFIXES)}
    assert own.pop("openinference.span.kind") == "CHAIN"
    assert own.keys() <= {"metadata"}
    assert all(key == one_line(key) for key in added)
    assert len(added) <= 2 + 2 * 16


def test_mlflows_own_tags_are_not_the_callers_to_set() -> None:
    added = of(Operation.WORKFLOW, TAGS='{"mlflow.artifactLocation": "file:///etc", "team": "a"}')
    assert [key for key in added if key.startswith("mlflow.")] == ["mlflow.traceTag.team"]
    assert added["workflow.tag.mlflow.artifactLocation"] == "file:///etc"


def test_an_exception_has_the_type_and_the_message_of_the_failure() -> None:
    assert peers.exception_of("timeout", "too late") == {
        "exception.type": "timeout",
        "exception.message": "too late",
    }
    assert peers.exception_of(None, "") == {"exception.type": "error"}


def test_secrets_in_tags_are_redacted_whoever_wrote_the_document() -> None:
    secret = "sk-aaaaaaaaaaaaaaaaaaaaaaaa"
    added = of(Operation.WORKFLOW, TAGS=orjson.dumps({secret: "x", "key": secret}).decode(), USER_ID=secret)
    assert secret not in str(added)
    assert added["workflow.tag.key"] == added["user.id"] == "[redacted]"
