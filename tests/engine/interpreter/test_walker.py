"""Routing, forks and joins, loops, and failing nodes."""

import asyncio
from contextlib import aclosing

import pytest

from engine.graph import Json, JsonObject
from engine.interpreter import branches
from engine.resources import Effect, ModelRequest, Passage, RetrievalQuery, ToolContext, ToolSpec
from engine.testing.models import Call, Fail, Hold, Say, ScriptedModel, Step
from tests.engine.harness import Harness, graph, graph_request


def set_variable(node_id: str, name: str, value: Json, **more: Json) -> JsonObject:
    config: JsonObject = {"operation": "set", "variable_name": name, "value": value}
    return {"id": node_id, "type": "variable", "config": config, **more}


def append(node_id: str, value: Json) -> JsonObject:
    return {"id": node_id, "type": "variable", "config": _append(value)}


def _append(value: Json) -> JsonObject:
    return {"operation": "append", "variable_name": "log", "value": value}


def end(output: Json) -> JsonObject:
    return {"id": "end", "type": "end", "config": {"output": output}}


async def test_nodes_run_in_the_order_of_the_edges() -> None:
    nodes: list[JsonObject] = [append("a", "a"), append("b", "b"), end("{{ variables.log }}")]
    run = await Harness().run(graph(nodes, ["start -> a", "a -> b", "b -> end"]))
    assert run.result.status == "completed"
    assert run.result.output == ["a", "b"]
    assert run.types() == ["started", *["node_started", "node_completed"] * 4, "completed"]
    assert (
        run.tree
        == """
invoke_workflow test  completed
  execute_node start
  execute_node a
  execute_node b
  execute_node end
"""
    )


async def test_a_condition_chooses_the_first_edge_that_holds() -> None:
    nodes: list[JsonObject] = [
        append("a", "a"),
        append("b", "b"),
        append("c", "c"),
        {"id": "choose", "type": "variable", "config": {"operation": "get", "variable_name": "log"}},
        end("{{ variables.log | default('none') }}"),
    ]
    document = graph(nodes, ["start -> choose", "a -> end", "b -> end", "c -> end"])
    edges = document["edges"]
    assert isinstance(edges, list)
    edges += [
        {"source": "choose", "target": "a", "condition": "input.n > 5"},
        {"source": "choose", "target": "b", "condition": "input.n > 2"},
        {"source": "choose", "target": "c"},
    ]
    document["input_schema"] = {"type": "object"}
    for n, taken in ((9, "a"), (3, "b"), (1, "c")):
        run = await Harness().run(document, {"n": n})
        assert run.result.output == [taken]


async def test_a_router_that_matches_nothing_fails_closed() -> None:
    nodes: list[JsonObject] = [
        append("a", "a"),
        {"id": "choose", "type": "variable", "config": _append("x")},
        end(None),
    ]
    document = graph(nodes, ["start -> choose", "a -> end"])
    edges = document["edges"]
    assert isinstance(edges, list)
    edges.append({"source": "choose", "target": "a", "condition": "input.message == 'never'"})
    run = await Harness().run(document)
    assert (run.result.status, run.result.error_type) == ("failed", "no_route")
    assert run.types()[-2:] == ["node_failed", "failed"]


async def test_a_missing_key_in_a_condition_is_an_error_and_never_false() -> None:
    nodes: list[JsonObject] = [
        {"id": "c", "type": "conditional", "config": {"condition": "input.absent == 1"}},
        end(None),
        {"id": "other", "type": "end"},
    ]
    document = graph(nodes, ["start -> c", "c -true-> end", "c -false-> other"])
    run = await Harness().run(document)
    assert run.result.error_type == "expression_error"


class Wait:
    """A tool that answers once its gate is open."""

    spec = ToolSpec("wait", "waits", {"type": "object"})
    effect: Effect = "read"

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        self.entered.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "late"


