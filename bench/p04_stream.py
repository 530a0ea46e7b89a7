"""P4 measures the CPU time per streamed token, and the time to the first token."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.graph import END, START, StateGraph

from bench.harness import Effort, Goal, Measured, Report, Row, Runner, Variant, Work, compare, one_by_one
from bench.workflows import MODEL, PROVIDER, engine, request
from engine.events import EventType
from engine.graph import JsonObject
from engine.resources import ModelReply, ModelRequest
from engine.usage import Usage

SHORT, LONG = 100, 2_100
"""Tokens per stream. The difference between both streams excludes the cost of starting and ending an execution."""

EXECUTIONS: dict[Effort, int] = {"smoke": 1, "short": 5, "full": 20}
WORD = "word "
GRAPH: JsonObject = {
    "schema": "spanloom/1",
    "name": "bench",
    "nodes": [
        {"id": "start", "type": "start"},
        {"id": "answer", "type": "model", "stream": True},
        {"id": "end", "type": "end"},
    ],
    "edges": [{"source": "start", "target": "answer"}, {"source": "answer", "target": "end"}],
}


class Words:
    """A chat model of spanloom that answers with this number of words."""

    provider, model, server_address = PROVIDER, MODEL, None

    def __init__(self, words: int) -> None:
        self._words = words

    async def invoke(self, request: ModelRequest) -> ModelReply:
        """Return all words at once."""
        usage = Usage(input_tokens=10, output_tokens=self._words, total_tokens=10 + self._words)
        return ModelReply(text=WORD * self._words, usage=usage)

    async def stream(self, request: ModelRequest) -> AsyncIterator[str | ModelReply]:
        """Yield the words one by one."""
        for _ in range(self._words):
            yield WORD
        yield await self.invoke(request)

    def estimate_input_tokens(self, request: ModelRequest) -> int:
        """Return any number: no budget uses it."""
        return 10


class ChatWords(BaseChatModel):
    """A LangChain chat model that streams the same words."""

    words: int

    @property
    def _llm_type(self) -> str:
        return "words"

    def _generate(self, *arguments: Any, **keywords: Any) -> ChatResult:
        raise AssertionError("this model is only streamed")

    async def _astream(self, *arguments: Any, **keywords: Any) -> AsyncIterator[ChatGenerationChunk]:
        for _ in range(self.words):
            yield ChatGenerationChunk(message=AIMessageChunk(content=WORD))


class _State(TypedDict):
    text: str


async def _timed(pieces: AsyncIterator[str]) -> Work:
    """Read a stream to its end and measure the time to the first token."""
    began = time.perf_counter()
    first, words = 0.0, 0
    async for piece in pieces:
        if not words:
            first = time.perf_counter() - began
        assert piece == WORD
        words += 1
    return Work(str(words), figures={"first_us": first * 1e6})


@asynccontextmanager
async def _our_generator(words: int) -> AsyncIterator[Runner]:
    async def pieces() -> AsyncIterator[str]:
        async for piece in Words(words).stream(ModelRequest("", [])):
            if isinstance(piece, str):
                yield piece

    yield partial(one_by_one, lambda: _timed(pieces()))


@asynccontextmanager
async def _ours(words: int) -> AsyncIterator[Runner]:
    wanted = request(GRAPH)
    async with engine(model=Words(words)) as made:

        async def pieces() -> AsyncIterator[str]:
            async for event in made.stream(wanted):
                if event.type is EventType.TOKEN:
                    yield str(event.data["text"])
                assert event.type is not EventType.GAP

        yield partial(one_by_one, lambda: _timed(pieces()))


@asynccontextmanager
async def _chat_generator(words: int) -> AsyncIterator[Runner]:
    model = ChatWords(words=words)

    async def pieces() -> AsyncIterator[str]:
        async for chunk in model.astream("hello"):
            if chunk.content:
                yield str(chunk.content)

    yield partial(one_by_one, lambda: _timed(pieces()))


@asynccontextmanager
async def _langgraph(words: int) -> AsyncIterator[Runner]:
    model = ChatWords(words=words)

    async def answer(state: _State) -> _State:
        return {"text": "".join([str(chunk.content) async for chunk in model.astream("hello")])}

    graph = StateGraph(_State)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    app = graph.compile()

    async def pieces() -> AsyncIterator[str]:
        async for chunk, _ in app.astream({"text": ""}, stream_mode="messages"):
            assert isinstance(chunk, AIMessageChunk)
            if chunk.content:
                yield str(chunk.content)

    yield partial(one_by_one, lambda: _timed(pieces()))


_KINDS = {"our generator": _our_generator, "ours": _ours, "chat generator": _chat_generator, "LangGraph": _langgraph}
VARIANTS: dict[str, Variant] = {
    f"{kind} {words}": partial(variant, words) for kind, variant in _KINDS.items() for words in (SHORT, LONG)
}


def measure(effort: Effort) -> Report:
    """Measure the CPU time that each engine adds per token, and the time to the first token."""
    found = compare("p04_stream", VARIANTS, executions=EXECUTIONS[effort], effort=effort)
    for name, its in found.items():
        assert its.work.answer == name.rpartition(" ")[2], f"{name} gave {its.work.answer} tokens"
    rows: list[Row] = [
        {
            "way": way,
            "generator µs/token": _per_token(found, generator),
            "added µs/token": _per_token(found, way) - _per_token(found, generator),
            "first token ms": found[f"{way} {SHORT}"].figure("first_us") / 1e3,
        }
        for way, generator in (("ours", "our generator"), ("LangGraph", "chat generator"))
    ]
    goals = [
        Goal("added CPU per token, µs", float(rows[0]["added µs/token"]), 3.0),
        Goal("first token, ms", float(rows[0]["first token ms"]), 0.7),
    ]
    return Report("P4", "streaming: one token, and the first one", rows, goals)


def _per_token(found: dict[str, Measured], kind: str) -> float:
    return (found[f"{kind} {LONG}"].cpu_us - found[f"{kind} {SHORT}"].cpu_us) / (LONG - SHORT)
