"""The one execution path: stream and execute, statuses, cancellation, clients that leave, refusals."""

import asyncio
from contextlib import aclosing

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.runnables import RunnableLambda

from engine.errors import ConversationBusy, Draining, Fenced, InvalidRequest, NotFound, Unavailable
from engine.events import EventType
from engine.graph import JsonObject
from engine.ledger import Acceptance, Finish
from engine.request import Caller, ExecutionRequest
from engine.resources import Template
from engine.testing.models import Fail, Hold, Say, ScriptedModel
from engine.tracing.tracker import WorkflowTracker
from engine.usage import Usage
from tests.engine.harness import Harness, graph, graph_request, span_tree, token_text

ASK = graph([{"id": "ask", "type": "model", "stream": True}], ["start -> ask", "ask -> end"])


async def test_execute_returns_the_result_with_which_stream_ends() -> None:
    streamed = await Harness([Say("Hello you there")]).run(ASK)
    harness = Harness([Say("Hello you there")])
    executed = await harness.engine.execute(graph_request(ASK))
    changing = {"execution_id", "duration_ms", "messages", "metadata"}
    assert executed.model_dump(exclude=changing) == streamed.result.model_dump(exclude=changing)
    assert span_tree(harness.spans()) == streamed.tree
    assert harness.event_names() == streamed.event_names


async def test_the_joined_tokens_are_the_message() -> None:
    run = await Harness([Say("Hello you there")]).run(ASK)
    assert token_text(run.events) == run.result.response == "Hello you there"
    assert run.result.messages[-1]["content"] == "Hello you there"


async def test_events_are_numbered_without_a_gap_and_closed_once() -> None:
    run = await Harness([Say("Hello you there")]).run(ASK)
    assert [event.seq for event in run.events] == list(range(1, len(run.events) + 1))
    assert [event.type.is_closing for event in run.events].count(True) == 1
    assert run.events[-1].type is EventType.COMPLETED


async def test_record_totals_are_the_sum_of_the_model_calls() -> None:
    usage = Usage(input_tokens=100, output_tokens=10, total_tokens=110, cache_read_tokens=40)
    run = await Harness([Say("fine", usage=usage)]).run(ASK)
    assert run.result.usage == usage
    assert run.result.cost_nano_usd == 100 * 1_000 + 10 * 2_000
    call = run.span("chat scripted-1")
    root = run.span("invoke_workflow test")
    assert call["gen_ai.usage.input_tokens"] == root["workflow.usage.input_tokens"] == 100
    assert call["workflow.cost.nano_usd"] == root["workflow.cost.nano_usd"] == 120_000
    assert "gen_ai.usage.input_tokens" not in root


async def test_a_node_reports_the_usage_of_all_its_attempts() -> None:
    retry: JsonObject = {"max_attempts": 2, "initial_delay_seconds": 0}
    document = graph([{"id": "ask", "type": "model", "retry": retry}], ["start -> ask", "ask -> end"])
    run = await Harness([Fail("overloaded"), Say("fine")]).run(document)
    ended = {event.node_id: event.data for event in run.events if event.type is EventType.NODE_COMPLETED}
    assert ended["ask"]["usage"] == run.result.usage.model_dump()
    assert ended["ask"]["cost_nano_usd"] == run.result.cost_nano_usd
    assert (ended["start"]["usage"], ended["start"]["cost_nano_usd"]) == (None, None)


async def test_unknown_usage_is_never_recorded_as_zero() -> None:
    run = await Harness([Say("fine", usage=None)]).run(ASK)
    assert run.result.usage == Usage()
    assert (run.result.cost_nano_usd, run.result.unmetered_calls, run.result.unpriced_calls) == (None, 1, 0)
    assert "workflow.cost.nano_usd" not in run.span("chat scripted-1")


async def test_a_stream_that_fails_after_its_first_token_is_a_failed_execution() -> None:
    document = graph(
        [{"id": "ask", "type": "model", "stream": True, "retry": {"max_attempts": 1}}], ["start -> ask", "ask -> end"]
    )
    run = await Harness([Fail("connection", "cut", after="Hel lo ")]).run(document)
    assert (run.result.status, run.result.error_type) == ("failed", "connection")
    assert token_text(run.events) == "Hel lo "
    assert (run.result.unmetered_calls, run.result.failed_calls) == (1, 1)
    assert run.event_names[-1] == "workflow.execution.failed"


