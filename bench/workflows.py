"""The reference workflows, each as a LangGraph graph and as a spanloom document with the same answer."""

import asyncio
import itertools
import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import TracerProvider

from bench.harness import Work
from engine.engine import ExecutionEngine
from engine.execution.defaults import BuiltinTemplates, NoConversations, NoDefinitions
from engine.graph import Json, JsonObject
from engine.ledger import Ledger
from engine.models.langchain import LangChainModel
from engine.models.pricing import GenaiPrices
from engine.request import ExecutionRequest
from engine.resources import ChatModel, Passage, Resources, RetrievalQuery, Server
from engine.tools.function import function_tool
from telemetry.sdk.providers import Telemetry, build_telemetry

QUESTION = "How far is it from Rome to Oslo, and how long does it take?"
ANSWER = "It is 2,006 km; a train takes 30 hours."
PASSAGES = ("Rome is in Italy.", "Oslo is in Norway.", "Trains run at 70 km/h on average.")
PROVIDER, MODEL = "openai", "gpt-4o-mini"
USAGE = {"input_tokens": 120, "output_tokens": 20, "total_tokens": 140}


class CountedChat(BaseChatModel):
    """A chat model that first calls two tools, then answers from their results. It reports usage."""

    @property
    def _llm_type(self) -> str:
        return "counted"

    def bind_tools(self, tools: Any, **keywords: Any) -> Any:
        """Bind the tools; the model ignores them because its calls are fixed."""
        return self.bind(tools=tools, **keywords)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **keywords: Any,
    ) -> ChatResult:
        answered = sum(isinstance(message, ToolMessage) for message in messages)
        calls = [] if answered else [_call("distance", "call-1"), _call("duration", "call-2")]
        message = AIMessage(
            content=ANSWER if answered == 2 else "",
            tool_calls=calls,
            usage_metadata=USAGE,
            response_metadata={"model_name": MODEL, "finish_reason": "tool_calls" if calls else "stop"},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, *arguments: Any, **keywords: Any) -> ChatResult:
        return self._generate(*arguments, **keywords)


def _call(name: str, call_id: str) -> Any:
    return {"name": name, "args": {"start": "Rome", "end": "Oslo"}, "id": call_id, "type": "tool_call"}


async def distance(start: str, end: str) -> str:
    """Return the distance between two cities in km."""
    return f"{start} to {end}: 2006 km"


async def duration(start: str, end: str) -> str:
    """Return the duration of a train journey between two cities in hours."""
    return f"{start} to {end}: 30 h"


class _Counted(TypedDict):
    n: int


class _Listed(TypedDict):
    items: Annotated[list[int], operator.add]


class _Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    passages: list[str]


async def _add_one(state: _Counted) -> _Counted:
    return {"n": state["n"] + 1}


async def _nothing(state: Any) -> dict[str, Any]:
    return {}


def raw_chain(length: int) -> StateGraph[Any]:
    """Build a chain of async nodes."""
    graph = StateGraph(_Counted)
    names = [f"n{index}" for index in range(length)]
    for name in names:
        graph.add_node(name, _add_one)
    for source, target in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(source, target)
    return graph


def raw_loop(rounds: int) -> StateGraph[Any]:
    """Build a loop of a deciding head and a body that runs `rounds` times."""
    graph = StateGraph(_Counted)
    graph.add_node("head", _nothing)
    graph.add_node("body", _add_one)
    graph.add_edge(START, "head")
    graph.add_conditional_edges("head", lambda state: "body" if state["n"] < rounds else END)
    graph.add_edge("body", "head")
    return graph


def raw_fan(width: int) -> StateGraph[Any]:
    """Build a source, parallel nodes and a join."""
    graph = StateGraph(_Listed)

    async def add(state: _Listed) -> _Listed:
        return {"items": [1]}

    graph.add_node("source", _nothing)
    graph.add_node("join", _nothing)
    graph.add_edge(START, "source")
    for name in (f"n{index}" for index in range(width)):
        graph.add_node(name, add)
        graph.add_edge("source", name)
        graph.add_edge(name, "join")
    graph.add_edge("join", END)
    return graph


