"""Executions without a process end, or go on elsewhere, and their books miss nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from engine.errors import Fenced, Unavailable
from engine.events import LAST_SEQ
from engine.execution.attempts import later_start
from engine.graph import OnLost
from engine.ledger import Acceptance, CallReservation, Checkpoint, Claim, Finish, Pause, Release
from engine.resources import ModelReply
from engine.result import Approval, ExecutionResult, Status
from engine.store import control, endings
from engine.store.claims import MAX_CRASHES
from engine.store.control import ControlRow
from engine.store.tables import approvals, call_reservations, execution_control, journalled
from engine.testing.models import USAGE, PerTokenPrices, ScriptedModel
from engine.tracing import semconv
from engine.tracing.tracker import AttemptStart, Tracing, WorkflowTracker
from telemetry.collector.receiver import Receiver
from telemetry.health import Health
from telemetry.journal import journal
from telemetry.journal.sinks import OutboxSink
from telemetry.metrics.exposition import Metrics
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reads.traces import get_trace
from telemetry.reconcile.audit import check_books
from telemetry.records.consumer import Records
from telemetry.recovery.sweeper import PAGE, Sweeper, Swept
from telemetry.signals.records import Batch
from telemetry.store.tables import executions, spans
from tests.leases import end_leases
from tests.telemetry.bookkeeper import REQUEST, SIGNER, Bookkeeper, Story, bookkeeper, identity
from tests.workflow_runner import drawing

SECONDS = 10


@dataclass(slots=True)
class Scene:
    """A process that keeps books, and another process's sweeper on the same database."""

    keeper: Bookkeeper
    sweeper: Sweeper
    health: Health
    committed: list[Batch] = field(default_factory=list)

    @property
    def database(self) -> Database:
        """The one of both."""
        return self.keeper.database

    async def accepted(self, on_lost: OnLost = "fail", **changes: object) -> Story:
        """An execution that runs here."""
        story = self.keeper.begin(**changes)
        await self.keeper.journal.accept(replace(story.acceptance(), on_lost=on_lost))
        return story

    async def checkpoint(self, story: Story, begins: CallReservation | None = None) -> None:
        """What the story said is durable."""
        await self.keeper.journal.checkpoint(
            Checkpoint(story.identity.execution_id, story.identity.attempt, begins=begins)
        )

    async def claimed(self, *, begins: bool = True) -> Story:
        """The one claimable execution, taken on here as a further attempt."""
        [claim] = await self.keeper.journal.claim(10)
        tracing = Tracing.over(self.keeper.telemetry.tracer_provider, self.keeper.telemetry.logger_provider)
        story = Story(WorkflowTracker(tracing, PerTokenPrices(), claim.carried), claim.identity)
        if begins:
            story.tracker.start(story.identity, _later(claim))
            begun = Checkpoint(story.identity.execution_id, story.identity.attempt, story.tracker.root, story.identity)
            await self.keeper.journal.checkpoint(begun)
        return story

    async def expire(self) -> None:
        """Every lease is over."""
        await end_leases(self.database)

    async def lost(self) -> Swept:
        """Every process is gone, and that is found."""
        await self.expire()
        return await self.sweeper.sweep()

    async def control(self, story: Story) -> ControlRow:
        """What is decided."""
        async with self.database.read() as connection:
            row = await control.get(connection, story.identity.execution_id, story.identity.owner)
        assert row is not None
        return row

    async def record(self, story: Story) -> Any:
        """What is stored of it."""
        async with self.database.read() as connection:
            rows = await connection.execute(select(executions).where(executions.c.id == story.identity.execution_id))
            return rows.one()

    async def roots(self, story: Story) -> list[Any]:
        """The root spans of its attempts."""
        async with self.database.read() as connection:
            mine = (spans.c.execution_id == story.identity.execution_id, spans.c.kind == "workflow")
            return list((await connection.execute(select(spans).where(*mine).order_by(spans.c.attempt))).all())

    async def left_overs(self) -> int:
        """Rows that only unfinished executions have."""
        async with self.database.read() as connection:
            tables = (journalled, call_reservations, approvals)
            return sum([len((await connection.execute(select(table))).all()) for table in tables])


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    """A process and a sweeper, over a database of their own."""
    async with Database(migrated_url) as database, bookkeeper(database, flush_seconds=60) as keeper:
        scene = Scene(keeper, None, Health())  # type: ignore[arg-type]  # it is made below
        sink = Pipeline([Records()], health=scene.health, after_commit=scene.committed.append)
        scene.sweeper = Sweeper(database, sink)
        yield scene


