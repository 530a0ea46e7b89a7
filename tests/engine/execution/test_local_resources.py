"""Resources for a script: complete without a service, a database or an environment."""

from pathlib import Path

import pytest

from engine.engine import ExecutionEngine
from engine.errors import InvalidRequest
from engine.execution.local_resources import local_resources
from engine.graph import JsonObject
from engine.request import ExecutionRequest
from engine.result import Status
from engine.tools.function import function_tool
from tests.engine.validation.graphs import document

GRAPH = document("start>answer answer>end", {"answer": ("model", {"prompt": "{{ input.message }}"})})


def request(graph: JsonObject, message: str) -> ExecutionRequest:
    return ExecutionRequest.model_validate(
        {"source": {"kind": "graph", "graph": graph}, "input": {"message": message}}, strict=False
    )


async def test_a_script_runs_a_graph_with_the_offline_model() -> None:
    async with local_resources() as resources, ExecutionEngine(resources) as engine:
        result = await engine.execute(request(GRAPH, "Hello"))
    assert result.status is Status.COMPLETED, result.errors
    assert result.response
    assert result.cost_nano_usd is not None, "the demo prices of the offline model are there"


async def test_a_script_runs_a_built_in_template_over_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "refunds.md").write_text("# Refunds\n\nA refund takes five working days.\n", encoding="utf-8")
    template = {"kind": "template", "template": "rag_chat", "params": {"retriever": "default"}}
    asked = {"source": template, "input": {"message": "How long does a refund take?"}}
    async with local_resources(files_roots=[str(tmp_path)]) as resources, ExecutionEngine(resources) as engine:
        result = await engine.execute(ExecutionRequest.model_validate(asked, strict=False))
    assert result.status is Status.COMPLETED, result.errors
    assert "five working days" in str(result.response)


async def test_a_key_makes_its_provider_the_default_and_a_named_model_wins() -> None:
    async with (
        local_resources(openai_api_key="k") as keyed,
        local_resources("google:g", openai_api_key="k", google_api_key="k") as named,
    ):
        assert keyed.models.default() == ("openai", "gpt-4.1-mini")
        assert named.models.default() == ("google", "g")
    with pytest.raises(InvalidRequest, match="provider:model"):
        local_resources("gpt")


async def test_own_tools_are_added_to_the_built_in_ones() -> None:
    def shout(text: str) -> str:
        """Make it loud."""
        return text.upper()

    async with local_resources(tools=[function_tool(shout)]) as resources:
        assert {"shout", "calculate", "search_docs"} <= resources.tools.keys()