async def test_branches_merge_in_the_order_of_the_edges() -> None:
    def answer(request: ModelRequest) -> Step:
        if "slow" in str(request.messages[-1]["content"]):
            return Hold(then=Say("slow"))
        harness.model.release.set()
        return Say("fast")

    harness = Harness(models=[ScriptedModel(answer)])
    nodes: list[JsonObject] = [
        {"id": "first", "type": "model", "config": {"prompt": "slow", "include_history": False}},
        {"id": "second", "type": "model", "config": {"prompt": "quick", "include_history": False}},
        append("join", 1),
        end("{{ last_message.text }}"),
    ]
    edges = ["start -> first", "start -> second", "first -> join", "second -> join", "join -> end"]
    run = await harness.run(graph(nodes, edges))
    assert [message["content"] for message in run.result.messages] == ["slow", "fast"]


async def test_parallel_increments_add_up() -> None:
    def count(node_id: str) -> JsonObject:
        return {"id": node_id, "type": "variable", "config": {"operation": "increment", "variable_name": "n"}}

    nodes: list[JsonObject] = [count("a"), count("b"), count("c"), count("join"), end("{{ variables.n }}")]
    edges = [f"start -> {each}" for each in "abc"] + [f"{each} -> join" for each in "abc"] + ["join -> end"]
    run = await Harness().run(graph(nodes, edges))
    assert run.result.output == 4


async def test_a_join_runs_once_although_a_branch_reaches_it_by_another_path() -> None:
    nodes: list[JsonObject] = [
        {"id": "pick", "type": "conditional", "config": {"condition": "input.message == 'left'"}},
        append("left", "left"),
        append("right", "right"),
        append("side", "side"),
        append("join", "join"),
        end("{{ variables.log }}"),
    ]
    edges = ["start -> pick", "start -> side", "pick -true-> left", "pick -false-> right"]
    edges += ["left -> join", "right -> join", "side -> join", "join -> end"]
    run = await Harness().run(graph(nodes, edges), {"message": "right"})
    assert run.result.output == ["right", "side", "join"]


async def test_a_loop_repeats_while_its_condition_holds() -> None:
    nodes: list[JsonObject] = [
        {"id": "again", "type": "loop", "config": {"max_iterations": 5, "condition": "loops.again.iteration < 3"}},
        append("body", "{{ loops.again.iteration }}"),
        end("{{ variables.log }}"),
    ]
    run = await Harness().run(
        graph(nodes, ["start -> again", "again -continue-> body", "again -exit-> end", "body -> again"])
    )
    assert run.result.output == [1, 2, 3]


async def test_an_inner_loop_restarts_its_count_in_every_outer_round() -> None:
    nodes: list[JsonObject] = [
        {"id": "outer", "type": "loop", "config": {"max_iterations": 2}},
        {"id": "inner", "type": "loop", "config": {"max_iterations": 3}},
        append("body", "{{ loops.inner.iteration }}"),
        end("{{ variables.log }}"),
    ]
    edges = ["start -> outer", "outer -continue-> inner", "outer -exit-> end"]
    edges += ["inner -continue-> body", "body -> inner", "inner -exit-> outer"]
    run = await Harness().run(graph(nodes, edges))
    assert run.result.output == [1, 2, 3, 1, 2, 3]


async def test_a_loop_that_must_not_reach_its_limit_fails_at_the_limit() -> None:
    nodes: list[JsonObject] = [
        {"id": "again", "type": "loop", "config": {"max_iterations": 2, "on_limit": "fail"}},
        append("body", 1),
    ]
    run = await Harness().run(
        graph(nodes, ["start -> again", "again -continue-> body", "body -> again", "again -exit-> end"])
    )
    assert (run.result.status, run.result.error_type) == ("failed", "limit_exceeded")


async def test_every_attempt_has_its_own_span() -> None:
    retry: JsonObject = {"max_attempts": 3, "initial_delay_seconds": 0}
    nodes: list[JsonObject] = [{"id": "ask", "type": "model", "retry": retry}]
    run = await Harness([Fail("overloaded"), Say("fine")]).run(graph(nodes, ["start -> ask", "ask -> end"]))
    assert run.result.response == "fine"
    assert (run.result.model_calls, run.result.node_executions) == (2, 3)
    assert (
        run.tree
        == """
invoke_workflow test  completed
  execute_node start
  execute_node ask  retrying  overloaded
    chat scripted-1  overloaded
  execute_node ask
    chat scripted-1
  execute_node end
"""
    )
    assert "node_retrying" in run.types()
    assert run.event_names == [
        "workflow.execution.started",
        "workflow.node.retrying",
        "workflow.execution.completed",
    ]