def raw_chat() -> StateGraph[Any]:
    """Build a chat: memory, retrieval, model, two parallel tools, model."""
    model = CountedChat()
    tools = {each.name: each for each in (tool(distance), tool(duration))}
    bound = model.bind_tools(list(tools.values()))

    async def memory(state: _Chat) -> dict[str, Any]:
        return {"messages": state["messages"][-10:]}

    async def retrieval(state: _Chat) -> dict[str, Any]:
        return {"passages": list(PASSAGES)}

    async def ask(state: _Chat) -> dict[str, Any]:
        question = HumanMessage("\n".join(state["passages"]) + "\n" + QUESTION)
        return {"messages": [await bound.ainvoke([question, *state["messages"][1:]])]}

    async def run_tools(state: _Chat) -> dict[str, Any]:
        message = state["messages"][-1]
        assert isinstance(message, AIMessage)
        return {
            "messages": list(await asyncio.gather(*(tools[call["name"]].ainvoke(call) for call in message.tool_calls)))
        }

    graph = StateGraph(_Chat)
    for name, node in {"memory": memory, "retrieval": retrieval, "ask": ask, "tools": run_tools, "reply": ask}.items():
        graph.add_node(name, node)
    for source, target in zip(
        [START, "memory", "retrieval", "ask", "tools", "reply"],
        ["memory", "retrieval", "ask", "tools", "reply", END],
        strict=True,
    ):
        graph.add_edge(source, target)
    return graph


RAW = {
    "chain10": (raw_chain(10), {"n": 0}),
    "loop10": (raw_loop(10), {"n": 0}),
    "fan10": (raw_fan(10), {"items": []}),
    "chat": (raw_chat(), {"messages": [("user", QUESTION)], "passages": []}),
}


def raw_answer(state: dict[str, Any]) -> str:
    """Return the answer of a raw graph in the format of our answers."""
    if "messages" in state:
        return str(state["messages"][-1].content)
    return str(state["n"] if "n" in state else sum(state["items"]))


def _variable(id_: str, operation: str, **config: Json) -> JsonObject:
    return {"id": id_, "type": "variable", "config": {"operation": operation, "variable_name": "n", **config}}


def _graph(nodes: list[JsonObject], edges: list[JsonObject], **more: Json) -> JsonObject:
    both: list[JsonObject] = [{"id": "start", "type": "start"}, *nodes]
    return {"schema": "spanloom/1", "name": "bench", "nodes": [*both], "edges": [*edges], "input_schema": {}, **more}


def _edges(*ids: str) -> list[JsonObject]:
    return [{"source": source, "target": target} for source, target in itertools.pairwise(ids)]


def _end(response: str) -> JsonObject:
    return {"id": "end", "type": "end", "config": {"response": response}}


def chain(length: int) -> JsonObject:
    """Return the document equivalent to `raw_chain`."""
    ids = [f"n{index}" for index in range(length)]
    nodes = [*(_variable(id_, "increment") for id_ in ids), _end("{{ variables.n }}")]
    return _graph(nodes, _edges("start", *ids, "end"), variables={"n": 0})


def loop(rounds: int) -> JsonObject:
    """Return the document equivalent to `raw_loop`."""
    head: JsonObject = {
        "id": "head",
        "type": "loop",
        "config": {"max_iterations": 2 * rounds, "condition": f"variables.n < {rounds}"},
    }
    edges: list[JsonObject] = [
        {"source": "start", "target": "head"},
        {"source": "head", "target": "body", "when": "continue"},
        {"source": "head", "target": "end", "when": "exit"},
        {"source": "body", "target": "head"},
    ]
    nodes = [head, _variable("body", "increment"), _end("{{ variables.n }}")]
    return _graph(nodes, edges, variables={"n": 0})


