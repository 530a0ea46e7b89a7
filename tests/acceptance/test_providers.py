"""OpenAI, Anthropic and Gemini over real HTTP: the service records exactly the usage and cost of the provider."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import genai_prices
import pytest

from api.settings import Settings
from api.wiring.runtime import Runtime, open_runtime
from engine.graph import JsonObject
from engine.request import ExecutionRequest
from engine.result import ExecutionResult
from telemetry.reads.executions import ExecutionRecord, get_execution
from telemetry.reads.traces import Trace, get_trace
from tests.engine.harness import graph
from tests.services.aimock.server import JournalEntry, ModelServer
from tests.workflow_runner import OWNER, drawing, request, streamed

pytestmark = [
    pytest.mark.node,
    # the server names a finish reason that Gemini does not have
    pytest.mark.filterwarnings("ignore:FUNCTION_CALL is not a valid FinishReason:UserWarning"),
]

KEY = "sk-test-0123456789abcdef"
MODELS = {"openai": "gpt-4.1-mini", "anthropic": "claude-haiku-4-5", "google": "gemini-2.5-flash"}
INPUT_TOKENS, OUTPUT_TOKENS = 1_237, 419
TOKENS = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS}
LONG = "This text is long enough for several chunks. " * 20


@dataclass
class Service:
    """The service with one provider, whose address is the fake model server's."""

    runtime: Runtime
    provider: str
    server: ModelServer

    async def both(self, wanted: ExecutionRequest) -> list[ExecutionResult]:
        """Run the request twice: executed and streamed."""
        return [await self.runtime.engine.execute(wanted), await streamed(self.runtime.engine, wanted)]

    async def record(self, result: ExecutionResult) -> ExecutionRecord:
        async with self.runtime.database.read() as connection:
            record = await get_execution(connection, result.execution_id, OWNER)
        assert record is not None
        return record

    async def trace(self, result: ExecutionResult) -> Trace:
        async with self.runtime.database.read() as connection:
            trace = await get_trace(connection, result.execution_id, OWNER)
        assert trace is not None
        return trace

    def cost_nano_usd(self, calls: int = 1, *, input_tokens: int = INPUT_TOKENS) -> int:
        """Return the price by genai-prices for this number of calls with the usage that the server reports."""
        price = genai_prices.calc_price(
            genai_prices.Usage(input_tokens=input_tokens, output_tokens=OUTPUT_TOKENS),
            MODELS[self.provider],
            provider_id=self.provider,
            genai_request_timestamp=datetime.now(UTC),
        )
        nano = price.total_price * Decimal(10**9)
        assert nano == int(nano) > 0
        return calls * int(nano)

    @property
    def model(self) -> str:
        return MODELS[self.provider]


@pytest.fixture(params=list(MODELS))
async def service(request: pytest.FixtureRequest, aimock: ModelServer, tmp_path: Path) -> AsyncIterator[Service]:
    provider: str = request.param
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'books.db'}", model=f"{provider}:{MODELS[provider]}")
    address = aimock.openai_url if provider == "openai" else aimock.base_url
    reach = {f"{provider}_api_key": KEY, f"{provider}_base_url": address}
    async with open_runtime(settings.model_copy(update=reach)) as runtime:
        yield Service(runtime, provider, aimock)


def asking(*, stream: bool, attempts: int = 1) -> JsonObject:
    """A graph that asks the default model once, over a streaming connection or not."""
    node: JsonObject = {"id": "ask", "type": "model", "stream": stream, "retry": {"max_attempts": attempts}}
    return {"kind": "graph", "graph": graph([node], ["start -> ask", "ask -> end"])}


def is_streamed(entry: JournalEntry) -> bool:
    """The provider was asked for a stream."""
    return bool(entry["body"].get("stream")) or "streamGenerateContent" in entry["path"]