async def test_a_permanent_error_is_not_retried() -> None:
    run = await Harness([Fail("auth", "wrong key")]).run(
        graph([{"id": "ask", "type": "model"}], ["start -> ask", "ask -> end"])
    )
    assert (run.result.status, run.result.error_type, run.result.error_message) == ("failed", "auth", "wrong key")
    assert run.result.model_calls == 1
    assert run.result.errors[0].node_id == "ask"
    assert run.result.cost_nano_usd == 0, "a refused call cost nothing"


async def test_a_retry_delay_beyond_the_time_left_fails_the_node_at_once() -> None:
    retry: JsonObject = {"max_attempts": 2, "initial_delay_seconds": 100, "max_delay_seconds": 100}
    nodes: list[JsonObject] = [{"id": "ask", "type": "model", "retry": retry, "on_error": {"policy": "continue"}}]
    document = graph(nodes, ["start -> ask", "ask -> end"], limits={"run_seconds": 5})
    run = await Harness([Fail("overloaded")]).run(document)
    assert (run.result.status, run.result.errors[0].error_type) == ("completed", "overloaded")


async def test_too_long_a_retry_after_fails_the_node_at_once() -> None:
    script = [Fail("rate_limited", retry_after_seconds=61)]
    run = await Harness(script).run(graph([{"id": "ask", "type": "model"}], ["start -> ask", "ask -> end"]))
    assert run.result.error_type == "rate_limited"
    assert run.result.model_calls == 1


async def test_continue_stores_its_output_and_marks_the_node_degraded() -> None:
    policy: JsonObject = {"policy": "continue", "output": {"text": "nothing"}}
    nodes: list[JsonObject] = [{"id": "ask", "type": "model", "on_error": policy}, end("{{ outputs.ask.text }}")]
    run = await Harness([Fail("auth")]).run(graph(nodes, ["start -> ask", "ask -> end"]))
    assert (run.result.status, run.result.output, run.result.response) == ("completed", "nothing", "")
    assert run.result.metadata.degraded == ["ask"]
    assert run.span("execute_node ask")["workflow.node.degraded"] is True
    assert run.result.errors[0].handled


async def test_an_error_edge_continues_the_run_with_the_error() -> None:
    nodes: list[JsonObject] = [
        {"id": "ask", "type": "model", "on_error": {"policy": "route"}},
        append("note", "{{ error.error_type }}"),
        end("{{ variables.log }}"),
    ]
    run = await Harness([Fail("auth")]).run(
        graph(nodes, ["start -> ask", "ask -> end", "ask -error-> note", "note -> end"])
    )
    assert (run.result.status, run.result.output) == ("completed", ["auth"])
    assert "execute_node ask  failed  auth" in run.tree


async def test_an_error_edge_out_of_a_branch_leaves_the_fork_and_drops_the_others() -> None:
    nodes: list[JsonObject] = [
        {"id": "ask", "type": "model", "on_error": {"policy": "route"}},
        append("side", "side"),
        append("join", "join"),
        {"id": "rescued", "type": "end", "config": {"output": "{{ variables.log | default('dropped') }}"}},
    ]
    edges = ["start -> ask", "start -> side", "ask -> join", "side -> join", "join -> end", "ask -error-> rescued"]
    run = await Harness([Fail("auth")]).run(graph(nodes, edges))
    assert (run.result.status, run.result.output) == ("completed", "dropped")


