"""The conformance matrix: every source, executed and streamed, through everything that can happen to an execution.

A cell runs the same request twice, once by `execute()` and once by `stream()`, and compares what is left of the two:
record, spans, events, tokens, conversation. `CASES` says what each of them must be.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing

import pytest

from engine.execution.handle import Execution
from engine.request import ExecutionRequest
from tests.conformance.cases import CASES, KEY, NAMES, SOURCES, TOOLS, Case
from tests.conformance.observed import Observed, observe, said_to_readers
from tests.workflow_runner import WatchedEngine, WorkflowRunner, request, workflow_runner

SECONDS = 20

Way = Callable[[WatchedEngine, ExecutionRequest], Coroutine[None, None, None]]


@pytest.fixture
async def runner(migrated_url: str) -> AsyncIterator[WorkflowRunner]:
    async with workflow_runner(migrated_url) as runner:
        yield runner


@pytest.mark.parametrize("source", list(SOURCES))
@pytest.mark.parametrize("name", list(CASES))
async def test_executed_and_streamed_runs_leave_the_same_records(
    runner: WorkflowRunner, source: str, name: str
) -> None:
    case = CASES[name]

    executed = await observed(runner, case, source, execute)
    streamed = await observed(runner, case, source, stream)

    assert executed == streamed
    assert executed.tree == case.tree.format(name=NAMES[source])
    assert executed.tokens == case.tokens
    record = executed.record
    assert (record["status"], record["error_type"]) == (case.status, case.error_type)
    assert (record["model_calls"], record["tool_calls"]) == case.calls
    assert (record["cost_nano_usd"], record["unmetered_calls"]) == (case.cost_nano_usd, case.unmetered_calls)


@pytest.mark.postgres
@pytest.mark.parametrize("name", list(CASES))
async def test_both_databases_hold_the_same_records(
    migrated_sqlite_url: str, migrated_postgres_url: str, name: str
) -> None:
    seen = []
    for url in (migrated_sqlite_url, migrated_postgres_url):
        async with workflow_runner(url) as runner:
            seen.append(await observed(runner, CASES[name], "chat", stream))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", list(CASES))
async def test_without_telemetry_the_result_is_the_same(migrated_sqlite_url: str, name: str) -> None:
    case = CASES[name]
    wanted = request(SOURCES["graph"](case), on_disconnect=case.on_disconnect)
    async with workflow_runner(migrated_sqlite_url) as runner:
        told = await run(runner.engine(case.script, TOOLS), case, wanted, stream)
        silent = await run(runner.silent_engine(case.script, TOOLS), case, wanted, stream)
        assert (await silent.result()).metadata.trace_id is None
        assert await said_to_readers(told) == await said_to_readers(silent)


async def observed(runner: WorkflowRunner, case: Case, source: str, way: Way) -> Observed:
    """Run the case from this source and return its records."""
    await runner.store_template(KEY, case.graph)
    await runner.store_definition(KEY, case.graph)
    wanted = request(SOURCES[source](case), on_disconnect=case.on_disconnect)
    return await observe(runner, case, await run(runner.engine(case.script, TOOLS), case, wanted, way))


async def execute(engine: WatchedEngine, wanted: ExecutionRequest) -> None:
    await engine.execute(wanted)


async def stream(engine: WatchedEngine, wanted: ExecutionRequest) -> None:
    """Read the stream to its end, and assert that the reader received every event."""
    async with aclosing(engine.stream(wanted)) as events:
        seen = [event async for event in events]
    assert seen == [event async for event in engine.started[0].events()]


async def run(engine: WatchedEngine, case: Case, wanted: ExecutionRequest, way: Way) -> Execution:
    """Run one execution of the case to its end."""
    reader = asyncio.create_task(way(engine, wanted), name="reader")
    async with asyncio.timeout(SECONDS):
        if case.meddle is not None:
            await engine.model.entered.wait()
            await case.meddle(engine, reader)
        with contextlib.suppress(asyncio.CancelledError):
            await reader
        (execution,) = engine.started
        await execution.result()
    return execution
