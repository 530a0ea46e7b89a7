"""OpenAI, Anthropic and Gemini models over real HTTP against a mock server, streamed and not."""

from collections.abc import AsyncIterator, Mapping

import pytest

from engine.errors import ModelFailure
from engine.models.registry import PROVIDERS, LangChainModels, ProviderSettings
from engine.resources import ChatModel, Message, ModelReply, ModelRequest, ModelSettings, ToolSpec
from engine.runtime.calls import check_reply
from tests.services.aimock.server import Json, ModelServer

pytestmark = [
    pytest.mark.node,
    # the server names a finish reason that Gemini does not have
    pytest.mark.filterwarnings("ignore:FUNCTION_CALL is not a valid FinishReason:UserWarning"),
]

KEY = "sk-test-0123456789abcdef"
TOKENS = {"prompt_tokens": 12, "completion_tokens": 7}
CALCULATE = ToolSpec(
    "calculate",
    "Work out an arithmetic expression.",
    {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
)


@pytest.fixture(params=list(PROVIDERS))
async def model(request: pytest.FixtureRequest, aimock: ModelServer) -> AsyncIterator[ChatModel]:
    provider: str = request.param
    base_url = aimock.openai_url if provider == "openai" else aimock.base_url
    models = LangChainModels({provider: ProviderSettings(KEY, base_url)})
    yield models.get(provider, PROVIDERS[provider].default_model)
    await models.aclose()


def asked(text: str, *behind: Message, tools: tuple[ToolSpec, ...] = (), **settings: object) -> ModelRequest:
    messages: list[Message] = [{"id": "1", "role": "user", "content": text}, *behind]
    return ModelRequest("Be brief.", messages, tools, ModelSettings(**settings))  # type: ignore[arg-type] # by keyword


async def streamed(model: ChatModel, request: ModelRequest) -> tuple[list[str], ModelReply]:
    items = [item async for item in model.stream(request)]
    reply = items.pop()
    assert isinstance(reply, ModelReply)
    return [item for item in items if isinstance(item, str)], reply


async def failures(model: ChatModel, request: ModelRequest) -> list[ModelFailure]:
    """The failure of the call, which is the same with and without streaming."""
    with pytest.raises(ModelFailure) as whole:
        check_reply(await model.invoke(request))
    with pytest.raises(ModelFailure) as stream:
        check_reply((await streamed(model, request))[1])
    return [whole.value, stream.value]


def essence(reply: ModelReply) -> tuple[object, ...]:
    """The reply without its id, which differs in every call."""
    return reply.text, reply.tool_calls, reply.data, reply.finish_reason, reply.model, reply.usage


async def test_streaming_does_not_change_the_answer(model: ChatModel, aimock: ModelServer) -> None:
    text = "Hello there, this is more than one chunk of text."
    aimock.answer({"match": {"userMessage": "hi"}, "response": {"content": text, "usage": TOKENS}})

    whole = await model.invoke(asked("hi"))
    tokens, reply = await streamed(model, asked("hi"))

    assert essence(whole) == essence(reply)
    assert (whole.text, whole.finish_reason, whole.tool_calls) == (text, "stop", ())
    assert "".join(tokens) == text
    assert len(tokens) > 1
    assert model.server_address == "127.0.0.1"


async def test_usage_is_taken_from_the_server_streamed_or_not(model: ChatModel, aimock: ModelServer) -> None:
    aimock.answer({"match": {"userMessage": "hi"}, "response": {"content": "Hello", "usage": TOKENS}})

    replies = [await model.invoke(asked("hi")), (await streamed(model, asked("hi")))[1]]

    for reply in replies:
        assert reply.usage is not None
        assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens) == (12, 7, 19)


async def test_a_reported_zero_is_zero(model: ChatModel, aimock: ModelServer) -> None:
    no_input = {"prompt_tokens": 0, "completion_tokens": 7}
    aimock.answer({"match": {"userMessage": "hi"}, "response": {"content": "Hello", "usage": no_input}})

    for reply in (await model.invoke(asked("hi")), (await streamed(model, asked("hi")))[1]):
        assert reply.usage is not None
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (0, 7)


async def test_tool_calls_arrive_with_their_arguments(model: ChatModel, aimock: ModelServer) -> None:
    calls: list[Mapping[str, Json]] = [
        {"id": f"call_{n}", "name": "calculate", "arguments": {"expression": f"{n} + 1"}} for n in (1, 2)
    ]
    aimock.answer(
        {"match": {"userMessage": "add"}, "response": {"content": "Let me see.", "toolCalls": calls, "usage": TOKENS}}
    )

    whole = await model.invoke(asked("add", tools=(CALCULATE,)))
    tokens, reply = await streamed(model, asked("add", tools=(CALCULATE,)))

    assert essence(whole) == essence(reply)
    assert list(whole.tool_calls) == calls
    assert (whole.text, whole.finish_reason) == ("Let me see.", "tool_calls")
    assert "".join(tokens) == "Let me see."


