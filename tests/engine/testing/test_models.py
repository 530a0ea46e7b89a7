"""The scripted models follow their scripts, streamed or not."""

import asyncio
from datetime import UTC, datetime

import pytest

from engine.errors import ModelFailure, ResourceMissing
from engine.resources import ChatModel, ModelReply, ModelRequest, Models, Prices
from engine.testing.models import USAGE, Call, Fail, Hold, PerTokenPrices, Say, ScriptedModel, ScriptedModels
from engine.usage import Usage

ASK = ModelRequest(system="", messages=[{"id": "1", "role": "user", "content": "hi"}])


async def streamed(model: ChatModel) -> tuple[list[str], ModelReply]:
    *tokens, reply = [item async for item in model.stream(ASK)]
    assert isinstance(reply, ModelReply)
    return [token for token in tokens if isinstance(token, str)], reply


async def test_streamed_and_whole_answers_are_the_same() -> None:
    def script(request: ModelRequest) -> Say:
        return Say("  Two  words\nand more ", data={"a": 1})

    model = ScriptedModel(script)
    whole = await model.invoke(ASK)
    tokens, reply = await streamed(ScriptedModel(script))

    assert whole == reply
    assert whole.usage == USAGE
    assert "".join(tokens) == whole.text
    assert len(tokens) == 4


async def test_steps_come_in_order_and_requests_are_kept() -> None:
    model = ScriptedModel([Call("calculate", {"expression": "1 + 1"}), Say("2")])

    first, second = await model.invoke(ASK), await model.invoke(ASK)

    assert first.tool_calls == ({"id": "call-1", "name": "calculate", "arguments": {"expression": "1 + 1"}},)
    assert (second.text, second.tool_calls) == ("2", ())
    assert model.requests == [ASK, ASK]
    with pytest.raises(AssertionError, match="run out"):
        await model.invoke(ASK)


async def test_a_failure_can_come_after_the_first_tokens() -> None:
    model = ScriptedModel([Fail("rate_limited", "slow down", retry_after_seconds=2, after="Half an")])
    answer = aiter(model.stream(ASK))

    assert [await anext(answer), await anext(answer)] == ["Half ", "an"]
    with pytest.raises(ModelFailure, match="slow down") as caught:
        await anext(answer)
    assert (caught.value.error_type, caught.value.retry_after_seconds) == ("rate_limited", 2)


async def test_a_held_answer_waits_for_its_release() -> None:
    model = ScriptedModel([Hold(Say("answer"), after="An ")])
    task = asyncio.create_task(streamed(model))
    await model.entered.wait()
    assert not task.done()

    model.release.set()
    tokens, reply = await task

    assert tokens == ["An ", "answer"]
    assert reply.text == "An answer"


def test_models_are_found_by_name_and_the_first_is_the_default() -> None:
    models: Models = ScriptedModels(ScriptedModel([]), ScriptedModel([], model="other"))

    assert models.default() == ("scripted", "scripted-1")
    assert models.get("scripted", "other").model == "other"
    assert models.problem("scripted", "gone")
    with pytest.raises(ResourceMissing):
        models.get("scripted", "gone")
    assert ScriptedModels().default() is None


def test_the_price_of_unknown_usage_is_unknown() -> None:
    prices: Prices = PerTokenPrices(10, 20)
    now = datetime(2026, 11, 1, tzinfo=UTC)

    assert prices.price("a", "b", Usage(input_tokens=3, output_tokens=2), now).nano_usd == 70
    assert prices.price("a", "b", None, now).nano_usd is None
    assert prices.upper_nano_usd("a", "b", 3, 2) == 70
