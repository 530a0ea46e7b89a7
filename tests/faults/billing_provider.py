"""A model server that bills, and keeps a ledger of its own. It speaks the protocols of OpenAI, Anthropic and Gemini.

What it does with a request is decided by chance: it answers with one of the habits of streams, refuses, filters, says
nothing, breaks off, or waits to be left. The ledger says what each call is billed for, and what of that was reported.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from random import Random

from genai_prices import data_snapshot

from engine.graph import Json, JsonObject
from tests.engine.models import recorded_shapes as shapes
from tests.engine.models.wire_server import sse

KEY = "sk-billing-0123456789abcdef"
MODELS = {"openai": "gpt-5", "anthropic": "claude-haiku-4-5", "google": "gemini-2.5-flash"}
WAITING = "I am still"
"""What a stream says before it waits to be left."""

HABITS = {
    "openai": (*shapes.USUAL, "none"),
    "anthropic": shapes.ANTHROPIC_HABITS,
    "google": ("per chunk", "at the end", "on every chunk alike", "none"),
}
OUTCOMES = {
    "answered": 50,
    "refused": 10,
    "filtered": 8,
    "empty": 8,
    "broken off": 10,
    "broken off after the usage": 7,
    "left": 7,
}
"""How often each is chosen, in a hundred calls."""
REFUSALS = (429, 503, 400, 401)


@dataclass(frozen=True, slots=True)
class Billed:
    """One call in the ledger. `leaves` are the tokens of each price; `is_told`: they were reported."""

    key: str
    protocol: str
    outcome: str
    leaves: Mapping[str, int]
    tokens: Mapping[str, int]
    is_told: bool
    is_input_told: bool
    """Anthropic reports the input at the beginning."""
    max_tokens: int
    is_streamed: bool

    @property
    def is_free(self) -> bool:
        """Nothing was billed."""
        return self.outcome == "refused"

    @property
    def nano_usd(self) -> int:
        """The bill."""
        usd = sum((rate(self.protocol, key) * tokens for key, tokens in self.leaves.items()), Decimal(0))
        return int((usd * 1_000).to_integral_value(ROUND_HALF_EVEN))


def rate(protocol: str, key: str) -> Decimal:
    """USD per million tokens of one price."""
    snapshot = data_snapshot.get_snapshot()
    _, model = snapshot.find_provider_model(MODELS[protocol], None, protocol, None)
    found = getattr(model.get_prices(datetime.now(UTC)), key)
    assert isinstance(found, Decimal)
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    protocol: str
    key: str
    is_streamed: bool
    max_tokens: int
    may_call: bool


@dataclass(slots=True)
class BillingProvider:
    """The server and its ledger."""

    seed: str
    piece_seconds: float = 0.0
    """How long it takes for each piece of a stream, twice as long at most for the first."""
    url: str = ""
    ledger: list[Billed] = field(default_factory=list)
    waiting: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    """Set when a call of this key has been answered as far as it will be."""
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while a call is being answered."""
    _open: int = 0
    _asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def addresses(self) -> dict[str, str]:
        """The address by provider."""
        return {"openai": f"{self.url}/v1", "anthropic": self.url, "google": self.url}

    def is_streaming(self, key: str) -> bool:
        """Whether the newest call of this key is streamed."""
        return [call.is_streamed for call in self.ledger if call.key == key][-1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._answer(await _read(reader), reader, writer)
        writer.close()

    async def close(self) -> None:
        """End all answers."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving)

    async def _answer(self, asked: _Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._asked[asked.key] += 1
        chance = Random(f"{self.seed} {asked.key} {self._asked[asked.key]}")
        outcome = chance.choices(list(OUTCOMES), list(OUTCOMES.values()))[0]
        answer = _ANSWERS[asked.protocol](chance, asked, outcome)
        self.ledger.append(answer.billed)
        with self._answering():
            await self._say(asked, answer, reader, writer, chance)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        self._open += 1
        self.is_asked.set()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self.is_asked.clear()

    async def _say(
        self,
        asked: _Asked,
        answer: "_Answer",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        chance: Random,
    ) -> None:
        outcome = answer.billed.outcome
        await asyncio.sleep(chance.uniform(0, 2 * self.piece_seconds))
        if outcome == "refused":
            await _send(writer, chance.choice(REFUSALS), b'{"error": {"message": "not now"}}')
        elif not asked.is_streamed and outcome in ("broken off", "broken off after the usage", "left"):
            await self._leave(asked, outcome, reader, writer)
        elif asked.is_streamed:
            await self._stream(asked, answer, reader, writer)
        else:
            await _send(writer, 200, json.dumps(answer.whole).encode())

    async def _leave(
        self, asked: _Asked, outcome: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Break off in the middle of a document, or wait to be left without a word."""
        if outcome == "left":
            self.waiting[asked.key].set()
            await reader.read()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n{")
            await writer.drain()

    async def _stream(
        self, asked: _Asked, answer: "_Answer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n")
        writer.write(b"connection: close\r\n\r\n")
        for event in answer.events:
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await writer.drain()
            await asyncio.sleep(self.piece_seconds)
        if answer.billed.outcome == "left":
            self.waiting[asked.key].set()
            await reader.read()
        elif not answer.billed.outcome.startswith("broken off"):
            writer.write(b"0\r\n\r\n")
        await writer.drain()


@dataclass(frozen=True, slots=True)
class _Answer:
    billed: Billed
    whole: JsonObject
    events: Sequence[bytes]


@dataclass(slots=True)
class _Draft:
    """An answer in the making: the events of a whole stream, and how many of them are text or come before."""

    whole: JsonObject
    events: list[bytes]
    leaves: dict[str, int]
    tokens: dict[str, int]
    error: bytes
    waiting: bytes
    """A piece of text."""
    texts: int
    last: int
    """Events up to and with the last report."""
    habit: str


def _drafted(protocol: str, draft: _Draft, chance: Random, asked: _Asked, outcome: str) -> _Answer:
    """Cut the answer as the outcome wants it, and say what was reported until then."""
    is_reported_early = draft.habit == "on every chunk alike"
    is_told, events = draft.habit != "none", draft.events
    if outcome == "refused" or (not asked.is_streamed and outcome.startswith(("broken", "left"))):
        is_told, events = False, []
    elif not asked.is_streamed:
        is_told = True
    elif outcome == "broken off after the usage":
        events = [*events[: draft.last], *([draft.error] if chance.random() < 0.5 else [])]
    elif outcome == "broken off":
        is_told = is_reported_early
        events = [*events[: draft.texts], *([draft.error] if chance.random() < 0.5 else [])]
    elif outcome == "left":
        is_told = is_reported_early
        events = [*events[: draft.texts], draft.waiting]
    starts = protocol == "anthropic" and draft.habit != "input at the end" and bool(events) and asked.is_streamed
    billed = Billed(
        asked.key,
        protocol,
        outcome,
        draft.leaves,
        draft.tokens,
        is_told,
        is_told or starts,
        asked.max_tokens,
        asked.is_streamed,
    )
    return _Answer(billed, draft.whole, events)


def _openai(chance: Random, asked: _Asked, outcome: str) -> _Answer:
    plain, cached, written = chance.randint(1, 400), chance.choice([0, chance.randint(1, 900)]), chance.randint(1, 200)
    reasoning = chance.randint(0, written)
    usage: JsonObject = {
        "prompt_tokens": plain + cached,
        "completion_tokens": written,
        "total_tokens": plain + cached + written,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
    }
    habits = [habit for habit in HABITS["openai"] if habit != "per chunk" or not outcome.startswith(("broken", "left"))]
    habit = chance.choice(habits)
    if outcome == "broken off after the usage":
        habit = "twice"
    whole = shapes.chat(usage)
    events = _split(shapes.chat_stream(habit, usage))
    texts = 3
    if asked.may_call and outcome == "answered":
        whole, events = _calling(whole, events)
    elif outcome == "filtered":
        whole, events = _replaced(whole, events, '"finish_reason": "stop"', '"finish_reason": "content_filter"')
    elif outcome == "empty":
        whole, events = _without_text(whole, events)
    return _drafted(
        "openai",
        _Draft(
            whole,
            events,
            {"input_mtok": plain, "cache_read_mtok": cached, "output_mtok": written},
            {"input": plain + cached, "output": written, "cache_read": cached, "reasoning": reasoning},
            b'data: {"error": {"message": "the engine is overloaded", "type": "server_error", "code": null}}\n\n',
            sse(shapes.chunk([shapes.delta_of({"content": WAITING})], None, {})),
            texts,
            len(events) - 1,
            habit,
        ),
        chance,
        asked,
        outcome,
    )


def _calling(whole: JsonObject, events: list[bytes]) -> tuple[JsonObject, list[bytes]]:
    """The answer with a call of the calculator in the place of its text."""
    called: JsonObject = {
        "id": "call-1",
        "type": "function",
        "function": {"name": "calculate", "arguments": '{"expression": "6 * 7"}'},
    }
    message: JsonObject = {"role": "assistant", "content": None, "tool_calls": [called]}
    choices: list[Json] = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    whole = {**whole, "choices": choices}
    delta: JsonObject = {"tool_calls": [{"index": 0, **called}]}
    calls = sse(shapes.chunk([shapes.delta_of(delta)], None, {}))
    return whole, [calls, *events[3:]]


def _anthropic(chance: Random, asked: _Asked, outcome: str) -> _Answer:
    plain, read = chance.randint(1, 400), chance.choice([0, chance.randint(1, 900)])
    short, long = chance.choice([(0, 0), (chance.randint(1, 500), 0), (chance.randint(0, 90), chance.randint(1, 500))])
    written = chance.randint(2, 200)
    usage: JsonObject = {
        "input_tokens": plain,
        "cache_creation_input_tokens": short + long,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "output_tokens": written,
        "service_tier": "standard",
    }
    habit = chance.choice(HABITS["anthropic"])
    whole = shapes.anthropic(usage)
    events = _split(shapes.anthropic_stream(habit, usage))
    if outcome == "filtered":
        whole, events = _replaced(whole, events, '"stop_reason": "end_turn"', '"stop_reason": "refusal"')
    elif outcome == "empty":
        whole, events = {**whole, "content": []}, [event for event in events if b"content_block_delta" not in event]
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    waiting = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": WAITING}}
    leaves = {"input_mtok": plain, "cache_read_mtok": read, "cache_write_mtok": short, "cache_write_1h_mtok": long}
    tokens = {"input": plain + read + short + long, "output": written, "cache_read": read, "cache_write": short + long}
    draft = _Draft(
        whole,
        events,
        {**leaves, "output_mtok": written},
        tokens,
        sse(overloaded),
        sse(waiting),
        6,
        len(events) - 1,
        habit,
    )
    return _drafted("anthropic", draft, chance, asked, outcome)


def _gemini(chance: Random, asked: _Asked, outcome: str) -> _Answer:
    text, audio, cached = chance.randint(1, 400), chance.choice([0, 200]), chance.choice([0, 150])
    cached_audio = min(audio, chance.choice([0, 50])) if cached else 0
    written, thoughts = chance.randint(1, 100), chance.choice([0, chance.randint(1, 100)])
    if outcome == "filtered":
        written, thoughts = 0, 0
    text = max(text, cached)
    usage: JsonObject = {
        "promptTokenCount": text + audio,
        "cachedContentTokenCount": cached,
        "candidatesTokenCount": written,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": text + audio + written + thoughts,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": text},
            {"modality": "AUDIO", "tokenCount": audio},
        ],
        "cacheTokensDetails": [
            {"modality": "TEXT", "tokenCount": cached - cached_audio},
            {"modality": "AUDIO", "tokenCount": cached_audio},
        ],
    }
    habits = [habit for habit in HABITS["google"] if habit != "per chunk" or not outcome.startswith(("broken", "left"))]
    habit = "at the end" if outcome == "broken off after the usage" else chance.choice(habits)
    whole, events = shapes.gemini(shapes.TEXT, usage), _split(shapes.gemini_stream(habit, usage))
    if outcome == "filtered":
        blocked: JsonObject = {key: value for key, value in usage.items() if value}
        whole = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": blocked, "modelVersion": "m"}
        habit, events = "at the end", [sse(whole)]
    elif outcome == "empty":
        whole, events = shapes.gemini("", usage), _split(shapes.gemini_stream(habit, usage).replace(b"Hel", b""))
        events = [event.replace(b'"lo "', b'""').replace(b'"there"', b'""') for event in events]
    error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    draft = _Draft(
        whole,
        events,
        {
            "input_mtok": text - (cached - cached_audio),
            "input_audio_mtok": audio - cached_audio,
            "cache_read_mtok": cached - cached_audio,
            "cache_audio_read_mtok": cached_audio,
            "output_mtok": written + thoughts,
        },
        {"input": text + audio, "output": written + thoughts, "cache_read": cached, "reasoning": thoughts},
        sse(error),
        sse(shapes.gemini(WAITING, None, None)),
        2,
        len(events),
        habit,
    )
    return _drafted("google", draft, chance, asked, outcome)


