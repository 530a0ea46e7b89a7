"""The API and the command line read executions and their traces."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import delete, update

from engine.database.database import Database
from engine.ledger import Checkpoint
from engine.store.tables import execution_control
from telemetry.reads.executions import (
    ExecutionFilter,
    ExecutionPage,
    Seal,
    UnknownPosition,
    get_execution,
    get_trace,
    list_executions,
)
from telemetry.store.tables import executions
from tests.telemetry.bookkeeper import Bookkeeper, Story


async def listed(database: Database, wanted: ExecutionFilter, **how: object) -> ExecutionPage:
    """A page of executions."""
    async with database.read() as connection:
        return await list_executions(connection, wanted, **how)  # type: ignore[arg-type]  # named by the callers


async def ids(database: Database, wanted: ExecutionFilter) -> list[str]:
    """The ids of a page."""
    return [item.id for item in (await listed(database, wanted)).items]


async def tree(database: Database, story: Story, **how: int) -> str:
    """The trace as a drawing."""
    async with database.read() as connection:
        trace = await get_trace(connection, story.identity.execution_id, "default", **how)  # type: ignore[arg-type]
    assert trace is not None
    return "\n".join(f"{'  ' * span.depth}{span.name} {span.status}" for span in trace.spans)


async def test_executions_are_listed_newest_first_page_by_page(keeper: Bookkeeper) -> None:
    made = [(await keeper.completed()).identity.execution_id for _ in range(5)]
    seen: list[str] = []
    page = await listed(keeper.database, ExecutionFilter(), limit=2)
    seen += [item.id for item in page.items]
    while page.end is not None:
        page = await listed(keeper.database, ExecutionFilter(), limit=2, after=page.end)
        seen += [item.id for item in page.items]
    assert seen == made[::-1]

    oldest = await listed(keeper.database, ExecutionFilter(), limit=3, oldest_first=True)
    assert [item.id for item in oldest.items] == made[:3]
    rest = await listed(keeper.database, ExecutionFilter(), limit=3, oldest_first=True, after=oldest.end)
    assert [item.id for item in rest.items] == made[3:]


async def test_executions_are_filtered(keeper: Bookkeeper) -> None:
    first = (await keeper.completed(correlation_id="c-9", conversation_id="talk")).identity.execution_id
    second = (await keeper.completed(owner="other", source="definition", workflow_name="slug")).identity.execution_id
    database = keeper.database
    async with database.read() as connection:
        record = await get_execution(connection, first, "default")
    assert record is not None
    day = timedelta(days=1)
    duration = record.duration_ms or 0

    one = [
        ExecutionFilter(owner="default"),
        ExecutionFilter(correlation_id="c-9"),
        ExecutionFilter(conversation_id="talk"),
        ExecutionFilter(source="template"),
        ExecutionFilter(trace_id=record.trace_id),
        ExecutionFilter(owner="default", template="answer", template_version=3),
        ExecutionFilter(owner="default", template="t-1"),
        ExecutionFilter(owner="default", status=["completed", "failed"]),
        ExecutionFilter(owner="default", since=record.queued_at, until=record.queued_at + day),
        ExecutionFilter(owner="default", duration_ms_min=duration, duration_ms_max=duration),
        ExecutionFilter(owner="default", cost_nano_usd_min=140_000, cost_nano_usd_max=140_000, unpriced=False),
    ]
    for wanted in one:
        assert await ids(database, wanted) == [first], wanted
    assert await ids(database, ExecutionFilter(definition="slug")) == [second]
    none = [
        ExecutionFilter(status=["failed"]),
        ExecutionFilter(error_type=["timeout"]),
        ExecutionFilter(unpriced=True),
        ExecutionFilter(retry_of=first),
        ExecutionFilter(until=record.queued_at - day),
        ExecutionFilter(definition="answer"),
    ]
    for wanted in none:
        assert await ids(database, wanted) == [], wanted


async def test_a_foreign_execution_is_unknown(keeper: Bookkeeper) -> None:
    story = await keeper.completed(owner="other")
    async with keeper.database.read() as connection:
        assert await get_execution(connection, story.identity.execution_id, "default") is None
        assert await get_trace(connection, story.identity.execution_id, "default") is None
        assert await get_execution(connection, story.identity.execution_id, None) is not None


async def test_without_a_record_control_answers_with_an_open_seal(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    async with keeper.database.begin() as connection:
        await connection.execute(delete(executions))
    async with keeper.database.read() as connection:
        record = await get_execution(connection, story.identity.execution_id, "default")
    assert record is not None
    assert (record.status, record.trace_id, record.cost_nano_usd) == ("completed", story.tracker.trace_id, None)
    assert record.seal == Seal(None, 0)
    assert not record.seal.complete


async def test_control_is_right_where_the_record_lags_behind(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    async with keeper.database.begin() as connection:
        await connection.execute(update(executions).values(status="running", completed_at=None))
        await connection.execute(update(execution_control).values(status="failed"))
    async with keeper.database.read() as connection:
        record = await get_execution(connection, story.identity.execution_id, "default")
    assert record is not None
    assert record.status == "failed"
    assert record.completed_at is not None


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
    assert [attempt.root_span_id for attempt in trace.attempts] == [story.tracker.root_span_id]
    assert not trace.seal.complete


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
        with pytest.raises(UnknownPosition):
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
