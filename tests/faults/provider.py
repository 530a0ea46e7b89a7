"""A model server that speaks OpenAI's /v1/chat/completions and keeps books of its own, which ours are held against.

It writes a fact when it is asked, and one when an answer is finished and before its last byte leaves: from then on the
call is paid for, whether anybody reads it or not. What a client cut off is a fact, too.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from api.service.server import listen, url_of
from engine.graph import Json, JsonObject
from tests.faults.ledger import Ledger
from tests.faults.serving import serving

PROVIDER, MODEL = "openai", "ledger-1"
PRICES = {f"{PROVIDER}:{MODEL}": {"input_mtok": "1", "output_mtok": "2"}}
"""For `SPANLOOM_PRICES`: 1,000 nano-USD per input token and 2,000 per output token."""

INPUT_NANO_USD, OUTPUT_NANO_USD = 1_000, 2_000
KEY = "sk-ledger-0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says, word by word, or the HTTP status by which it refuses; `tool` calls one instead."""

    words: int = 5
    text: str | None = None
    """Said in one piece instead."""
    tool: tuple[str, JsonObject] | None = None
    refused: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as an answer depends on it."""

    text: str
    """Of the last message."""
    has_tools: bool
    is_first: bool
    """No tool has been called yet in this turn."""


def talkative(asked: Asked) -> Answer:
    """Calls the calculator first where there are tools, and then answers in as many words as the text has letters."""
    if asked.has_tools and asked.is_first:
        return Answer(tool=("calculate", {"expression": "6 * 7"}))
    return Answer(words=3 + len(asked.text) % 7)


@dataclass(slots=True)
class Latency:
    """How long it takes until the first word, and from one word to the next: a seeded share of the longest."""

    random: Random = field(default_factory=lambda: Random(1))
    first_seconds: float = 0.0
    word_seconds: float = 0.0

    async def first(self) -> None:
        """Wait before the first word."""
        await asyncio.sleep(self.random.uniform(0, self.first_seconds))

    async def word(self) -> None:
        """Wait before another."""
        await asyncio.sleep(self.random.uniform(0, self.word_seconds))


@dataclass(slots=True)
class Provider:
    """The server, and how it behaves."""

    ledger: Ledger
    latency: Latency
    answer: Callable[[Asked], Answer] = talkative
    refuses: float = 0.0
    """The share of requests that get a 500 or 429."""
    url: str = ""
    in_flight: int = 0
    most_in_flight: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    @property
    def openai_url(self) -> str:
        """For `OPENAI_BASE_URL`."""
        return f"{self.url}/v1"

    def environment(self, folder: Path) -> dict[str, str]:
        """What makes a service ask here, at the prices above."""
        prices = folder / "prices.json"
        prices.write_text(json.dumps(PRICES))
        return {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": self.openai_url,
            "SPANLOOM_MODEL": f"{PROVIDER}:{MODEL}",
            "SPANLOOM_PRICES": str(prices),
        }

    async def until_asked(self, more: int) -> None:
        """So many more requests have come."""
        wanted = self.asked + more
        while self.asked < wanted:
            self.news.clear()
            await self.news.wait()

    async def complete(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = cast(JsonObject, await request.json())
        call = f"chatcmpl-{next(self._numbers)}"
        asked = _asked(body)
        await self.ledger.write(what="asked", call=call, text=asked.text, stream=bool(body.get("stream")))
        self.asked += 1
        self.news.set()
        answer = self._answer(asked)
        if answer.refused is not None:
            await self.ledger.write(what="refused", call=call, status=answer.refused)
            error = {"message": "not now", "type": "server_error", "code": None}
            return JSONResponse({"error": error}, answer.refused)
        made = _Made(call, answer, prompt_tokens=11 + len(asked.text), completion_tokens=2 * answer.words + 1)
        if body.get("stream"):
            return StreamingResponse(self._stream(made), media_type="text/event-stream")
        with self._counted():
            await self.latency.first()
            await self._finished(made)
        return JSONResponse(made.whole())

    def _answer(self, asked: Asked) -> Answer:
        if self.latency.random.random() < self.refuses:
            return Answer(refused=self.latency.random.choice([429, 500, 503]))
        return self.answer(asked)

    async def _stream(self, made: "_Made") -> AsyncIterator[bytes]:
        with self._counted():
            sent, finished = 0, False
            try:
                await self.latency.first()
                for delta in made.deltas():
                    yield _event(made.chunk(delta))
                    sent += 1
                    await self.latency.word()
                await self._finished(made)
                finished = True
                yield _event(made.chunk({}, finish=made.finish_reason))
                yield _event(made.usage_chunk())
                yield b"data: [DONE]\n\n"
            finally:
                if not finished:
                    self.ledger.write_now(what="cut", call=made.call, words=sent)

    async def _finished(self, made: "_Made") -> None:
        usage = made.usage()
        await asyncio.shield(self.ledger.write(what="finished", call=made.call, **usage))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1


@dataclass(frozen=True, slots=True)
class _Made:
    """One answer, in the shapes of OpenAI's."""

    call: str
    answer: Answer
    prompt_tokens: int
    completion_tokens: int

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.answer.tool else "stop"

    def usage(self) -> dict[str, Json]:
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }

    def deltas(self) -> Iterator[JsonObject]:
        yield {"role": "assistant", "content": ""}
        if self.answer.tool:
            yield {"tool_calls": [{"index": 0, **self._tool_call()}]}
            return
        for piece in self._pieces():
            yield {"content": piece}

    def chunk(self, delta: JsonObject, finish: str | None = None) -> JsonObject:
        return self._document("chat.completion.chunk", [{"index": 0, "delta": delta, "finish_reason": finish}])

    def usage_chunk(self) -> JsonObject:
        return {**self._document("chat.completion.chunk", []), "usage": self.usage()}

    def whole(self) -> JsonObject:
        message: JsonObject = {"role": "assistant", "content": "".join(self._pieces())}
        if self.answer.tool:
            message = {"role": "assistant", "content": None, "tool_calls": [self._tool_call()]}
        choice: JsonObject = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return {**self._document("chat.completion", [choice]), "usage": self.usage()}

    def _pieces(self) -> Iterator[str]:
        if self.answer.text is not None:
            yield self.answer.text
            return
        yield from (f"word{number} " for number in range(self.answer.words))

    def _tool_call(self) -> JsonObject:
        assert self.answer.tool is not None
        name, arguments = self.answer.tool
        function: JsonObject = {"name": name, "arguments": json.dumps(arguments)}
        return {"id": f"call-{self.call}", "type": "function", "function": function}

    def _document(self, kind: str, choices: list[Json]) -> JsonObject:
        return {"id": self.call, "object": kind, "created": 1_795_000_000, "model": MODEL, "choices": choices}


def _asked(body: JsonObject) -> Asked:
    messages = body["messages"]
    assert isinstance(messages, list)
    said = [message for message in messages if isinstance(message, dict)]
    users = [str(message["content"]) for message in said if message["role"] == "user"]
    return Asked(users[-1] if users else "", bool(body.get("tools")), said[-1]["role"] == "user")


def _event(document: JsonObject) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


@asynccontextmanager
async def provider(file: Path, latency: Latency | None = None) -> AsyncIterator[Provider]:
    """The server on loopback, with its ledger in that file."""
    made = Provider(Ledger(file), latency or Latency())
    with listen("127.0.0.1", 0) as listener:
        made.url = url_of(listener)
        app = Starlette(routes=[Route("/v1/chat/completions", made.complete, methods=["POST"])])
        async with serving(app, listener):
            yield made
