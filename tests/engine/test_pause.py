"""Executions that pause for an answer or a time: no worker holds them, and no question is asked twice."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from engine.graph import Json, JsonObject
from engine.interpreter import snapshot
from engine.interpreter.walker import Stopped
from engine.nodes import delay as delay_node
from engine.pause import Answer, Resume, answer_problem
from engine.result import Approval
from engine.testing.models import Say
from tests.engine.harness import Harness, graph
from tests.engine.runs import Attempt, Lost, Runs, losing

APPROVED = Answer("approved", {"note": "fine"}, "ann")
APPROVAL_EDGES = ["start -> ask", "ask -approved-> yes", "ask -rejected-> no", "yes -> end", "no -> end"]


def append(node_id: str, value: Json) -> JsonObject:
    config: JsonObject = {"operation": "append", "variable_name": "log", "value": value}
    return {"id": node_id, "type": "variable", "config": config}


def approval(*, edges: list[str] = APPROVAL_EDGES, on_error: JsonObject | None = None, **config: Json) -> JsonObject:
    asked: JsonObject = {"prompt": "Send {{ input.message }}?", "payload": {"text": "{{ input.message }}"}, **config}
    node: JsonObject = {"id": "ask", "type": "approval", "config": asked}
    nodes = [node | ({"on_error": on_error} if on_error else {}), append("yes", "yes"), append("no", "no")]
    return graph(nodes, edges)


def delay(seconds: float, **more: Json) -> JsonObject:
    config: JsonObject = {"duration_seconds": seconds}
    return graph([{"id": "wait", "type": "delay", "config": config}], ["start -> wait", "wait -> end"], **more)


def node_spans(attempt: Attempt) -> list[tuple[object, ...]]:
    """Node, visit, attempt and status of each node span."""
    keys = ("id", "visit", "attempt", "status")
    return [tuple((span.attributes or {}).get(f"workflow.node.{key}") for key in keys) for span in attempt.spans]


async def paused_at(runs: Runs, attempt: int = 1, resume: Resume | None = None) -> tuple[Attempt, Approval]:
    """An attempt that pauses with a question."""
    stopped = await runs.attempt(attempt, resume)
    assert stopped.paused is not None
    [asked] = stopped.paused.approvals
    return stopped, asked


@pytest.mark.parametrize("durability", ["exit", "step"])
async def test_an_approval_pauses_and_its_answer_resumes_the_run(durability: str) -> None:
    runs = Runs.of(approval() | {"durability": durability})
    first, asked = await paused_at(runs)
    assert (asked.node_id, asked.path, asked.prompt) == ("ask", "ask", "Send hello?")
    assert (asked.payload, asked.choices) == ({"text": "hello"}, ["approved", "rejected"])
    assert node_spans(first)[-1] == ("ask", 1, 1, "paused")
    second = await runs.attempt(2, Resume((1,), [APPROVED]))
    assert second.paused is None
    assert second.state["variables"]["log"] == ["yes"]
    assert second.state["outputs"]["ask"] == {"choice": "approved", "data": {"note": "fine"}, "answered_by": "ann"}
    assert node_spans(second)[0] == ("ask", 1, 2, "completed")
    assert second.context.node_visits == 4


async def test_the_spans_record_the_question_the_answer_and_the_wait() -> None:
    runs = Runs.of(approval())
    first, asked = await paused_at(runs)
    second = await runs.attempt(2, Resume((1,), [APPROVED]))
    said = [(attempt.spans[0 if attempt is second else -1].attributes or {}) for attempt in (first, second)]
    assert [each["workflow.approval.id"] for each in said] == [asked.approval_id] * 2
    assert "workflow.approval.choice" not in said[0]
    assert said[1]["workflow.approval.choice"] == "approved"
    assert 0 <= float(str(said[1]["workflow.approval.wait_seconds"])) < 60


async def test_readers_get_the_question_as_an_event() -> None:
    runs = Runs.of(approval(response_schema={"type": "object"}))
    first, asked = await paused_at(runs)
    [event] = [event for event in first.events() if event.type == "approval_requested"]
    assert set(event.data) == {"approval_id", "prompt", "payload", "choices", "response_schema", "expires_at"}
    assert event.data["approval_id"] == asked.approval_id
    assert [event.type for event in first.events()][-2:] == ["node_started", "approval_requested"]


async def test_a_question_that_is_asked_again_after_a_crash_is_the_same_question() -> None:
    runs = Runs.of(approval())
    async with losing(runs.checkpoints, 3, after=False):  # the question is asked, its checkpoint is not written
        with pytest.raises(Lost):
            await runs.attempt()
    _, second = await paused_at(runs, 2, Resume((1,)))
    third_run, third = await paused_at(runs, 3, Resume((2, 1)))
    assert second == third
    assert node_spans(third_run) == [("ask", 1, 2, "paused")]
    done = await runs.attempt(4, Resume((3, 2, 1), [APPROVED]))
    assert done.state["variables"]["log"] == ["yes"]
    assert node_spans(done)[0] == ("ask", 1, 3, "completed")


async def test_an_answer_does_not_answer_another_question() -> None:
    nodes: list[JsonObject] = [
        {"id": "ask", "type": "approval", "config": {"prompt": "Once?"}},
        {"id": "again", "type": "approval", "config": {"prompt": "Twice?"}},
    ]
    edges = ["start -> ask", "ask -approved-> again", "ask -rejected-> end", "again -approved-> end"]
    runs = Runs.of(graph(nodes, [*edges, "again -rejected-> end"]))
    _, first = await paused_at(runs)
    answer = Answer("approved", approval_id=first.approval_id)
    _, second = await paused_at(runs, 2, Resume((1,), [answer]))
    assert second.node_id == "again"
    _, third = await paused_at(runs, 3, Resume((2, 1), [answer]))
    assert third == second


async def test_a_restarted_run_does_not_repeat_answered_questions() -> None:
    runs = Runs.of(approval())
    _, asked = await paused_at(runs)
    answer = Answer("approved", {"note": "fine"}, "ann", asked.approval_id)
    done = await runs.attempt(2, Resume((), [answer]))
    assert done.paused is None
    assert done.state["outputs"]["ask"] == {"choice": "approved", "data": {"note": "fine"}, "answered_by": "ann"}


async def test_an_approval_in_a_loop_asks_again_in_every_round() -> None:
    nodes: list[JsonObject] = [
        {"id": "again", "type": "loop", "config": {"max_iterations": 2}},
        {"id": "ask", "type": "approval", "config": {"prompt": "Round {{ loops.again.iteration }}?"}},
    ]
    edges = ["start -> again", "again -continue-> ask", "again -exit-> end", "ask -rejected-> again"]
    runs = Runs.of(graph(nodes, [*edges, "ask -approved-> end"]))
    _, first = await paused_at(runs)
    _, second = await paused_at(runs, 2, Resume((1,), [Answer("rejected", approval_id=first.approval_id)]))
    assert (first.prompt, second.prompt) == ("Round 1?", "Round 2?")
    assert first.approval_id != second.approval_id
    done = await runs.attempt(3, Resume((2, 1), [Answer("approved", approval_id=second.approval_id)]))
    assert done.state["end"] is not None


TIMEOUT_EDGES = [*APPROVAL_EDGES, "ask -late-> end"]


async def test_an_unanswered_approval_takes_the_edge_of_its_timeout() -> None:
    runs = Runs.of(approval(edges=TIMEOUT_EDGES, on_timeout="late"))
    await runs.attempt()
    done = await runs.attempt(2, Resume((1,), is_due=True))
    assert done.state["outputs"]["ask"] == {"choice": "late", "data": None, "answered_by": None}
    assert done.state["end"] is not None


async def test_an_unanswered_approval_fails_by_default() -> None:
    runs = Runs.of(approval())
    await runs.attempt()
    with pytest.raises(Stopped) as stopped:
        await runs.attempt(2, Resume((1,), is_due=True))
    assert stopped.value.failure.error_type == "approval_timeout"


async def test_the_error_edge_of_an_approval_catches_its_timeout() -> None:
    runs = Runs.of(approval(edges=[*APPROVAL_EDGES, "ask -error-> no"], on_error={"policy": "route"}))
    await runs.attempt()
    done = await runs.attempt(2, Resume((1,), is_due=True))
    assert done.state["variables"]["log"] == ["no"]


async def test_an_approval_is_due_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs.of(approval(edges=TIMEOUT_EDGES, on_timeout="late", answer_within_seconds=3_600))
    first, asked = await paused_at(runs)
    assert first.paused is not None
    assert first.paused.due_at == asked.expires_at
    assert timedelta(minutes=59) < asked.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    assert (await runs.attempt(2, Resume((1,)))).paused is not None
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3_600)
    assert (await runs.attempt(3, Resume((2, 1)))).paused is None


@pytest.mark.parametrize(
    ("choice", "data", "problem"),
    [
        ("approved", {"note": "fine"}, None),
        ("late", {"note": "fine"}, "The choices are: approved, rejected."),
        ("approved", {"note": 1}, "At data/note: the value is not of type"),
        ("approved", None, "At data: the value is not of type"),
    ],
)
async def test_an_answer_fits_the_question(choice: str, data: Json, problem: str | None) -> None:
    schema: JsonObject = {"type": "object", "properties": {"note": {"type": "string"}}}
    _, asked = await paused_at(Runs.of(approval(response_schema=schema)))
    found = answer_problem(asked, choice, data)
    assert (found is None) if problem is None else (found is not None and problem in found)


async def test_a_short_delay_is_waited_for() -> None:
    attempt = await Runs.of(delay(0.01, durability="step")).attempt()
    assert attempt.paused is None
    assert attempt.state["outputs"]["wait"] == {"seconds": 0.01, "parked": False}


@pytest.mark.parametrize("durability", ["exit", "step"])
async def test_a_long_delay_pauses_and_resumes_when_it_is_due(durability: str) -> None:
    runs = Runs.of(delay(61, durability=durability))
    first = await runs.attempt()
    assert first.paused is not None
    assert first.paused.approvals == []
    assert 60 < (first.paused.due_at - datetime.now(UTC)).total_seconds() <= 61
    span = first.spans[-1].attributes or {}
    assert (span["workflow.delay.seconds"], span["workflow.delay.parked"]) == (61, True)
    early = await runs.attempt(2, Resume((1,)))
    assert early.paused is not None
    assert early.paused.due_at == first.paused.due_at
    due = await runs.attempt(3, Resume((2, 1), is_due=True))
    assert due.state["outputs"]["wait"] == {"seconds": pytest.approx(61), "parked": True}
    assert node_spans(due)[0] == ("wait", 1, 3, "completed")


async def test_without_checkpoints_a_long_delay_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delay_node, "PARKS_ABOVE_SECONDS", 0.001)
    attempt = await Runs.of(delay(0.01, durability="none")).attempt()
    assert attempt.paused is None
    assert attempt.state["outputs"]["wait"] == {"seconds": 0.01, "parked": False}


@pytest.mark.parametrize(
    ("config", "least", "most"),
    [
        ({"delay_type": "random", "duration_seconds": 100}, 100, 200),
        ({"delay_type": "random", "duration_seconds": 100, "max_duration_seconds": 110}, 100, 110),
        ({"delay_type": "exponential", "duration_seconds": 100}, 100, 100),
    ],
)
async def test_the_length_of_a_delay_depends_on_its_type(config: Any, least: float, most: float) -> None:
    document = graph([{"id": "wait", "type": "delay", "config": config}], ["start -> wait", "wait -> end"])
    attempt = await Runs.of(document).attempt()
    assert least <= float(str((attempt.spans[-1].attributes or {})["workflow.delay.seconds"])) <= most


async def test_an_exponential_delay_doubles_with_every_visit_up_to_its_maximum() -> None:
    config: JsonObject = {"delay_type": "exponential", "duration_seconds": 100, "max_duration_seconds": 300}
    nodes: list[JsonObject] = [
        {"id": "again", "type": "loop", "config": {"max_iterations": 3}},
        {"id": "wait", "type": "delay", "config": config},
    ]
    edges = ["start -> again", "again -continue-> wait", "again -exit-> end", "wait -> again"]
    runs, waits, attempt = Runs.of(graph(nodes, edges)), [], 1
    while (stopped := await runs.attempt(attempt, Resume(range(attempt - 1, 0, -1), is_due=True))).paused is not None:
        waits.append((stopped.spans[-1].attributes or {})["workflow.delay.seconds"])
        attempt += 1
    assert waits == [100, 200, 300]


@pytest.mark.parametrize(("seconds", "durability", "on_lost"), [(60, "none", "fail"), (61, "step", "resume")])
def test_the_durability_is_step_where_a_run_may_wait_without_a_worker(
    seconds: float, durability: str, on_lost: str
) -> None:
    plan = Runs.of(delay(seconds)).compiled().plan
    assert (plan.durability, plan.on_lost) == (durability, on_lost)
    assert Runs.of(approval()).compiled().plan.durability == "step"


async def test_a_pause_does_not_count_as_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs.of(approval())
    first, _ = await paused_at(runs)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3_600)
    second = await runs.attempt(2, Resume((1,), [APPROVED]))
    assert second.context.elapsed_seconds < first.context.elapsed_seconds + 60


async def test_the_snapshot_of_a_pause_is_plain_json() -> None:
    runs = Runs.of(approval())
    stopped, asked = await paused_at(runs)
    kept = orjson.loads(snapshot.take(stopped.context))
    assert kept["parked"]["approval"] == asked.model_dump(mode="json")
    assert (kept["at"], kept["parked"]["visit"]) == ("ask", 1)


async def test_the_engine_closes_a_paused_attempt_with_the_question() -> None:
    run = await Harness([Say("never")]).run(approval())
    assert (run.result.status, run.types()[-1]) == ("paused", "paused")
    [asked] = run.result.approvals
    assert asked.prompt == "Send hello?"
    assert run.event_names[-1] == "workflow.execution.paused"
    assert (
        run.tree
        == """
invoke_workflow test  paused
  execute_node start
  execute_node ask  paused
"""
    )
    root = run.span("invoke_workflow test")
    assert root["workflow.approval.id"] == asked.approval_id
    assert root["workflow.due_at"] == round(asked.expires_at.timestamp() * 1e9)
