"""One execution is one trace, also after a pause, a crash or a hand-over: as a drawing, in both modes, from Jaeger."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.operations.approve import answer
from api.operations.retry import read_original
from api.schemas.decisions import ResumeBody
from api.wiring.runtime import Runtime, open_runtime
from engine.errors import Draining
from engine.graph import JsonObject
from engine.result import ExecutionResult, Status
from engine.store import unfinished
from engine.testing.models import Hold, Say, Step
from engine.tracing import semconv
from tests.collector.observation import Shown, in_jaeger, tags
from tests.conftest import StartCollector
from tests.endtoend.wiring import drained, eventually, serving, wired
from tests.engine.harness import graph
from tests.leases import end_leases
from tests.services.jaeger.server import Jaeger
from tests.workflow_runner import OWNER, WatchedEngine, WorkflowRunner, request

pytestmark = [pytest.mark.jaeger, pytest.mark.slow]

NOTE: JsonObject = graph(
    [
        {"id": "draft", "type": "model"},
        {"id": "review", "type": "approval", "config": {"prompt": "Publish?", "choices": ["yes", "no"]}},
    ],
    ["start -> draft", "draft -> review", "review -yes-> end", "review -no-> draft"],
)
STEADY: JsonObject = {
    **graph([{"id": "first", "type": "model"}, {"id": "second", "type": "model"}],
            ["start -> first", "first -> second", "second -> end"]),
    "durability": "step",
    "on_lost": "resume",
}  # fmt: skip
PLAIN: JsonObject = graph([{"id": "ask", "type": "model"}], ["start -> ask", "ask -> end"])

APPROVED = """
invoke_workflow note  ‖ paused
  execute_node start
  execute_node draft
    chat scripted-1
  execute_node review
  invoke_workflow note  attempt 2, after attempt 1
    execute_node review
    execute_node end
"""
CRASHED = """
invoke_workflow steady  engine_lost  ‖ exception
  execute_node start
  execute_node first
    chat scripted-1
  invoke_workflow steady  attempt 2, after attempt 1
    execute_node second
      chat scripted-1
    execute_node end
"""
HANDED_OVER = """
invoke_workflow steady  shutdown  ‖ exception
  execute_node start
  execute_node first
    chat scripted-1
  execute_node second
    chat scripted-1
  invoke_workflow steady  attempt 2, after attempt 1
    execute_node second
      chat scripted-1
    execute_node end
"""
RETRIED = """
invoke_workflow plain  after another trace
  execute_node start
  execute_node ask
    chat scripted-1
  execute_node end