_ANSWERS: Mapping[str, Callable[[Random, _Asked, str], _Answer]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "google": _gemini,
}


def _split(stream: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in stream.split(b"\n\n") if event]


def _replaced(whole: JsonObject, events: list[bytes], old: str, new: str) -> tuple[JsonObject, list[bytes]]:
    replaced = json.loads(json.dumps(whole).replace(old, new))
    return replaced, [event.replace(old.encode(), new.encode()) for event in events]


def _without_text(whole: JsonObject, events: list[bytes]) -> tuple[JsonObject, list[bytes]]:
    """The answer without a word."""
    whole = json.loads(json.dumps(whole).replace(json.dumps(shapes.TEXT), '""'))
    for piece in shapes.PIECES:
        events = [event.replace(f'"content": {json.dumps(piece)}'.encode(), b'"content": ""') for event in events]
    return whole, events


async def _read(reader: asyncio.StreamReader) -> _Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    length = next(int(line.partition(":")[2]) for line in head if line.lower().startswith("content-length"))
    path, body = head[0].split()[1].partition("?")[0], json.loads(await reader.readexactly(length))
    if path.endswith("enerateContent"):
        said = body["contents"][-1]["parts"][0].get("text", "")
        limit = body["generationConfig"]["maxOutputTokens"]
        return _Asked("google", said, "streamGenerateContent" in path, limit, may_call=False)
    said = next(message["content"] for message in reversed(body["messages"]) if message["role"] == "user")
    text = said if isinstance(said, str) else said[0]["text"]
    protocol = "anthropic" if path.endswith("/messages") else "openai"
    may_call = bool(body.get("tools")) and body["messages"][-1]["role"] == "user"
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    return _Asked(protocol, text, bool(body.get("stream")), limit, may_call)


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    writer.write(head.encode() + b"connection: close\r\n\r\n" + body)
    await writer.drain()


@asynccontextmanager
async def billing_provider(seed: str, piece_seconds: float = 0.0) -> AsyncIterator[BillingProvider]:
    """The server on loopback until the block ends."""
    made = BillingProvider(seed, piece_seconds)
    serving = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    host, port = serving.sockets[0].getsockname()
    made.url = f"http://{host}:{port}"
    try:
        yield made
    finally:
        serving.close()
        await made.close()
