"""Every built-in template is a valid workflow."""

import pytest

from engine.graph import JsonObject
from engine.resources import Passage, RetrievalQuery
from engine.retrieval.files import FilesRetriever
from engine.templates.resolve import resolve
from engine.templates.template import load_builtin
from engine.testing.models import ScriptedModel
from engine.tools.builtin import builtin_tools
from engine.validation.validator import WorkflowValidator
from tests.engine.harness import scripted_resources
from tests.engine.templates.drawings import drawing

BUILTIN = {template.key: template for template in load_builtin()}


class Archive:
    """A retriever that takes no options and finds nothing."""

    options_schema: JsonObject = {"type": "object", "additionalProperties": False}

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        return []


RESOURCES = scripted_resources(
    ScriptedModel([]),
    ScriptedModel([], model="other"),
    tools=builtin_tools().values(),
    retrievers={"files": FilesRetriever([]), "archive": Archive()},
)

MODEL: JsonObject = {"provider": "scripted", "model": "other", "temperature": 0, "max_tokens": 99}
VARIANTS: list[tuple[str, JsonObject, list[str]]] = [
    ("universal_chat", {}, ["start --> memory", "memory --> answer", "answer --> end"]),
    ("universal_chat", {"enable_memory": False, **MODEL}, ["start --> answer", "answer --> end"]),
    (
        "universal_chat",
        {"enable_memory": False, "enable_retrieval": True, "enable_tools": True, "path": "docs", "document_ids": ["a"]},
        [
            "start --> retrieval",
            "retrieval --> answer",
            "answer -tool_calls-> tools",
            "tools --> answer",
            "answer --> end",
        ],
    ),
    (
        "rag_chat",
        {"path": "docs", "score_threshold": 0.2, **MODEL},
        ["start --> memory", "memory --> retrieval", "retrieval --> answer", "answer --> end"],
    ),
    (
        "rag_chat",
        {"retriever": "archive"},
        ["start --> memory", "memory --> retrieval", "retrieval --> answer", "answer --> end"],
    ),
    (
        "tool_agent",
        {"allowed_tools": ["calculate"], **MODEL},
        [
            "start --> memory",
            "memory --> answer",
            "answer -tool_calls-> tools",
            "tools --> answer",
            "answer -final-> end",
        ],
    ),
    (
        "tool_agent",
        {"path": "docs"},
        [
            "start --> memory",
            "memory --> library",
            "library --> answer",
            "answer -tool_calls-> tools",
            "tools --> answer",
            "answer -final-> end",
        ],
    ),
    (
        "document_qa",
        {"path": "docs", "not_found_message": "Nothing on {{ this }}.", **MODEL},
        ["start --> retrieval", "retrieval -found-> answer", "retrieval -empty-> not_found", "answer --> end"],
    ),
]


@pytest.mark.parametrize(("key", "params", "edges"), VARIANTS)
def test_a_built_in_is_the_valid_workflow_that_its_parameters_ask_for(
    key: str, params: JsonObject, edges: list[str]
) -> None:
    resolved = resolve(BUILTIN[key], params)
    assert drawing(resolved) == edges
    report = WorkflowValidator().validate(resolved, owner="ann", resources=RESOURCES).report
    assert (report.valid, report.issues) == (True, [])


@pytest.mark.parametrize("key", sorted(BUILTIN))
def test_the_parameters_of_a_built_in_are_closed_described_and_used(key: str) -> None:
    built_in = BUILTIN[key]
    properties = built_in.parameters["properties"]
    assert isinstance(properties, dict)
    assert built_in.parameters["additionalProperties"] is False
    assert set(properties) == set(built_in.defaults)
    assert all(isinstance(each, dict) and each["description"] for each in properties.values())
    graph = str(built_in.graph)
    assert [name for name in properties if f"'$param': '{name}'" not in graph and f"params.{name}" not in graph] == []


@pytest.mark.parametrize("key", sorted(BUILTIN))
def test_the_answer_of_a_built_in_is_streamed(key: str) -> None:
    nodes = BUILTIN[key].graph["nodes"]
    assert isinstance(nodes, list)
    models = [node for node in nodes if isinstance(node, dict) and node["type"] == "model"]
    assert [node["stream"] for node in models] == [True]


def test_the_ids_of_built_ins_are_the_same_everywhere() -> None:
    assert {key: template.id for key, template in BUILTIN.items()} == {
        "document_qa": "ac290379-a614-59f8-bf62-9328f5190265",
        "rag_chat": "78270c42-9c0e-5788-894f-2a8257894cc7",
        "tool_agent": "207caab7-8320-5fe9-8965-928fb037e4ce",
        "universal_chat": "274d3428-45c5-58fc-8602-c634fe6fd6e8",
    }