async def test_a_node_that_fails_in_a_branch_cancels_the_others() -> None:
    wait = Wait()

    nodes: list[JsonObject] = [
        {"id": "ask", "type": "model"},
        {"id": "hang", "type": "tools", "config": {"allowed_tools": ["wait"]}},
        {"id": "fails", "type": "model", "config": {"prompt": "fail"}},
        append("split", 1),
        append("join", 1),
    ]
    edges = ["start -> ask", "ask -tool_calls-> split", "ask -final-> end", "split -> hang", "split -> fails"]
    edges += ["hang -> join", "fails -> join", "join -> ask"]
    harness = Harness([Call("wait"), Hold(then=Fail("auth"))], tools=[wait])
    running = asyncio.create_task(harness.run(graph(nodes, edges)))
    await wait.entered.wait()
    harness.model.release.set()
    run = await running
    assert run.result.error_type == "auth"
    assert wait.cancelled.is_set()
    assert "execute_node hang  cancelled" in run.tree


async def test_too_many_visits_end_the_execution() -> None:
    nodes: list[JsonObject] = [{"id": "again", "type": "loop", "config": {"max_iterations": 100}}, append("body", 1)]
    document = graph(
        nodes,
        ["start -> again", "again -continue-> body", "body -> again", "again -exit-> end"],
        limits={"max_node_executions": 10},
    )
    run = await Harness().run(document)
    assert (run.result.status, run.result.error_type) == ("failed", "limit_exceeded")
    assert run.result.node_executions == 10


async def test_too_large_a_state_ends_the_execution() -> None:
    nodes: list[JsonObject] = [append("a", "x" * 600), append("b", "y" * 600), end(None)]
    document = graph(nodes, ["start -> a", "a -> b", "b -> end"], limits={"max_state_bytes": 1024})
    run = await Harness().run(document)
    assert (run.result.status, run.result.error_type) == ("failed", "limit_exceeded")


async def test_a_failed_node_that_continues_still_forks() -> None:
    nodes: list[JsonObject] = [
        {"id": "ask", "type": "model", "on_error": {"policy": "continue"}},
        append("a", "a"),
        append("b", "b"),
        append("join", "join"),
        end("{{ variables.log }}"),
    ]
    edges = ["start -> ask", "ask -> a", "ask -> b", "a -> join", "b -> join", "join -> end"]
    run = await Harness([Fail("auth")]).run(graph(nodes, edges))
    assert run.result.output == ["a", "b", "join"]


async def test_a_failing_condition_after_a_continued_failure_ends_the_run() -> None:
    policy: JsonObject = {"policy": "continue"}
    nodes: list[JsonObject] = [{"id": "ask", "type": "model", "on_error": policy}, append("a", 1), end(None)]
    document = graph(nodes, ["start -> ask", "ask -> a", "a -> end"])
    edges = document["edges"]
    assert isinstance(edges, list)
    edges.append({"source": "ask", "target": "end", "condition": "outputs.ask.text == 'x'"})
    run = await Harness([Fail("auth")]).run(document)
    assert (run.result.status, run.result.error_type) == ("failed", "expression_error")
    assert [error.node_id for error in run.result.errors] == ["ask"]
    assert "execute_node ask  failed  expression_error" in run.tree


async def test_an_exceeded_limit_is_an_error_of_its_node() -> None:
    nodes: list[JsonObject] = [append("a", "x" * 600), append("b", "y" * 600), end(None)]
    document = graph(nodes, ["start -> a", "a -> b", "b -> end"], limits={"max_state_bytes": 1024})
    run = await Harness().run(document)
    assert [(error.node_id, error.error_type) for error in run.result.errors] == [("a", "limit_exceeded")]
    assert "execute_node a  failed  limit_exceeded" in run.tree
    assert run.types()[-2:] == ["node_failed", "failed"]


async def test_an_exceeded_visit_limit_is_an_error_of_its_node() -> None:
    run = await Harness().run(graph([append("a", 1)], ["start -> a", "a -> end"], limits={"max_node_executions": 1}))
    assert [(error.node_id, error.error_type) for error in run.result.errors] == [("a", "limit_exceeded")]


async def test_the_size_of_the_state_includes_all_branches() -> None:
    nodes = [set_variable("a", "a", "x" * 600), set_variable("b", "b", "x" * 600), append("join", 1)]
    edges = ["start -> a", "start -> b", "a -> join", "b -> join", "join -> end"]
    run = await Harness().run(graph(nodes, edges, limits={"max_state_bytes": 2_000}))
    assert (run.result.status, run.result.error_type) == ("failed", "limit_exceeded")


