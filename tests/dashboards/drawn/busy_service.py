"""A service with some hundred executions of several workflows: completed, failed, cancelled, without a price."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from api.service.server import listen
from engine.engine import ExecutionEngine
from engine.graph import JsonObject
from engine.resources import ModelReply, ModelRequest
from engine.result import ExecutionResult, Status
from engine.retrieval.files import FilesRetriever
from engine.testing.models import Call, Fail, Hold, Say, ScriptedModel, ScriptedModels, Step
from engine.tools.builtin import builtin_tools
from engine.usage import Usage, UsageReport
from telemetry.metrics.cached_collectors import ScoreCollector
from telemetry.reads.scores import GivenScore
from tests.dashboards.test_against_prometheus import serve_runner
from tests.engine.harness import graph
from tests.workflow_runner import OWNER, WorkflowRunner, request, streamed, workflow_runner

ROUNDS = 18
PAUSE_SECONDS = 0.75
"""Between rounds, so that Prometheus sees the counters grow."""


@dataclass(frozen=True, slots=True)
class Load:
    """A workflow, the model that it asks, and what its calls are like."""

    template: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    seconds: float
    per_round: int
    one_fails_in: int
    """0: none fails."""

    @property
    def graph(self) -> JsonObject:
        """Search, answer with tools."""
        answer: JsonObject = {"provider": self.provider, "model": self.model}
        return graph(
            [
                {"id": "look", "type": "retrieval", "config": {"retriever": "files", "options": {"path": "."}}},
                {"id": "answer", "type": "model", "stream": True, "config": answer, "retry": {"max_attempts": 1}},
                {"id": "tools", "type": "tools", "config": {"allowed_tools": ["calculate"]}},
            ],
            [
                "start -> look",
                "look -found-> answer",
                "look -empty-> answer",
                "answer -tool_calls-> tools",
                "tools -> answer",
                "answer -final-> end",
            ],
        )


LOADS = (
    Load("support-chat", "openai", "gpt-4.1", 2_400, 310, 0.06, 4, 50),
    Load("summarise-report", "anthropic", "claude-sonnet-4-5", 21_000, 900, 0.15, 2, 9),
    Load("classify-ticket", "openai", "gpt-4.1-mini", 600, 12, 0.01, 6, 0),
    Load("translate", "vllm", "qwen3-32b-local", 900, 850, 0.09, 2, 0),
)


class PacedModel(ScriptedModel):
    """A scripted model that takes its time."""

    def __init__(self, load: Load) -> None:
        super().__init__(_Script(load), provider=load.provider, model=load.model)
        self._seconds = load.seconds
        self._random = random.Random(load.template)

    async def invoke(self, request: ModelRequest) -> ModelReply:
        await self._take_time()
        return await super().invoke(request)

    async def stream(self, request: ModelRequest) -> AsyncIterator[str | UsageReport | ModelReply]:
        await self._take_time()
        async for piece in super().stream(request):
            yield piece

    async def _take_time(self) -> None:
        await asyncio.sleep(self._seconds * self._random.uniform(0.5, 2))


class _Script:
    """A tool call first in every third conversation, then an answer, or a failure that is billed."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._errors = ("rate_limited", "overloaded", "auth")
        self._failed = 0

    def __call__(self, asked: ModelRequest) -> Step:
        said = " ".join(str(each["content"]) for each in asked.messages if each["role"] == "user")
        number = int(re.findall(r"question (\d+)", said)[-1])
        usage = self._usage(number)
        if number % 3 == 0 and asked.messages[-1]["role"] == "user":
            return Call("calculate", {"expression": "6 *" if number % 5 == 0 else "6 * 7"}, usage=usage)
        if self._load.one_fails_in and number % self._load.one_fails_in == self._load.one_fails_in - 1:
            self._failed += 1
            return Fail(self._errors[self._failed % len(self._errors)], usage=usage)
        return Say(f"answer {number}", usage=usage)

    def _usage(self, number: int) -> Usage:
        sent, made = self._load.input_tokens * (8 + number % 5) // 10, self._load.output_tokens
        return Usage.of_counts(
            {
                "input_tokens": sent,
                "output_tokens": made,
                "cache_read_tokens": sent // 2 if number % 2 else 0,
                "cache_write_tokens": sent // 5 if number % 2 == 0 else 0,
                "reasoning_tokens": made // 3,
            }
        )


@asynccontextmanager
async def busy_service(url: str, documents: Path, port: int) -> AsyncIterator[WorkflowRunner]:
    """A service on a port, with a template per load."""
    async with workflow_runner(url, documents, keep_signals=False) as runner:
        for load in LOADS:
            await runner.store_template(load.template, load.graph)
        with listen("127.0.0.1", port) as listener:
            async with serve_runner(runner, listener):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(ScoreCollector, "seconds", PAUSE_SECONDS)
                    yield runner


async def run_everything(runner: WorkflowRunner) -> list[ExecutionResult]:
    """Some hundred executions over some twenty seconds."""
    engine = _engine(runner, [PacedModel(load) for load in LOADS])
    results: list[ExecutionResult] = []
    for number in range(ROUNDS):
        wanted = [(load, number * load.per_round + each) for load in LOADS for each in range(load.per_round)]
        results += await asyncio.gather(*(_execute(engine, load, each) for load, each in wanted))
        await _score(runner, results[-len(wanted) :])
        if number % 4 == 0:
            results.append(await _cancelled(runner, LOADS[0]))
        await asyncio.sleep(PAUSE_SECONDS)
    await engine.close()
    assert {result.status for result in results} == {Status.COMPLETED, Status.FAILED, Status.CANCELLED}
    return results


def _engine(runner: WorkflowRunner, models: Sequence[ScriptedModel]) -> ExecutionEngine:
    """An engine over the books of the service, with the prices of the catalogue."""
    runtime = runner.runtime
    assert runner.files is not None
    retrievers = {"files": FilesRetriever([runner.files])}
    resources = replace(runtime.resources, models=ScriptedModels(*models), tools=builtin_tools(), retrievers=retrievers)
    return ExecutionEngine(
        resources,
        ledger=runtime.journal,
        tracer_provider=runtime.telemetry.tracer_provider,
        logger_provider=runtime.telemetry.logger_provider,
    )


async def _execute(engine: ExecutionEngine, load: Load, number: int) -> ExecutionResult:
    wanted = request({"kind": "template", "template": load.template}, f"question {number}")
    return await (streamed(engine, wanted) if number % 2 else engine.execute(wanted))


async def _score(runner: WorkflowRunner, results: Sequence[ExecutionResult]) -> None:
    """People rate some of the answers."""
    for result in results[::3]:
        given = GivenScore("rating", "human", float(2 + int(result.execution_id[-1], 16) % 4))
        await runner.runtime.scoring.give(result.execution_id, OWNER, given)


async def _cancelled(runner: WorkflowRunner, load: Load) -> ExecutionResult:
    holding = ScriptedModel([Hold()], provider=load.provider, model=load.model)
    engine = _engine(runner, [holding])
    execution = await engine.start(request({"kind": "template", "template": load.template}), streaming=False)
    await holding.entered.wait()
    execution.cancel("not needed any more")
    result = await execution.result()
    await engine.close()
    return result
