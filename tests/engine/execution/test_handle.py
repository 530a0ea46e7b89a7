"""A stopping process hands its executions over, and does not wait for one that ignores its cancellation."""

import asyncio
from contextlib import suppress

import pytest

from engine.errors import Draining, Fenced, SpanloomError, Unavailable
from engine.ledger import Acceptance, Checkpoint
from engine.resources import ModelReply, ModelRequest
from engine.testing.models import Hold
from tests.engine.harness import Harness, graph, graph_request, span_tree

ASK = graph([{"id": "ask", "type": "model"}], ["start -> ask", "ask -> end"])


async def test_a_node_that_ignores_its_cancellation_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.engine.HAND_OVER_SECONDS", 0.1)
    harness = Harness([Hold()])
    invoke = harness.model.invoke

    async def deaf(asked: ModelRequest) -> ModelReply:
        waiting = asyncio.ensure_future(invoke(asked))
        while not waiting.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(waiting)
        return await waiting

    monkeypatch.setattr(harness.model, "invoke", deaf)
    execution = await harness.engine.start(graph_request(ASK), streaming=False)
    await harness.model.entered.wait()
    async with asyncio.timeout(10):
        await harness.engine.close()
        await harness.engine.close()
    assert f"execution {execution.id} did not stop in time" in caplog.text
    harness.model.release.set()
    assert (await execution.result()).status == "cancelled"


async def test_an_execution_handed_over_while_it_is_accepted_does_not_run() -> None:
    harness = Harness([])
    entered, gate, accept = asyncio.Event(), asyncio.Event(), harness.ledger.accept

    async def slow(acceptance: Acceptance) -> None:
        entered.set()
        await gate.wait()
        await accept(acceptance)

    harness.ledger.accept = slow  # type: ignore[method-assign]  # a database that takes its time
    starting = asyncio.create_task(
        harness.engine.start(graph_request({**ASK, "on_lost": "retry"}), streaming=False), name="start"
    )
    await entered.wait()
    closing = asyncio.create_task(harness.engine.close(), name="close")
    await asyncio.sleep(0)
    gate.set()
    execution = await starting
    await closing
    with pytest.raises(Draining, match="continues in another process"):
        await execution.result()
    assert harness.ledger.finished == []


async def test_the_spans_of_an_attempt_that_is_handed_over_are_ended() -> None:
    harness = Harness([Hold()])
    execution = await harness.engine.start(graph_request({**ASK, "on_lost": "retry"}), streaming=False)
    await harness.model.entered.wait()
    await harness.engine.close()
    with pytest.raises(Draining):
        await execution.result()
    assert (
        span_tree(harness.spans())
        == """
invoke_workflow test  shutdown
  execute_node start
  execute_node ask  cancelled
    chat scripted-1
"""
    )


@pytest.mark.parametrize("error", [Fenced, Unavailable])
async def test_a_node_that_swallows_the_cancellation_is_cancelled_again_at_its_next_checkpoint(
    error: type[SpanloomError], monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = Harness([Hold()])
    invoke, checkpoint = harness.model.invoke, harness.ledger.checkpoint

    async def swallow(asked: ModelRequest) -> ModelReply:
        with suppress(asyncio.CancelledError):
            await invoke(asked)
        return ModelReply(text="too late")

    async def refuse(item: Checkpoint) -> None:
        if harness.model.requests:
            raise error
        await checkpoint(item)

    monkeypatch.setattr(harness.model, "invoke", swallow)
    monkeypatch.setattr(harness.ledger, "checkpoint", refuse)
    execution = await harness.engine.start(graph_request(ASK), streaming=False)
    await harness.model.entered.wait()
    execution.fence_off()
    async with asyncio.timeout(10):
        with pytest.raises(Fenced):
            await execution.result()