"""


@dataclass(slots=True)
class World:
    """A service whose spans reach Jaeger, embedded or through a Collector."""

    runner: WorkflowRunner
    jaeger: Jaeger

    async def next_attempt(self, engine: WatchedEngine) -> ExecutionResult:
        """Another process claims the one execution that can be claimed, and runs it to its end."""
        [claim] = await self.runner.runtime.journal.claim(10)
        return await (await engine.take_on(claim)).result()

    @asynccontextmanager
    async def mortal(self, *script: Step) -> AsyncIterator[tuple[WatchedEngine, Runtime]]:
        """A second process on the same database, with a model of its own."""
        async with open_runtime(self.runner.runtime.settings) as runtime, AsyncExitStack() as stack:
            yield WorkflowRunner(runtime, None, stack).engine(list(script)), runtime

    async def drawn(self, execution_id: str) -> str:
        """The execution's trace, from Jaeger's API; all of its spans are in the one trace of its record."""
        await drained(self.runner.runtime.database)
        trace, record = await self.runner.trace(execution_id), await self.runner.record(execution_id)
        assert trace.seal.complete
        assert {span.trace_id for span in trace.spans} == {record.trace_id}
        shown = await in_jaeger(self.jaeger, str(record.trace_id), len(trace.spans))
        assert {str(span["spanID"]) for span in shown} == {span.span_id for span in trace.spans}
        assert [
            each for span in shown for each in listed(span["warnings"] or []) if "clock skew" not in str(each)
        ] == []
        return jaeger_drawing(shown)


@pytest.fixture(params=["embedded", pytest.param("collector", marks=pytest.mark.collector)])
async def world(
    request: pytest.FixtureRequest,
    migrated_sqlite_url: str,
    documents: Path,
    jaeger: Jaeger,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    """A service in each mode."""
    async with _world(request, migrated_sqlite_url, documents, jaeger, monkeypatch) as world:
        for slug, document in (("note", NOTE), ("steady", STEADY), ("plain", PLAIN)):
            await world.runner.store_definition(slug, document)
        yield world


@asynccontextmanager
async def _world(
    request: pytest.FixtureRequest, url: str, documents: Path, jaeger: Jaeger, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    if request.param == "embedded":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", jaeger.otlp_http)
        monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
        async with serving(url, documents, None) as runner:
            yield World(runner, jaeger)
    else:
        start: StartCollector = request.getfixturevalue("start_collector")
        to_jaeger = {"JAEGER_OTLP_ENDPOINT": jaeger.otlp_http}
        async with wired(url, documents, start, environment=to_jaeger) as service:
            yield World(service.runner, jaeger)


def of(slug: str) -> JsonObject:
    """The source of a stored definition."""
    return {"kind": "definition", "definition": slug}


async def test_an_approval_answered_later_is_one_tree(world: World) -> None:
    engine = world.runner.engine([Say("A note.")])
    paused = await engine.execute(request(of("note")))
    [question] = paused.approvals
    async with world.runner.runtime.database.begin() as connection:
        given = ResumeBody(approval_id=question.approval_id, choice="yes")
        await answer(connection, paused.execution_id, OWNER, given, "ann")
    result = await world.next_attempt(world.runner.engine([]))
    assert (result.status, result.metadata.trace_id) == (Status.COMPLETED, paused.metadata.trace_id)
    assert await world.drawn(result.execution_id) == APPROVED


async def test_a_crash_and_the_attempt_after_it_are_one_tree(world: World) -> None:
    async with world.mortal(Say("One."), Hold()) as (dying, its_runtime):
        lost = await dying.start(request(of("steady")), streaming=False)
        await in_its_second_call(dying)
        await journalled(world, lost.id, spans=3)
        await asyncio.to_thread(its_runtime.telemetry.shutdown)  # from now on nobody hears of it
        await end_leases(world.runner.runtime.database)
        assert (await world.runner.runtime.sweeper.sweep()).retried == [lost.id]
        result = await world.next_attempt(world.runner.engine([Say("Two.")]))
        assert (result.status, result.metadata.trace_id) == (Status.COMPLETED, lost.context.tracker.trace_id)
        assert await world.drawn(result.execution_id) == CRASHED
        lost.fence_off()


async def test_a_shutdown_and_the_process_that_goes_on_are_one_tree(world: World) -> None:
    stopping = world.runner.engine([Say("One."), Hold()])
    first = await stopping.start(request(of("steady")), streaming=False)
    await in_its_second_call(stopping)
    await stopping.close()
    with pytest.raises(Draining):
        await first.result()
    result = await world.next_attempt(world.runner.engine([Say("Two.")]))
    assert (result.status, result.metadata.trace_id) == (Status.COMPLETED, first.context.tracker.trace_id)
    assert await world.drawn(result.execution_id) == HANDED_OVER


async def test_a_finished_execution_that_is_run_again_has_a_trace_of_its_own_with_a_link(world: World) -> None:
    engine = world.runner.engine([Say("One."), Say("Two.")])
    first = await engine.execute(request(of("plain")))
    async with world.runner.runtime.database.read() as connection:
        asked = await read_original(connection, first.execution_id, OWNER)
    again = await engine.enqueue_again(asked.identity, asked.request, asked.graph, root=asked.first_root)
    queued = await world.runner.record(again)
    result = await world.next_attempt(engine)
    record = await world.runner.record(again)
    assert (record.trace_id, record.root_span_id) == (queued.trace_id, queued.root_span_id), "told before it began"
    assert (result.metadata.trace_id, record.retry_of) == (queued.trace_id, first.execution_id)
    assert result.metadata.trace_id != first.metadata.trace_id
    assert await world.drawn(again) == RETRIED
    shown = await in_jaeger(world.jaeger, str(record.trace_id), 4)
    assert asked.first_root is not None
    assert [(each["traceID"], each["spanID"]) for span in shown for each in references(span, "FOLLOWS_FROM")] == [
        (first.metadata.trace_id, asked.first_root.span_id)
    ]


async def test_an_execution_that_is_cancelled_in_the_queue_is_in_the_trace_that_its_link_names(world: World) -> None:
    engine = world.runner.engine([])
    execution_id = await engine.enqueue(request(of("plain")))
    queued = await world.runner.record(execution_id)
    assert await world.runner.runtime.sweeper.cancel(execution_id, OWNER, "not needed")
    assert await world.drawn(execution_id) == "\ninvoke_workflow plain  ‖ cancelled\n"
    assert (await world.runner.record(execution_id)).trace_id == queued.trace_id


async def in_its_second_call(engine: WatchedEngine) -> None:
    """Wait until the model has been asked twice."""
    await eventually(lambda: len(engine.model.requests) == 2)


async def journalled(world: World, execution_id: str, *, spans: int) -> None:
    """Wait until control knows of this number of ended spans."""
    async with asyncio.timeout(20):
        while True:
            async with world.runner.runtime.database.read() as connection:
                carried = await unfinished.carried(connection, [execution_id])
            if len(carried[execution_id].span_ids) >= spans:
                return
            await asyncio.sleep(0.02)


def jaeger_drawing(spans: list[Shown]) -> str:
    """The tree of a trace as text: names, error types, attempts with their links, and how an attempt stopped.

    As in Jaeger's page the parent of a span is its first reference within the trace: where a span is a child of the
    span that it links to, Jaeger keeps one reference, FOLLOWS_FROM.
    """
    by_parent: dict[str | None, list[Shown]] = {}
    attempt_of = {str(span["spanID"]): tags(span)[semconv.EXECUTION_ATTEMPT] for span in spans}
    for span in sorted(spans, key=lambda span: int(str(span["startTime"]))):
        above = [str(each["spanID"]) for each in listed(span["references"]) if each["traceID"] == span["traceID"]]
        by_parent.setdefault(above[0] if above else None, []).append(span)

    def lines(parent: str | None, depth: int) -> Iterator[str]:
        for span in by_parent.get(parent, []):
            yield "  " * depth + "  ".join([str(span["operationName"]), *notes(span, attempt_of)])
            yield from lines(str(span["spanID"]), depth + 1)

    return "\n" + "\n".join(lines(None, 0)) + "\n"


def notes(span: Shown, attempt_of: dict[str, str]) -> Iterator[str]:
    """What the drawing says behind the name of a span."""
    is_root, shown = str(span["operationName"]).startswith("invoke_workflow "), tags(span)
    after = [attempt_of.get(str(each["spanID"])) for each in references(span, "FOLLOWS_FROM")]
    said = [f"after attempt {each}" if each else "after another trace" for each in after]
    if is_root and shown[semconv.EXECUTION_ATTEMPT] != "1":
        said.insert(0, f"attempt {shown[semconv.EXECUTION_ATTEMPT]}")
    if said:
        yield ", ".join(said)
    if semconv.ERROR_TYPE in shown:
        yield shown[semconv.ERROR_TYPE]
    for log in listed(span["logs"]):
        [event] = [field["value"] for field in listed(log["fields"]) if field["key"] == "event"]
        yield f"‖ {str(event).removeprefix('workflow.execution.')}"


def references(span: Shown, kind: str) -> list[Shown]:
    """The references of one kind, CHILD_OF or FOLLOWS_FROM (a link)."""
    return [each for each in listed(span["references"]) if each["refType"] == kind]


def listed(value: object) -> list[Shown]:
    """A list of Jaeger's documents."""
    assert isinstance(value, list)
    return value
