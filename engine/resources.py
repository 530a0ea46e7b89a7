"""The outside services of nodes: models, tools, retrievers, prices, and stored workflows and conversations.

Each is a Protocol that users can implement; the records beside them are their arguments and results.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol, TypedDict, cast

from engine.graph import Json, JsonObject
from engine.usage import Usage, UsageReport


class ToolCall(TypedDict):
    """A tool call that the model asked for."""

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
    """A message or call, typed as plain JSON."""
    return cast("JsonObject", dict(record))


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The settings of one model call, exactly as the node sets them."""

    max_tokens: int = 1024
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_schema: JsonObject | None = None
    service_tier: str | None = None
    """In OpenAI's terms: `auto`, `default`, `flex`, `priority`."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """The description of a tool for a model; `parameters` is a JSON Schema object."""

    name: str
    description: str
    parameters: JsonObject


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """The request of one provider call: system text, messages, available tools and settings."""

    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    settings: ModelSettings = ModelSettings()


CONTENT_FILTER = "content_filter"
"""The finish reason of an answer that the provider's filter, or the model itself, refused."""


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A provider's complete response. `usage` is null, never 0, if the provider did not report it."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    data: Json = None
    """The parsed response, if the request has a `response_schema`."""
    finish_reason: str | None = None
    """In OpenAI's terms: `stop`, `length`, `tool_calls`, `content_filter`; else the provider's word, in lower case."""
    model: str | None = None
    response_id: str | None = None
    usage: Usage | None = None
    service_tier: str | None = None
    """The tier that answered, in the provider's word; it may not be the one that was asked for."""
    system_fingerprint: str | None = None
    """OpenAI's name for the configuration that answered."""
    provider_cost_nano_usd: int | None = None
    """What the provider itself says that the call costs."""
    unread_usage_keys: tuple[str, ...] = ()
    """Keys of the provider's usage that spanloom does not know."""

    @property
    def report(self) -> UsageReport:
        """What the provider reports on the call."""
        return UsageReport(self.usage, self.service_tier, self.provider_cost_nano_usd, self.unread_usage_keys)


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """The most that one answer of a model may hold; a larger one is not read to its end."""

    max_bytes: int = 4_194_304
    """Of text, reasoning and arguments together."""
    max_tool_calls: int = 128

    def problem(self, size_bytes: int, tool_calls: int) -> str | None:
        """Why an answer of this size is not taken, with the next step, as a sentence; null if it is."""
        if size_bytes > self.max_bytes:
            return f"the answer is larger than {self.max_bytes:,} bytes (SPANLOOM_MAX_ANSWER_BYTES)"
        if tool_calls > self.max_tool_calls:
            return f"the answer has more than {self.max_tool_calls:,} tool calls (SPANLOOM_MAX_ANSWER_CALLS)"
        return None


class ChatModel(Protocol):
    """One model of one provider. Errors are `ModelFailure`, whose docstring lists the codes."""

    @property
    def provider(self) -> str:
        """Value of `gen_ai.provider.name`: openai, anthropic, gcp.gemini (as OpenTelemetry names them) or offline."""

    @property
    def model(self) -> str:
        """The provider's name of the model."""

    @property
    def server_address(self) -> str | None:
        """Host of the provider's endpoint; null if there is none.

        A model may have a property `server_port` beside it, an int: traces show it.
        """

    async def invoke(self, request: ModelRequest) -> ModelReply:
        """Make one provider call, without retries, and return the whole response."""

    def stream(self, request: ModelRequest) -> AsyncIterator[str | UsageReport | ModelReply]:
        """Yield text as it arrives, then the whole reply as the last item.

        Progress without text, such as reasoning, is an empty text: between two items the call can be stopped. A
        `UsageReport` is all that the provider has reported so far; it is booked if the call breaks off.
        """

    def estimate_input_tokens(self, request: ModelRequest) -> int:
        """An upper estimate of the input tokens, for budgets."""


@dataclass(frozen=True, slots=True)
class Server:
    """The server at which a provider's models are called."""

    host: str | None = None
    """Null: in this process, or unknown."""
    service_tiers: frozenset[str] = frozenset()
    """The service tiers that can be asked for."""


class Models(Protocol):
    """The models that this process can call."""

    def default(self) -> tuple[str, str] | None:
        """Provider and model for nodes without their own; null if there is no default."""

    def get(self, provider: str, model: str) -> ChatModel:
        """The model; cheap, since clients are shared. Raises `MissingExtra` or `ResourceMissing`."""

    def problem(self, provider: str, model: str) -> str | None:
        """Why this process cannot call the model, with the next step, as a sentence; null if it can."""

    def server(self, provider: str) -> Server:
        """The server at which the provider's models are called."""


OFFLINE_PROVIDER = "offline"
"""The provider in this process that answers without a key: a demo, whose answers are quotations."""


class CostSource(StrEnum):
    """Values of `workflow.cost.source`: the source of a call's price."""

    PRICE_TABLE = "price_table"
    """The catalogue's price for the provider whose server answered."""
    ASSUMED = "assumed"
    """The catalogue's price, although the server is not the provider's."""
    OVERRIDE = "override"
    """An own price."""
    PROVIDER = "provider"
    """The cost that the provider reported."""
    DEMO = "demo"
    NONE = "none"


