"""Answers of providers as they write them, whole and streamed with each habit, and what they bill.

Tokens, models and texts are invented; keys, nesting and order are those of the providers. The habits of streams differ
in where usage stands: per chunk, at the end, on the finishing chunk and again on the last, nowhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.graph import Json, JsonObject
from engine.usage import CallUsage
from tests.engine.models.wire_server import sse

TEXT = "Hello there"
PIECES = ("Hel", "lo ", "there")
USUAL = ("at the end", "per chunk", "on the finishing chunk", "twice", "on every chunk alike")


@dataclass(frozen=True)
class Shape:
    """One kind of answer. `leaves` are the tokens of each price, by the catalogue's key; none if it has no price."""

    name: str
    protocol: str
    """The provider of ours that speaks it."""
    model: str
    usage: CallUsage
    whole: JsonObject
    streams: Mapping[str, bytes]
    leaves: Mapping[str, int] = field(default_factory=dict)
    tier: str | None = None
    cost_nano_usd: int | None = None


def told(**counts: int) -> CallUsage:
    """Usage with these counts and their total."""
    return CallUsage.of_counts(counts)


# OpenAI's /chat/completions, and the servers that speak it


def chat(usage: JsonObject, **more: Json) -> JsonObject:
    """The answer in one document."""
    choice: JsonObject = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    head: JsonObject = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return {**head, "choices": [choice], "usage": usage, **more}


def chat_stream(habit: str, usage: JsonObject, first: JsonObject | None = None, **more: Json) -> bytes:
    """The answer in chunks; the counts of a cumulative report grow with them."""
    so_far = {"prompt_tokens": usage["prompt_tokens"]}
    reports: list[Json] = [{**so_far, "completion_tokens": number, "total_tokens": None} for number in (1, 2, 3)]
    if habit == "on every chunk alike":
        reports = [usage] * 3
    elif habit != "per chunk":
        reports = [None] * 3
    closing: Json = usage if habit not in ("at the end", "none") else None
    last: list[JsonObject] = [] if habit in ("none", "on the finishing chunk") else [chunk([], usage, more)]
    texts = [chunk([delta_of({"content": piece})], report, more) for piece, report in zip(PIECES, reports, strict=True)]
    opening = [first] if first else []
    return sse(*opening, *texts, chunk([delta_of({}, "stop")], closing, more), *last) + b"data: [DONE]\n\n"


def chunk(choices: list[Json], usage: Json, more: Mapping[str, Json]) -> JsonObject:
    """One event of a stream."""
    head: JsonObject = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": choices, "usage": usage, **more}


def delta_of(delta: JsonObject, finish: str | None = None) -> JsonObject:
    """The choice of an event."""
    return {"index": 0, "delta": delta, "finish_reason": finish}


def chat_shape(
    name: str,
    usage: JsonObject,
    counts: CallUsage,
    *,
    model: str = "some-model",
    habits: Sequence[str] = USUAL,
    first: JsonObject | None = None,
    leaves: Mapping[str, int] | None = None,
    cost_nano_usd: int | None = None,
    **more: Json,
) -> Shape:
    """A shape of this protocol."""
    tier = more.get("service_tier")
    return Shape(
        name,
        "openai",
        model,
        counts,
        chat(usage, **more),
        {habit: chat_stream(habit, usage, first, **more) for habit in habits},
        leaves or {},
        tier if isinstance(tier, str) else None,
        cost_nano_usd,
    )


OPENAI_USAGE: JsonObject = {
    "prompt_tokens": 1_000,
    "completion_tokens": 500,
    "total_tokens": 1_500,
    "prompt_tokens_details": {"cached_tokens": 600, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 300,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 10,
        "rejected_prediction_tokens": 5,
    },
}
OPENAI_TOLD = told(
    input_tokens=1_000,
    output_tokens=500,
    cache_read_tokens=600,
    reasoning_tokens=300,
    input_audio_tokens=0,
    output_audio_tokens=0,
)
OPENAI_LEAVES = {"input_mtok": 400, "cache_read_mtok": 600, "output_mtok": 500}
OPENROUTER_USAGE: JsonObject = {
    "prompt_tokens": 194,
    "completion_tokens": 2,
    "total_tokens": 196,
    "cost": 0.00123456789,
    "is_byok": False,
    "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 100, "audio_tokens": 0, "video_tokens": 0},
    "cost_details": {
        "upstream_inference_cost": None,
        "upstream_inference_prompt_cost": 0.001,
        "upstream_inference_completions_cost": 0.0002,
    },
    "completion_tokens_details": {"reasoning_tokens": 0, "image_tokens": 0, "audio_tokens": 0},
}
OPENROUTER_TOLD = told(
    input_tokens=194,
    output_tokens=2,
    cache_read_tokens=0,
    cache_write_tokens=100,
    reasoning_tokens=0,
    input_audio_tokens=0,
    input_video_tokens=0,
    output_audio_tokens=0,
    output_image_tokens=0,
)

