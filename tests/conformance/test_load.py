"""A thousand executions, 64 at a time: the books hold every one of them."""

import asyncio
from collections import Counter
from itertools import cycle, islice

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from sqlalchemy import select

from engine.engine import ExecutionEngine
from engine.graph import JsonObject
from engine.request import ExecutionRequest
from engine.resources import ModelRequest
from engine.result import ExecutionResult
from engine.testing.models import Call, Fail, Say, Step
from telemetry.reads.executions import ExecutionFilter, ExecutionRecord, list_executions
from telemetry.store.tables import execution_rollups_daily
from tests.books_audit import audit
from tests.engine.harness import graph
from tests.workflow_runner import WorkflowRunner, request, streamed, workflow_runner

EXECUTIONS = 1_000
AT_ONCE = 64
AGENT: JsonObject = graph(
    [
        {"id": "answer", "type": "model", "stream": True, "retry": {"max_attempts": 1}},
        {"id": "tools", "type": "tools", "config": {"allowed_tools": ["calculate"]}},
    ],
    ["start -> answer", "answer -tool_calls-> tools", "tools -> answer", "answer -final-> end"],
)
SOURCES: tuple[JsonObject, ...] = (
    {"kind": "template", "template": "universal_chat"},
    {"kind": "definition", "definition": "agent"},
    {"kind": "graph", "graph": AGENT},
    {"kind": "chat"},
)


@pytest.mark.slow
async def test_a_thousand_executions_are_a_thousand_records_without_a_difference(migrated_url: str) -> None:
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        await runner.store_definition("agent", AGENT)
        results = await run_all(runner)
        records = await all_records(runner)
        rolled_up = await roll_up_sums(runner)
        counted = await counter_sums(runner)

    assert len(records) == EXECUTIONS
    assert [told(result) for result in results] == [written(records[result.execution_id]) for result in results]
    assert [record.id for record in records.values() if not record.seal.complete] == []
    assert Counter(record.streaming for record in records.values()) == {True: EXECUTIONS // 2, False: EXECUTIONS // 2}
    expected = {
        "completed": sum(result.status == "completed" for result in results),
        "failed": sum(result.status == "failed" for result in results),
        "cost_nano_usd": sum(result.cost_nano_usd or 0 for result in results),
        "tokens": sum(result.usage.total_tokens or 0 for result in results),
    }
    assert rolled_up == counted == expected
    assert await audit(migrated_url) == []


async def run_all(runner: WorkflowRunner) -> list[ExecutionResult]:
    """Yield every source in turn, streamed and not streamed."""
    engine, gate = runner.engine(answer), asyncio.Semaphore(AT_ONCE)

    async def run(number: int, source: JsonObject) -> ExecutionResult:
        async with gate:
            wanted = request(source, f"{number}")
            return await _run(engine, wanted, streaming=number // len(SOURCES) % 2 == 0)

    return await asyncio.gather(
        *(run(number, source) for number, source in enumerate(islice(cycle(SOURCES), EXECUTIONS)))
    )


async def _run(engine: ExecutionEngine, wanted: ExecutionRequest, *, streaming: bool) -> ExecutionResult:
    return await (streamed(engine, wanted) if streaming else engine.execute(wanted))


def answer(asked: ModelRequest) -> Step:
    """Call a tool first if there are tools; otherwise echo the message, or fail now and then."""
    last = asked.messages[-1]
    if asked.tools and last["role"] == "user":
        return Call("calculate", {"expression": "6 * 7"})
    if str(last["content"]).endswith("7"):
        return Fail("auth")
    return Say(f"echo {last['content']}")


async def all_records(runner: WorkflowRunner) -> dict[str, ExecutionRecord]:
    async with runner.runtime.database.read() as connection:
        page = await list_executions(connection, ExecutionFilter(), limit=2 * EXECUTIONS)
    return {record.id: record for record in page.items}


async def roll_up_sums(runner: WorkflowRunner) -> dict[str, int]:
    """Executions by status, cost and tokens, as the roll-ups have them."""
    names = ("executions_completed", "executions_failed", "cost_nano_usd", "input_tokens", "output_tokens")
    async with runner.runtime.database.read() as connection:
        rows = (await connection.execute(select(*(execution_rollups_daily.c[name] for name in names)))).all()
    completed, failed, cost, read, written = (sum(column) for column in zip(*rows, strict=True))
    return {"completed": completed, "failed": failed, "cost_nano_usd": cost, "tokens": read + written}


async def counter_sums(runner: WorkflowRunner) -> dict[str, int]:
    """The same, as Prometheus scrapes them."""
    _, text = await runner.runtime.metrics.exposition("application/openmetrics-text")
    families = text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]  # it has no types
    samples = [one for family in families for one in family.samples]
    ended = Counter[str]()
    for sample in samples:
        if sample.name == "spanloom_executions_total":
            ended[sample.labels["status"]] += int(sample.value)
    return {
        "completed": ended["completed"],
        "failed": ended["failed"],
        "cost_nano_usd": sum(int(one.value) for one in samples if one.name == "spanloom_cost_nano_usd_total"),
        "tokens": sum(int(one.value) for one in samples if one.name == "spanloom_tokens_total"),
    }


def told(result: ExecutionResult) -> tuple[object, ...]:
    """The result that the caller received."""
    usage = result.usage
    return (
        result.status,
        result.error_type,
        result.duration_ms,
        usage.input_tokens,
        usage.output_tokens,
        result.cost_nano_usd,
        result.unpriced_calls,
        result.model_calls,
        result.tool_calls,
    )


def written(record: ExecutionRecord) -> tuple[object, ...]:
    """The same from the record."""
    return (
        record.status,
        record.error_type,
        record.duration_ms,
        record.input_tokens,
        record.output_tokens,
        record.cost_nano_usd,
        record.unpriced_calls,
        record.model_calls,
        record.tool_calls,
    )