class Unpriced(StrEnum):
    """Values of `workflow.cost.unpriced_reason`: why a call has no cost."""

    USAGE = "unknown_usage"
    MODEL = "unknown_model"
    TIER = "unknown_tier"
    KIND = "unknown_kind"
    """A kind of token that occurs has no price, or the counts contradict each other."""
    SERVER = "foreign_server"
    """The server is not the provider's, and `SPANLOOM_FOREIGN_PRICES=none` assumes nothing."""
    AMOUNT = "impossible_amount"


UNPRICED_MEANING = {
    Unpriced.USAGE: "no usage was reported",
    Unpriced.MODEL: "the model has no price",
    Unpriced.TIER: "the service tier has no price",
    Unpriced.KIND: "a kind of token has no price, or the counts contradict each other",
    Unpriced.SERVER: "the server is not the provider's",
    Unpriced.AMOUNT: "the cost would be impossibly high",
}
"""The reason in words, for people."""


@dataclass(frozen=True, slots=True)
class Price:
    """The cost of one call in nano-USD; null with source `none` if its price or usage is unknown."""

    nano_usd: int | None
    source: CostSource
    version: str | None = None
    reason: Unpriced | None = field(default=None, compare=False)
    """Why there is no cost; two unknown prices are equal, whatever the reason."""
    input_nano_usd: int | None = field(default=None, compare=False)
    """The part of the cost for input; the rest is for output. Null if it is not known."""


@dataclass(frozen=True, slots=True)
class Served:
    """How a call is served: what its price depends on besides the model and the tokens."""

    host: str | None = None
    """Host of the server; null: the provider's own."""
    tier: str | None = None
    """The service tier that the answer names, else the one that was asked for."""
    provider_cost_nano_usd: int | None = None
    """The cost that the provider reported with its answer."""


STANDARD_TIERS = frozenset({"auto", "default", "standard"})
"""Names of the service tier that a provider uses where a request asks for none; it needs no price of its own."""

AS_USUAL = Served()
"""By the provider's own server, in its standard tier."""


class Prices(Protocol):
    """Prices of model calls."""

    def price(self, provider: str, model: str, usage: Usage | None, at: datetime, served: Served = AS_USUAL) -> Price:
        """The cost of a call that was made at the time `at`."""

    def upper_nano_usd(
        self, provider: str, model: str, input_tokens: int, output_tokens: int, served: Served = AS_USUAL
    ) -> int | None:
        """The most a call of this size can cost; null if the model has no price."""


Effect = Literal["read", "idempotent", "write"]


@dataclass(frozen=True, slots=True)
class ToolContext:
    """The context of a tool call. `idempotency_key` is the same on every attempt and after every crash."""

    execution_id: str
    owner: str
    idempotency_key: str
    deadline_seconds: float
    search: "Search | None" = None
    """Searches with the retriever and options of the execution's graph; null if the graph has no retriever."""


class Tool(Protocol):
    """A tool that models can call."""

    @property
    def spec(self) -> ToolSpec:
        """Name, description, JSON Schema of the arguments."""

    @property
    def effect(self) -> Effect:
        """`read` and `idempotent` tools may be retried; `write` tools are called once."""

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        """Run the tool; the arguments are valid against its schema. Any exception is a failed call."""


@dataclass(frozen=True, slots=True)
class RetrievalQuery:
    """One query to a retriever. `document_ids` null means all documents."""

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
    """A piece of text that a retriever found; `score` is between 0 and 1, higher is better."""

    id: str
    source: str
    text: str
    score: float


class Retriever(Protocol):
    """A source of passages."""

    @property
    def options_schema(self) -> JsonObject:
        """JSON Schema of `RetrievalQuery.options`."""

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        """The passages, best first. An unreadable source raises `ResourceMissing` and never gives an empty list."""


class Search(Protocol):
    """A search with its retriever and options bound, for the tool `search_docs`."""

    async def __call__(self, query: str, max_documents: int) -> list[Passage]:
        """The passages, best first."""


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
    """The part of a conversation that an execution reads: its summary and the newest messages after it."""

    conversation_id: str
    summary: JsonObject | None
    messages: list[Message]


class Templates(Protocol):
    """Stored templates."""

    async def find(self, key_or_id: str, version: int | None, owner: str) -> Template | None:
        """This version, or the latest if `version` is null; null if this owner can see none."""


class Definitions(Protocol):
    """Stored definitions."""

    async def find(self, slug_or_id: str, version: int | None, owner: str) -> Definition | None:
        """This version, or the latest if `version` is null; null if this owner can see none."""


class Conversations(Protocol):
    """Stored conversations."""

    async def history(
        self, conversation_id: str, owner: str, limit: int, *, before: str | None = None
    ) -> History | None:
        """The history with at most `limit` messages; null if this owner has no such conversation.

        `before`: an execution whose own messages are left out.
        """


@dataclass(frozen=True, slots=True)
class Resources:
    """All services that executions use; built once, at startup."""

    models: Models
    prices: Prices
    tools: Mapping[str, Tool]
    retrievers: Mapping[str, Retriever]
    templates: Templates
    definitions: Definitions
    conversations: Conversations
    answer_limits: AnswerLimits = AnswerLimits()
    no_checkpoints: str | None = None
    """Why this process cannot store checkpoints, with the next step, as a sentence; null if it can."""
