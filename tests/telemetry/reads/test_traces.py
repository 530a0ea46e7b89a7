"""The API and the command line read the trace of an execution, page by page."""

from dataclasses import replace

import pytest

from engine.database.database import Database
from engine.execution.attempts import later_start
from engine.ledger import Checkpoint, Release
from engine.testing.models import PerTokenPrices
from engine.tracing.tracker import Tracing, WorkflowTracker
from telemetry.reads.executions import Seal
from telemetry.reads.traces import UnknownCursor, get_trace
from tests.telemetry.bookkeeper import Bookkeeper, Story


async def tree(database: Database, story: Story, **how: int) -> str:
    """The trace as a drawing."""
    async with database.read() as connection:
        trace = await get_trace(connection, story.identity.execution_id, "default", **how)  # type: ignore[arg-type]
    assert trace is not None
    return "\n".join(f"{'  ' * span.depth}{span.name} {span.status}" for span in trace.spans)


async def test_a_trace_is_read_in_depth_first_order(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    assert await tree(keeper.database, story) == (
        "invoke_workflow answer completed\n"
        "  execute_node n1 completed\n"
        "    chat small completed\n"
        "  execute_node n2 completed\n"
        "    execute_tool calculate completed\n"
        "    retrieval files completed"
    )


async def test_the_trace_of_a_running_execution_begins_with_its_open_root(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    story.answer()
    await keeper.journal.checkpoint(Checkpoint(story.identity.execution_id, 1))

    async with keeper.database.read() as connection:
        trace = await get_trace(connection, story.identity.execution_id, "default")
    assert trace is not None
    assert [(span.depth, span.kind, span.duration_us is None) for span in trace.spans] == [
        (0, "workflow", True),
        (1, "node", False),
        (2, "model", False),
    ]
    assert story.tracker.root is not None
    assert [attempt.root_span_id for attempt in trace.attempts] == [story.tracker.root.span_id]
    assert not trace.seal.complete


async def second_attempt(keeper: Bookkeeper) -> Story:
    """An execution whose first attempt was handed over; the second runs, and a span below its open node has ended."""
    first = keeper.begin()
    await keeper.journal.accept(replace(first.acceptance(), on_lost="retry"))
    first.answer()
    first.tracker.hand_over("stops")
    await keeper.journal.release(Release(first.identity.execution_id, 1))
    [claim] = await keeper.journal.claim(1)
    tracing = Tracing.over(keeper.telemetry.tracer_provider, keeper.telemetry.logger_provider)
    story = Story(WorkflowTracker(tracing, PerTokenPrices(), claim.carried), claim.identity)
    story.tracker.start(story.identity, later_start(claim))
    story.node("tools").retrieval("files").complete()
    await keeper.journal.checkpoint(Checkpoint(story.identity.execution_id, 2, story.tracker.root, story.identity))
    return story


async def test_the_open_root_of_a_later_attempt_stands_below_the_first(keeper: Bookkeeper) -> None:
    story = await second_attempt(keeper)
    assert await tree(keeper.database, story) == (
        "invoke_workflow answer failed\n"
        "  execute_node n1 completed\n"
        "    chat small completed\n"
        "  invoke_workflow answer running\n"
        "    retrieval files completed"
    )
    async with keeper.database.read() as connection:
        trace = await get_trace(connection, story.identity.execution_id, "default")
    assert trace is not None
    first, second = trace.attempts
    assert story.tracker.root is not None
    assert (second.attempt, second.trace_id, second.root_span_id) == (2, first.trace_id, story.tracker.root.span_id)
    assert [span.parent_span_id for span in trace.spans if span.span_id == second.root_span_id] == [first.root_span_id]


async def test_the_trace_of_one_attempt_begins_with_its_root(keeper: Bookkeeper) -> None:
    story = await second_attempt(keeper)
    assert await tree(keeper.database, story, attempt=2) == (
        "invoke_workflow answer running\n  retrieval files completed"
    )


async def test_a_span_whose_parent_still_runs_stands_under_the_root(keeper: Bookkeeper) -> None:
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    node = story.node("tools")
    node.retrieval("files").complete()
    await keeper.journal.checkpoint(Checkpoint(story.identity.execution_id, 1))
    assert await tree(keeper.database, story) == "invoke_workflow answer running\n  retrieval files completed"


async def test_a_trace_is_read_page_by_page(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    names: list[str] = []
    after: str | None = None
    pages = 0
    async with keeper.database.read() as connection:
        while True:
            trace = await get_trace(connection, story.identity.execution_id, "default", limit=4, after=after)
            assert trace is not None
            names += [f"{span.depth} {span.name}" for span in trace.spans]
            pages += 1
            if (after := trace.end) is None:
                break
        with pytest.raises(UnknownCursor):
            await get_trace(connection, story.identity.execution_id, "default", after="0" * 16)
    assert pages == 2
    assert len(names) == 6
    assert trace.seal == Seal(6, 6)
    assert trace.seal.complete


async def test_an_unknown_attempt_has_no_spans(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    assert await tree(keeper.database, story, attempt=2) == ""


async def test_a_call_is_read_with_its_numbers(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    async with keeper.database.read() as connection:
        trace = await get_trace(connection, story.identity.execution_id, "default")
    assert trace is not None
    (call,) = (span for span in trace.spans if span.kind == "model")
    assert (call.provider, call.model, call.input_tokens, call.cost_nano_usd) == ("scripted", "small", 100, 140_000)
    assert call.attributes is not None
    assert call.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert replace(call, depth=0) != call


async def test_the_trace_of_a_foreign_execution_is_unknown(keeper: Bookkeeper) -> None:
    story = await keeper.completed(owner="other")
    async with keeper.database.read() as connection:
        assert await get_trace(connection, story.identity.execution_id, "default") is None
        assert await get_trace(connection, story.identity.execution_id, None) is not None