@pytest.mark.parametrize("stream", [True, False], ids=["over a stream", "in one piece"])
async def test_the_cost_of_the_record_is_what_genai_prices_gives(service: Service, stream: bool) -> None:
    service.server.answer({"match": {"userMessage": "hi"}, "response": {"content": "Hello there.", "usage": TOKENS}})

    for result in await service.both(request(asking(stream=stream), "hi")):
        record = await service.record(result)
        assert (record.status, result.response) == ("completed", "Hello there.")
        assert (record.input_tokens, record.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
        assert (record.cost_nano_usd, record.unpriced_calls) == (service.cost_nano_usd(), 0)
    assert [is_streamed(entry) for entry in service.server.journal()] == [stream, stream]


@pytest.mark.parametrize("stream", [True, False], ids=["over a stream", "in one piece"])
async def test_a_reported_zero_is_zero_and_has_a_price(service: Service, stream: bool) -> None:
    no_input = {"prompt_tokens": 0, "completion_tokens": OUTPUT_TOKENS}
    service.server.answer({"match": {"userMessage": "hi"}, "response": {"content": "Hello there.", "usage": no_input}})

    for result in await service.both(request(asking(stream=stream), "hi")):
        record = await service.record(result)
        assert (record.status, record.model_calls) == ("completed", 1)
        assert (record.input_tokens, record.output_tokens) == (0, OUTPUT_TOKENS)
        assert (record.cost_nano_usd, record.unmetered_calls) == (service.cost_nano_usd(input_tokens=0), 0)


async def test_tools_are_called_over_the_wire(service: Service) -> None:
    call: JsonObject = {"id": "call_1", "name": "calculate", "arguments": '{"expression": "6 * 7"}'}
    service.server.answer(
        {"match": {"userMessage": "times", "hasToolResult": True}, "response": {"content": "42.", "usage": TOKENS}},
        {"match": {"userMessage": "times"}, "response": {"toolCalls": [call], "usage": TOKENS}},
    )

    for result in await service.both(request({"kind": "template", "template": "tool_agent"}, "6 times 7")):
        record = await service.record(result)
        assert result.response == "42."
        assert (record.model_calls, record.tool_calls) == (2, 1)
        assert record.cost_nano_usd == service.cost_nano_usd(calls=2)
        assert drawing((await service.trace(result)).spans) == AGENT.format(model=service.model)
    assert "42" in str(service.server.journal()[1]["body"])


AGENT = """
invoke_workflow tool_agent  completed
  execute_node start
  execute_node memory
  execute_node answer
    chat {model}
  execute_node tools
    execute_tool calculate
  execute_node answer
    chat {model}
  execute_node end
"""


async def test_too_many_requests_are_repeated_when_the_provider_says(service: Service) -> None:
    slow_down: JsonObject = {"error": {"message": "slow down", "type": "rate_limit_error"}, "status": 429}
    service.server.answer(
        {"match": {"userMessage": "hi", "sequenceIndex": 0}, "response": {**slow_down, "retryAfter": 1}},
        {"match": {"userMessage": "hi"}, "response": {"content": "Hello there.", "usage": TOKENS}},
    )
    result = await service.runtime.engine.execute(request(asking(stream=True, attempts=2), "hi"))

    record = await service.record(result)
    assert (record.status, record.nodes_retried, record.model_calls) == ("completed", 1, 2)
    assert (record.cost_nano_usd, record.unpriced_calls) == (service.cost_nano_usd(), 0)
    assert record.time_retry_ms is not None
    assert record.time_retry_ms >= 1_000
    assert drawing((await service.trace(result)).spans) == REPEATED.format(model=service.model)
    assert [entry["response"]["status"] for entry in service.server.journal()] == [429, 200]


REPEATED = """
invoke_workflow test  completed
  execute_node start
  execute_node ask  retrying  rate_limited
    chat {model}  failed  rate_limited
  execute_node ask
    chat {model}
  execute_node end
"""


async def test_a_stream_that_breaks_off_is_a_failed_record_with_a_call_of_unknown_cost(service: Service) -> None:
    answer = {"content": LONG, "finishReason": "stop"}
    service.server.answer({"match": {"userMessage": "hi"}, "response": answer, "latency": 5, "disconnectAfterMs": 60})

    for result in await service.both(request(asking(stream=True), "hi")):
        record = await service.record(result)
        assert (record.status, record.error_type) == ("failed", "connection")
        assert (record.cost_nano_usd, record.unmetered_calls) == (None, 1)
        assert record.time_to_first_token_ms is not None
        assert record.seal.complete


async def test_an_answer_that_cannot_be_read_is_a_failed_record(service: Service) -> None:
    service.server.answer({"match": {"userMessage": "hi"}, "response": {"content": "Hello there."}})
    service.server.chaos(malformedRate=1)

    for result in await service.both(request(asking(stream=False), "hi")):
        record = await service.record(result)
        assert (record.status, record.error_type) == ("failed", "provider_error")
        assert (record.cost_nano_usd, record.unmetered_calls) == (None, 1)


async def test_a_refused_key_costs_nothing_and_does_not_show(service: Service) -> None:
    service.server.fail_next(401, message=f"Incorrect API key provided: {KEY}", kind="invalid_request_error")

    result = await service.runtime.engine.execute(request(asking(stream=True), "hi"))

    record = await service.record(result)
    assert (record.status, record.error_type) == ("failed", "auth")
    assert (record.cost_nano_usd, record.unpriced_calls) == (0, 0)
    assert KEY not in f"{record} {result} {await service.trace(result)}"
