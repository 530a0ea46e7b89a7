"""No checkpoint outlives its execution, however that ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from api.settings import Settings
from api.wiring.runtime import Runtime, open_runtime
from engine.errors import Unavailable
from engine.execution.handle import Execution
from engine.graph import JsonObject
from engine.store.checkpoints import Checkpoints
from engine.testing.models import Fail, Hold, Say, ScriptedModel, ScriptedModels
from telemetry.recovery.leftovers import delete_leftovers, keep_deleting
from tests.engine.harness import graph
from tests.leases import end_leases
from tests.telemetry.bookkeeper import an_id
from tests.workflow_runner import OWNER, request

ASK: JsonObject = {"id": "ask", "type": "model"}
SET: JsonObject = {"id": "set", "type": "variable", "config": {"variable_name": "n", "value": 1}}
WAIT: JsonObject = {"id": "wait", "type": "approval", "config": {"prompt": "Go on?"}}
ASKS = graph([SET, ASK], ["start -> set", "set -> ask", "ask -> end"], durability="step", on_lost="fail")
WAITS = graph(
    [SET, WAIT], ["start -> set", "set -> wait", "wait -approved-> end", "wait -rejected-> end"], durability="step"
)


@pytest.fixture
def model() -> ScriptedModel:
    """Fails when it is asked to, and else answers once it is released."""
    return ScriptedModel(lambda asked: Fail("auth") if asked.messages[-1]["content"] == "fail" else Hold(Say("fine")))


@pytest.fixture
async def runtime(migrated_url: str, model: ScriptedModel) -> AsyncIterator[Runtime]:
    """A service without its jobs."""
    async with open_runtime(Settings(database_url=migrated_url), models=ScriptedModels(model)) as made:
        yield made


async def begin(runtime: Runtime, workflow: JsonObject, message: str = "hello") -> Execution:
    return await runtime.engine.start(request({"kind": "graph", "graph": workflow}, message), streaming=False)


async def complete(runtime: Runtime, model: ScriptedModel) -> None:
    model.release.set()
    assert (await (await begin(runtime, ASKS)).result()).status == "completed"


async def fail(runtime: Runtime, model: ScriptedModel) -> None:
    assert (await (await begin(runtime, ASKS, "fail")).result()).status == "failed"


async def cancel(runtime: Runtime, model: ScriptedModel) -> None:
    execution = await begin(runtime, ASKS)
    await model.entered.wait()
    execution.cancel("enough")
    assert (await execution.result()).status == "cancelled"


async def cancel_a_pause(runtime: Runtime, model: ScriptedModel) -> None:
    execution = await begin(runtime, WAITS)
    assert (await execution.result()).status == "paused"
    assert await delete_leftovers(runtime.database, runtime.checkpoints) == 0, "it goes on with its checkpoint"
    assert await runtime.sweeper.cancel(execution.id, OWNER, "enough")


async def lose(runtime: Runtime, model: ScriptedModel) -> None:
    execution = await begin(runtime, ASKS)
    await model.entered.wait()
    assert await delete_leftovers(runtime.database, runtime.checkpoints) == 0, "it runs"
    await end_leases(runtime.database)
    assert (await runtime.sweeper.sweep()).failed == [execution.id]


async def gone(runtime: Runtime, left: int) -> None:
    """Checkpoints are left of so many executions."""
    async with asyncio.timeout(30):
        while True:
            if len(await runtime.checkpoints.attempts()) == left:
                return
            await asyncio.sleep(0.01)


Ending = Callable[[Runtime, ScriptedModel], Awaitable[None]]
ENDINGS: list[Ending] = [complete, fail, cancel, cancel_a_pause, lose]


@pytest.mark.parametrize("end", ENDINGS)
async def test_the_checkpoints_go_with_the_end(runtime: Runtime, model: ScriptedModel, end: Ending) -> None:
    await end(runtime, model)
    await gone(runtime, 0)  # the caller hears of the end before they are deleted


@pytest.mark.parametrize("end", ENDINGS)
async def test_the_keeper_deletes_what_a_process_left_that_died_at_the_end(
    runtime: Runtime, model: ScriptedModel, end: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(checkpoints: Checkpoints, execution_id: str, attempts: object) -> None:
        """The connection is cut at this moment."""
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "delete_thread", fail)
        await end(runtime, model)
    assert len(await runtime.checkpoints.attempts()) == 1
    assert await delete_leftovers(runtime.database, runtime.checkpoints) == 1
    assert await runtime.checkpoints.attempts() == {}


async def test_what_a_late_attempt_still_writes_is_deleted(runtime: Runtime, model: ScriptedModel) -> None:
    model.release.set()
    execution = await begin(runtime, ASKS)
    await execution.result()
    await runtime.checkpoints.keep(execution.id, 1, b"{}")
    await runtime.checkpoints.keep(execution.id, 2, b"{}")
    await runtime.checkpoints.keep("of an execution that control does not know", 1, b"{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.store.checkpoints.thread_id", lambda execution_id, attempt: "of another application")
        await runtime.checkpoints.keep(execution.id, 3, b"{}")
    job = asyncio.create_task(
        keep_deleting(runtime.database, runtime.checkpoints, every_seconds=0.01), name="leftover checkpoints"
    )
    await gone(runtime, 1)
    job.cancel()
    assert list(await runtime.checkpoints.attempts()) == ["of an execution that control does not know"]


async def test_checkpoints_are_deleted_whose_control_row_is_gone(runtime: Runtime) -> None:
    old = datetime.now(UTC) - timedelta(days=2)
    strange = ["018f0000-0000-4000-8000-000000000001", "thread of another application"]
    for execution_id in (an_id(old, 1), an_id(datetime.now(UTC), 2), *strange):
        await runtime.checkpoints.keep(execution_id, 1, b"{}")

    assert await delete_leftovers(runtime.database, runtime.checkpoints) == 1

    assert an_id(old, 1) not in await runtime.checkpoints.attempts()
    assert len(await runtime.checkpoints.attempts()) == 3, "others may begin, or belong to somebody else"