def _later(claim: Claim) -> AttemptStart:
    return later_start(claim)


def result_of(row: ControlRow) -> ExecutionResult:
    """The result that the caller is given."""
    return ExecutionResult.model_validate_json(orjson.dumps(row.result))


def a_call(upper: int | None = 5_000) -> CallReservation:
    """A model call in flight."""
    return CallReservation("00000000000000aa", "scripted", "small", 100, upper)


async def test_a_lost_execution_fails_with_its_root_span_and_everything_it_had_used(scene: Scene) -> None:
    story = await scene.accepted(conversation_id="talk")
    story.answer()
    story.tool()
    await scene.checkpoint(story, a_call())
    root = story.tracker.root
    assert root is not None

    assert await scene.lost() == Swept(failed=[story.identity.execution_id])

    record, [span] = await scene.record(story), await scene.roots(story)
    assert (record.status, record.error_type, record.attempt, record.seq) == ("failed", "engine_lost", 1, LAST_SEQ)
    assert (span.span_id, span.trace_id, span.parent_span_id) == (root.span_id, root.trace_id, root.parent_span_id)
    assert (span.status, span.error_type) == ("failed", "engine_lost")
    assert abs(span.started_at - root.started_at) < timedelta(microseconds=2)
    assert (record.trace_id, record.root_span_id) == (root.trace_id, root.span_id)
    assert (record.model_calls, record.tool_calls, record.nodes_total) == (1, 1, 2)
    assert (record.unfinished_calls, record.cost_upper_nano_usd) == (1, record.cost_nano_usd + 5_000)
    assert record.spans_expected == record.spans_stored == 6
    assert await check_books(scene.database) == []
    row = await scene.control(story)
    result = result_of(row)
    assert (row.status, row.last_seq, row.is_leased) == (Status.FAILED, LAST_SEQ, False)
    assert (result.status, result.error_type, result.cost_nano_usd) == ("failed", "engine_lost", record.cost_nano_usd)
    assert (result.unfinished_calls, result.cost_upper_nano_usd) == (1, record.cost_upper_nano_usd)
    assert await scene.left_overs() == 0


async def test_the_signals_of_a_lost_execution_go_through_the_outbox_too(scene: Scene) -> None:
    story = await scene.accepted()
    story.answer()
    await scene.checkpoint(story)
    shipped: list[None] = []
    sink = OutboxSink(["records"], health=scene.health, signer=SIGNER, on_commit=lambda: shipped.append(None))
    scene.sweeper = Sweeper(scene.database, sink)
    assert await scene.lost() == Swept(failed=[story.identity.execution_id])
    assert (await scene.control(story)).status is Status.FAILED
    assert ((await scene.record(story)).status, len(shipped)) == ("running", 1), "its events are on their way"
    await Receiver(scene.database, [Records()], scene.health, SIGNER).serve_all()
    record, [span] = await scene.record(story), await scene.roots(story)
    assert (record.status, record.error_type, span.error_type) == ("failed", "engine_lost", "engine_lost")
    assert record.spans_expected == record.spans_stored == 3
    assert await check_books(scene.database) == []


async def test_the_children_of_a_lost_attempt_keep_their_parent(scene: Scene) -> None:
    story = await scene.accepted()
    story.answer()
    await scene.checkpoint(story)
    await scene.lost()
    async with scene.database.read() as connection:
        rows = (await connection.execute(select(spans.c.span_id, spans.c.parent_span_id))).all()
    assert {row.parent_span_id for row in rows} - {row.span_id for row in rows} == {None}


async def open_branches(scene: Scene, story: Story) -> None:
    """Two nodes that have made calls and are not done, each committed in part, and one that ends later."""
    first, second, third = story.node("model"), story.node("tools"), story.node("tools")
    third.tool_call("calculate", "call-0").complete()
    first.model_call(ScriptedModel([]), REQUEST).complete(ModelReply(text="hi", usage=USAGE))
    second.tool_call("calculate", "call-1").complete()
    await scene.checkpoint(story)
    second.retrieval("files").complete()
    third.complete(label=None, edges="e1", degraded=False)
    await scene.checkpoint(story, a_call())


