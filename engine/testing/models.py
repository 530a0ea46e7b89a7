"""Models and prices for tests: the models answer from a script, record their requests, and use no network.

models = ScriptedModels(ScriptedModel([Call("calculate", {"expression": "6 * 7"}), Say("It is 42.")]))
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from engine.errors import ModelFailure, ResourceMissing
from engine.graph import Json, JsonObject
from engine.resources import AS_USUAL, CostSource, ModelReply, ModelRequest, Price, Served, Server, ToolCall, Unpriced
from engine.retrieval.lexical import words
from engine.usage import Usage, UsageReport

USAGE = Usage(input_tokens=12, output_tokens=7, total_tokens=19)
"""The usage that a scripted answer reports by default."""


@dataclass(frozen=True, slots=True)
class Say:
    """Answer with a text, streamed word by word; `usage` null imitates a provider that reports no usage.

    A call fails with `empty_response` if there is neither text nor data nor a tool call.
    """

    text: str = ""
    usage: Usage | None = USAGE
    data: Json = None
    finish_reason: str = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    service_tier: str | None = None
    provider_cost_nano_usd: int | None = None
    unread_usage_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """Answer with one tool call."""

    tool: str
    arguments: JsonObject = field(default_factory=dict)
    id: str = "call-1"
    usage: Usage | None = USAGE


@dataclass(frozen=True, slots=True)
class Fail:
    """Fail as a provider does, having reported `usage`; when streamed, the text `after` arrives first."""

    error_type: str
    message: str = "scripted failure"
    retry_after_seconds: float | None = None
    after: str = ""
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait until the model's `release` is set, then run `then`.

    When streamed, the text `after` arrives first, and then a report of the `usage` so far.
    """

    then: Say | Call | Fail = field(default_factory=lambda: Say("Done."))
    after: str = ""
    usage: Usage | None = None


Step = Say | Call | Fail | Hold
Script = Iterable[Step] | Callable[[ModelRequest], Step]


class ScriptedModel:
    """A chat model that follows a script: steps in order, or a function of the request.

    `requests` holds the requests it has received. Every call sets `entered`; setting `release` lets calls under `Hold`
    continue. A script that has run out raises `AssertionError`, which no error policy of a workflow handles.
    """

    def __init__(self, script: Script, *, provider: str = "scripted", model: str = "scripted-1") -> None:
        self._step_for = script if callable(script) else _in_order(script)
        self._provider = provider
        self._model = model
        self.requests: list[ModelRequest] = []
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    @property
    def provider(self) -> str:
        """The provider's name, as on the span."""
        return self._provider

    @property
    def model(self) -> str:
        """The model's name, as given to the constructor."""
        return self._model

    @property
    def server_address(self) -> str | None:
        """None, because the model runs in this process."""
        return None

    async def invoke(self, request: ModelRequest) -> ModelReply:
        """Run the next step of the script."""
        step = self._next(request)
        if isinstance(step, Hold):
            await self.release.wait()
        return self._reply(step)

    async def stream(self, request: ModelRequest) -> AsyncIterator[str | UsageReport | ModelReply]:
        """Run the next step of the script and yield its text word by word."""
        step = self._next(request)
        already = step.after if isinstance(step, Hold | Fail) else ""
        for word in words(already):
            yield word
        if isinstance(step, Hold):
            if step.usage is not None:
                yield UsageReport(step.usage)
            await self.release.wait()
        reply = self._reply(step)
        for word in words(reply.text[len(already) :]):
            yield word
        yield reply

    def estimate_input_tokens(self, request: ModelRequest) -> int:
        """Return the input tokens that a scripted answer reports by default, for any request."""
        return USAGE.input_tokens or 0

    def _next(self, request: ModelRequest) -> Step:
        self.requests.append(request)
        self.entered.set()
        return self._step_for(request)

    def _reply(self, step: Step) -> ModelReply:
        if isinstance(step, Fail):
            report = UsageReport(step.usage) if step.usage is not None else None
            raise ModelFailure(
                step.error_type, step.message, retry_after_seconds=step.retry_after_seconds, report=report
            )
        if isinstance(step, Hold):
            reply = self._reply(step.then)
            return replace(reply, text=step.after + reply.text)
        if isinstance(step, Call):
            call = ToolCall(id=step.id, name=step.tool, arguments=step.arguments)
            step = Say(usage=step.usage, finish_reason="tool_calls", tool_calls=(call,))
        return ModelReply(
            text=step.text,
            tool_calls=step.tool_calls,
            data=step.data,
            finish_reason=step.finish_reason,
            model=self._model,
            response_id=f"scripted-{len(self.requests)}",
            usage=step.usage,
            service_tier=step.service_tier,
            provider_cost_nano_usd=step.provider_cost_nano_usd,
            unread_usage_keys=step.unread_usage_keys,
        )


class ScriptedModels:
    """Scripted models, found by provider and name. The first one is the default."""

    def __init__(self, *models: ScriptedModel) -> None:
        self._models: Mapping[tuple[str, str], ScriptedModel] = {(m.provider, m.model): m for m in models}

    def default(self) -> tuple[str, str] | None:
        """Return provider and name of the first model; null without models."""
        return next(iter(self._models), None)

    def get(self, provider: str, model: str) -> ScriptedModel:
        """Return a model. Raises `ResourceMissing` if it does not exist."""
        if problem := self.problem(provider, model):
            raise ResourceMissing(problem)
        return self._models[provider, model]

    def problem(self, provider: str, model: str) -> str | None:
        """Explain that a model does not exist; null if it does."""
        return None if (provider, model) in self._models else f"there is no scripted model {provider}:{model}"

    def server(self, provider: str) -> Server:
        """Return a server without an address, which takes no service tiers."""
        return Server()


@dataclass(frozen=True, slots=True)
class PerTokenPrices:
    """The same price for every model: nano-USD per token."""

    input_nano_usd: int = 1_000
    output_nano_usd: int = 2_000

    def price(self, provider: str, model: str, usage: Usage | None, at: datetime, served: Served = AS_USUAL) -> Price:
        """Return input and output tokens times their prices; unknown usage has no price."""
        if usage is None or usage.input_tokens is None or usage.output_tokens is None:
            return Price(None, CostSource.NONE, reason=Unpriced.USAGE)
        of_input = usage.input_tokens * self.input_nano_usd
        cost = of_input + usage.output_tokens * self.output_nano_usd
        return Price(cost, CostSource.PRICE_TABLE, "per-token-prices", input_nano_usd=of_input)

    def upper_nano_usd(
        self, provider: str, model: str, input_tokens: int, output_tokens: int, served: Served = AS_USUAL
    ) -> int | None:
        """Return the price of the most tokens that a call may use."""
        return input_tokens * self.input_nano_usd + output_tokens * self.output_nano_usd


def _in_order(script: Iterable[Step]) -> Callable[[ModelRequest], Step]:
    steps = iter(script)

    def step_for(request: ModelRequest) -> Step:
        step = next(steps, None)
        assert step is not None, "the script has run out: the model was called more often than its script has steps"
        return step

    return step_for
