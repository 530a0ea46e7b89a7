"""Attack: few commits. What an execution spends is in the books as before, or bounded, wherever its process dies."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import func, select

from engine.database.database import Database
from engine.errors import Draining, Fenced
from engine.graph import Json, JsonObject
from engine.request import ExecutionRequest
from engine.resources import ModelRequest, Tool
from engine.result import ExecutionResult
from engine.retention import call_content
from engine.store.tables import call_reservations
from engine.testing.models import Call, Fail, Hold, Say, Step
from engine.tools.function import function_tool
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reads.executions import ExecutionRecord, get_execution
from telemetry.reconcile.compare import compare_books
from telemetry.reconcile.window import Window
from telemetry.records.rollups import accepted_at
from telemetry.recovery.sweeper import Sweeper
from telemetry.store.tables import executions, spans
from tests.attacks.dying_agent import NANO_USD, NEVER, Dying
from tests.both_modes import consumers
from tests.engine.harness import graph
from tests.leases import end_leases
from tests.sql_log import sql_log
from tests.workflow_runner import WorkflowRunner, request, workflow_runner

BUDGET = 10_000_000
"""Nano-USD, enough for every workflow here."""

SECONDS = 30

SCRIPT: tuple[Step, ...] = (Call("calculate", {"expression": "6 * 7"}), Say("It is 42."))


def agent(**limits: Json) -> JsonObject:
    """A model with a tool."""
    nodes: list[JsonObject] = [
        {"id": "ask", "type": "model"},
        {"id": "tools", "type": "tools", "config": {"allowed_tools": ["*"]}},
    ]
    edges = ["start -> ask", "ask -tool_calls-> tools", "tools -> ask", "ask -final-> end"]
    return graph(nodes, edges, limits=dict(limits), durability="none")


def branches() -> JsonObject:
    """Two agents side by side."""
    nodes: list[JsonObject] = [{"id": "fork", "type": "variable", "config": {"variable_name": "n", "value": 1}}]
    edges = ["start -> fork"]
    for name in ("left", "right"):
        nodes += [
            {"id": name, "type": "model", "config": {"append_to_messages": False}},
            {"id": f"after_{name}", "type": "model", "config": {"append_to_messages": False}},
        ]
        edges += [f"fork -> {name}", f"{name} -> after_{name}", f"after_{name} -> end"]
    return graph(nodes, edges, durability="none")


def ask_for(document: JsonObject) -> ExecutionRequest:
    return request({"kind": "graph", "graph": document})


def wait_for_decisions(runner: WorkflowRunner) -> None:
    """From now on only decisions commit: on a busy machine the journal may not find the time for them soon enough."""
    runner.runtime.journal._flush_seconds = 60


async def queued(runner: WorkflowRunner, document: JsonObject) -> ExecutionResult:
    """Queue an execution, claim it and run it."""
    engine = runner.engine(SCRIPT)
    await engine.enqueue(ask_for(document))
    [claim] = await runner.runtime.journal.claim(1)
    return await (await engine.take_on(claim)).result()


@dataclass(slots=True)
class Work:
    """A tool that takes as long as the test wants."""

    runs: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def tool(self) -> Tool:
        """The tool `work`."""

        async def work() -> str:
            """Work."""
            self.runs += 1
            self.begun.set()
            await self.release.wait()
            return "done"

        return function_tool(work)


WORKING: tuple[Step, ...] = (Call("work"), Say("It is done."))


@dataclass(frozen=True, slots=True)
class Booked:
    """What is durable of an unfinished execution: its model calls, and the reservations of others."""

    calls: int
    reserved: Sequence[int | None]
    """The most that each may cost."""


async def booked(database: Database, execution_id: str) -> Booked:
    async with database.read() as connection:
        calls = select(func.count()).where(spans.c.execution_id == execution_id, spans.c.kind == "model")
        upper = select(call_reservations.c.upper_nano_usd).where(call_reservations.c.execution_id == execution_id)
        return Booked((await connection.execute(calls)).scalar_one(), (await connection.execute(upper)).scalars().all())


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(SECONDS):
        while True:
            if await reached():
                return
            await asyncio.sleep(0.02)


async def until_booked(database: Database, execution_id: str, calls: int) -> None:
    """Wait until this many model calls are durable."""

    async def is_booked() -> bool:
        return (await booked(database, execution_id)).calls == calls

    await until(is_booked)


@pytest.mark.parametrize(("spend", "at_once", "in_the_queue"), [("each_call", 4, 6), ("at_end", 2, 4)])
async def test_an_agent_with_two_calls_commits(migrated_url: str, spend: str, at_once: int, in_the_queue: int) -> None:
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        wait_for_decisions(runner)
        with sql_log(runner.runtime.database) as log:
            result = await runner.engine(SCRIPT).execute(ask_for(agent(spend=spend)))
        assert (result.status, result.model_calls, result.cost_nano_usd) == ("completed", 2, 2 * NANO_USD)
        assert len(log) == at_once, log
        with sql_log(runner.runtime.database) as log:
            result = await queued(runner, agent(spend=spend))
        assert (result.status, result.model_calls, result.cost_nano_usd) == ("completed", 2, 2 * NANO_USD)
        assert len(log) == in_the_queue, log


async def test_a_call_that_is_made_again_commits_once_more(migrated_url: str) -> None:
    document = agent()
    document["nodes"][2]["retry"] = {"max_attempts": 3, "initial_delay_seconds": 0}  # type: ignore[index,call-overload]
    script = (Fail("overloaded"), Say("", finish_reason="stop"), *SCRIPT)
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        wait_for_decisions(runner)
        with sql_log(runner.runtime.database) as log:
            result = await runner.engine(script).execute(ask_for(document))
        assert (result.status, result.model_calls, result.cost_nano_usd) == ("completed", 4, 3 * NANO_USD)
        assert len(log) == 4 + 2


async def test_a_long_tool_does_not_keep_the_call_before_it_from_the_books(migrated_url: str) -> None:
    work = Work()
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        engine = runner.engine(WORKING, [work.tool])
        running = asyncio.create_task(engine.execute(ask_for(agent())), name="agent")
        await work.begun.wait()
        [execution] = engine.started
        await until_booked(runner.runtime.database, execution.id, 1)
        assert (await booked(runner.runtime.database, execution.id)).reserved == []
        work.release.set()
        assert (await running).unfinished_calls == 0


async def test_no_checkpoint_of_the_run_is_ahead_of_the_books(migrated_url: str) -> None:
    work = Work()
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        wait_for_decisions(runner)
        engine = runner.engine(WORKING, [work.tool])
        document = agent() | {"durability": "step", "on_lost": "resume"}
        running = asyncio.create_task(engine.execute(ask_for(document)), name="agent")
        await work.begun.wait()
        [execution] = engine.started
        assert await booked(runner.runtime.database, execution.id) == Booked(1, [])
        work.release.set()
        assert (await running).status == "completed"


async def test_a_call_cut_off_by_the_timeout_of_its_node_is_booked_before_the_run_goes_on(migrated_url: str) -> None:
    ask: JsonObject = {"id": "ask", "type": "model", "timeout_seconds": 3, "on_error": {"policy": "continue"}}
    document = graph([ask | {"retry": {"max_attempts": 1}}], ["start -> ask", "ask -> end"], durability="step")
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        wait_for_decisions(runner)
        with sql_log(runner.runtime.database) as log:
            result = await runner.engine([Hold()]).execute(ask_for(document))
    assert (result.model_calls, result.unmetered_calls, len(log)) == (1, 1, 4)


async def test_a_pause_books_every_call(migrated_url: str, books_left_open: None) -> None:
    nodes: list[JsonObject] = [
        {"id": "ask", "type": "model"},
        {"id": "sure", "type": "approval", "config": {"prompt": "Sure?"}},
    ]
    edges = ["start -> ask", "ask -> sure", "sure -approved-> end", "sure -rejected-> end"]
    for durability in ("exit", "step"):
        async with workflow_runner(migrated_url, keep_signals=False) as runner:
            wait_for_decisions(runner)
            paused = await runner.engine([Say("yes")]).execute(ask_for(graph(nodes, edges, durability=durability)))
            assert (paused.status, paused.cost_nano_usd) == ("paused", NANO_USD)
            assert await booked(runner.runtime.database, paused.execution_id) == Booked(1, [])


async def test_an_attempt_that_may_have_lost_its_lease_runs_no_tool_before_it_is_sure(
    migrated_url: str, books_left_open: None
) -> None:
    """As after a SIGSTOP: the process knows its clock only."""
    work = Work()
    work.release.set()
    for frozen in (True, False):
        async with workflow_runner(migrated_url, keep_signals=False) as runner:
            wait_for_decisions(runner)
            journal, database = runner.runtime.journal, runner.runtime.database
            engine = runner.engine([Hold(Call("work")), Say("It is done.")], [work.tool])
            journal.listen_for_fencing(engine.fence_off)
            running = asyncio.create_task(engine.execute(ask_for(agent())), name="agent")
            await engine.model.entered.wait()
            await end_leases(database)
            await Sweeper(database, Pipeline(consumers())).sweep()
            if frozen:
                journal._running._runs[engine.started[0].id].leased_at -= journal.lease.seconds
                journal.health.leases.renewed_at = None
            engine.model.release.set()
            with pytest.raises(Fenced):
                await running
        assert work.runs == (0 if frozen else 1)


async def test_content_that_is_kept_does_not_wait(migrated_url: str) -> None:
    work = Work()
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        wait_for_decisions(runner)
        runner.runtime.settings = runner.runtime.settings.model_copy(update={"content": "full"})
        engine = runner.engine(WORKING, [work.tool])
        running = asyncio.create_task(engine.execute(ask_for(agent())), name="agent")
        await work.begun.wait()
        [execution] = engine.started
        assert (await booked(runner.runtime.database, execution.id)).calls == 1
        async with runner.runtime.database.read() as connection:
            assert len(await call_content.read(connection, execution.id, limit=10)) == 1
        work.release.set()
        await running


async def test_branches_side_by_side_lose_and_double_nothing(migrated_url: str) -> None:
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        wait_for_decisions(runner)
        for _ in range(5):
            with sql_log(runner.runtime.database) as log:
                result = await runner.engine(lambda _: Say("yes")).execute(ask_for(branches()))
            assert (result.status, result.model_calls, result.cost_nano_usd) == ("completed", 4, 4 * NANO_USD)
            assert (await runner.record(result.execution_id)).cost_upper_nano_usd == 4 * NANO_USD
            assert len(log) <= 4 + 2


ONE_CALL = 12 * 1_000 + 20 * 2_000
"""The most that a call of up to 20 tokens may cost."""


def frugal(budget: int, **more: Json) -> JsonObject:
    """An agent whose answers have at most 20 tokens."""
    return agent(budget_nano_usd=budget) | {"model_defaults": {"max_tokens": 20}} | more


@pytest.mark.parametrize(("budget", "calls"), [(NANO_USD + ONE_CALL, 2), (NANO_USD + ONE_CALL - 1, 1)])
async def test_the_reservation_of_a_call_sees_the_real_cost_of_the_one_before(
    migrated_url: str, budget: int, calls: int
) -> None:
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        wait_for_decisions(runner)
        result = await runner.engine(SCRIPT).execute(ask_for(frugal(budget)))
    assert (result.model_calls, result.error_type) == (calls, None if calls == 2 else "budget_exceeded")


@pytest.mark.parametrize(("budget", "calls"), [(2 * ONE_CALL + NANO_USD, 3), (2 * ONE_CALL - 1, 1)])
async def test_after_a_crash_a_budget_counts_the_most_that_a_call_without_a_commit_may_have_cost(
    migrated_url: str, budget: int, calls: int
) -> None:
    work = Work()
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        wait_for_decisions(runner)
        journal, database = runner.runtime.journal, runner.runtime.database
        engine = runner.engine(WORKING, [work.tool])
        lost = asyncio.create_task(engine.execute(ask_for(frugal(budget, on_lost="retry"))), name="agent")
        await work.begun.wait()
        await end_leases(database)
        await Sweeper(database, Pipeline(consumers())).sweep()
        [claim] = await journal.claim(1)
        assert (claim.carried.unfinished.calls, claim.carried.unfinished.upper_nano_usd) == (1, ONE_CALL)
        later = runner.engine(SCRIPT)
        result = await (await later.take_on(claim)).result()
        engine.fence_off(claim.identity.execution_id, 1)
        with pytest.raises(Fenced):
            await lost
    assert 1 + len(later.model.requests) == calls
    assert (result.unfinished_calls, result.error_type) == (1, None if calls == 3 else "budget_exceeded")
    assert result.cost_upper_nano_usd is not None
    assert calls * NANO_USD <= result.cost_upper_nano_usd <= budget


async def test_spend_at_the_end_keeps_the_budget_reserved_until_then(migrated_url: str) -> None:
    work = Work()
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        database = runner.runtime.database
        engine = runner.engine(lambda asked: Say("done") if _has_worked(asked) else Call("work"), [work.tool])
        waiting = asyncio.create_task(
            engine.execute(ask_for(agent(spend="at_end", budget_nano_usd=BUDGET))), name="at the end"
        )
        await work.begun.wait()
        work.begun.clear()
        at_once = asyncio.create_task(engine.execute(ask_for(agent())), name="each call")
        await work.begun.wait()
        first, second = engine.started
        await until_booked(database, second.id, 1)  # so the other one would be, too
        assert await booked(database, first.id) == Booked(0, [BUDGET])
        work.release.set()
        assert [(await running).cost_nano_usd for running in (waiting, at_once)] == [2 * NANO_USD] * 2
        assert await booked(database, first.id) == Booked(2, [])


def _has_worked(asked: ModelRequest) -> bool:
    return any(message["role"] == "tool" for message in asked.messages)


async def test_spend_at_the_end_holds_a_bounded_number_of_signals(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.journal.journal.MOST_WAITING", 1)
    work = Work()
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        engine = runner.engine(WORKING, [work.tool])
        running = asyncio.create_task(engine.execute(ask_for(agent(spend="at_end"))), name="agent")
        await work.begun.wait()
        await until_booked(runner.runtime.database, engine.started[0].id, 1)
        work.release.set()
        assert (await running).cost_nano_usd == 2 * NANO_USD


@pytest.mark.parametrize("budget", [BUDGET, None])
async def test_a_queued_execution_that_books_at_its_end_is_bounded_too(
    migrated_url: str, budget: int | None, books_left_open: None
) -> None:
    work = Work()
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        database, engine = runner.runtime.database, runner.engine(WORKING, [work.tool])
        await engine.enqueue(ask_for(agent(spend="at_end", budget_nano_usd=budget)))
        [claim] = await runner.runtime.journal.claim(1)
        execution = await engine.take_on(claim)
        await work.begun.wait()
        await end_leases(database)
        await Sweeper(database, Pipeline(consumers())).sweep()
        record = await runner.record(execution.id)
        assert (record.status, record.unfinished_calls, record.cost_upper_nano_usd) == ("failed", 1, budget)
        engine.fence_off(execution.id, 1)


async def test_a_service_that_stops_hands_over_exact_books(migrated_url: str) -> None:
    work = Work()
    async with workflow_runner(migrated_url, keep_signals=False) as runner:
        engine = runner.engine(WORKING, [work.tool])
        document = agent(spend="at_end", budget_nano_usd=BUDGET) | {"on_lost": "retry"}
        running = asyncio.create_task(engine.execute(ask_for(document)), name="agent")
        await work.begun.wait()
        await engine.close()
        with pytest.raises(Draining):
            await running
        [claim] = await runner.runtime.journal.claim(1)
        assert (claim.carried.unfinished.calls, claim.carried.totals.priced_nano_usd) == (0, NANO_USD)
        result = await (await runner.engine(SCRIPT).take_on(claim)).result()
        assert (result.cost_nano_usd, result.unfinished_calls) == (3 * NANO_USD, 0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("spend", "commits"), [("each_call", 4), ("at_end", 2)], ids=["each_call", "at_end"])
async def test_wherever_the_process_is_killed_the_range_holds_against_the_ledger(
    migrated_url: str, tmp_path: Path, spend: str, commits: int
) -> None:
    places = [f"{word} {number}" for number in range(1, commits + 1) for word in ("before", "after")]
    places += ["call 1", "tool", "call 2"]
    document = agent(spend=spend, budget_nano_usd=BUDGET)
    dying = Dying(migrated_url, str(tmp_path / "ledger"), document, places)
    await dying.die()
    found = await swept(migrated_url)
    assert set(found) == {NEVER, *places} - {"before 1"}  # nothing was accepted
    for place, record in found.items():
        check_range(record, dying.billed(place))
        if spend == "at_end" and record.unfinished_calls:
            assert (record.unfinished_calls, record.cost_upper_nano_usd) == (1, BUDGET), place
    assert found["tool"].unfinished_calls == 1  # the call had ended, and nobody had booked it
    assert [found[place].unfinished_calls for place in (NEVER, f"after {commits}")] == [0, 0]


def check_range(record: ExecutionRecord, calls: int) -> None:
    """The provider has billed what the record says, or something in its range."""
    billed, upper = calls * NANO_USD, record.cost_upper_nano_usd
    assert upper is not None
    assert (record.cost_nano_usd or 0) <= billed <= upper, (record.correlation_id, billed, upper)
    assert record.unfinished_calls or (record.cost_nano_usd or 0) == billed, record.correlation_id


async def swept(url: str) -> dict[str, ExecutionRecord]:
    """Let another process find the dead ones; their records by place. The books agree."""
    async with Database(url) as database:
        await end_leases(database)
        await Sweeper(database, Pipeline(consumers())).sweep()
        async with database.read() as connection:
            ids = (await connection.execute(select(executions.c.id))).scalars().all()
            found = [record for id_ in ids if (record := await get_execution(connection, id_, None))]
        window = Window.around(accepted_at(min(ids)), accepted_at(max(ids)))
        assert (await compare_books(database, window)).differences == []
    return {record.correlation_id or "": record for record in found}