async def tree(scene: Scene, story: Story) -> str:
    """What is stored of the trace of its last attempt, as text."""
    async with scene.database.read() as connection:
        trace = await get_trace(connection, story.identity.execution_id, "default")
    assert trace is not None
    return drawing(trace.spans)


LOST_TREE = """
invoke_workflow test  failed  engine_lost
  execute_node n3
    execute_tool calculate
  execute_node n1  failed  engine_lost
    chat scripted-1
  execute_node n2  failed  engine_lost
    execute_tool calculate
    retrieval files
"""


@pytest.mark.parametrize("source", ["definition", "graph"], ids=["stored", "ad hoc"])
async def test_a_node_whose_process_died_has_a_span_above_its_calls(scene: Scene, source: str) -> None:
    story = await scene.accepted(source=source, workflow_name="test")
    await open_branches(scene, story)
    assert await scene.lost() == Swept(failed=[story.identity.execution_id])

    assert await tree(scene, story) == LOST_TREE
    record = await scene.record(story)
    assert (record.nodes_total, record.nodes_failed, record.model_calls, record.tool_calls) == (3, 2, 1, 2)
    assert record.spans_expected == record.spans_stored == 8
    async with scene.database.read() as connection:
        mine = (spans.c.execution_id == story.identity.execution_id, spans.c.node_id == "n1", spans.c.kind == "node")
        node = (await connection.execute(select(spans).where(*mine))).one()
    assert (node.node_type, node.node_attempt, node.path, node.attempt) == ("model", 1, "n1", 1)
    assert await check_books(scene.database) == []
    assert await scene.left_overs() == 0


async def test_the_seal_of_a_later_attempt_includes_the_nodes_that_were_lost(scene: Scene) -> None:
    story = await scene.accepted("retry", source="definition", workflow_name="test")
    await open_branches(scene, story)
    await scene.lost()
    assert await tree(scene, story) == LOST_TREE

    again = await scene.claimed()
    again.answer()
    again.tracker.complete()
    assert await scene.keeper.journal.finish(again.finish())
    record = await scene.record(story)
    assert (record.status, record.nodes_total, record.nodes_failed) == ("completed", 4, 2)
    assert record.spans_expected == record.spans_stored == 8 + 3
    assert await check_books(scene.database) == []


async def test_the_open_nodes_of_an_earlier_attempt_are_not_lost_again(scene: Scene) -> None:
    story = await scene.accepted("retry")
    await open_branches(scene, story)
    await scene.lost()
    await scene.claimed()
    assert await scene.lost() == Swept(retried=[story.identity.execution_id])
    async with scene.database.read() as connection:
        rows = (await connection.execute(select(spans).where(spans.c.error_type == "engine_lost"))).all()
    assert Counter((row.attempt, row.kind) for row in rows) == {(1, "workflow"): 1, (1, "node"): 2, (2, "workflow"): 1}


async def test_a_record_of_summaries_keeps_no_lost_nodes_and_its_seal_counts_none(scene: Scene) -> None:
    story = await scene.accepted(record_level="summary")
    await open_branches(scene, story)
    await scene.lost()
    record = await scene.record(story)
    assert record.spans_expected == record.spans_stored == 2
    assert {span.name for batch in scene.committed for span in batch.spans} >= {"execute_node n1", "execute_node n2"}
    assert await check_books(scene.database) == []


async def test_an_execution_whose_lease_is_not_over_is_left_alone(scene: Scene) -> None:
    story = await scene.accepted()
    assert len(await scene.sweeper.sweep()) == 0
    assert (await scene.control(story)).status is Status.RUNNING


async def test_the_unknown_price_of_an_unfinished_call_leaves_the_upper_bound_unknown(scene: Scene) -> None:
    story = await scene.accepted()
    await scene.checkpoint(story, a_call(upper=None))
    await scene.lost()
    record = await scene.record(story)
    assert (record.unfinished_calls, record.cost_nano_usd, record.cost_upper_nano_usd) == (1, 0, None)


