"""The error_handler node: a failed node is retried, its output replaced, or the execution ended."""

from collections.abc import Sequence

import pytest

from engine.graph import Json, JsonObject
from engine.testing.models import Fail, Say, Step
from tests.engine.harness import Harness, Run, graph

ONCE: JsonObject = {"max_attempts": 1}
EDGES = ["start -> write", "write -> end", "write -error-> rescue", "rescue -retry-> write", "rescue -fallback-> end"]


def writer(node_id: str = "write", **more: Json) -> JsonObject:
    return {"id": node_id, "type": "model", "retry": ONCE, "on_error": {"policy": "route"}, **more}


def rescue(node_id: str = "rescue", **config: Json) -> JsonObject:
    return {"id": node_id, "type": "error_handler", "config": config}


async def run(script: Sequence[Step], handler: JsonObject, edges: list[str] = EDGES, *more: JsonObject) -> Run:
    return await Harness(script).run(graph([writer(), handler, *more], edges))


async def test_a_failed_node_is_sent_back_until_it_succeeds() -> None:
    done = await run([Fail("auth"), Fail("auth"), Say("At last.")], rescue(retry_count=2))
    assert (done.result.status, done.result.response) == ("completed", "At last.")
    assert (
        done.tree
        == """
invoke_workflow test  completed
  execute_node start
  execute_node write  failed  auth
    chat scripted-1  auth
  execute_node rescue
  execute_node write  failed  auth
    chat scripted-1  auth
  execute_node rescue
  execute_node write
    chat scripted-1
  execute_node end
"""
    )
    assert [error.handled for error in done.result.errors] == [True, True]


async def test_after_its_retries_the_run_continues_with_the_authors_message() -> None:
    end: JsonObject = {"id": "end", "type": "end", "config": {"output": "{{ outputs.write }}"}}
    handler = rescue(retry_count=1, message="No text about {{ input.message }}.", output={"text": "none"})
    done = await run([Fail("auth"), Fail("overloaded")], handler, EDGES, end)
    assert (done.result.status, done.result.response) == ("completed", "No text about hello.")
    assert done.result.output == {"text": "none"}
    assert [message["node_id"] for message in done.result.messages] == ["rescue"]


async def test_the_span_records_the_action_and_the_failed_node() -> None:
    done = await run([Fail("auth"), Fail("auth")], rescue(retry_count=1))
    said = [
        [(span.attributes or {}).get(f"workflow.error_handler.{key}") for key in ("source", "error_type", "retry")]
        + [(span.attributes or {}).get("workflow.error_handler.action")]
        for span in done.spans
        if span.name == "execute_node rescue"
    ]
    assert said == [["write", "auth", 1, "retry"], ["write", "auth", 1, "continue"]]


@pytest.mark.parametrize(("retries", "error_type"), [(0, "auth"), (1, "auth")])
async def test_stop_ends_the_execution_with_the_first_error_of_the_series(retries: int, error_type: str) -> None:
    edges = ["start -> write", "write -> end", "write -error-> rescue"]
    edges += ["rescue -retry-> write"] if retries else ["rescue -> end"]
    handler = rescue(retry_count=retries, fallback_action="stop")
    done = await run([Fail("auth", "no key"), Fail("connection")], handler, edges)
    assert (done.result.status, done.result.error_type) == ("failed", error_type)
    assert done.result.error_message == "no key"
    assert [error.node_id for error in done.result.errors][-1] == "rescue"


@pytest.mark.parametrize(("action", "count"), [("continue", 1), ("clear_errors", 0)])
async def test_clear_errors_also_forgets_them(action: str, count: int) -> None:
    end: JsonObject = {"id": "end", "type": "end", "config": {"output": "{{ errors.count }}"}}
    done = await run([Fail("auth")], rescue(retry_count=0, fallback_action=action), [*EDGES[:3], EDGES[4]], end)
    assert done.result.output == count
    assert [(error.error_type, error.handled) for error in done.result.errors] == [("auth", True)]


async def test_a_success_resets_the_count_of_retries() -> None:
    loop: JsonObject = {"id": "again", "type": "loop", "config": {"max_iterations": 2}}
    edges = ["start -> again", "again -continue-> write", "again -exit-> end", "write -> again"]
    edges += ["write -error-> rescue", "rescue -retry-> write", "rescue -fallback-> end"]
    done = await run([Fail("auth"), Say("one"), Fail("auth"), Say("two")], rescue(retry_count=1), edges, loop)
    assert (done.result.status, done.result.response) == ("completed", "two")


async def test_a_handler_without_an_error_falls_back() -> None:
    edges = ["start -> rescue", "rescue -retry-> end", "rescue -fallback-> end"]
    done = await Harness().run(graph([rescue(message="Nothing to do.")], edges))
    assert (done.result.status, done.result.response) == ("completed", "Nothing to do.")


async def test_a_handler_counts_the_retries_of_each_node_separately() -> None:
    nodes = [writer("a"), writer("b"), rescue(retry_count=1)]
    edges = ["start -> a", "a -> b", "b -> end", "a -error-> rescue", "b -error-> rescue"]
    edges += ["rescue -retry-> a", "rescue -fallback-> end"]
    done = await Harness([Fail("auth"), Say("a"), Fail("auth"), Say("a"), Say("b")]).run(graph(nodes, edges))
    assert (done.result.status, done.result.response) == ("completed", "b")


async def test_a_handler_of_one_branch_leads_to_the_join_and_its_retries_count_there() -> None:
    nodes: list[JsonObject] = [
        writer(),
        rescue(retry_count=1, output={"text": "nothing"}),
        {"id": "side", "type": "variable", "config": {"variable_name": "side", "value": 1}},
        {"id": "join", "type": "variable", "config": {"variable_name": "text", "value": "{{ outputs.write.text }}"}},
        {"id": "end", "type": "end", "config": {"output": ["{{ variables.side }}", "{{ variables.text }}"]}},
    ]
    edges = ["start -> write", "start -> side", "side -> join", "write -> join", "write -error-> rescue"]
    edges += ["rescue -retry-> write", "rescue -fallback-> join", "join -> end"]
    done = await Harness([Fail("auth"), Fail("auth")]).run(graph(nodes, edges))
    assert (done.result.status, done.result.output) == ("completed", [1, "nothing"])
