"""What providers report is read from their own documents, whole or streamed, however often they repeat it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

import genai_prices
import pytest
from genai_prices import data_snapshot
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ModelFailure
from engine.models.counts import IMPOSSIBLE
from engine.models.pricing import GenaiPrices
from engine.models.reports import Reader, Reported, anthropic_usage, gemini_usage, openai_usage
from engine.resources import CostSource, ModelReply, ModelRequest
from engine.usage import UsageReport
from tests.engine.models.recorded_shapes import SHAPES, TEXT, Shape
from tests.engine.models.wire_server import Server, serving, sse

NOW = datetime(2026, 6, 1, tzinfo=UTC)
HI = ModelRequest("", [{"id": "1", "role": "user", "content": "hi"}])
READERS: Mapping[str, Reader] = {"openai": openai_usage, "anthropic": anthropic_usage, "google": gemini_usage}
PRICED = [shape for shape in SHAPES if shape.leaves]


def named(shape: Shape) -> str:
    return shape.name


async def whole(shape: Shape) -> ModelReply:
    async with serving(shape.protocol, Server(json.dumps(shape.whole).encode()), shape.model) as model:
        return await model.invoke(HI)


async def streamed(shape: Shape, habit: str) -> list[str | UsageReport | ModelReply]:
    async with serving(shape.protocol, Server(shape.streams[habit]), shape.model) as model:
        return [piece async for piece in model.stream(HI)]


@pytest.mark.parametrize("shape", SHAPES, ids=named)
async def test_a_recorded_answer_is_read_to_the_last_key(shape: Shape) -> None:
    reply = await whole(shape)
    assert reply.text == TEXT
    assert reply.report == UsageReport(shape.usage, shape.tier, shape.cost_nano_usd, unread_keys=())


@pytest.mark.parametrize("shape", SHAPES, ids=named)
async def test_a_streamed_answer_reports_the_same_whatever_its_habit(shape: Shape) -> None:
    for habit in shape.streams:
        *pieces, reply = await streamed(shape, habit)
        assert isinstance(reply, ModelReply)
        assert reply.text == TEXT, habit
        heard = [piece for piece in pieces if isinstance(piece, UsageReport)]
        if habit == "none":
            assert (reply.usage, heard) == (None, []), habit
        else:
            assert reply.report == UsageReport(shape.usage, shape.tier, shape.cost_nano_usd), habit
            assert heard[-1] == UsageReport(shape.usage, shape.tier, shape.cost_nano_usd, is_partial=True), habit


@pytest.mark.parametrize("shape", PRICED, ids=named)
def test_each_kind_of_token_has_its_own_price(shape: Shape) -> None:
    """The price of each kind is looked up here by hand, and so is how many tokens of the kind there are."""
    provider = data_snapshot.get_snapshot().find_provider(None, shape.protocol, None)
    _, listed = data_snapshot.get_snapshot().find_provider_model(shape.model, None, provider.id, None)
    rates = listed.get_prices(NOW)
    usd = Decimal(0)
    for key, tokens in shape.leaves.items():
        rate = getattr(rates, key)
        assert isinstance(rate, Decimal), key
        usd += rate * tokens / 1_000_000
    spoken = "gcp.gemini" if shape.protocol == "google" else shape.protocol
    price = GenaiPrices().price(spoken, shape.model, shape.usage, NOW)
    assert price.nano_usd == int((usd * 10**9).to_integral_value(ROUND_HALF_EVEN)) > 0
    assert price.source is CostSource.PRICE_TABLE


EXTRACTED = {
    "OpenAI": ("openai", "chat"),
    "OpenAI, audio": ("openai", "chat"),
    "OpenAI Responses": ("openai", "responses"),
    "Azure": ("azure", "chat"),
    "OpenRouter": ("openrouter", "chat"),
    "DeepSeek": ("deepseek", "chat"),
    "Anthropic, caches of both lifetimes": ("anthropic", "default"),
    "Anthropic, thinking": ("anthropic", "default"),
    "Gemini, thinking": ("google", "default"),
    "Gemini, audio and the results of tools": ("google", "default"),
    "Gemini, an image": ("google", "default"),
}


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.name in EXTRACTED], ids=named)
def test_genai_prices_reads_the_same_counts(shape: Shape) -> None:
    """Its extractors are another reading of the same documents."""
    provider_id, flavor = EXTRACTED[shape.name]
    provider = data_snapshot.get_snapshot().find_provider(None, provider_id, None)
    _, theirs = provider.extract_usage(shape.whole, api_flavor=flavor)
    ours = genai_prices.Usage(**shape.usage.model_dump(exclude={"total_tokens", "reasoning_tokens"}))
    for name, count in ours._reported_values().items():
        assert theirs.reported_value(name) == count, name


COUNTS = st.integers(1, 10**9)


@given(st.data(), st.sampled_from([shape for shape in SHAPES if shape.streams]))
def test_any_split_and_repetition_of_usage_reports_the_same(data: st.DataObject, shape: Shape) -> None:
    """Each figure is reported in some of the chunks, growing to its last value, in any company."""
    reader = READERS[shape.protocol]
    once = Reported()
    once.hear(shape.whole, reader)
    key = "usageMetadata" if shape.protocol == "google" else "usage"
    final = shape.whole[key]
    assert isinstance(final, dict)
    split = Reported()
    for _ in range(data.draw(st.integers(0, 6))):
        some = data.draw(st.sets(st.sampled_from(sorted(final))))
        share = data.draw(st.integers(1, 10))
        split.hear({key: {name: smaller(final[name], share) for name in some}}, reader)
    for _ in range(data.draw(st.integers(1, 3))):
        split.hear(shape.whole, reader)
    assert split.report(is_partial=False) == once.report(is_partial=False)


def smaller(value: object, share: int) -> object:
    """The figures at an earlier time."""
    if isinstance(value, dict):
        return {key: smaller(inner, share) for key, inner in value.items()}
    if isinstance(value, list):
        return [{**inner, "tokenCount": inner["tokenCount"] // share} for inner in value]
    return value // share if type(value) is int else value


def heard(reader: Reader, *documents: Mapping[str, object]) -> UsageReport:
    reported = Reported()
    for document in documents:
        reported.hear(document, reader)
    report = reported.report(is_partial=False)
    assert report is not None
    return report


def test_a_reported_zero_is_zero_and_a_missing_count_is_unknown() -> None:
    zero = heard(openai_usage, {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}).usage
    missing = heard(openai_usage, {"usage": {"prompt_tokens": 5}}).usage
    assert zero is not None
    assert missing is not None
    assert (zero.input_tokens, zero.output_tokens, zero.total_tokens) == (0, 0, 0)
    assert (missing.input_tokens, missing.output_tokens) == (5, None)


def test_a_zero_after_a_count_is_no_report() -> None:
    """Servers that count at the end only write zeros elsewhere, before it or behind."""
    report = heard(
        openai_usage,
        {"usage": {"prompt_tokens": 0, "completion_tokens": 0}},
        {"usage": {"prompt_tokens": 9, "completion_tokens": 4}},
        {"usage": {"prompt_tokens": 0, "completion_tokens": 0}},
    )
    assert report.usage is not None
    assert (report.usage.input_tokens, report.usage.output_tokens) == (9, 4)


def test_a_count_that_gemini_corrects_downwards_is_the_last_one() -> None:
    report = heard(
        gemini_usage,
        {"usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 1, "totalTokenCount": 13}},
        {"usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 4, "totalTokenCount": 14}},
    )
    assert report.usage is not None
    assert (report.usage.input_tokens, report.usage.output_tokens) == (10, 4)


def test_the_output_of_anthropics_first_event_is_no_report() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 15, "output_tokens": 1}}}
    report = heard(anthropic_usage, start)
    assert report.usage is not None
    assert (report.usage.input_tokens, report.usage.output_tokens) == (15, None)


@pytest.mark.parametrize(
    ("reader", "usage", "unread"),
    [
        (openai_usage, {"prompt_tokens": 1, "search_units": 3}, ("search_units",)),
        (openai_usage, {"prompt_tokens_details": {"hologram_tokens": 7}}, ("prompt_tokens_details.hologram_tokens",)),
        (openai_usage, {"prompt_tokens_details": {"hologram_tokens": 0}, "new": None}, ()),
        (anthropic_usage, {"input_tokens": 1, "speed": "fast"}, ("speed",)),
        (anthropic_usage, {"server_tool_use": {"web_search_requests": 2}}, ("server_tool_use.web_search_requests",)),
        (
            gemini_usage,
            {"promptTokensDetails": [{"modality": "SMELL", "tokenCount": 3}]},
            ("promptTokensDetails.SMELL",),
        ),
        (openai_usage, {"a": {"b": {"c": {"d": {"e": {"f": {}}}}}}}, ("a.b.c.d.e",)),
    ],
)
def test_a_figure_that_nobody_reads_is_named(reader: Reader, usage: dict[str, object], unread: tuple[str, ...]) -> None:
    key = "usageMetadata" if reader is gemini_usage else "usage"
    assert heard(reader, {key: usage}).unread_keys == unread


def test_unread_keys_are_few_and_short() -> None:
    report = heard(openai_usage, {"usage": {f"{number:05d}{'x' * 500}": 1 for number in range(5_000)}})
    assert len(report.unread_keys) == 16
    assert {len(key) for key in report.unread_keys} == {80}


@pytest.mark.parametrize("cost", [True, "free", -1, float("nan"), 1e300, {"per": "call"}])
def test_a_cost_that_is_none_is_not_reported(cost: object) -> None:
    assert heard(openai_usage, {"usage": {"prompt_tokens": 1, "cost": cost}}).provider_cost_nano_usd is None


def test_a_count_that_is_a_text_is_impossible() -> None:
    usage = heard(gemini_usage, {"usageMetadata": {"promptTokenCount": "many"}}).usage
    assert usage is not None
    assert usage.input_tokens == IMPOSSIBLE
    assert not usage.is_possible


@pytest.mark.parametrize("stream", [False, True])
async def test_a_blocked_prompt_is_filtered_and_its_input_is_paid_for(stream: bool) -> None:
    blocked = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7},
        "modelVersion": "m",
    }
    server = Server(sse(blocked) if stream else json.dumps(blocked).encode())
    async with serving("google", server) as model:
        reply = [piece async for piece in model.stream(HI)][-1] if stream else await model.invoke(HI)
    assert isinstance(reply, ModelReply)
    assert reply.finish_reason == "content_filter"
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (7, 0)


async def test_a_refusal_of_openais_model_is_filtered() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    body = {**head, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    chunk = {**head, "object": "chat.completion.chunk"}
    deltas = [({"role": "assistant", "refusal": "I cannot"}, None), ({"refusal": " help."}, None), ({}, "stop")]
    chunks = [{**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} for delta, finish in deltas]
    events = sse(*chunks, {**chunk, "choices": [], "usage": usage}) + b"data: [DONE]\n\n"
    for server, stream in ((Server(json.dumps(body).encode()), False), (Server(events), True)):
        async with serving("openai", server) as model:
            reply = [piece async for piece in model.stream(HI)][-1] if stream else await model.invoke(HI)
        assert isinstance(reply, ModelReply)
        assert (reply.finish_reason, reply.usage and reply.usage.total_tokens) == ("content_filter", 13)


async def test_a_stream_that_breaks_off_keeps_what_was_reported() -> None:
    start = {"usage": {"prompt_tokens": 9, "completion_tokens": 2}, "object": "chat.completion.chunk", "model": "m"}
    text = {**start, "id": "c", "created": 1, "choices": [{"index": 0, "delta": {"content": "Hel"}}]}
    error = {"error": {"message": "the engine is overloaded", "type": "server_error", "code": None}}
    async with serving("openai", Server(sse(text, error))) as model:
        with pytest.raises(ModelFailure) as caught:
            _ = [piece async for piece in model.stream(HI)]
    report = caught.value.report
    assert caught.value.error_type == "overloaded"
    assert report is not None
    assert report.is_partial
    assert report.usage is not None
    assert (report.usage.input_tokens, report.usage.output_tokens) == (9, 2)


def test_a_list_is_neither_a_count_nor_a_cost() -> None:
    reported = Reported()
    reported.hear({"usage": {"prompt_tokens": [5], "completion_tokens": 3, "cost": [1]}}, openai_usage)
    report = reported.report(is_partial=False)

    assert report is not None
    assert report.usage is not None
    assert (report.usage.input_tokens, report.usage.output_tokens, report.provider_cost_nano_usd) == (None, 3, None)
    assert report.unread_keys == ("cost[]", "prompt_tokens[]")


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.name == "Ollama"], ids=named)
async def test_the_fingerprint_is_read_streamed_or_not(shape: Shape) -> None:
    assert (await whole(shape)).system_fingerprint == "fp_ollama"
    for habit in shape.streams:
        *_, reply = await streamed(shape, habit)
        assert isinstance(reply, ModelReply)
        assert reply.system_fingerprint == "fp_ollama", habit