async def test_conflicting_operations_fail_at_the_join_and_name_the_node() -> None:
    nodes = [set_variable("a", "log", "text"), append("b", 1), append("join", 1)]
    edges = ["start -> a", "start -> b", "a -> join", "b -> join", "join -> end"]
    run = await Harness().run(graph(nodes, edges))
    assert (run.result.status, run.result.error_type) == ("failed", "type_mismatch")
    assert [error.node_id for error in run.result.errors] == ["b"]


class HangOnce:
    """A retriever that sets `entered` and hangs, but only the first time."""

    options_schema: JsonObject = {"type": "object"}

    def __init__(self, entered: asyncio.Event) -> None:
        self._entered = entered

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        if not self._entered.is_set():
            self._entered.set()
            await asyncio.Event().wait()
        return []


async def test_visits_of_a_dropped_branch_keep_their_numbers() -> None:
    model = ScriptedModel([Hold(then=Fail("auth")), Say("fine")])
    nodes: list[JsonObject] = [
        {"id": "again", "type": "loop", "config": {"max_iterations": 2}},
        append("split", "split"),
        {"id": "ask", "type": "model", "on_error": {"policy": "route"}},
        append("inner", "inner"),
        append("seen", "seen"),
        {"id": "hang", "type": "retrieval", "config": {"retriever": "hang"}},
        append("inner_join", 1),
        append("join", 1),
    ]
    edges = ["start -> again", "again -continue-> split", "again -exit-> end", "split -> ask", "split -> inner"]
    edges += ["inner -> seen", "inner -> hang", "seen -> inner_join", "hang -> inner_join", "inner_join -> join"]
    edges += ["ask -> join", "ask -error-> again", "join -> again"]
    run = await Harness(models=[model], retrievers={"hang": HangOnce(model.release)}).run(graph(nodes, edges))
    assert run.result.status == "completed"
    spans = [span.attributes or {} for span in run.spans]
    visits = [span["workflow.node.visit"] for span in spans if span.get("workflow.node.id") == "seen"]
    assert visits == [1, 2]


class Stubborn:
    """A retriever that keeps waiting for its gate after it is cancelled."""

    options_schema: JsonObject = {"type": "object"}

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.gate = asyncio.Event()
        self.left = asyncio.Event()

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        self.entered.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            await self.gate.wait()
        self.left.set()
        return []


def stubborn_branch() -> JsonObject:
    nodes: list[JsonObject] = [
        {"id": "find", "type": "retrieval", "config": {"retriever": "stubborn"}},
        {"id": "ask", "type": "model"},
        append("after", 1),
        append("join", 1),
    ]
    edges = ["start -> find", "start -> ask", "find -> after", "after -> join", "ask -> join", "join -> end"]
    return graph(nodes, edges)


async def test_a_branch_that_ignores_cancellation_hides_no_failure_and_stops_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(branches, "CLEANUP_SECONDS", 0.01)
    stubborn = Stubborn()
    harness = Harness([Hold(then=Fail("auth"))], retrievers={"stubborn": stubborn})
    running = asyncio.create_task(harness.run(stubborn_branch()))
    await stubborn.entered.wait()
    harness.model.release.set()
    run = await running
    assert run.result.error_type == "auth"
    [branch] = [task for task in asyncio.all_tasks() if task.get_name().startswith("branch")]
    stubborn.gate.set()
    await asyncio.wait([branch])
    assert stubborn.left.is_set()
    assert "after" not in {(span.attributes or {}).get("workflow.node.id") for span in harness.spans()}


async def test_branches_clean_up_although_the_execution_is_cancelled_twice() -> None:
    stubborn = Stubborn()
    harness = Harness([Hold()], retrievers={"stubborn": stubborn})
    execution = await harness.engine.start(graph_request(stubborn_branch()), streaming=False)
    await stubborn.entered.wait()
    execution.cancel("enough")
    await stubborn.cancelled.wait()
    assert execution.task is not None
    execution.task.cancel()
    await asyncio.sleep(0)
    assert not execution.task.done()
    stubborn.gate.set()
    assert (await execution.result()).status == "cancelled"
    assert stubborn.left.is_set()


