"""What nodes reach the world through: models, tools, retrievers, prices, and the stored workflows and conversations.

Protocols for what users plug in, and the plain records that pass through them.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol, TypedDict, cast

from engine.graph import Json, JsonObject
from engine.usage import Usage


class ToolCall(TypedDict):
    """A call the model asked for."""

    id: str
    name: str
    arguments: JsonObject


class Message(TypedDict, total=False):
    """One message of an execution: `role` user, assistant or tool; never system (that text comes from node configs)."""

    id: str
    role: Literal["user", "assistant", "tool"]
    content: str | list[JsonObject]
    tool_calls: list[ToolCall]
    tool_call_id: str
    is_error: bool
    node_id: str


def as_json(record: Mapping[str, object]) -> JsonObject:
    """A message or call as plain JSON, which it is."""
    return cast("JsonObject", dict(record))


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The settings of one call, exactly as the node gives them."""

    max_tokens: int = 1024
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_schema: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What a model is told about a tool; `parameters` is a JSON Schema object."""

    name: str
    description: str
    parameters: JsonObject


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One provider call: a system text, the messages behind it, and the tools that are bound."""

    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    settings: ModelSettings = ModelSettings()


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A provider's whole answer. `usage` null: the provider did not report it (never 0 in its place)."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    data: Json = None
    """The parsed answer where a `response_schema` was asked for."""
    finish_reason: str | None = None
    model: str | None = None
    response_id: str | None = None
    usage: Usage | None = None


class ChatModel(Protocol):
    """One model of one provider. Errors are `ModelFailure`, whose docstring lists the codes."""

    @property
    def provider(self) -> str:
        """`gen_ai.provider.name` as the conventions write it: openai, anthropic, gcp.gemini, offline."""

    @property
    def model(self) -> str:
        """The model's name as the provider knows it."""

    @property
    def server_address(self) -> str | None:
        """Host of the provider's endpoint; null if there is none."""

    async def invoke(self, request: ModelRequest) -> ModelReply:
        """The answer in one piece. One provider call; no retries inside."""

    def stream(self, request: ModelRequest) -> AsyncIterator[str | ModelReply]:
        """Text as it arrives, then the whole reply as the last item."""

    def estimate_input_tokens(self, request: ModelRequest) -> int:
        """An upper estimate, for budgets."""


class Models(Protocol):
    """The models that can be called here."""

    def default(self) -> tuple[str, str] | None:
        """Provider and model for nodes that name none; null if there is none."""

    def get(self, provider: str, model: str) -> ChatModel:
        """Raises `MissingExtra` (with the install command) or `ResourceMissing`. Cheap: clients are shared."""

    def problem(self, provider: str, model: str) -> str | None:
        """Why the model cannot be called here, as a sentence with what to do; null if it can."""


class CostSource(StrEnum):
    """Values of `workflow.cost.source`: where a call's price came from."""

    PRICE_TABLE = "price_table"
    OVERRIDE = "override"
    DEMO = "demo"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Price:
    """The cost of one call in nano-USD; null with source `none` where no price or no usage is known."""

    nano_usd: int | None
    source: CostSource
    version: str | None = None


class Prices(Protocol):
    """What a model call costs."""

    def price(self, provider: str, model: str, usage: Usage | None, at: datetime) -> Price:
        """The cost of a call that was made at `at`."""

    def upper_nano_usd(self, provider: str, model: str, input_tokens: int, output_tokens: int) -> int | None:
        """The most a call of this size can cost; null if the model has no price."""


Effect = Literal["read", "idempotent", "write"]


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool is told beside its arguments. The key is the same on every attempt and after every crash."""

    execution_id: str
    owner: str
    idempotency_key: str
    deadline_seconds: float
    search: "Search | None" = None
    """Asks the retriever that the execution's graph names, with its options; null if the graph has none."""


class Tool(Protocol):
    """Something a model may call."""

    @property
    def spec(self) -> ToolSpec:
        """Name, description, JSON Schema of the arguments."""

    @property
    def effect(self) -> Effect:
        """`read` and `idempotent` tools may be retried, `write` tools are called once."""

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        """Run with arguments that fit the schema. Any exception is a failed call."""


@dataclass(frozen=True, slots=True)
class RetrievalQuery:
    """One question to a retriever. `document_ids` null means all."""

    text: str
    owner: str
    max_documents: int = 5
    score_threshold: float | None = None
    filter: JsonObject = field(default_factory=dict)
    document_ids: tuple[str, ...] | None = None
    options: JsonObject = field(default_factory=dict)
    any_folder: bool = False


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text a retriever found; `score` 0..1, best first."""

    id: str
    source: str
    text: str
    score: float


class Retriever(Protocol):
    """A source of passages."""

    @property
    def options_schema(self) -> JsonObject:
        """JSON Schema of `options`."""

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        """Best first. Raises `ResourceMissing` if the source cannot be read; an outage is never an empty list."""


class Search(Protocol):
    """A bound search: what the tool `search_docs` asks."""

    async def __call__(self, query: str, max_documents: int) -> list[Passage]:
        """Best first."""


@dataclass(frozen=True, slots=True)
class Template:
    """One immutable version of a template: a graph with parameters, as stored."""

    id: str
    key: str
    version: int
    name: str
    description: str
    category: str
    tags: tuple[str, ...]
    parameters: JsonObject
    defaults: JsonObject
    graph: JsonObject
    required_tools: tuple[str, ...] = ()
    required_retrievers: tuple[str, ...] = ()
    is_builtin: bool = False


@dataclass(frozen=True, slots=True)
class Definition:
    """One immutable version of a stored graph."""

    id: str
    slug: str
    version: int
    name: str
    graph: JsonObject


@dataclass(frozen=True, slots=True)
class History:
    """What a conversation brings into an execution: the summary and the newest messages it does not cover."""

    conversation_id: str
    summary: JsonObject | None
    messages: list[Message]


class Templates(Protocol):
    """Stored templates."""

    async def find(self, key_or_id: str, version: int | None, owner: str) -> Template | None:
        """A version, or the latest; null if there is none that this owner may see."""


class Definitions(Protocol):
    """Stored definitions."""

    async def find(self, slug_or_id: str, version: int | None, owner: str) -> Definition | None:
        """A version, or the latest; null if there is none that this owner may see."""


class Conversations(Protocol):
    """Stored conversations."""

    async def history(
        self, conversation_id: str, owner: str, limit: int, *, before: str | None = None
    ) -> History | None:
        """At most `limit` messages; null if there is no such conversation of this owner.

        `before`: an execution whose own messages are left out.
        """


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything an execution may use; built once, when the engine is wired."""

    models: Models
    prices: Prices
    tools: Mapping[str, Tool]
    retrievers: Mapping[str, Retriever]
    templates: Templates
    definitions: Definitions
    conversations: Conversations
    no_checkpoints: str | None = None
    """Why no checkpoints can be kept here, as a sentence with what to do; null if they can."""