@pytest.mark.parametrize("on_lost", ["retry", "resume"])
async def test_a_lost_attempt_that_is_retried_counts_in_no_failure_rate_and_in_the_final_seal(
    scene: Scene, on_lost: OnLost
) -> None:
    story = await scene.accepted(on_lost)
    story.answer()
    await scene.checkpoint(story, a_call())

    assert await scene.lost() == Swept(retried=[story.identity.execution_id])

    row, record = await scene.control(story), await scene.record(story)
    assert (row.status, row.claim_reason, row.crashes, row.is_leased) == (Status.RUNNING, "crash", 1, False)
    assert record.status == "running"
    [span] = await scene.roots(story)
    assert (span.error_type, semconv.EXECUTION_STATUS in span.attributes) == ("engine_lost", False)

    again = await scene.claimed()
    assert again.identity.attempt == 2
    again.answer()
    again.tracker.complete()
    assert await scene.keeper.journal.finish(again.finish())

    record = await scene.record(story)
    assert (record.status, record.attempt, record.model_calls, record.unfinished_calls) == ("completed", 2, 2, 1)
    assert record.spans_expected == record.spans_stored == 6
    assert await check_books(scene.database) == []
    assert await scene.left_overs() == 0


async def test_an_execution_is_given_up_after_the_third_crash(scene: Scene) -> None:
    story = await scene.accepted("retry")
    outcomes = [await scene.lost()]
    for _ in range(2):
        again = await scene.claimed()
        again.answer()
        await scene.checkpoint(again)
        outcomes.append(await scene.lost())

    id_ = story.identity.execution_id
    assert outcomes == [Swept(retried=[id_]), Swept(retried=[id_]), Swept(failed=[id_])]
    record, roots = await scene.record(story), await scene.roots(story)
    assert (record.status, record.error_type, record.attempt, record.model_calls) == ("failed", "engine_lost", 3, 2)
    assert [semconv.EXECUTION_STATUS in root.attributes for root in roots] == [False, False, True]
    assert record.spans_expected == record.spans_stored == 3 + 4
    assert await check_books(scene.database) == []
    assert await scene.keeper.journal.claim(10) == []


async def lose_early(scene: Scene, times: int) -> list[Swept]:
    """The one execution is lost so often by processes that died within seconds; what came of it each time."""
    outcomes = []
    for number in range(times):
        if number:
            async with scene.database.begin() as connection:
                await connection.execute(update(execution_control).values(not_before=None))
            await scene.claimed()
        await end_leases(scene.database, age_seconds=5)
        outcomes.append(await scene.sweeper.sweep())
    return outcomes


async def test_losses_of_young_processes_are_no_crashes_and_delay_the_next_claim(scene: Scene) -> None:
    story = await scene.accepted("resume")
    id_ = story.identity.execution_id
    assert await lose_early(scene, MAX_CRASHES + 1) == [Swept(retried=[id_])] * (MAX_CRASHES + 1)
    row = await scene.control(story)
    assert (row.status, row.crashes, row.early_losses) == (Status.RUNNING, 0, MAX_CRASHES + 1)
    assert await scene.keeper.journal.claim(10) == []


async def test_an_execution_that_keeps_killing_young_processes_is_given_up_within_its_run_time(scene: Scene) -> None:
    story = await scene.accepted("retry")
    id_ = story.identity.execution_id
    outcomes = await lose_early(scene, 10)
    assert outcomes == [*([Swept(retried=[id_])] * 9), Swept(failed=[id_])], "after 1 + 2 + … + 256 of 900 s"
    row = await scene.control(story)
    assert (row.status, result_of(row).error_type, row.attempt) == (Status.FAILED, "engine_lost", 10)
    assert "10 processes in a row died within 10 s" in (result_of(row).error_message or "")
    assert await check_books(scene.database) == []


async def test_a_policy_to_fail_holds_for_young_processes_too(scene: Scene) -> None:
    story = await scene.accepted("fail")
    assert await lose_early(scene, 1) == [Swept(failed=[story.identity.execution_id])]


