"""Models, tools and providers may return text that databases reject: the execution ends, and the books agree."""

import pytest

from engine.graph import JsonObject
from engine.testing.models import Call, Fail, Say, Step
from engine.tools.function import function_tool
from tests.conformance.cases import KEY, chatter
from tests.workflow_runner import request, workflow_runner

NUL, SURROGATE = "a\0b", "a\ud800b"


def echo(text: str) -> str:
    """A tool that returns a given text."""
    return text


def graph_with_echo() -> JsonObject:
    graph = chatter()
    nodes = graph["nodes"]
    assert isinstance(nodes, list)
    tools = next(node for node in nodes if isinstance(node, dict) and node["id"] == "tools")
    return {**graph, "nodes": [*(n for n in nodes if n is not tools), {**tools, "config": {"allowed_tools": ["echo"]}}]}


CASES: dict[str, tuple[list[Step], str, str | None]] = {
    "an answer with NUL": ([Say(NUL)], "completed", None),
    "an answer with half a surrogate pair": ([Say(SURROGATE)], "failed", "output_invalid"),
    "an answer of 4 MB": ([Say("x" * 4_000_000)], "failed", "output_invalid"),
    "answers of 5 MB": ([Say("x" * 5_000_000)] * 3, "failed", "invalid_output"),
    "a finish reason with NUL": ([Say("fine", finish_reason=NUL)], "completed", None),
    "a call's id with NUL": ([Call("echo", {"text": "x"}, id=NUL), Say("fine")], "completed", None),
    "a call's tool with NUL": ([Call(NUL), Say("fine")], "completed", None),
    "a call's arguments with NUL": ([Call("echo", {"text": NUL}), Say("fine")], "completed", None),
    "an error with NUL": ([Fail("auth", NUL)], "failed", "auth"),
    "an error with half a surrogate pair": ([Fail("auth", SURROGATE)], "failed", "auth"),
    "an error of 5 MB": ([Fail("auth", "x" * 5_000_000)], "failed", "auth"),
}


@pytest.mark.parametrize("name", list(CASES))
async def test_an_execution_ends_whatever_text_is_returned(migrated_url: str, name: str) -> None:
    script, status, error_type = CASES[name]
    async with workflow_runner(migrated_url) as runner:
        await runner.store_template(KEY, graph_with_echo())
        engine = runner.engine(script, [function_tool(echo, effect="read")])
        result = await engine.execute(request({"kind": "chat", "template": KEY}))
        record, trace = await runner.record(result.execution_id), await runner.trace(result.execution_id)
    assert (record.status, record.error_type) == (status, error_type)
    assert "\\x00" not in repr((record, trace))