async def test_tokens_of_a_retried_attempt_are_discarded() -> None:
    retry: JsonObject = {"max_attempts": 2, "initial_delay_seconds": 0}
    document = graph([{"id": "ask", "type": "model", "stream": True, "retry": retry}], ["start -> ask", "ask -> end"])
    run = await Harness([Fail("connection", after="lost "), Say("kept")]).run(document)
    retrying = next(event for event in run.events if event.type is EventType.NODE_RETRYING)
    assert retrying.data["discard_tokens"] is True
    assert run.result.response == "kept"


async def test_the_seal_counts_every_span() -> None:
    run = await Harness([Say("fine")]).run(ASK)
    assert run.span("invoke_workflow test")["workflow.spans"] == len(run.spans)


async def test_the_time_ledger_sums_to_the_duration() -> None:
    run = await Harness([Say("fine")]).run(ASK)
    root = run.span("invoke_workflow test")
    parts = [root[f"workflow.time.{part}"] for part in ("queue", "model", "tool", "retry", "human", "engine")]
    total = sum(part for part in parts if isinstance(part, float))
    assert abs(total * 1000 - run.result.duration_ms) < 2


async def test_cancelling_ends_the_execution_as_cancelled_not_failed() -> None:
    harness = Harness([Hold(after="Hel ")])
    execution = await harness.engine.start(graph_request(ASK), streaming=True)
    await harness.model.entered.wait()
    assert harness.engine.cancel(execution.id, "enough")
    result = await execution.result()
    assert (result.status, result.error_type) == ("cancelled", None)
    assert result.metadata.cancel_reason == "enough"
    assert (result.unmetered_calls, result.failed_calls) == (1, 0), "what the cut-off call used is unknown"
    assert harness.ledger.finished[0].status == "cancelled"
    assert harness.event_names()[-1] == "workflow.execution.cancelled"
    assert not harness.engine.cancel(execution.id, "again")
    assert (
        span_tree(harness.spans())
        == """
invoke_workflow test  cancelled
  execute_node start
  execute_node ask  cancelled
    chat scripted-1
"""
    )


async def test_a_client_that_leaves_cancels_the_execution() -> None:
    harness = Harness([Hold(after="Hel ")])
    async with aclosing(harness.engine.stream(graph_request(ASK))) as events:
        async for event in events:
            if event.type is EventType.TOKEN:
                break
    await until_finished(harness)
    assert harness.ledger.finished[0].status == "cancelled"


async def test_a_client_that_leaves_may_let_the_execution_continue() -> None:
    harness = Harness([Hold(then=Say("lo"), after="Hel ")])
    async with aclosing(harness.engine.stream(graph_request(ASK, on_disconnect="continue"))) as events:
        async for event in events:
            if event.type is EventType.TOKEN:
                break
    harness.model.release.set()
    await until_finished(harness)
    assert harness.ledger.finished[0].status == "completed"


async def test_a_caller_of_execute_that_is_cancelled_cancels_the_execution() -> None:
    harness = Harness([Hold()])
    task = asyncio.create_task(harness.engine.execute(graph_request(ASK)))
    await harness.model.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_finished(harness)
    assert harness.ledger.finished[0].status == "cancelled"


async def test_a_second_reader_keeps_the_execution_alive() -> None:
    harness = Harness([Hold(then=Say("done"))])
    execution = await harness.engine.start(graph_request(ASK), streaming=True)
    execution.join()
    execution.join()
    execution.leave(0)
    harness.model.release.set()
    assert (await execution.result()).status == "completed"


async def test_an_execution_that_takes_too_long_fails_as_timeout() -> None:
    document: JsonObject = {**ASK, "limits": {"run_seconds": 0.05}}
    run = await Harness([Hold()]).run(document)
    assert (run.result.status, run.result.error_type) == ("failed", "timeout")
    assert "execute_node ask  failed  timeout" in run.tree
    assert "chat scripted-1  timeout" in run.tree


