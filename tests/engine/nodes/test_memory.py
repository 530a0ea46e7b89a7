"""A memory node: what it cuts, and how it summarises."""

import pytest

from engine.graph import JsonObject
from engine.resources import (
    Message,
)
from engine.testing.models import Fail, Hold, Say
from tests.engine.harness import Harness, graph


async def test_memory_summarises_what_it_removes() -> None:
    nodes: list[JsonObject] = [
        {"id": "remember", "type": "memory", "config": {"memory_window": 1}},
        {"id": "ask", "type": "model"},
    ]
    document = graph(nodes, ["start -> first", "first -> remember", "remember -> ask", "ask -> end"])
    document_nodes = document["nodes"]
    assert isinstance(document_nodes, list)
    document_nodes.append({"id": "first", "type": "model"})
    harness = Harness([Say("first answer"), Say("a summary"), Say("second answer")])
    run = await harness.run(document)
    assert run.result.response == "second answer"
    assert "a summary" in str(harness.model.requests[2].messages[-1]["content"])
    memory = run.span("execute_node remember")
    assert (memory["workflow.memory.window"], memory["workflow.memory.summarized"]) == (1, 1)


async def test_a_summary_that_fails_truncates_and_marks_the_node_degraded() -> None:
    nodes: list[JsonObject] = [
        {"id": "first", "type": "model"},
        {"id": "remember", "type": "memory", "config": {"memory_window": 1}},
    ]
    run = await Harness([Say("first"), Fail("auth")]).run(
        graph(nodes, ["start -> first", "first -> remember", "remember -> end"])
    )
    assert run.result.status == "completed"
    assert run.result.metadata.degraded == ["remember"]


@pytest.mark.parametrize(("on_summary_error", "status"), [("truncate", "completed"), ("fail", "failed")])
async def test_a_summary_that_times_out_counts_as_failed(on_summary_error: str, status: str) -> None:
    config: JsonObject = {"memory_window": 1, "on_summary_error": on_summary_error}
    retry: JsonObject = {"max_attempts": 1}
    nodes: list[JsonObject] = [
        {"id": "first", "type": "model"},
        {"id": "remember", "type": "memory", "config": config, "timeout_seconds": 0.05, "retry": retry},
    ]
    document = graph(nodes, ["start -> first", "first -> remember", "remember -> end"])
    run = await Harness([Say("first"), Hold()]).run(document)
    assert run.result.status == status
    assert (run.result.metadata.degraded == ["remember"]) is (status == "completed")
    assert run.result.error_type == (None if status == "completed" else "timeout")


async def test_the_cut_does_not_separate_a_tool_message_from_its_call() -> None:
    from engine.graph import Node
    from engine.nodes.memory import MemoryConfig, MemoryNode

    node = MemoryNode(Node(id="m", type="memory"), MemoryConfig(memory_window=1))
    messages = [
        Message(id="0", role="user", content="hi"),
        Message(id="1", role="assistant", content="", tool_calls=[]),
        Message(id="2", role="tool", content="x", tool_call_id="c"),
    ]
    assert node._cut(messages) == 1


async def test_messages_removed_by_memory_are_still_in_the_result() -> None:
    nodes: list[JsonObject] = [
        {"id": "first", "type": "model"},
        {"id": "second", "type": "model"},
        {"id": "remember", "type": "memory", "config": {"memory_window": 1, "strategy": "truncate"}},
    ]
    edges = ["start -> first", "first -> second", "second -> remember", "remember -> end"]
    run = await Harness([Say("one"), Say("two")]).run(graph(nodes, edges))
    assert [message["content"] for message in run.result.messages] == ["one", "two"]