CHAT = (
    chat_shape(
        "OpenAI",
        OPENAI_USAGE,
        OPENAI_TOLD,
        model="gpt-5",
        leaves=OPENAI_LEAVES,
        service_tier="default",
        obfuscation="x",
    ),
    chat_shape("OpenAI, another tier", OPENAI_USAGE, OPENAI_TOLD, service_tier="flex"),
    chat_shape(
        "OpenAI, audio",
        {
            "prompt_tokens": 300,
            "completion_tokens": 120,
            "total_tokens": 420,
            "prompt_tokens_details": {"cached_tokens": 0, "text_tokens": 100, "image_tokens": 0, "audio_tokens": 200},
            "completion_tokens_details": {"reasoning_tokens": 0, "text_tokens": 20, "audio_tokens": 100},
        },
        told(
            input_tokens=300,
            output_tokens=120,
            cache_read_tokens=0,
            reasoning_tokens=0,
            input_audio_tokens=200,
            input_image_tokens=0,
            output_audio_tokens=100,
        ),
        model="gpt-audio",
        leaves={"input_mtok": 100, "input_audio_mtok": 200, "output_mtok": 20, "output_audio_mtok": 100},
    ),
    chat_shape("OpenAI, no usage of a stream", OPENAI_USAGE, OPENAI_TOLD, habits=["none"]),
    chat_shape(
        "Azure",
        OPENAI_USAGE,
        OPENAI_TOLD,
        first={
            "id": "",
            "object": "",
            "created": 0,
            "model": "",
            "choices": [],
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}],
        },
    ),
    chat_shape("OpenRouter", OPENROUTER_USAGE, OPENROUTER_TOLD, cost_nano_usd=1_234_568, provider="Google"),
    chat_shape(
        "OpenRouter, with a key of one's own",
        {
            **OPENROUTER_USAGE,
            "cost": 0.00006,
            "is_byok": True,
            "cost_details": {"upstream_inference_cost": 0.0012},
        },
        OPENROUTER_TOLD,
        cost_nano_usd=1_260_000,
    ),
    chat_shape(
        "DeepSeek",
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 20},
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
        },
        told(input_tokens=100, output_tokens=50, cache_read_tokens=64, reasoning_tokens=20),
        habits=["at the end", "on the finishing chunk", "twice"],
    ),
    chat_shape(
        "Qwen, with its explicit cache",
        {
            "prompt_tokens": 1_300,
            "completion_tokens": 40,
            "total_tokens": 1_340,
            "prompt_tokens_details": {
                "text_tokens": 1_300,
                "cached_tokens": 0,
                "cache_creation_input_tokens": 1_024,
                "cache_creation": {"ephemeral_5m_input_tokens": 1_024},
                "cache_type": "ephemeral",
            },
            "completion_tokens_details": {"text_tokens": 40, "reasoning_tokens": 0},
        },
        told(input_tokens=1_300, output_tokens=40, cache_read_tokens=0, cache_write_tokens=1_024, reasoning_tokens=0),
    ),
    chat_shape(
        "vLLM",
        {"prompt_tokens": 11, "total_tokens": 18, "completion_tokens": 7, "prompt_tokens_details": None},
        told(input_tokens=11, output_tokens=7),
        kv_transfer_params=None,
    ),
    chat_shape(
        "Ollama",
        {"prompt_tokens": 26, "completion_tokens": 9, "total_tokens": 35},
        told(input_tokens=26, output_tokens=9),
        habits=["at the end", "none"],
        system_fingerprint="fp_ollama",
    ),
    chat_shape(
        "xAI, reasoning beside the completion",
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "prompt_tokens_details": {"text_tokens": 32, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 6},
            "completion_tokens_details": {
                "reasoning_tokens": 94,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        told(
            input_tokens=32,
            output_tokens=103,
            cache_read_tokens=6,
            reasoning_tokens=94,
            input_audio_tokens=0,
            input_image_tokens=0,
            output_audio_tokens=0,
        ),
        habits=["at the end", "per chunk"],
    ),
)