@pytest.mark.parametrize("error", [None, RuntimeError("closed")])
async def test_a_node_that_handles_its_cancellation_is_still_cancelled(error: Exception | None) -> None:
    class Deaf(Stubborn):
        async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
            self.entered.set()
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                if error is not None:
                    raise error from None
            return []

    deaf = Deaf()
    policy: JsonObject = {"policy": "continue"}
    find: JsonObject = {"id": "find", "type": "retrieval", "config": {"retriever": "deaf"}, "on_error": policy}
    document = graph([find, {"id": "ask", "type": "model"}], ["start -> find", "find -> ask", "ask -> end"])
    harness = Harness([Say("too late")], retrievers={"deaf": deaf})
    execution = await harness.engine.start(graph_request(document), streaming=False)
    await deaf.entered.wait()
    execution.cancel("enough")
    result = await execution.result()
    assert (result.status, result.model_calls) == ("cancelled", 0)


class Torn:
    """A retriever that raises a cancellation although nobody cancelled the execution."""

    options_schema: JsonObject = {"type": "object"}

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        raise asyncio.CancelledError


async def test_an_unrequested_cancellation_is_a_failure() -> None:
    find: JsonObject = {"id": "find", "type": "retrieval", "config": {"retriever": "torn"}}
    run = await Harness(retrievers={"torn": Torn()}).run(graph([find], ["start -> find", "find -> end"]))
    assert (run.result.status, run.result.error_type) == ("failed", "CancelledError")
    assert "retrieval torn  CancelledError" in run.tree


async def test_a_cancelled_branch_does_not_count_as_completed() -> None:
    find: JsonObject = {"id": "find", "type": "retrieval", "config": {"retriever": "torn"}}
    edges = ["start -> find", "start -> a", "find -> join", "a -> join", "join -> end"]
    run = await Harness(retrievers={"torn": Torn()}).run(graph([find, append("a", 1), append("join", 1)], edges))
    assert (run.result.status, run.result.error_type) == ("failed", "CancelledError")


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_if_branches_fail_at_once_the_unhandled_failure_counts(order: str) -> None:
    nodes: list[JsonObject] = [
        {"id": "a", "type": "model", "on_error": {"policy": "route"}},
        {"id": "b", "type": "model"},
        append("join", "join"),
        {"id": "rescued", "type": "end"},
    ]
    edges = [f"start -> {each}" for each in order]
    edges += ["a -> join", "b -> join", "join -> end", "a -error-> rescued"]
    run = await Harness([Fail("auth"), Fail("auth")]).run(graph(nodes, edges))
    assert run.result.status == "failed"


def spinning(outer: int, inner: int) -> JsonObject:
    """A graph of two nested loops that never waits."""
    nodes: list[JsonObject] = [
        {"id": "outer", "type": "loop", "config": {"max_iterations": outer}},
        {"id": "inner", "type": "loop", "config": {"max_iterations": inner}},
        {"id": "count", "type": "variable", "config": {"operation": "increment", "variable_name": "n"}},
        end("{{ variables.n }}"),
    ]
    edges = ["start -> outer", "outer -continue-> inner", "outer -exit-> end"]
    edges += ["inner -continue-> count", "count -> inner", "inner -exit-> outer"]
    return graph(nodes, edges, limits={"max_node_executions": 10_000})


async def test_readers_miss_no_event_of_nodes_that_never_wait() -> None:
    run = await Harness().run(spinning(10, 50))
    assert run.result.output == 500
    assert "gap" not in run.types()


async def test_nodes_that_never_wait_can_be_cancelled() -> None:
    harness = Harness()
    execution = await harness.engine.start(graph_request(spinning(50, 90)), streaming=True)
    async with aclosing(execution.events()) as events:
        async for event in events:
            if event.node_id == "count":
                assert execution.cancel("enough")
                break
    assert (await execution.result()).status == "cancelled"
