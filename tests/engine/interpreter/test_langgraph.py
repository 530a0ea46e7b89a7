"""Runs on LangGraph: a new attempt continues from the last checkpoint, with all counts."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from engine.errors import MissingExtra, RunTimeout
from engine.graph import Json, JsonObject
from engine.interpreter import langgraph
from engine.pause import Resume
from engine.resources import Effect, ToolContext, ToolSpec
from engine.store.checkpoints import Checkpoints, LenientCheckpoints, in_memory, open_checkpoints, problem, thread
from engine.testing.models import Call, Fail, Say
from tests.engine.harness import graph
from tests.engine.runs import Lost, Runs, losing

RESUME = Resume(from_attempts=(1,))


def append(node_id: str, value: Json) -> JsonObject:
    config: JsonObject = {"operation": "append", "variable_name": "log", "value": value}
    return {"id": node_id, "type": "variable", "config": config}


def chain(**more: Json) -> JsonObject:
    nodes = [append("a", "a"), append("b", "b"), append("c", "c")]
    return graph(nodes, ["start -> a", "a -> b", "b -> c", "c -> end"], durability="step", **more)


def visited(spans: Sequence[object]) -> list[object]:
    return [(getattr(span, "attributes", None) or {}).get("workflow.node.id") for span in spans]


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("write", [1, 2, 3, 4, 5])
async def test_a_new_attempt_continues_a_lost_one(write: int, after: bool) -> None:
    runs = Runs.of(chain())
    async with losing(runs.checkpoints, write, after=after):
        with pytest.raises(Lost):
            await runs.attempt()
    second = await runs.attempt(2, RESUME)
    assert second.state["variables"]["log"] == ["a", "b", "c"]
    assert second.state["end"] is not None
    assert second.context.node_visits == 5


async def test_only_nodes_without_a_checkpoint_run_again() -> None:
    runs = Runs.of(chain())
    async with losing(runs.checkpoints, 4, after=False):  # behind the input, start and a
        with pytest.raises(Lost):
            await runs.attempt()
    second = await runs.attempt(2, RESUME)
    assert visited(second.spans) == ["b", "c", "end"]
    visits = [(span.attributes or {})["workflow.node.visit"] for span in second.spans]
    assert visits == [1, 1, 1]


async def test_a_checkpoint_is_written_before_the_next_node_starts() -> None:
    runs, seen = Runs.of(chain()), []
    saver = runs.checkpoints.saver
    put = saver.aput

    async def slow(config: object, checkpoint: object, metadata: object, versions: object) -> object:
        begun = len(runs.exporter.get_finished_spans())
        await asyncio.sleep(0.01)
        seen.append(len(runs.exporter.get_finished_spans()) - begun)
        return await put(config, checkpoint, metadata, versions)  # type: ignore[arg-type]  # handed on as they came

    saver.aput = slow  # type: ignore[method-assign,assignment]  # slower, and looks around
    await runs.attempt()
    assert seen[1:] == [0] * 5


async def test_late_checkpoints_of_a_lost_attempt_are_ignored() -> None:
    runs = Runs.of(chain())
    async with losing(runs.checkpoints, 3, after=True):
        with pytest.raises(Lost):
            await runs.attempt()
    async with losing(runs.checkpoints, 2, after=True):
        with pytest.raises(Lost):
            await runs.attempt(2, RESUME)
    # the first attempt was only frozen: it comes back and goes on to its end
    late = await runs.attempt(1, RESUME)
    assert late.state["end"] is not None
    third = await runs.attempt(3, Resume(from_attempts=(2, 1)))
    assert visited(third.spans) == ["c", "end"]
    assert third.state["variables"]["log"] == ["a", "b", "c"]


async def test_an_attempt_without_checkpoints_is_skipped() -> None:
    runs = Runs.of(chain())
    async with losing(runs.checkpoints, 4, after=False):
        with pytest.raises(Lost):
            await runs.attempt()
    third = await runs.attempt(3, Resume(from_attempts=(2, 1)))
    assert visited(third.spans) == ["b", "c", "end"]


async def test_without_a_checkpoint_the_run_begins_at_the_start() -> None:
    second = await Runs.of(chain()).attempt(2, RESUME)
    assert visited(second.spans) == ["start", "a", "b", "c", "end"]


async def test_after_an_attempt_lost_at_its_end_no_node_runs_again() -> None:
    runs = Runs.of(chain())
    await runs.attempt()
    second = await runs.attempt(2, RESUME)
    assert second.spans == []
    assert second.state["end"] is not None


class Noted:
    """A tool that records its idempotency keys."""

    spec = ToolSpec("noted", "notes", {"type": "object"})
    effect: Effect = "idempotent"

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        self.keys.append(context.idempotency_key)
        return "done"


def agent(**more: Json) -> JsonObject:
    nodes: list[JsonObject] = [
        {"id": "ask", "type": "model"},
        {"id": "use", "type": "tools", "config": {"allowed_tools": ["noted"], "max_tool_calls": 2}},
    ]
    edges = ["start -> ask", "ask -tool_calls-> use", "ask -final-> end", "use -> ask"]
    return graph(nodes, edges, durability="step", **more)


async def test_a_repeated_tool_call_has_the_same_key_and_counts_continue() -> None:
    tool = Noted()
    runs = Runs.of(agent(), [Call("noted"), Say("fine")], tools=[tool])
    async with losing(runs.checkpoints, 4, after=False):  # behind the tool call, which is not checkpointed
        with pytest.raises(Lost):
            await runs.attempt()
    second = await runs.attempt(2, RESUME)
    assert len(tool.keys) == 2
    assert len(set(tool.keys)) == 1
    assert second.context.tool_calls == {"use": 1}


async def test_an_error_handlers_count_continues() -> None:
    nodes: list[JsonObject] = [
        {"id": "ask", "type": "model", "retry": {"max_attempts": 1}, "on_error": {"policy": "route"}},
        {"id": "rescue", "type": "error_handler", "config": {"retry_count": 1}},
    ]
    edges = ["start -> ask", "ask -> end", "ask -error-> rescue", "rescue -retry-> ask", "rescue -fallback-> end"]
    runs = Runs.of(graph(nodes, edges, durability="step"), [Fail("auth"), Fail("overloaded")])
    async with losing(runs.checkpoints, 4, after=True):  # behind the first retry
        with pytest.raises(Lost):
            await runs.attempt()
    second = await runs.attempt(2, RESUME)
    assert second.state["outputs"]["rescue"] == {
        "node_id": "ask",
        "error_type": "overloaded",
        "retry": 1,
        "action": "continue",
    }
    assert [error.error_type for error in second.context.errors] == ["auth", "overloaded"]


async def test_the_current_error_survives_a_crash() -> None:
    nodes: list[JsonObject] = [
        {"id": "ask", "type": "model", "retry": {"max_attempts": 1}, "on_error": {"policy": "route"}},
        append("note", "{{ error.error_type }}"),
    ]
    edges = ["start -> ask", "ask -> end", "ask -error-> note", "note -> end"]
    runs = Runs.of(graph(nodes, edges, durability="step"), [Fail("auth")])
    async with losing(runs.checkpoints, 3, after=True):
        with pytest.raises(Lost):
            await runs.attempt()
    second = await runs.attempt(2, RESUME)
    assert second.state["variables"]["log"] == ["auth"]


@pytest.mark.parametrize("write", [3, 4, 5, 6, 7])
async def test_a_loops_count_continues(write: int) -> None:
    nodes: list[JsonObject] = [{"id": "again", "type": "loop", "config": {"max_iterations": 2}}, append("body", 1)]
    edges = ["start -> again", "again -continue-> body", "again -exit-> end", "body -> again"]
    runs = Runs.of(graph(nodes, edges, durability="step"))
    async with losing(runs.checkpoints, write, after=True):
        with pytest.raises(Lost):
            await runs.attempt()
    second = await runs.attempt(2, RESUME)
    assert second.state["variables"]["log"] == [1, 1]
    assert second.state["loop_state"]["again"] == {"iteration": 2, "total": 2}


async def test_run_time_continues() -> None:
    runs = Runs.of(chain(limits={"run_seconds": 100}))
    compiled = runs.compiled()
    context = runs.context(compiled, 1)
    context.deadline -= 60
    async with losing(runs.checkpoints, 2, after=True):
        with pytest.raises(Lost):
            await compiled.run(context, checkpoints=runs.checkpoints, resume=None)
    second = runs.context(compiled, 2)
    await compiled.restore(second, runs.checkpoints, RESUME)
    assert 60 <= second.elapsed_seconds < 90
    second.deadline -= 40
    with pytest.raises(RunTimeout):
        await compiled.run(second, checkpoints=runs.checkpoints, resume=RESUME)


async def test_a_checkpoint_is_plain_json() -> None:
    runs = Runs.of(agent(), [Call("noted"), Say("fine")], tools=[Noted()])
    await runs.attempt()
    found = await runs.checkpoints.saver.aget_tuple(thread(runs.execution_id, 1))
    assert found is not None
    values = found.checkpoint["channel_values"]
    assert {type(value) for value in values.values()} == {bytes}
    assert set(orjson.loads(values["stopped"])["state"]["messages"][-1]) >= {"id", "role", "content"}


async def test_a_thread_keeps_only_its_newest_checkpoints(
    monkeypatch: pytest.MonkeyPatch, any_saver: Checkpoints
) -> None:
    monkeypatch.setattr(langgraph, "PRUNE_EVERY", 2)
    runs = Runs.of(chain(), checkpoints=any_saver)
    await runs.attempt()
    config = thread(runs.execution_id, 1)
    assert len([each async for each in any_saver.saver.alist(config)]) <= 3
    second = await runs.attempt(2, RESUME)
    assert second.state["end"] is not None


async def test_the_threads_of_an_ended_execution_are_deleted(any_saver: Checkpoints) -> None:
    runs = Runs.of(chain(), checkpoints=any_saver)
    await runs.attempt()
    await any_saver.delete_thread(runs.execution_id, [1])
    assert await any_saver.newest(runs.execution_id, [1]) is None


async def test_every_saver_continues_the_run_of_another_worker(any_saver: Checkpoints) -> None:
    runs = Runs.of(chain(), checkpoints=any_saver)
    async with losing(any_saver, 4, after=False):
        with pytest.raises(Lost):
            await runs.attempt()
    second = await runs.attempt(2, RESUME)
    assert visited(second.spans) == ["b", "c", "end"]


async def test_a_checkpoint_file_is_read_by_the_next_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with open_checkpoints(url) as first:
        runs = Runs.of(chain(), checkpoints=first)
        async with losing(first, 4, after=False):
            with pytest.raises(Lost):
                await runs.attempt()
    async with open_checkpoints(url) as second:
        runs.checkpoints = second
        assert visited((await runs.attempt(2, RESUME)).spans) == ["b", "c", "end"]


async def test_checkpoints_that_could_run_code_are_not_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("langgraph.checkpoint.serde._msgpack.STRICT_MSGPACK_ENABLED", False)
    with pytest.raises(LenientCheckpoints, match="LANGGRAPH_STRICT_MSGPACK"):
        async with open_checkpoints(f"sqlite:///{tmp_path / 'runs.db'}"):
            raise AssertionError("it was opened")


async def test_the_error_for_a_missing_extra_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert problem("sqlite:///x.db") is None
    with pytest.raises(MissingExtra, match=r"pip install 'spanloom\[postgres-checkpoints\]'"):
        async with open_checkpoints("postgresql://somebody@localhost/nothing"):
            raise AssertionError("it was opened")


async def test_without_a_database_the_run_is_the_same() -> None:
    runs = Runs.of(chain())
    compiled = runs.compiled()
    context = runs.context(compiled, 1)
    assert await compiled.run(context, checkpoints=None, resume=None) is None
    assert context.state["variables"]["log"] == ["a", "b", "c"]


async def test_durability_none_keeps_no_checkpoint() -> None:
    runs = Runs.of(chain() | {"durability": "none"})
    await runs.attempt()
    assert await runs.checkpoints.newest(runs.execution_id, [1]) is None


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def any_saver(request: pytest.FixtureRequest, tmp_path: Path):  # type: ignore[no-untyped-def]  # of pytest
    if request.param == "memory":
        yield in_memory()
        return
    url = f"sqlite:///{tmp_path / 'runs.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with open_checkpoints(url) as checkpoints:
        yield checkpoints
