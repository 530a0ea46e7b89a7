"""The model registry, and how each provider's responses and errors are read."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from engine.errors import InvalidRequest, MissingExtra, ModelFailure, ResourceMissing
from engine.models.langchain import LangChainModel
from engine.models.registry import MAX_CLIENTS, PROVIDERS, LangChainModels, ProviderSettings
from engine.resources import ChatModel, Message, ModelReply, ModelRequest, Models, ModelSettings
from engine.runtime.calls import check_reply
from engine.usage import CallUsage, Usage
from tests.engine.models.wire_server import KEY, Server, serving, sse

SET = ProviderSettings(KEY)
HI: list[Message] = [{"id": "1", "role": "user", "content": "hi"}]


# Which model


def test_the_first_provider_with_a_key_is_the_default() -> None:
    def chosen(*names: str) -> tuple[str, str] | None:
        models: Models = LangChainModels(dict.fromkeys(names, SET))
        return models.default()

    assert chosen("google", "anthropic", "openai") == ("openai", "gpt-4.1-mini")
    assert chosen("google", "anthropic") == ("anthropic", "claude-haiku-4-5")
    assert chosen("google") == ("google", "gemini-2.5-flash")
    assert chosen() == ("offline", "extractive")


def test_a_named_default_wins_and_may_hold_colons() -> None:
    assert LangChainModels({"openai": SET}, "google:gemini-x").default() == ("google", "gemini-x")
    assert LangChainModels({}, "openai:ft:gpt:me").default() == ("openai", "ft:gpt:me")


@pytest.mark.parametrize("default", ["gpt-4.1-mini", "openai:", ":gpt"])
def test_a_default_without_provider_or_model_is_refused(default: str) -> None:
    with pytest.raises(InvalidRequest, match="provider:model"):
        LangChainModels({}, default)


def test_a_custom_server_needs_no_key() -> None:
    models = LangChainModels({"openai": ProviderSettings(base_url="http://localhost:11434/v1")})

    assert models.default() == ("openai", "gpt-4.1-mini")
    assert models.problem("openai", "llama") is None
    assert models.get("openai", "llama").server_address == "localhost"


@pytest.mark.parametrize(
    ("base_url", "port"),
    [
        ("http://localhost:11434/v1", 11434),
        ("http://localhost/v1", 80),
        ("https://gateway.example/v1", 443),
        (None, 443),
    ],
)
def test_the_port_is_the_one_in_the_url_or_that_of_its_scheme(base_url: str | None, port: int) -> None:
    model = LangChainModels({"openai": ProviderSettings(api_key="k", base_url=base_url)}).get("openai", "llama")
    assert isinstance(model, LangChainModel)
    assert model.server_port == port


@pytest.mark.parametrize(
    ("provider", "model", "sentence"),
    [
        ("openai", "gpt-4.1-mini", "set OPENAI_API_KEY"),
        ("google", "gemini-2.5-flash", "set GOOGLE_API_KEY"),
        ("opnai", "gpt", "use one of openai, anthropic, google, offline"),
        ("anthropic", "", "the model of anthropic is not named"),
        ("offline", "gpt", "has only the model extractive"),
    ],
)
def test_a_model_that_cannot_be_called_says_what_to_do(provider: str, model: str, sentence: str) -> None:
    models = LangChainModels()

    assert sentence in (models.problem(provider, model) or "")
    with pytest.raises(ResourceMissing, match=sentence):
        models.get(provider, model)


def test_a_missing_extra_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name == "langchain_anthropic" else find_spec(name)

    monkeypatch.setattr("importlib.util.find_spec", find)
    models = LangChainModels({"anthropic": SET})

    with pytest.raises(MissingExtra, match=r"pip install 'spanloom\[anthropic\]'"):
        models.get("anthropic", "claude-haiku-4-5")
    assert models.default() == ("anthropic", "claude-haiku-4-5")
    assert LangChainModels({"anthropic": SET, "google": SET}).default() == ("google", "gemini-2.5-flash")
    assert LangChainModels().default() == ("offline", "extractive")


@pytest.mark.parametrize(
    ("settings", "default", "sentence"),
    [
        ({"anthropic": SET}, None, "pip install 'spanloom[anthropic]'"),
        ({"anthropic": SET, "openai": SET}, None, "pip install 'spanloom[anthropic]'"),
        ({"anthropic": SET}, "anthropic:claude", "pip install 'spanloom[anthropic]'"),
        ({}, "openai:gpt-5", "set OPENAI_API_KEY"),
        ({}, "opnai:gpt-5", "use one of openai, anthropic, google, offline"),
        ({}, "offline:gpt-5", "only the model extractive"),
        ({"anthropic": SET, "openai": SET}, "openai:gpt-5", None),
        ({"anthropic": SET}, "offline:extractive", None),
        ({"openai": SET}, None, None),
        ({}, None, None),
    ],
)
def test_settings_that_would_end_in_demo_answers_are_wrong(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, ProviderSettings], default: str | None, sentence: str | None
) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name == "langchain_anthropic" else find_spec(name)

    monkeypatch.setattr("importlib.util.find_spec", find)
    found = LangChainModels(settings, default).misconfigured()

    assert (found is None) == (sentence is None)
    assert sentence is None or sentence in (found or "")


def test_models_are_cached_up_to_a_limit() -> None:
    models = LangChainModels({"openai": SET})
    first = models.get("openai", "model-0")
    assert models.get("openai", "model-0") is first

    for number in range(1, MAX_CLIENTS + 1):
        models._models["openai", f"model-{number}"] = models._models["openai", "model-0"]
    models.get("openai", "one-more")

    assert models.get("openai", "model-0") is not first


def test_the_offline_model_needs_nothing() -> None:
    assert LangChainModels().problem("offline", "extractive") is None
    assert LangChainModels().get("offline", "extractive").provider == "offline"


def test_keys_are_not_in_the_repr() -> None:
    assert KEY not in repr(SET)


# What an answer means


async def invoke(model: ChatModel, request: ModelRequest) -> ModelReply:
    """The reply as a call takes it."""
    reply = await model.invoke(request)
    check_reply(reply)
    return reply


async def stream(model: ChatModel, request: ModelRequest) -> ModelReply:
    """The reply as a call takes it."""
    reply = [item async for item in model.stream(request)][-1]
    assert isinstance(reply, ModelReply)
    check_reply(reply)
    return reply


def openai_chunk(**more: object) -> dict[str, object]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-x",
        "choices": [],
        **more,
    }


OPENAI_USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 80},
    "completion_tokens_details": {"reasoning_tokens": 30},
}
OPENAI_WHOLE = json.dumps(
    openai_chunk(
        object="chat.completion",
        choices=[{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
        usage=OPENAI_USAGE,
    )
).encode()
OPENAI_STREAM = sse(
    openai_chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": "Hel"}, "finish_reason": None}]),
    openai_chunk(choices=[{"index": 0, "delta": {"content": "lo"}, "finish_reason": None}]),
    openai_chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    openai_chunk(usage=OPENAI_USAGE),
)
ANTHROPIC_INPUT = {"input_tokens": 15, "cache_read_input_tokens": 80, "cache_creation_input_tokens": 5}


def anthropic_message(**more: object) -> dict[str, object]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**ANTHROPIC_INPUT, "output_tokens": 1},
        **more,
    }


def anthropic_stream(last_usage: dict[str, object]) -> bytes:
    return sse(
        {"type": "message_start", "message": anthropic_message()},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": last_usage},
        {"type": "message_stop"},
    )


ANTHROPIC_WHOLE = json.dumps(
    anthropic_message(
        content=[{"type": "text", "text": "Hello"}],
        stop_reason="end_turn",
        usage={**ANTHROPIC_INPUT, "output_tokens": 50},
    )
).encode()
GEMINI_USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 80,
    "candidatesTokenCount": 20,
    "thoughtsTokenCount": 30,
    "totalTokenCount": 150,
}


def gemini_answer(text: str, *, last: bool = True, usage: dict[str, int] = GEMINI_USAGE) -> dict[str, object]:
    candidate: dict[str, object] = {"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}
    return {
        "candidates": [candidate | ({"finishReason": "STOP"} if last else {})],
        "usageMetadata": usage,
        "modelVersion": "gemini-x",
    }


GEMINI_FIRST_USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 80,
    "thoughtsTokenCount": 30,
    "totalTokenCount": 130,
}
GEMINI_WHOLE = json.dumps(gemini_answer("Hello")).encode()
GEMINI_STREAM = sse(gemini_answer("Hel", last=False, usage=GEMINI_FIRST_USAGE), gemini_answer("lo"))

OPENAI_TOKENS = CallUsage(
    input_tokens=100, output_tokens=50, total_tokens=150, cache_read_tokens=80, reasoning_tokens=30
)
ANTHROPIC_TOKENS = CallUsage(
    input_tokens=100, output_tokens=50, total_tokens=150, cache_read_tokens=80, cache_write_tokens=5
)
Ask = Callable[[ChatModel, ModelRequest], Awaitable[ModelReply]]


@pytest.mark.parametrize(
    ("provider", "ask", "body", "usage"),
    [
        ("openai", invoke, OPENAI_WHOLE, OPENAI_TOKENS),
        ("openai", stream, OPENAI_STREAM, OPENAI_TOKENS),
        ("anthropic", invoke, ANTHROPIC_WHOLE, ANTHROPIC_TOKENS),
        ("anthropic", stream, anthropic_stream({**ANTHROPIC_INPUT, "output_tokens": 50}), ANTHROPIC_TOKENS),
        ("google", invoke, GEMINI_WHOLE, OPENAI_TOKENS),
        ("google", stream, GEMINI_STREAM, OPENAI_TOKENS),
    ],
)
async def test_cached_and_reasoning_tokens_are_part_of_input_and_output(
    provider: str, ask: Ask, body: bytes, usage: Usage
) -> None:
    async with serving(provider, Server(body)) as model:
        reply = await ask(model, ModelRequest("", HI))

    assert reply.usage == usage
    assert (reply.text, reply.finish_reason) == ("Hello", "stop")
    assert reply.model in {"gpt-x", "claude-x", "gemini-x"}
    assert reply.response_id in {"chatcmpl-1", "msg_1", None}


@pytest.mark.parametrize(("said", "read"), [("fp_1", "fp_1"), (None, None), ({"a": "fp_1"}, None), (7, None)])
async def test_the_fingerprint_of_an_openai_answer_is_read_if_it_is_a_text(said: object, read: str | None) -> None:
    whole = json.dumps({**json.loads(OPENAI_WHOLE), "system_fingerprint": said}).encode()
    async with serving("openai", Server(whole)) as model:
        assert (await invoke(model, ModelRequest("", HI))).system_fingerprint == read


async def test_input_tokens_named_only_in_the_first_event_are_not_lost() -> None:
    async with serving("anthropic", Server(anthropic_stream({"output_tokens": 50}))) as model:
        reply = await stream(model, ModelRequest("", HI))

    assert reply.usage == ANTHROPIC_TOKENS


@pytest.mark.parametrize("provider", list(PROVIDERS))
async def test_the_key_is_sent_where_the_provider_looks_for_it(provider: str) -> None:
    server = Server(b"{}")
    async with serving(provider, server) as model:
        with pytest.raises(ModelFailure):
            await invoke(model, ModelRequest("", HI))

    (request,) = server.requests
    assert KEY in request


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'"text"', b'{"choices": null}', b'{"candidates": 1}', b"data: {\n\n"]
)
@pytest.mark.parametrize("provider", list(PROVIDERS))
@pytest.mark.parametrize("ask", [invoke, stream])
async def test_malformed_responses_are_provider_failures(provider: str, ask: Ask, body: bytes) -> None:
    async with serving(provider, Server(body)) as model:
        with pytest.raises(ModelFailure) as caught:
            await ask(model, ModelRequest("", HI))

    assert caught.value.error_type in {"provider_error", "empty_response"}


async def test_an_answer_of_reasoning_alone_suggests_more_max_tokens() -> None:
    choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": ""}}
    body = json.dumps(openai_chunk(object="chat.completion", choices=[choice], usage=OPENAI_USAGE)).encode()

    async with serving("openai", Server(body)) as model:
        with pytest.raises(ModelFailure, match="raise max_tokens") as caught:
            await invoke(model, ModelRequest("", HI))

    assert caught.value.error_type == "empty_response"


async def test_a_tool_call_without_json_arguments_is_invalid_output() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "calculate", "arguments": '{"expression": '}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
    body = json.dumps(openai_chunk(object="chat.completion", choices=[choice])).encode()

    async with serving("openai", Server(body)) as model:
        with pytest.raises(ModelFailure) as caught:
            await model.invoke(ModelRequest("", HI))

    assert caught.value.error_type == "invalid_output"


@pytest.mark.parametrize("provider", list(PROVIDERS))
async def test_files_are_sent_in_the_providers_format(provider: str) -> None:
    part: Message = {
        "id": "1",
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "file", "media_type": "image/png", "uri": "data:image/png;base64,aGVsbG8="},
        ],
    }
    server = Server(b"{}")
    async with serving(provider, server) as model:
        assert model.estimate_input_tokens(ModelRequest("", [part])) > 2_000
        with pytest.raises(ModelFailure):
            await invoke(model, ModelRequest("", [part]))

    assert "aGVsbG8=" in server.requests[0]
    assert "What is this?" in server.requests[0]


# What errors become

IN_AN_HOUR = "in an hour"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2.5", 2.5),
        ("-1", None),
        ("1e3", None),
        (IN_AN_HOUR, 3_600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", None),
    ],
)
@pytest.mark.parametrize("provider", list(PROVIDERS))
async def test_retry_after_is_read_as_seconds_or_as_a_date(provider: str, header: str, seconds: float | None) -> None:
    if header == IN_AN_HOUR:
        header = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    server = Server(b'{"error": {"message": "slow"}}', 429, {"retry-after": header})
    async with serving(provider, server) as model:
        with pytest.raises(ModelFailure) as caught:
            await model.invoke(ModelRequest("", HI))

    assert caught.value.error_type == "rate_limited"
    assert caught.value.retry_after_seconds == (None if seconds is None else pytest.approx(seconds, abs=60))
    assert len(server.requests) == 1


async def test_retry_after_is_read_from_geminis_response_body() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}
    body = json.dumps({"error": {"code": 429, "message": "quota", "details": [info]}}).encode()

    async with serving("google", Server(body, 429)) as model:
        with pytest.raises(ModelFailure) as caught:
            await model.invoke(ModelRequest("", HI))

    assert caught.value.retry_after_seconds == 34


@pytest.mark.parametrize(
    ("provider", "status", "message", "code"),
    [
        ("openai", 400, "maximum context: context_length_exceeded", "context_too_long"),
        ("anthropic", 400, "prompt is too long: 300000 tokens", "context_too_long"),
        ("google", 400, "input exceeds the maximum number of tokens allowed", "context_too_long"),
        ("google", 400, "API key not valid. Please pass a valid API key.", "auth"),
        ("anthropic", 529, "Overloaded", "overloaded"),
        ("openai", 422, "unprocessable", "bad_request"),
        ("openai", 418, "teapot", "provider_error"),
    ],
)
async def test_the_providers_response_decides_the_error_code(
    provider: str, status: int, message: str, code: str
) -> None:
    body = json.dumps({"type": "error", "error": {"type": "x", "code": status, "message": message}}).encode()

    async with serving(provider, Server(body, status)) as model:
        with pytest.raises(ModelFailure) as caught:
            await model.invoke(ModelRequest("", HI))

    assert caught.value.error_type == code


@pytest.mark.parametrize("provider", list(PROVIDERS))
async def test_messages_are_short_and_hold_no_key(provider: str) -> None:
    body = json.dumps({"error": {"message": f"wrong key {KEY} or Bearer {KEY} " + "x" * 10_000}}).encode()

    async with serving(provider, Server(body, 401)) as model:
        with pytest.raises(ModelFailure) as caught:
            await model.invoke(ModelRequest("", HI))

    assert caught.value.error_type == "auth"
    assert KEY not in caught.value.message
    assert len(caught.value.message.encode()) <= 2_048


@pytest.mark.parametrize("provider", list(PROVIDERS))
async def test_an_unreachable_server_is_a_connection_error(provider: str) -> None:
    models = LangChainModels({provider: ProviderSettings(KEY, "http://127.0.0.1:9")})

    with pytest.raises(ModelFailure) as caught:
        await stream(models.get(provider, PROVIDERS[provider].default_model), ModelRequest("", HI))

    assert caught.value.error_type == "connection"
    await models.aclose()


async def test_an_unsupported_setting_is_refused_not_dropped() -> None:
    models = LangChainModels({"anthropic": SET})

    with pytest.raises(ModelFailure, match="does not support seed") as caught:
        await models.get("anthropic", "claude-haiku-4-5").invoke(ModelRequest("", HI, (), ModelSettings(seed=7)))

    assert caught.value.error_type == "bad_request"


async def test_any_langchain_model_can_be_wrapped() -> None:
    model = LangChainModel(GenericFakeChatModel(messages=iter([AIMessage("Hello you")])), provider="fake", model="one")

    items = [item async for item in model.stream(ModelRequest("Be brief.", HI))]

    assert items[:-1] == ["Hello", " ", "you"]
    assert items[-1] == ModelReply(text="Hello you")
    await model.aclose()


def test_the_estimate_grows_with_the_request() -> None:
    model = LangChainModel(GenericFakeChatModel(messages=iter([])), provider="fake", model="one")
    small, large = ModelRequest("", HI), ModelRequest("system " * 100, HI)

    assert 1 <= model.estimate_input_tokens(small) < 50
    assert model.estimate_input_tokens(large) > 300