# OpenAI's /responses


RESPONSES_USAGE: JsonObject = {
    "input_tokens": 1_000,
    "input_tokens_details": {
        "cached_tokens": 600,
        "cache_write_tokens": 0,
        "cache_write_tokens_details": {"ttl_30m_tokens": 0, "ttl_12h_tokens": 0},
    },
    "output_tokens": 500,
    "output_tokens_details": {"reasoning_tokens": 300},
    "total_tokens": 1_500,
}


def _response(status: str, usage: JsonObject | None, output: list[Json]) -> JsonObject:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "m",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "service_tier": "auto" if usage is None else "priority",
        "usage": usage,
    }


_PART: JsonObject = {"type": "output_text", "text": TEXT, "annotations": []}
_MESSAGE: JsonObject = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [_PART],
}


def _responses_stream() -> bytes:
    place: JsonObject = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[JsonObject] = [
        {"type": "response.created", "response": _response("in_progress", None, [])},
        {"type": "response.output_item.added", "output_index": 0, "item": {**_MESSAGE, "content": []}},
        {"type": "response.content_part.added", **place, "part": {**_PART, "text": ""}},
        *({"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []} for piece in PIECES),
        {"type": "response.output_text.done", **place, "text": TEXT, "logprobs": []},
        {"type": "response.output_item.done", "output_index": 0, "item": _MESSAGE},
        {"type": "response.completed", "response": _response("completed", RESPONSES_USAGE, [_MESSAGE])},
    ]
    return sse(*({**event, "sequence_number": number} for number, event in enumerate(events)))


RESPONSES = (
    Shape(
        "OpenAI Responses",
        "openai",
        "gpt-5-codex",
        told(
            input_tokens=1_000,
            output_tokens=500,
            cache_read_tokens=600,
            cache_write_tokens=0,
            reasoning_tokens=300,
        ),
        _response("completed", RESPONSES_USAGE, [_MESSAGE]),
        {"at the end": _responses_stream()},
        tier="priority",
    ),
)

# Anthropic's /v1/messages


def anthropic(usage: JsonObject) -> JsonObject:
    """The answer in one document."""
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
    content: list[Json] = [{"type": "text", "text": TEXT}]
    return {**head, "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}


def anthropic_stream(habit: str, usage: JsonObject) -> bytes:
    """The answer in events. The first counts the input, and an output of 1 before there is any."""
    start = {**anthropic({**usage, "output_tokens": 1}), "content": [], "stop_reason": None}
    kept = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    last = {key: usage[key] for key in (kept if habit != "output alone" else ("output_tokens",)) if key in usage}
    if "output_tokens_details" in usage:
        last["output_tokens_details"] = usage["output_tokens_details"]
    if habit == "input at the end":
        start["usage"] = {"input_tokens": 0, "output_tokens": 0}
        last = usage
    early = [{**last, "output_tokens": 2}] if habit == "twice, growing" else [last] if habit == "twice" else []
    deltas = [
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": report}
        for report in (*early, last)
    ]
    texts = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in PIECES
    ]
    return sse(
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *texts,
        {"type": "content_block_stop", "index": 0},
        *deltas,
        {"type": "message_stop"},
    )


ANTHROPIC_HABITS = ("at the end", "output alone", "twice", "twice, growing", "input at the end")


def anthropic_shape(name: str, usage: JsonObject, counts: CallUsage, leaves: Mapping[str, int]) -> Shape:
    """A shape of this protocol."""
    streams = {habit: anthropic_stream(habit, usage) for habit in ANTHROPIC_HABITS}
    tier = usage["service_tier"]
    assert isinstance(tier, str)
    return Shape(name, "anthropic", "claude-haiku-4-5", counts, anthropic(usage), streams, leaves, tier)


ANTHROPIC = (
    anthropic_shape(
        "Anthropic, caches of both lifetimes",
        {
            "input_tokens": 15,
            "cache_creation_input_tokens": 1_100,
            "cache_read_input_tokens": 80,
            "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 1_000},
            "output_tokens": 50,
            "service_tier": "standard",
            "inference_geo": "not_available",
        },
        told(
            input_tokens=1_195,
            output_tokens=50,
            cache_read_tokens=80,
            cache_write_tokens=1_100,
            cache_write_1h_tokens=1_000,
        ),
        {
            "input_mtok": 15,
            "cache_read_mtok": 80,
            "cache_write_mtok": 100,
            "cache_write_1h_mtok": 1_000,
            "output_mtok": 50,
        },
    ),
    anthropic_shape(
        "Anthropic, thinking",
        {
            "input_tokens": 200,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 900,
            "output_tokens_details": {"thinking_tokens": 700},
            "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
            "service_tier": "priority",
            "speed": "standard",
        },
        told(
            input_tokens=200,
            output_tokens=900,
            cache_read_tokens=0,
            cache_write_tokens=0,
            reasoning_tokens=700,
            cache_write_1h_tokens=0,
        ),
        {"input_mtok": 200, "output_mtok": 900},
    ),
)

# Gemini's :generateContent


def gemini(text: str, usage: JsonObject | None, finish: str | None = "STOP") -> JsonObject:
    """A document, or one event of a stream."""
    candidate: JsonObject = {"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}
    if finish:
        candidate["finishReason"] = finish
    told_of = {} if usage is None else {"usageMetadata": usage}
    return {"candidates": [candidate], **told_of, "modelVersion": "m", "responseId": "r-1"}


def gemini_stream(habit: str, usage: JsonObject) -> bytes:
    """The answer in events, each with the usage so far. Zeros are left out."""
    early: list[JsonObject | None] = [None, None]
    if habit == "per chunk":
        prompt: JsonObject = {key: usage[key] for key in ("promptTokenCount", "promptTokensDetails") if key in usage}
        early = [prompt, {**prompt, "candidatesTokenCount": 3}]
    elif habit == "on every chunk alike":
        early = [usage, usage]
    events = [gemini(piece, report, None) for piece, report in zip(PIECES[:2], early, strict=True)]
    return sse(*events, gemini(PIECES[2], None if habit == "none" else usage))


def gemini_shape(
    name: str,
    usage: JsonObject,
    counts: CallUsage,
    leaves: Mapping[str, int],
    *,
    model: str = "gemini-2.5-flash",
    habits: Sequence[str] = ("per chunk", "at the end", "on every chunk alike"),
) -> Shape:
    """A shape of this protocol."""
    streams = {habit: gemini_stream(habit, usage) for habit in habits}
    tier = usage.get("serviceTier")
    told_tier = tier if isinstance(tier, str) else None
    return Shape(name, "google", model, counts, gemini(TEXT, usage), streams, leaves, told_tier)


GEMINI = (
    gemini_shape(
        "Gemini, thinking",
        {
            "promptTokenCount": 100,
            "cachedContentTokenCount": 80,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 30,
            "totalTokenCount": 150,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}],
            "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 80}],
            "serviceTier": "standard",
        },
        told(input_tokens=100, output_tokens=50, cache_read_tokens=80, reasoning_tokens=30),
        {"input_mtok": 20, "cache_read_mtok": 80, "output_mtok": 50},
    ),
    gemini_shape(
        "Gemini, audio and the results of tools",
        {
            "promptTokenCount": 1_000,
            "toolUsePromptTokenCount": 50,
            "cachedContentTokenCount": 300,
            "candidatesTokenCount": 10,
            "totalTokenCount": 1_060,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 600},
                {"modality": "AUDIO", "tokenCount": 400},
            ],
            "toolUsePromptTokensDetails": [{"modality": "TEXT", "tokenCount": 50}],
            "cacheTokensDetails": [
                {"modality": "AUDIO", "tokenCount": 100},
                {"modality": "TEXT", "tokenCount": 200},
            ],
            "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 10}],
            "trafficType": "ON_DEMAND",
        },
        told(
            input_tokens=1_050,
            output_tokens=10,
            cache_read_tokens=300,
            input_audio_tokens=400,
            cache_audio_read_tokens=100,
        ),
        {
            "input_mtok": 450,
            "input_audio_mtok": 300,
            "cache_read_mtok": 200,
            "cache_audio_read_mtok": 100,
            "output_mtok": 10,
        },
    ),
    gemini_shape(
        "Gemini, an image",
        {
            "promptTokenCount": 12,
            "candidatesTokenCount": 1_300,
            "totalTokenCount": 1_312,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}],
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1_290}],
        },
        told(input_tokens=12, output_tokens=1_300, output_image_tokens=1_290),
        {"input_mtok": 12, "output_mtok": 10, "output_image_mtok": 1_290},
        model="gemini-2.5-flash-image",
        habits=("at the end", "none"),
    ),
)

SHAPES = (*CHAT, *RESPONSES, *ANTHROPIC, *GEMINI)