async def test_a_node_that_takes_too_long_fails_as_timeout_and_may_be_caught() -> None:
    nodes: list[JsonObject] = [
        {
            "id": "ask",
            "type": "model",
            "timeout_seconds": 0.05,
            "retry": {"max_attempts": 1},
            "on_error": {"policy": "continue", "output": {"text": "late"}},
        },
        {"id": "end", "type": "end", "config": {"response": "{{ outputs.ask.text }}"}},
    ]
    run = await Harness([Hold()]).run(graph(nodes, ["start -> ask", "ask -> end"]))
    assert (run.result.status, run.result.response) == ("completed", "late")
    assert run.result.errors[0].error_type == "timeout"


async def test_a_call_that_times_out_and_is_retried_counts_as_waste() -> None:
    retry: JsonObject = {"max_attempts": 2, "initial_delay_seconds": 0}
    ask: JsonObject = {"id": "ask", "type": "model", "timeout_seconds": 0.05, "retry": retry}
    run = await Harness([Hold(), Say("fine")]).run(graph([ask], ["start -> ask", "ask -> end"]))
    assert run.result.response == "fine"
    calls = [span.attributes or {} for span in run.spans if span.name == "chat scripted-1"]
    assert [call.get("workflow.call.waste") for call in calls] == ["retried", None]


async def test_an_invalid_graph_is_a_failed_execution_with_a_record() -> None:
    document = graph([{"id": "ask", "type": "model"}], ["start -> ask"])
    harness = Harness()
    run = await harness.run(document)
    assert (run.result.status, run.result.error_type) == ("failed", "invalid_workflow")
    assert harness.ledger.accepted[0].graph is None
    assert run.tree == "\ninvoke_workflow test  failed  invalid_workflow\n"


async def test_input_against_the_schema_is_a_failed_execution() -> None:
    run = await Harness().run(ASK, {"message": ""})
    assert (run.result.status, run.result.error_type) == ("failed", "invalid_input")


async def test_an_unknown_template_is_refused_and_nothing_is_recorded() -> None:
    harness = Harness()
    request = ExecutionRequest.model_validate({"source": {"kind": "template", "template": "absent"}})
    with pytest.raises(NotFound, match="absent"):
        await harness.engine.execute(request)
    assert (harness.ledger.accepted, harness.spans()) == ([], [])


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["NUL", "half a surrogate pair"])
async def test_a_text_with_invalid_characters_is_refused(text: str) -> None:
    harness = Harness()
    with pytest.raises(InvalidRequest, match="/input/message"):
        await harness.engine.execute(graph_request(ASK, {"message": text}))
    assert harness.ledger.accepted == []


async def test_an_execution_that_cannot_begin_raises_to_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("the root span cannot be made")

    monkeypatch.setattr(WorkflowTracker, "start", broken)
    harness = Harness()
    async with asyncio.timeout(5):
        with pytest.raises(TypeError, match="root span"):
            await harness.engine.execute(graph_request(ASK))
    assert harness.engine.active == 0


async def test_a_refused_acceptance_leaves_nothing_behind() -> None:
    harness = Harness()

    async def refuse(acceptance: Acceptance) -> None:
        raise Unavailable

    harness.ledger.accept = refuse  # type: ignore[method-assign]  # a ledger whose database is down
    with pytest.raises(Unavailable):
        await harness.engine.execute(graph_request(ASK))
    assert harness.spans() == []
    assert harness.engine.active == 0


async def test_the_closing_event_is_emitted_only_after_the_commit() -> None:
    harness = Harness([Say("fine")])
    order: list[str] = []
    finish = harness.ledger.finish

    async def noted(decision: Finish) -> bool:
        await asyncio.sleep(0)
        order.append("committed")
        return await finish(decision)

    harness.ledger.finish = noted  # type: ignore[assignment]  # the same ledger, watched
    order += ["told" async for event in harness.engine.stream(graph_request(ASK)) if event.type.is_closing]
    assert order == ["committed", "told"]


async def test_a_fenced_off_attempt_emits_nothing_more() -> None:
    harness = Harness([Say("fine")])

    async def fenced(decision: Finish) -> bool:
        return False

    harness.ledger.finish = fenced  # type: ignore[assignment]  # another attempt owns the execution
    execution = await harness.engine.start(graph_request(ASK), streaming=True)
    with pytest.raises(Fenced):
        await execution.result()
    seen = [event.type async for event in execution.context.events.read()]
    assert not any(each.is_closing for each in seen)