def fan(width: int) -> JsonObject:
    """Return the document equivalent to `raw_fan`."""
    ids = [f"n{index}" for index in range(width)]
    nodes = [
        _variable("source", "get"),
        *(_variable(id_, "increment") for id_ in ids),
        _variable("join", "get"),
        _end("{{ variables.n }}"),
    ]
    edges = [*_edges("start", "source"), *(edge for id_ in ids for edge in _edges("source", id_, "join"))]
    return _graph(nodes, [*edges, *_edges("join", "end")], variables={"n": 0})


def chat() -> JsonObject:
    """Return the document equivalent to `raw_chat`."""
    nodes: list[JsonObject] = [
        {"id": "memory", "type": "memory", "config": {"memory_window": 10, "strategy": "truncate"}},
        {"id": "retrieval", "type": "retrieval", "config": {"retriever": "fixed"}},
        {"id": "ask", "type": "model"},
        {"id": "tools", "type": "tools", "config": {"allowed_tools": ["distance", "duration"]}},
        {"id": "reply", "type": "model"},
        {"id": "end", "type": "end"},
    ]
    edges: list[JsonObject] = [
        *_edges("start", "memory", "retrieval", "ask"),
        {"source": "ask", "target": "tools", "when": "tool_calls"},
        {"source": "ask", "target": "end", "when": "final"},
        *_edges("tools", "reply", "end"),
    ]
    return _graph(nodes, edges)


OURS = {"chain10": chain(10), "loop10": loop(10), "fan10": fan(10), "chat": chat()}
SPANS = {"chain10": 13, "loop10": 24, "fan10": 15, "chat": 13}
"""The number of spans of one execution: root, nodes and calls."""


class _Fixed:
    """A retriever that always returns the same passages."""

    options_schema: JsonObject = {}

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        return [Passage(f"p{index}", "facts", text, 1.0) for index, text in enumerate(PASSAGES)]


class _OneModel:
    """The models of a server with one model."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    def default(self) -> tuple[str, str]:
        return self._model.provider, self._model.model

    def get(self, provider: str, model: str) -> ChatModel:
        return self._model

    def problem(self, provider: str, model: str) -> str | None:
        return None

    def server(self, provider: str) -> Server:
        return Server()


def resources(model: ChatModel | None = None) -> Resources:
    """Return the resources of our workflows: the same chat model and tools as the raw graphs, and real prices."""
    tools = (function_tool(distance, effect="read"), function_tool(duration, effect="read"))
    return Resources(
        models=_OneModel(model or LangChainModel(CountedChat(), provider=PROVIDER, model=MODEL)),
        prices=GenaiPrices(),
        tools={each.spec.name: each for each in tools},
        retrievers={"fixed": _Fixed()},
        templates=BuiltinTemplates(),
        definitions=NoDefinitions(),
        conversations=NoConversations(),
    )


class Keep(SpanProcessor):
    """A span processor that keeps and counts the spans of consecutive executions."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)

    def take(self) -> int:
        """Return the number of spans that have ended since the last call."""
        number = len(self.spans)
        self.spans.clear()
        return number


def request(graph: JsonObject) -> ExecutionRequest:
    """Return the request that runs a graph on the question."""
    return ExecutionRequest.model_validate(
        {"source": {"kind": "graph", "graph": graph}, "input": {"message": QUESTION}}
    )


@asynccontextmanager
async def engine(
    telemetry: Telemetry | None = None, ledger: Ledger | None = None, model: ChatModel | None = None
) -> AsyncIterator[ExecutionEngine]:
    """Open our engine with these resources and the bookkeeper's OpenTelemetry providers."""
    telemetry = telemetry or build_telemetry()
    tracers: TracerProvider = telemetry.tracer_provider
    async with ExecutionEngine(
        resources(model), ledger=ledger, tracer_provider=tracers, logger_provider=telemetry.logger_provider
    ) as made:
        yield made


async def run_ours(made: ExecutionEngine, wanted: ExecutionRequest, keep: Keep | None = None) -> Work:
    """Run one execution with our engine; its spans are counted only if `keep` is given."""
    result = await made.execute(wanted)
    assert result.status == "completed", result
    assert result.cost_nano_usd == result.model_calls * 30_000, result
    return Work(result.response, keep.take() if keep else 0)


NAMES = tuple(OURS)