async def test_tool_results_are_sent_with_their_calls(model: ChatModel, aimock: ModelServer) -> None:
    called: Message = {
        "id": "2",
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_1", "name": "calculate", "arguments": {"expression": "1 / 0"}}],
    }
    result: Message = {"id": "3", "role": "tool", "tool_call_id": "call_1", "content": "no way", "is_error": True}
    aimock.answer(
        {"match": {"userMessage": "div", "hasToolResult": True}, "response": {"content": "Sorry.", "usage": TOKENS}}
    )

    reply = await model.invoke(asked("div", called, result, tools=(CALCULATE,)))

    assert reply.text == "Sorry."
    sent = str(aimock.journal()[-1]["body"])
    assert "1 / 0" in sent
    assert "no way" in sent


async def test_only_the_given_settings_are_sent(model: ChatModel, aimock: ModelServer) -> None:
    aimock.answer({"match": {"userMessage": "hi"}, "response": {"content": "Hello"}})

    await model.invoke(asked("hi", temperature=0.25, max_tokens=77))
    await model.invoke(asked("hi"))

    first, second = (entry["body"] for entry in aimock.journal())
    assert first["temperature"] == 0.25
    assert 77 in (first.get("max_tokens"), first.get("max_completion_tokens"))
    assert "temperature" not in second
    assert "Be brief." in str(second["messages"])


async def test_the_key_is_sent_and_the_client_does_not_retry(model: ChatModel, aimock: ModelServer) -> None:
    aimock.fail_next(500)

    with pytest.raises(ModelFailure) as caught:
        await model.invoke(asked("hi"))

    (entry,) = aimock.journal()
    assert caught.value.error_type == "provider_error"
    assert entry["headers"].keys() & {"authorization", "x-goog-api-key"}


async def test_an_answer_by_schema_is_parsed(model: ChatModel, aimock: ModelServer) -> None:
    schema = {"type": "object", "required": ["score"], "properties": {"score": {"type": "number"}}}
    aimock.answer({"match": {"userMessage": "rate"}, "response": {"content": '{"score": 8}', "usage": TOKENS}})

    whole = await model.invoke(asked("rate", response_schema=schema))
    _, reply = await streamed(model, asked("rate", response_schema=schema))

    assert essence(whole) == essence(reply)
    assert (whole.text, whole.data) == ('{"score": 8}', {"score": 8})


@pytest.mark.parametrize("content", ["eight", '{"score": "eight"}', '{"score": 8'])
async def test_an_answer_that_violates_its_schema_fails(model: ChatModel, aimock: ModelServer, content: str) -> None:
    schema = {"type": "object", "properties": {"score": {"type": "number"}}}
    aimock.answer({"match": {"userMessage": "rate"}, "response": {"content": content}})

    for failure in await failures(model, asked("rate", response_schema=schema)):
        assert failure.error_type == "invalid_output"


async def test_rate_limit_errors_carry_retry_after(model: ChatModel, aimock: ModelServer) -> None:
    aimock.chaos(rateLimitRate=1)

    for failure in await failures(model, asked("hi")):
        assert failure.error_type == "rate_limited"
        assert failure.retry_after_seconds == 1
        assert KEY not in failure.message


async def test_a_truncated_stream_is_a_connection_error(model: ChatModel, aimock: ModelServer) -> None:
    text = "This text is long enough for several chunks. " * 20
    aimock.answer(
        {"match": {"userMessage": "hi"}, "response": {"content": text}, "latency": 5, "disconnectAfterMs": 60}
    )
    answer = aiter(model.stream(asked("hi")))

    first = await anext(answer)
    with pytest.raises(ModelFailure) as caught:
        _ = [item async for item in answer]

    assert isinstance(first, str)
    assert caught.value.error_type == "connection"


async def test_a_dropped_connection_is_a_connection_error(model: ChatModel, aimock: ModelServer) -> None:
    aimock.answer({"match": {"userMessage": "hi"}, "response": {"content": "Hello"}})
    aimock.chaos(disconnectRate=1)

    for failure in await failures(model, asked("hi")):
        assert failure.error_type == "connection"


async def test_a_malformed_response_is_a_provider_error(model: ChatModel, aimock: ModelServer) -> None:
    aimock.answer({"match": {"userMessage": "hi"}, "response": {"content": "Hello"}})
    aimock.chaos(malformedRate=1)

    for failure in await failures(model, asked("hi")):
        assert failure.error_type == "provider_error"


async def test_a_filtered_answer_fails(model: ChatModel, aimock: ModelServer) -> None:
    aimock.answer({"match": {"userMessage": "hi"}, "response": {"content": "Hel", "finishReason": "content_filter"}})

    for failure in await failures(model, asked("hi")):
        assert failure.error_type == "content_filter"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "auth"),
        (403, "auth"),
        (404, "model_not_found"),
        (400, "bad_request"),
        (503, "overloaded"),
        (500, "provider_error"),
    ],
)
async def test_http_errors_have_our_codes(model: ChatModel, aimock: ModelServer, status: int, code: str) -> None:
    aimock.fail_next(status, message=f"no luck with {KEY}")

    with pytest.raises(ModelFailure) as caught:
        await model.invoke(asked("hi"))

    assert caught.value.error_type == code
    assert KEY not in caught.value.message