async def test_an_attempt_that_died_before_it_began_has_no_root_span(scene: Scene) -> None:
    story = await scene.accepted("retry")
    await scene.lost()
    await scene.claimed(begins=False)
    async with scene.database.begin() as connection:
        await connection.execute(update(execution_control).values(on_lost="fail"))

    assert len((await scene.lost()).failed) == 1

    [root] = await scene.roots(story)
    record = await scene.record(story)
    assert (root.attempt, record.status, record.attempt, record.trace_id) == (1, "failed", 2, root.trace_id)
    assert record.spans_expected == record.spans_stored == 1


async def test_a_lost_execution_that_was_asked_to_stop_is_cancelled(scene: Scene) -> None:
    story = await scene.accepted("retry")
    async with scene.database.begin() as connection:
        await control.request_cancel(connection, story.identity.execution_id, "default", "not needed")
    assert await scene.lost() == Swept(cancelled=[story.identity.execution_id])
    record, [root] = await scene.record(story), await scene.roots(story)
    assert (record.status, record.cancel_reason, record.error_type) == ("cancelled", "not needed", None)
    assert (root.status, root.error_type) == ("cancelled", "engine_lost")
    assert await check_books(scene.database) == []


async def test_a_frozen_owner_that_comes_back_is_fenced(scene: Scene) -> None:
    story, other = await scene.accepted(), await scene.accepted("retry")
    story.answer()
    other.answer()
    await scene.lost()
    story.tracker.complete()
    assert not await scene.keeper.journal.finish(story.finish())
    with pytest.raises(Fenced):
        await scene.checkpoint(other)
    assert (await scene.record(story)).status == "failed"
    assert len(await scene.roots(story)) == len(await scene.roots(other)) == 1
    assert scene.keeper.journal.running() == []


async def test_several_keepers_that_sweep_at_once_end_each_execution_once(scene: Scene) -> None:
    stories = [await scene.accepted("retry" if number % 2 else "fail") for number in range(30)]
    await scene.expire()
    keepers = [Sweeper(scene.database, Pipeline([Records()])) for _ in range(4)]

    found = await asyncio.gather(*(keeper.sweep() for keeper in keepers))

    ids = [id_ for swept in found for id_ in (*swept.failed, *swept.retried)]
    assert sorted(ids) == sorted(story.identity.execution_id for story in stories)
    assert {(await scene.control(story)).crashes for story in stories[1::2]} == {1}
    assert await check_books(scene.database) == []


async def test_a_sweep_takes_a_page(scene: Scene) -> None:
    for _ in range(PAGE + 1):
        await scene.accepted()
    assert [len(await scene.lost()), len(await scene.lost())] == [PAGE, 1]


async def paused(scene: Scene) -> Story:
    """An execution that waits for an approval."""
    story = await scene.accepted()
    story.answer()
    story.tracker.hand_over("waits")
    question = Approval(
        approval_id=str(uuid4()), node_id="n", path="n", prompt="?", choices=["yes"], expires_at=datetime.now(UTC)
    )
    assert await scene.keeper.journal.pause(Pause(story.identity.execution_id, 1, {}, [question]))
    return story


async def released(scene: Scene) -> Story:
    """An execution released by a stopped process."""
    story = await scene.accepted("retry")
    story.answer()
    story.tracker.hand_over("stops")
    assert await scene.keeper.journal.release(Release(story.identity.execution_id, 1))
    return story


async def queued(scene: Scene) -> Story:
    """A queued execution."""
    tracing = Tracing.over(scene.keeper.telemetry.tracer_provider, scene.keeper.telemetry.logger_provider)
    story = Story(WorkflowTracker(tracing, PerTokenPrices()), identity())
    story.tracker.queue(story.identity)
    waiting = Acceptance(
        identity=story.identity,
        status=Status.QUEUED,
        request={},
        graph=b"{}",
        user_message=None,
        root=story.tracker.root,
        on_lost="fail",
    )
    await scene.keeper.journal.accept(waiting)
    return story