async def test_a_closed_engine_cancels_its_executions_and_accepts_no_more() -> None:
    harness = Harness([Hold()])
    execution = await harness.engine.start(graph_request(ASK), streaming=False)
    await harness.model.entered.wait()
    await harness.engine.close()
    assert (await execution.result()).status == "cancelled"
    with pytest.raises(Draining):
        await harness.engine.execute(graph_request(ASK))


async def test_a_request_that_was_being_resolved_does_not_start_after_close() -> None:
    harness = Harness([Say("fine")])
    entered, gate, find = asyncio.Event(), asyncio.Event(), harness.resources.templates.find

    async def slow(key: str, version: int | None, owner: str) -> Template | None:
        entered.set()
        await gate.wait()
        return await find(key, version, owner)

    harness.resources.templates.find = slow  # type: ignore[assignment]  # a database that takes its time
    request = ExecutionRequest.model_validate({"source": {"kind": "chat"}, "input": {"message": "hi"}})
    starting = asyncio.create_task(harness.engine.execute(request))
    await entered.wait()
    await harness.engine.close()
    gate.set()
    with pytest.raises(Draining):
        await starting
    assert harness.ledger.accepted == []


async def test_a_cancelled_close_does_not_interrupt_a_write() -> None:
    harness = Harness([Say("fine")])
    entered, gate, finish = asyncio.Event(), asyncio.Event(), harness.ledger.finish

    async def slow(decision: Finish) -> bool:
        entered.set()
        await gate.wait()
        return await finish(decision)

    harness.ledger.finish = slow  # type: ignore[assignment]  # a database that takes its time
    execution = await harness.engine.start(graph_request(ASK), streaming=False)
    await entered.wait()
    closing = asyncio.create_task(harness.engine.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    gate.set()
    assert (await execution.result()).status == "completed"


async def test_a_reader_that_returns_and_leaves_again_gets_the_whole_grace_period() -> None:
    harness = Harness([Hold(then=Say("done"))])
    execution = await harness.engine.start(graph_request(ASK), streaming=True)
    execution.join()
    execution.leave(0)
    execution.join()
    execution.leave(60)
    await harness.model.entered.wait()
    await asyncio.sleep(0)
    harness.model.release.set()
    assert (await execution.result()).status == "completed"


@pytest.mark.parametrize(
    ("limits", "wanted", "budget", "calls"),
    [
        ({"budget_nano_usd": 10}, {"budget_nano_usd": None}, 10, 100),
        ({"budget_nano_usd": 10}, {"budget_nano_usd": 20}, 10, 100),
        ({}, {"max_model_calls": 500}, None, 100),
        ({}, {"max_model_calls": 5, "budget_nano_usd": 7}, 7, 5),
    ],
)
async def test_a_request_only_lowers_limits(
    limits: JsonObject, wanted: JsonObject, budget: int | None, calls: int
) -> None:
    harness = Harness([Say("fine")])
    request = graph_request({**ASK, "limits": limits}, overrides={"limits": wanted})
    execution = await harness.engine.start(request, streaming=False)
    await execution.result()
    assert (execution.context.limits.budget_nano_usd, execution.context.limits.max_model_calls) == (budget, calls)


async def test_budget_is_checked_before_the_call() -> None:
    document: JsonObject = {**ASK, "limits": {"budget_nano_usd": 1_000}}
    run = await Harness([]).run(document)
    assert (run.result.status, run.result.error_type, run.result.model_calls) == ("failed", "budget_exceeded", 0)
    assert run.result.error_message is not None
    assert run.result.error_message.startswith("Budget exceeded: the next call could bring the cost to $0.")
    assert run.result.error_message.endswith("; the budget is $0.000001")
    assert run.event_names[-2:] == ["workflow.budget.exceeded", "workflow.execution.failed"]


async def test_a_refused_call_uses_nothing_of_the_budget() -> None:
    retry: JsonObject = {"max_attempts": 2, "initial_delay_seconds": 0}
    node: JsonObject = {"id": "ask", "type": "model", "retry": retry}
    document = graph([node], ["start -> ask", "ask -> end"], limits={"budget_tokens": 1_100})
    run = await Harness([Fail("rate_limited"), Say("fine")]).run(document)
    assert (run.result.status, run.result.response) == ("completed", "fine")


async def test_reservations_of_other_calls_do_not_count_as_spent() -> None:
    def ask(node_id: str, max_tokens: int) -> JsonObject:
        config: JsonObject = {"prompt": node_id, "include_history": False, "max_tokens": max_tokens}
        return {"id": node_id, "type": "model", "config": config}

    model = ScriptedModel(
        lambda request: Hold(then=Say("late")) if request.messages[-1]["content"] == "slow" else Say("soon")
    )
    edges = ["start -> slow", "start -> quick", "quick -> join", "slow -> join", "join -> end"]
    nodes = [ask("quick", 50), ask("slow", 900), ask("join", 50)]
    harness = Harness(models=[model])
    request = graph_request(graph(nodes, edges, limits={"budget_tokens": 1_000}))
    events: list[str] = []
    async for event in harness.engine.stream(request):
        events.append(event.type)
        if event.type is EventType.NODE_COMPLETED and event.node_id == "quick":
            model.release.set()
    assert events[-1] == "completed"
    assert "workflow.budget.warning" not in harness.event_names()


async def test_the_caller_is_the_owner_and_its_trace_is_joined() -> None:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
    caller = Caller(owner="acme", trace_context=TraceContextTextMapPropagator().extract(carrier))
    run = await Harness([Say("fine")]).request(graph_request(ASK), caller)
    assert run.result.metadata.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert {(span.attributes or {})["workflow.owner.id"] for span in run.spans} == {"acme"}


async def test_an_untrusted_caller_is_linked_instead_of_joined() -> None:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    caller = Caller(trace_link=TraceContextTextMapPropagator().extract(carrier))
    run = await Harness([Say("fine")]).request(graph_request(ASK), caller)
    root = next(span for span in run.spans if span.name == "invoke_workflow test")
    assert root.parent is None
    assert [format(link.context.span_id, "x") for link in root.links] == ["b7ad6b7169203331"]


async def test_a_graph_without_shape_is_refused() -> None:
    from engine.errors import MalformedWorkflow

    with pytest.raises(MalformedWorkflow):
        await Harness().engine.execute(graph_request({"nodes": "many"}))


async def test_callbacks_of_a_caller_do_not_reach_into_an_execution() -> None:
    seen: list[object] = []

    class Curious(AsyncCallbackHandler):
        async def on_chain_start(self, serialized: object, inputs: object, **more: object) -> None:
            seen.append(inputs)

    async def node(text: str) -> str:
        return (await Harness([Say("fine")]).run(ASK)).result.response

    answer = await RunnableLambda(node).ainvoke("outer", config={"callbacks": [Curious()]})
    assert (answer, seen) == ("fine", ["outer"])


async def test_many_executions_at_once_do_not_mix() -> None:
    model = ScriptedModel(lambda request: Say(f"echo {request.messages[-1]['content']}"))
    harness = Harness(models=[model])
    results = await asyncio.gather(
        *(harness.engine.execute(graph_request(ASK, {"message": str(n)})) for n in range(50))
    )
    assert [result.response for result in results] == [f"echo {n}" for n in range(50)]


async def test_a_busy_conversation_is_refused() -> None:
    harness = Harness([Say("fine")])

    async def busy(acceptance: Acceptance) -> None:
        raise ConversationBusy

    harness.ledger.accept = busy  # type: ignore[method-assign]  # the conversation has an unfinished execution
    request = ExecutionRequest.model_validate({"source": {"kind": "chat"}, "input": {"message": "hi"}})
    with pytest.raises(ConversationBusy):
        await harness.engine.execute(request)


async def test_a_chat_saves_the_question_at_once_and_the_answer_with_the_end() -> None:
    harness = Harness([Say("fine")])
    request = ExecutionRequest.model_validate({"source": {"kind": "chat"}, "input": {"message": "hi"}})
    result = await harness.engine.execute(request)
    assert result.status == "completed", result.error_message
    accepted, finished = harness.ledger.accepted[0], harness.ledger.finished[0]
    assert accepted.identity.conversation_id == finished.conversation_id == result.metadata.conversation_id
    assert accepted.user_message is not None
    assert accepted.user_message["content"] == "hi"
    assert [message["content"] for message in finished.messages] == ["fine"]


async def until_finished(harness: Harness) -> None:
    """Wait until no execution runs any more."""
    async with asyncio.timeout(5):
        await harness.ledger.ended.wait()
