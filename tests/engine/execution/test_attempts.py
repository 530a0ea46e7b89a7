"""Attempts: queued and claimed, fenced off, handed over, run again; and reservations before money is spent."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from pydantic import ValidationError

from engine.errors import AttemptLost, Draining, Fenced, Unavailable
from engine.events import EventType
from engine.execution.builder import ExecutionBuilder
from engine.graph import JsonObject
from engine.identity import ExecutionIdentity
from engine.ledger import Acceptance, Checkpoint, Claim, ClaimReason, Release, SpanIds
from engine.request import Caller, ExecutionRequest
from engine.resources import History
from engine.result import Status
from engine.testing.models import Hold, Say, ScriptedModel
from engine.tracing.attributes import seal_hash
from engine.usage import Carried, Totals, Unfinished
from tests.engine.harness import Harness, NotedLedger, graph, graph_request

ASK = graph([{"id": "ask", "type": "model"}], ["start -> ask", "ask -> end"])
TWICE = graph(
    [{"id": "ask", "type": "model"}, {"id": "again", "type": "model"}], ["start -> ask", "ask -> again", "again -> end"]
)
FORK = graph(
    [{"id": "one", "type": "model"}, {"id": "two", "type": "model"}, {"id": "both", "type": "variable", "config": {
        "variable_name": "x", "value": 1}}],
    ["start -> one", "start -> two", "one -> both", "two -> both", "both -> end"],
)  # fmt: skip


@dataclass
class DurableLedger(NotedLedger):
    """A durable ledger; `before_checkpoint` may refuse a checkpoint."""

    is_durable = True
    checkpoints: list[Checkpoint] = field(default_factory=list)
    released: list[Release] = field(default_factory=list)
    before_checkpoint: Callable[[Checkpoint], Awaitable[None]] | None = None

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        if self.before_checkpoint is not None:
            await self.before_checkpoint(checkpoint)
        self.checkpoints.append(checkpoint)

    async def release(self, release: Release) -> bool:
        self.released.append(release)
        return True


def durable(harness: Harness) -> DurableLedger:
    """Give the harness a durable ledger."""
    ledger = DurableLedger()
    harness.use(ledger)
    return ledger


def claim_of(acceptance: Acceptance, attempt: int = 1, reason: ClaimReason = "queued", **more: object) -> Claim:
    """The claim of a process on this execution."""
    claim = Claim(
        identity=replace(acceptance.identity, attempt=attempt),
        reason=reason,
        request=acceptance.request,
        graph=acceptance.graph,
        age_seconds=2.0,
        previous_root=acceptance.root if attempt > 1 else None,
        carried=Carried(),
        on_lost=acceptance.on_lost,
        first_root=None if (root := acceptance.root) is None else SpanIds(root.trace_id, root.span_id),
    )
    return replace(claim, **more)  # type: ignore[arg-type]  # the callers name the fields


async def test_a_model_call_is_recorded_before_and_after_it_is_made() -> None:
    harness = Harness([Say("fine")])
    ledger = durable(harness)
    asked: list[int] = []

    async def note(checkpoint: Checkpoint) -> None:
        asked.append(len(harness.model.requests))

    ledger.before_checkpoint = note
    run = await harness.run(ASK)
    before, after = ledger.checkpoints
    assert asked == [0, 1]
    assert before.begins is not None
    call = next(span for span in run.spans if span.name == "chat scripted-1")
    assert before.begins.call_id == f"{call.context.span_id:016x}"
    assert (before.begins.provider, before.begins.model) == ("scripted", "scripted-1")
    assert before.begins.upper_tokens > 1_024
    assert (before.begins.upper_nano_usd or 0) > (run.result.cost_nano_usd or 0) > 0
    assert after.begins is None


@pytest.mark.parametrize("workflow", [TWICE, FORK])
async def test_an_attempt_whose_call_cannot_be_recorded_is_lost_and_not_failed(workflow: JsonObject) -> None:
    harness = Harness([Say("fine")])
    ledger = durable(harness)

    async def refuse(checkpoint: Checkpoint) -> None:
        raise Unavailable

    ledger.before_checkpoint = refuse
    execution = await harness.engine.start(graph_request(workflow), streaming=True)
    with pytest.raises(AttemptLost):
        await execution.result()
    assert (harness.model.requests, ledger.finished, ledger.accepted) == ([], [], []), "abandoned to its lease"
    assert not any([event.type.is_closing async for event in execution.context.events.read()])
    assert not any(span.name.startswith("invoke_workflow") for span in harness.spans())


async def test_what_a_lost_attempt_has_used_is_stored_once_the_database_answers_again() -> None:
    harness = Harness(models=[ScriptedModel(lambda request: Say("fine"))])
    ledger = durable(harness)
    refused: list[Checkpoint] = []

    async def refuse(checkpoint: Checkpoint) -> None:
        if len(ledger.checkpoints) == 1 and not refused:
            refused.append(checkpoint)
            raise Unavailable

    ledger.before_checkpoint = refuse
    execution = await harness.engine.start(graph_request(TWICE), streaming=True)
    with pytest.raises(AttemptLost):
        await execution.result()
    assert len(harness.model.requests) == 1
    assert [each.begins is None for each in ledger.checkpoints] == [False, True]


@pytest.mark.parametrize("workflow", [TWICE, FORK])
async def test_a_fenced_off_attempt_stops_at_once_and_emits_nothing_more(workflow: JsonObject) -> None:
    harness = Harness(models=[ScriptedModel(lambda request: Say("fine"))])
    ledger = durable(harness)

    async def fence(checkpoint: Checkpoint) -> None:
        if len(ledger.checkpoints) == 1:
            raise Fenced

    ledger.before_checkpoint = fence
    execution = await harness.engine.start(graph_request(workflow), streaming=True)
    with pytest.raises(Fenced):
        await execution.result()
    assert ledger.finished == []
    assert not any([event.type.is_closing async for event in execution.context.events.read()])
    assert not any(span.name.startswith("invoke_workflow") for span in harness.spans())


async def test_a_claimed_execution_begins_although_the_database_could_not_be_read_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = Harness([Say("fine")])
    ledger = durable(harness)
    await harness.engine.enqueue(graph_request(ASK))
    [acceptance] = ledger.accepted
    troubles = [Unavailable("cut"), Unavailable("cut again")]
    history = ExecutionBuilder._history

    async def read(builder: ExecutionBuilder, identity: ExecutionIdentity) -> History | None:
        if troubles:
            raise troubles.pop()
        return await history(builder, identity)

    monkeypatch.setattr(ExecutionBuilder, "_history", read)
    execution = await harness.engine.take_on(claim_of(acceptance))
    assert (await execution.result()).status == "completed"


async def test_a_queued_execution_runs_once_it_is_claimed() -> None:
    harness = Harness([Say("fine")], fixes_ids=True)
    ledger = durable(harness)
    trace = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))
    caller = Caller(trace_context=set_span_in_context(NonRecordingSpan(trace)), any_folder=True)
    execution_id = await harness.engine.enqueue(graph_request(ASK), caller)
    [acceptance] = ledger.accepted
    assert (acceptance.status, acceptance.identity.any_folder) == (Status.QUEUED, True)
    assert acceptance.root is not None
    assert harness.event_names() == ["workflow.execution.queued"]
    assert harness.model.requests == []
    execution = await harness.engine.take_on(claim_of(acceptance))
    result = await execution.result()
    assert (result.execution_id, result.status, result.response) == (execution_id, "completed", "fine")
    assert ledger.checkpoints[0].root == execution.context.tracker.root
    root = next(span for span in harness.spans() if span.name.startswith("invoke_workflow"))
    assert (f"{root.context.trace_id:032x}", f"{root.context.span_id:016x}", root.parent) == (
        acceptance.root.trace_id,
        acceptance.root.span_id,
        None,
    ), "the ids of its acceptance"
    assert [link.context.span_id for link in root.links] == [trace.span_id], "it does not join the caller's trace"
    assert result.metadata.trace_id == acceptance.root.trace_id != f"{trace.trace_id:032x}"
    assert result.duration_ms >= 2_000
    assert harness.event_names() == [f"workflow.execution.{name}" for name in ("queued", "started", "completed")]
    assert (await anext(execution.events())).type is EventType.STARTED


async def test_the_permission_to_read_any_folder_goes_with_the_execution() -> None:
    harness = Harness([Say("one"), Say("two"), Say("three")])
    ledger = durable(harness)
    await harness.engine.enqueue(graph_request(ASK), Caller(any_folder=True))
    [queued] = ledger.accepted
    for claim in (claim_of(queued), claim_of(queued, 2, "crash")):
        execution = await harness.engine.take_on(claim)
        assert execution.context.any_folder
        await execution.result()
    await harness.engine.enqueue_again(queued.identity, queued.request, queued.graph, Caller())
    again = await harness.engine.take_on(claim_of(ledger.accepted[1]))
    assert again.context.any_folder
    await again.result()


async def test_nobody_reads_any_folder_without_the_permission() -> None:
    harness = Harness([Say("one"), Say("two")])
    ledger = durable(harness)
    running = await harness.engine.start(graph_request(ASK), Caller(), streaming=False)
    await running.result()
    first = ledger.accepted[0]
    await harness.engine.enqueue_again(first.identity, first.request, first.graph, Caller())
    again = await harness.engine.take_on(claim_of(ledger.accepted[1]))
    await again.result()
    assert (running.context.any_folder, again.context.any_folder) == (False, False)


@pytest.mark.parametrize("place", [(), ("source",), ("overrides",)])
def test_no_request_body_can_ask_for_the_permission(place: tuple[str, ...]) -> None:
    body: JsonObject = {"source": {"kind": "graph", "graph": ASK}, "overrides": {}}
    part = body
    for step in place:
        part = cast("JsonObject", part[step])
    ExecutionRequest.model_validate(body)
    part["any_folder"] = True
    with pytest.raises(ValidationError, match="any_folder"):
        ExecutionRequest.model_validate(body)


async def test_an_invalid_graph_is_queued_and_fails_when_it_is_claimed() -> None:
    harness = Harness()
    ledger = durable(harness)
    await harness.engine.enqueue(graph_request(graph([{"id": "x", "type": "model"}], ["start -> end"])))
    [acceptance] = ledger.accepted
    assert acceptance.graph is None
    result = await (await harness.engine.take_on(claim_of(acceptance))).result()
    assert (result.status, result.error_type) == ("failed", "invalid_workflow")


async def test_a_later_attempt_is_a_child_of_the_first_links_to_the_previous_and_continues_its_totals() -> None:
    harness = Harness([Hold(), Say("fine")])
    ledger = durable(harness)
    first = await harness.engine.start(graph_request(ASK), streaming=False)
    await harness.model.entered.wait()
    [acceptance] = ledger.accepted
    carried = Carried(Totals(priced_nano_usd=70, priced_calls=1, model_calls=1), [0xAA], Unfinished(1, 500))
    harness.model.release.set()
    second = await harness.engine.take_on(claim_of(acceptance, 2, "crash", carried=carried))
    result = await second.result()
    assert (result.model_calls, result.unfinished_calls) == (2, 1)
    assert result.cost_nano_usd is not None
    assert result.cost_upper_nano_usd == result.cost_nano_usd + 500
    assert result.cost_nano_usd > 70
    root = next(span for span in harness.spans() if (span.attributes or {}).get("workflow.execution.attempt") == 2
                and span.name.startswith("invoke_workflow"))  # fmt: skip
    assert acceptance.root is not None
    assert [f"{link.context.span_id:016x}" for link in root.links] == [acceptance.root.span_id]
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == acceptance.root.span_id
    assert f"{root.context.trace_id:032x}" == result.metadata.trace_id == acceptance.root.trace_id
    ours = [span for span in harness.spans() if (span.attributes or {}).get("workflow.execution.attempt") == 2]
    assert (root.attributes or {})["workflow.spans"] == 1 + len(ours)
    assert (root.attributes or {})["workflow.spans.hash"] == seal_hash([0xAA, *(s.context.span_id for s in ours)])
    assert (await anext(second.events())).type is EventType.RESUMED
    with pytest.raises(Fenced):
        await first.result()


async def test_the_budget_of_a_later_attempt_is_what_is_left() -> None:
    harness = Harness([Say("fine")])
    ledger = durable(harness)
    limited: JsonObject = {**ASK, "limits": {"budget_nano_usd": 10_000_000}}
    await harness.engine.execute(graph_request(limited))
    [acceptance] = ledger.accepted
    carried = Carried(Totals(priced_nano_usd=5_000_000), [], Unfinished(1, 4_999_999))
    result = await (await harness.engine.take_on(claim_of(acceptance, 2, "crash", carried=carried))).result()
    assert (result.status, result.error_type) == ("failed", "budget_exceeded")


async def test_a_stopping_engine_hands_over_executions_that_can_continue_elsewhere() -> None:
    harness = Harness([Hold()])
    ledger = durable(harness)
    execution = await harness.engine.start(graph_request({**ASK, "on_lost": "retry"}), streaming=False)
    await harness.model.entered.wait()
    await harness.engine.close()
    with pytest.raises(Draining):
        await execution.result()
    assert (ledger.released, ledger.finished) == ([Release(execution.id, 1)], [])
    assert harness.spans()[-1].attributes is not None
    by_name = {span.name: span for span in harness.spans()}
    assert (by_name["execute_node ask"].attributes or {})["workflow.node.status"] == "cancelled"
    root = by_name["invoke_workflow test"]
    assert not root.status.is_ok
    assert "workflow.execution.status" not in (root.attributes or {})


async def test_a_stopping_engine_cancels_executions_that_cannot_continue_elsewhere() -> None:
    harness = Harness([Hold()])
    ledger = durable(harness)
    execution = await harness.engine.start(graph_request(ASK), streaming=False)
    await harness.model.entered.wait()
    await harness.engine.close()
    assert (await execution.result()).status == "cancelled"
    assert ledger.released == []


async def test_a_finished_execution_is_run_again_with_the_same_graph_and_input() -> None:
    harness = Harness([Say("one"), Say("two")])
    ledger = durable(harness)
    result = await harness.engine.execute(graph_request(ASK))
    first = ledger.accepted[0]
    again = await harness.engine.enqueue_again(first.identity, first.request, first.graph, Caller(correlation_id="r2"))
    second = ledger.accepted[1]
    assert (second.identity.retry_of, second.identity.trigger) == (result.execution_id, "retry")
    assert (second.graph, second.request, second.identity.graph_hash) == (
        first.graph,
        first.request,
        first.identity.graph_hash,
    )
    rerun = await (await harness.engine.take_on(claim_of(second))).result()
    assert (rerun.execution_id, rerun.response) == (again, "two")
    assert rerun.execution_id != result.execution_id


async def test_the_events_of_an_execution_can_be_read_a_while_after_its_end() -> None:
    harness = Harness([Say("fine")])
    result = await harness.engine.execute(graph_request(ASK))
    await asyncio.sleep(0)
    ring = harness.engine.events_of(result.execution_id)
    assert ring is not None
    assert [event.type async for event in ring.read()][-1] is EventType.COMPLETED
    assert harness.engine.events_of("unknown") is None