@pytest.mark.parametrize(("make", "kept"), [(queued, 1), (paused, 3), (released, 3)])
async def test_an_execution_that_no_process_runs_is_cancelled_at_once(scene: Scene, make: Any, kept: int) -> None:
    story = await make(scene)

    assert await scene.sweeper.cancel(story.identity.execution_id, "default", "not needed")

    row, record = await scene.control(story), await scene.record(story)
    assert (row.status, record.status, record.cancel_reason) == (Status.CANCELLED, "cancelled", "not needed")
    assert result_of(row).metadata.cancel_reason == "not needed"
    assert record.spans_expected == record.spans_stored == kept
    assert await check_books(scene.database) == []
    assert await scene.left_overs() == 0
    assert await scene.keeper.journal.claim(10) == []
    assert not await scene.sweeper.cancel(story.identity.execution_id, "default", "again")


async def test_an_execution_that_is_cancelled_in_the_queue_has_a_tree_under_the_ids_of_its_acceptance(
    scene: Scene,
) -> None:
    story = await queued(scene)
    accepted = await scene.record(story)
    root = story.tracker.root
    assert root is not None
    assert (accepted.status, accepted.trace_id, accepted.root_span_id) == ("queued", root.trace_id, root.span_id)

    await scene.sweeper.cancel(story.identity.execution_id, "default", "not needed")

    record, [span] = await scene.record(story), await scene.roots(story)
    assert (span.trace_id, span.span_id, span.parent_span_id) == (root.trace_id, root.span_id, None)
    assert (span.status, span.error_type) == ("cancelled", None)
    assert (record.trace_id, record.root_span_id) == (root.trace_id, root.span_id)
    [written] = scene.committed[-1].spans
    assert written.trace_only is not None
    assert [(event.name, event.attributes) for event in written.trace_only.events] == [
        ("workflow.execution.cancelled", {"workflow.cancel.reason": "not needed"})
    ]


async def test_attempts_that_died_leave_no_hole_in_the_one_tree(scene: Scene) -> None:
    story = await scene.accepted("retry")
    await scene.lost()
    await scene.claimed(begins=False)
    await scene.lost()
    again = await scene.claimed()
    again.answer()
    again.tracker.complete()
    assert await scene.keeper.journal.finish(again.finish())

    first, last = await scene.roots(story)
    assert (first.attempt, last.attempt, last.parent_span_id) == (1, 3, first.span_id)
    assert await tree(scene, story) == CRASHED_TREE
    async with scene.database.read() as connection:
        rows = (await connection.execute(select(spans.c.trace_id, spans.c.span_id, spans.c.parent_span_id))).all()
    assert {row.trace_id for row in rows} == {first.trace_id}
    assert {row.parent_span_id for row in rows} - {row.span_id for row in rows} == {None}


CRASHED_TREE = """
invoke_workflow answer  failed  engine_lost
  invoke_workflow answer
    execute_node n1
      chat small
"""


async def test_the_sweeper_cancels_neither_a_running_execution_nor_one_of_another_owner(scene: Scene) -> None:
    running, waiting = await scene.accepted(), await released(scene)
    assert not await scene.sweeper.cancel(running.identity.execution_id, "default", None)
    assert not await scene.sweeper.cancel(waiting.identity.execution_id, "somebody", None)
    assert (await scene.control(waiting)).status is Status.RUNNING


async def test_a_waiting_execution_that_is_asked_to_stop_is_found_and_cancelled(scene: Scene) -> None:
    story = await released(scene)
    async with scene.database.begin() as connection:
        await control.request_cancel(connection, story.identity.execution_id, "default", "not needed")
    assert await scene.sweeper.sweep() == Swept(cancelled=[story.identity.execution_id])
    assert (await scene.record(story)).cancel_reason == "not needed"
    assert scene.health.leases.lost == {}


async def test_a_lost_execution_counts_as_a_failure_of_its_workflow(scene: Scene) -> None:
    await scene.accepted()
    await scene.accepted("retry")
    await scene.lost()
    metrics = Metrics(scene.database, scene.health)
    for batch in scene.committed:
        metrics.feed(batch)
    _, text = await metrics.exposition("")
    lines = text.decode().splitlines()
    roots = [line for line in lines if line.startswith("traces_span_metrics_calls_total") and "engine_lost" in line]
    assert sorted('workflow_execution_status="failed"' in line for line in roots) == [False, True]
    assert 'spanloom_executions_total{status="failed",template="answer"} 1.0' in lines
    assert 'spanloom_executions_lost_total{outcome="failed"} 1.0' in lines
    assert 'spanloom_executions_lost_total{outcome="retried"} 1.0' in lines


