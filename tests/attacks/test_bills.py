"""Attack: answers that are billed and of no use. What the provider reports of them is booked, and it is waste."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from engine.errors import ModelFailure
from engine.graph import Json, JsonObject
from engine.models.offline import OfflineModel
from engine.resources import ModelReply, ModelRequest
from engine.testing.models import USAGE, Fail, Hold, PerTokenPrices, Say, ScriptedModel, Step
from engine.tracing import semconv
from engine.usage import Usage, UsageReport
from tests.engine.harness import Harness, Run, graph, graph_request

NANO_USD = 12 * 1_000 + 7 * 2_000
"""The price of `USAGE`."""
WHOLE_OR_STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def ask(*, stream: bool, attempts: int = 1, **more: object) -> JsonObject:
    """A graph with one call. An attempt that is retried is so at once."""
    retry: JsonObject = {"max_attempts": attempts, "initial_delay_seconds": 0, **more}  # type: ignore[dict-item]
    node: JsonObject = {"id": "ask", "type": "model", "stream": stream, "retry": retry}
    return graph([node], ["start -> ask", "ask -> end"])


def calls(run: Run) -> list[dict[str, object]]:
    """The attributes of the spans of model calls."""
    return [dict(span.attributes or {}) for span in run.spans if span.name.startswith("chat")]


def check_paid(run: Run, error_type: str, *, times: int = 1) -> None:
    """Every call is booked with its tokens and cost, and all of it is waste."""
    result = run.result
    assert [error.error_type for error in result.errors] == [error_type]
    assert (result.usage.input_tokens, result.usage.output_tokens) == (times * 12, times * 7)
    assert (result.cost_nano_usd, result.unmetered_calls, result.model_calls) == (times * NANO_USD, 0, times)
    (root,) = [span.attributes or {} for span in run.spans if span.name.startswith("invoke_workflow")]
    assert root[semconv.WASTE_NANO_USD] == times * NANO_USD > 0
    assert [call[semconv.COST_NANO_USD] for call in calls(run)] == [NANO_USD] * times
    wastes = [call[semconv.CALL_WASTE] for call in calls(run)]
    assert wastes == ["retried"] * (times - 1) + ["failed"]


def nested(levels: int) -> Json:
    """A list in a list."""
    value: Json = []
    for _ in range(levels):
        value = [value]
    return value


@WHOLE_OR_STREAMED
@pytest.mark.parametrize(
    ("step", "error_type"),
    [
        (Fail("content_filter", usage=USAGE), "content_filter"),
        (Fail("invalid_output", usage=USAGE), "invalid_output"),
        (Fail("connection", usage=USAGE), "connection"),
        (Fail("overloaded", usage=USAGE), "overloaded"),
        (Say("Hel", finish_reason="content_filter"), "content_filter"),
        (Say("", finish_reason="content_filter"), "content_filter"),
        (Say(""), "empty_response"),
        (Say("", finish_reason="length"), "empty_response"),
        (Say("Hel", data=nested(200)), "invalid_output"),
    ],
)
async def test_an_answer_of_no_use_is_paid_for(step: Step, error_type: str, stream: bool) -> None:
    check_paid(await Harness([step]).run(ask(stream=stream)), error_type)


class Plugged(ScriptedModel):
    """A model of a user."""

    async def invoke(self, request: ModelRequest) -> ModelReply:
        return ModelReply("", usage=USAGE)

    async def stream(self, request: ModelRequest) -> AsyncIterator[str | UsageReport | ModelReply]:
        yield ""
        yield await self.invoke(request)


@WHOLE_OR_STREAMED
async def test_an_empty_answer_fails_whoever_made_the_model(stream: bool) -> None:
    harness = Harness(models=[Plugged([])])
    check_paid(await harness.run(ask(stream=stream)), "empty_response")


@WHOLE_OR_STREAMED
async def test_an_empty_answer_of_the_offline_model_fails(stream: bool) -> None:
    harness = Harness(models=[OfflineModel()])  # type: ignore[list-item]  # it has all that is asked of it
    document = ask(stream=stream)
    document["nodes"][-1]["config"] = {"stop": ["I"], "prompt": "hi"}  # type: ignore[index,call-overload]
    run = await harness.run(document)
    assert [error.error_type for error in run.result.errors] == ["empty_response"]


@WHOLE_OR_STREAMED
@pytest.mark.parametrize("step", [Say(""), Fail("invalid_output", usage=USAGE)])
@pytest.mark.parametrize(("more", "times"), [({}, 2), ({"max_paid_retries": 0}, 1), ({"max_paid_retries": 3}, 4)])
async def test_to_ask_again_after_such_an_answer_is_a_choice_of_the_node(
    step: Step, more: dict[str, int], times: int, stream: bool
) -> None:
    run = await Harness([step] * 5).run(ask(stream=stream, attempts=5, **more))
    check_paid(run, "empty_response" if isinstance(step, Say) else "invalid_output", times=times)


async def test_free_failures_do_not_use_up_the_paid_retries() -> None:
    script: list[Step] = [Fail("overloaded"), Say(""), Fail("rate_limited"), Say("Fine.")]
    run = await Harness(script).run(ask(stream=True, attempts=5))
    assert (run.result.status, run.result.model_calls) == ("completed", 4)
    assert (run.result.cost_nano_usd, run.result.unmetered_calls) == (2 * NANO_USD, 0)


@pytest.mark.parametrize("error_type", ["overloaded", "rate_limited", "auth", "bad_request"])
async def test_only_a_refusal_before_any_answer_is_free(error_type: str) -> None:
    before = await Harness([Fail(error_type)]).run(ask(stream=True))
    after = await Harness([Fail(error_type, after="Hel")]).run(ask(stream=True))
    assert (before.result.cost_nano_usd, before.result.unmetered_calls) == (0, 0)
    assert (after.result.cost_nano_usd, after.result.unmetered_calls) == (None, 1)


async def test_an_error_after_the_usage_is_booked_with_it() -> None:
    harness = Harness([Hold(Fail("overloaded"), after="Hel", usage=USAGE)])
    harness.model.release.set()
    run = await harness.run(ask(stream=True))
    check_paid(run, "overloaded")
    assert calls(run)[0][semconv.USAGE_PARTIAL] is True


async def test_usage_without_output_has_no_price() -> None:
    """As Anthropic reports it at the beginning: the input is known, and the bill is not."""
    harness = Harness([Hold(Fail("overloaded"), after="Hel", usage=Usage(input_tokens=12))])
    harness.model.release.set()
    run = await harness.run(ask(stream=True))
    assert (run.result.usage.input_tokens, run.result.usage.output_tokens) == (12, None)
    assert (run.result.cost_nano_usd, run.result.unmetered_calls) == (None, 1)


async def test_a_cancelled_call_is_booked_with_what_was_reported() -> None:
    harness = Harness([Hold(after="Hel", usage=USAGE)])
    execution = await harness.engine.start(graph_request(ask(stream=True)), streaming=True)
    await harness.model.entered.wait()
    await asyncio.sleep(0)  # the report follows in the same step
    execution.cancel("enough")
    result = await execution.result()
    assert (result.status, result.cost_nano_usd, result.unmetered_calls) == ("cancelled", NANO_USD, 0)
    (call,) = [span.attributes or {} for span in harness.spans() if span.name.startswith("chat")]
    assert (call[semconv.CALL_WASTE], call[semconv.USAGE_PARTIAL]) == ("cancelled", True)


async def test_a_call_that_runs_out_of_time_is_booked_with_what_was_reported() -> None:
    document = ask(stream=True)
    document["nodes"][-1]["timeout_seconds"] = 0.2  # type: ignore[index,call-overload]
    run = await Harness([Hold(after="Hel", usage=USAGE)]).run(document)
    check_paid(run, "timeout")


class Broken(Plugged):
    """An adapter that fails after its provider has reported."""

    async def stream(self, request: ModelRequest) -> AsyncIterator[str | UsageReport | ModelReply]:
        yield "Hel"
        yield UsageReport(USAGE)
        raise ZeroDivisionError


async def test_an_adapter_that_fails_loses_no_usage() -> None:
    harness = Harness(models=[Broken([])])
    run = await harness.run(ask(stream=True))
    assert (run.result.status, run.result.cost_nano_usd, run.result.unmetered_calls) == ("failed", NANO_USD, 0)


async def test_the_last_report_counts_and_no_sum() -> None:
    class Repeating(Plugged):
        async def stream(self, request: ModelRequest) -> AsyncIterator[str | UsageReport | ModelReply]:
            for number in range(1, 8):
                yield "word "
                yield UsageReport(Usage(input_tokens=12, output_tokens=number, total_tokens=12 + number))
            raise ModelFailure("connection", "it broke off")

    harness = Harness(models=[Repeating([])])
    check_paid(await harness.run(ask(stream=True)), "connection")


def test_a_reported_zero_has_a_price() -> None:
    nothing = Usage(input_tokens=0, output_tokens=0, total_tokens=0)
    assert PerTokenPrices().price("any", "any", nothing, datetime.now(UTC)).nano_usd == 0


async def test_an_unknown_key_of_the_usage_is_named_on_the_call() -> None:
    class Surprising(Plugged):
        async def invoke(self, request: ModelRequest) -> ModelReply:
            return ModelReply("Hi.", usage=USAGE, unread_usage_keys=("hologram_tokens",))

    harness = Harness(models=[Surprising([])])
    run = await harness.run(ask(stream=False))
    assert calls(run)[0][semconv.USAGE_UNREAD] == ("hologram_tokens",)
