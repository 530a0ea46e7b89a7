"""Books of real executions, made once: for attacks that fake a copy of them.

The executions are of every kind that leaves other rows: a chat, a tool agent with failures and retries, one that paused
and was answered, cancelled ones, one that was lost and resumed, one behind a Collector, and, in `leave_unfinished`,
those that have not ended. Webhooks of their ends went to a receiver that took them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from engine.database.database import Database
from engine.execution.handle import Execution
from engine.graph import JsonObject
from engine.ledger import CallReservation, Checkpoint, GivenAnswer
from engine.request import ExecutionRequest
from engine.result import Status
from engine.store import approvals
from engine.store.claims import make_answered
from engine.testing.models import Call, Fail, PerTokenPrices, Say, Step
from engine.tracing.tracker import AttemptStart, Tracing, WorkflowTracker
from engine.usage import Usage
from telemetry.pipeline.pipeline import Pipeline
from telemetry.recovery.sweeper import Sweeper
from telemetry.sdk.providers import build_telemetry
from tests.both_modes import CollectorMode, collector_mode, consumers
from tests.conformance.cases import KEY, TOOLS, chatter
from tests.engine.harness import graph
from tests.leases import end_leases
from tests.telemetry.bookkeeper import Bookkeeper, Story, an_id, begin, bookkeeper
from tests.telemetry.receiver import receiving
from tests.telemetry.webhooks.post import Post
from tests.workflow_runner import WorkflowRunner, request, workflow_runner

Ids = Mapping[str, str]
"""What an execution (or the endpoint) is to the attacks, and its id."""

_TEMPLATE: JsonObject = {"kind": "template", "template": KEY}
_GRAPH = graph([{"id": "ask", "type": "model"}], ["start -> ask", "ask -> end"])
_ASKING = graph(
    [{"id": "sure", "type": "approval", "config": {"prompt": "Sure?"}}, {"id": "ask", "type": "model"}],
    ["start -> sure", "sure -approved-> ask", "sure -rejected-> end", "ask -> end"],
)
_USED = Usage(input_tokens=90, output_tokens=9, cache_read_tokens=30, cache_write_tokens=10, reasoning_tokens=4)


async def make_books(url: str) -> Ids:
    """Run the executions over a migrated database; all have ended."""
    ids: dict[str, str] = {}
    async with Database(url) as database, receiving() as receiver:
        post = Post(database, receiver)
        ids["endpoint"] = (await post.endpoint()).id
        async with workflow_runner(url, keep_signals=False) as runner:
            ids |= await _run_workflows(runner)
        async with bookkeeper(database, consumers(), flush_seconds=60) as keeper:
            ids |= await _report_stories(keeper)
        async with collector_mode(url) as way:
            ids["collected"] = await _collect(way)
        async with post.sender():
            await post.drained()
    return ids


async def leave_unfinished(url: str) -> None:
    """Add a queued, a running and a paused execution, and one that was claimed a moment ago."""
    async with Database(url) as database:
        async with workflow_runner(url, keep_signals=False) as runner:
            await runner.engine([]).enqueue(_request({"kind": "graph", "graph": _GRAPH}))
            await _pause(runner, [])
            claimed = await _pause(runner, [])
            await _answer(database, claimed.id)
            await runner.runtime.journal.claim(1)
        async with bookkeeper(database, consumers(), flush_seconds=60) as keeper:
            running = await _accepted(keeper)
            running.answer()
            await _checkpoint(keeper, running)
            await _accepted(keeper)


async def _run_workflows(runner: WorkflowRunner) -> Ids:
    await runner.store_template(KEY, chatter())
    agent: list[Step] = [
        Call("broken", {"text": "x"}, usage=_USED),
        Fail("overloaded", retry_after_seconds=0),
        Call("calculate", {"expression": "6 * 7"}),
        Say("It is 42."),
    ]
    level: dict[str, JsonObject] = {
        name: {"kind": "graph", "graph": _GRAPH | {"record_level": name}} for name in ("summary", "nodes")
    }
    return {
        "chat": await _run(runner, [Say("hello")], {"kind": "chat", "template": KEY}),
        "agent": await _run(runner, agent, _TEMPLATE, tags={"team": "a"}),
        "failed": await _run(runner, [Fail("auth", "wrong key")], _TEMPLATE),
        "approved": await _approved(runner),
        **{name: await _run(runner, [Say("hello")], source) for name, source in level.items()},
    }


async def _run(
    runner: WorkflowRunner, script: Sequence[Step], source: JsonObject, tags: JsonObject | None = None
) -> str:
    engine = runner.engine(script, TOOLS)
    return (await engine.execute(_request(source, tags))).execution_id


def _request(source: JsonObject, tags: JsonObject | None = None) -> ExecutionRequest:
    return request(source, tags=tags or {})


async def _pause(runner: WorkflowRunner, script: Sequence[Step]) -> Execution:
    engine = runner.engine(script, TOOLS)
    await engine.execute(_request({"kind": "graph", "graph": _ASKING}))
    return engine.started[0]


async def _approved(runner: WorkflowRunner) -> str:
    paused = await _pause(runner, [])
    await _answer(runner.runtime.database, paused.id)
    [claim] = await runner.runtime.journal.claim(1)
    await (await runner.engine([Say("done")], TOOLS).take_on(claim)).result()
    return paused.id


async def _answer(database: Database, execution_id: str) -> None:
    async with database.begin() as connection:
        [question] = await approvals.list_open(connection, execution_id)
        assert await approvals.answer(connection, GivenAnswer(question.approval_id, "approved", None, "ann"))
        assert await make_answered(connection, execution_id)


async def _report_stories(keeper: Bookkeeper) -> Ids:
    old = await keeper.completed(execution_id=an_id(datetime.now(UTC) - timedelta(days=3), 1))
    cancelled = await _accepted(keeper)
    cancelled.answer()
    cancelled.cancelled_call()
    cancelled.tracker.cancel("the client left")
    assert await keeper.journal.finish(cancelled.finish(Status.CANCELLED))
    return {
        "old": old.identity.execution_id,
        "cancelled": cancelled.identity.execution_id,
        "lost": await _lost_and_resumed(keeper),
        "abandoned": await _abandoned(keeper),
    }


async def _accepted(keeper: Bookkeeper, **changes: object) -> Story:
    story = keeper.begin(**changes)
    await keeper.journal.accept(replace(story.acceptance(), on_lost="retry"))
    return story


async def _checkpoint(keeper: Bookkeeper, story: Story, begins: CallReservation | None = None) -> None:
    identity = story.identity
    await keeper.journal.checkpoint(Checkpoint(identity.execution_id, identity.attempt, begins=begins))


async def _lost_and_resumed(keeper: Bookkeeper) -> str:
    """Its process dies during a model call; another one claims and completes it."""
    story = await _accepted(keeper)
    story.answer()
    await _checkpoint(keeper, story, CallReservation("00000000000000aa", "scripted", "small", 100, 5_000))
    await end_leases(keeper.database)
    await Sweeper(keeper.database, Pipeline(consumers())).sweep()
    [claim] = await keeper.journal.claim(1)
    tracing = Tracing.over(keeper.telemetry.tracer_provider, keeper.telemetry.logger_provider)
    later = Story(WorkflowTracker(tracing, PerTokenPrices(), claim.carried), claim.identity)
    later.tracker.start(later.identity, AttemptStart(age_seconds=claim.age_seconds))
    begun = Checkpoint(claim.identity.execution_id, claim.identity.attempt, later.tracker.root, later.identity)
    await keeper.journal.checkpoint(begun)
    later.answer()
    later.tracker.complete()
    assert await keeper.journal.finish(later.finish())
    return story.identity.execution_id


async def _abandoned(keeper: Bookkeeper) -> str:
    """It waits for another process and is cancelled there, without a root span of its own end."""
    story = await _accepted(keeper)
    story.answer()
    await end_leases(keeper.database)
    sweeper = Sweeper(keeper.database, Pipeline(consumers()))
    await sweeper.sweep()
    assert await sweeper.cancel(story.identity.execution_id, "default", "not needed")
    return story.identity.execution_id


async def _collect(way: CollectorMode) -> str:
    telemetry = build_telemetry()
    telemetry.add(way.journal.spans, way.journal.events)
    story = begin(telemetry)
    await way.journal.accept(story.acceptance())
    story.answer(wasted=True)
    story.answer()
    story.tool()
    story.tracker.fail("timeout", "too late", "n1")
    assert await way.journal.finish(story.finish(Status.FAILED))
    await way.drained()
    telemetry.shutdown()
    return story.identity.execution_id