async def test_a_sweep_whose_commit_fails_has_changed_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    story = await scene.accepted()

    async def fails(*_: object) -> None:
        raise Unavailable("the database went away")

    with monkeypatch.context() as patch:
        patch.setattr(endings, "conclude", fails)
        with pytest.raises(Unavailable):
            await scene.lost()
    assert (await scene.record(story)).status == "running"
    assert await scene.roots(story) == []
    assert scene.committed == []
    assert len((await scene.sweeper.sweep()).failed) == 1


async def test_a_consumer_that_hangs_does_not_keep_an_execution_from_its_end(scene: Scene) -> None:
    class Hanging:
        name = "hanging"

        async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
            await asyncio.Event().wait()

    story = await scene.accepted()
    await scene.expire()
    sink = Pipeline([Hanging(), Records()], timeout_seconds=0.1)
    assert len(await Sweeper(scene.database, sink).sweep()) == 1
    assert (await scene.record(story)).status == "failed"
    assert sink.health.dead_letters["hanging"] == 2


async def test_the_clock_of_a_worker_makes_no_duration_negative(scene: Scene) -> None:
    ahead = 3_600 * 10**9
    now = identity().queued_ns
    stories = [await scene.accepted(queued_ns=now + skew, started_ns=now + skew) for skew in (-ahead, ahead)]
    await scene.lost()
    for story in stories:
        record, [root] = await scene.record(story), await scene.roots(story)
        assert 0 <= record.duration_ms < 60_000
        assert root.duration_us >= 0
        assert timedelta(0) <= record.completed_at - record.queued_at < timedelta(minutes=1)
    assert await check_books(scene.database) == []


class Down(Database):
    """A database that can be taken down."""

    is_down = False
    was_asked: asyncio.Event

    def _check(self) -> None:
        if self.is_down:
            self.was_asked.set()
            raise Unavailable("the database is down")

    def begin(self) -> Any:
        self._check()
        return super().begin()

    def read(self) -> Any:
        self._check()
        return super().read()


async def test_the_sweeper_finds_lost_executions_but_not_right_after_trouble_with_the_database(
    migrated_sqlite_url: str,
) -> None:
    async with Down(migrated_sqlite_url) as database, bookkeeper(database, flush_seconds=60) as keeper:
        story = keeper.begin()
        await keeper.journal.accept(story.acceptance())
        database.is_down, database.was_asked = True, asyncio.Event()
        lease_seconds = 0.5
        sweeper = Sweeper(database, Pipeline([Records()]), lease_seconds=lease_seconds, sweep_seconds=0.05)
        sweeping = asyncio.create_task(sweeper.run(), name="sweeper")
        async with asyncio.timeout(SECONDS):
            await database.was_asked.wait()
            database.is_down = False
            await end_leases(database)
            back = asyncio.get_running_loop().time()
            row = None
            while row is None or not row.status.is_terminal:
                await asyncio.sleep(0.01)
                async with database.read() as connection:
                    row = await control.get(connection, story.identity.execution_id, "default")
            waited = asyncio.get_running_loop().time() - back
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
        assert waited > lease_seconds - 3 * 0.05


async def test_an_end_that_cannot_be_written_is_not_published_and_its_lease_expires(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(connection: AsyncConnection, finishes: list[Finish], **_: object) -> None:
        if finishes:
            raise Unavailable("no end can be written")

    async with Database(migrated_url) as database, bookkeeper(database, flush_seconds=60, retry_seconds=1) as keeper:
        scene = Scene(keeper, Sweeper(database, Pipeline([Records()])), Health())
        story = await scene.accepted()
        story.answer()
        story.tracker.complete()
        with monkeypatch.context() as patch:
            patch.setattr(journal, "finish_many", fails)
            ending = asyncio.create_task(keeper.journal.finish(story.finish()), name="finish")
            await asyncio.sleep(0)
            await keeper.journal.check(keeper.journal.running())
            assert (await scene.record(story)).status == "running"
            with pytest.raises(Unavailable):
                await ending
        assert keeper.journal.running() == []
        assert len((await scene.lost()).failed) == 1
        assert await check_books(database) == []
