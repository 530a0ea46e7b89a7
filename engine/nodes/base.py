"""The base class of node types: config, properties that the rest of the engine reads, and the run method.

A node type is one file in this package and one entry in `engine.nodes.registry.NODE_TYPES`. Schema, validation, plan,
API and docs read everything they need from the attributes and hooks of `NodeBase`; the only types they know by name are
`start` and `end`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel

from engine.errors import NodeFailure, ResourceMissing
from engine.graph import Document, Json, JsonObject, ModelDefaults, Node, Retry
from engine.resources import ChatModel, ToolSpec
from engine.runtime.state import NO_CHANGE, Change, WorkflowState

if TYPE_CHECKING:
    from engine.runtime.context import ExecutionContext
    from engine.runtime.visit import RetrieverUse, Visit

DEFAULT_MAX_TOKENS = 1024
"""`max_tokens` of a model call that sets none. Calls are never open-ended, because budgets reserve this many tokens."""
TRANSIENT = ("rate_limited", "overloaded", "provider_error", "connection", "timeout")
"""Error types that are retried unless a node or its type says otherwise."""
APPENDS_MESSAGES = "appends assistant messages"
"""See `NodeBase.ordered_writes`."""


class NodeConfig(Document):
    """The config of a node: strict and closed."""


ConfigType: TypeAlias = type[NodeConfig]


@dataclass(frozen=True, slots=True)
class Place:
    """Marks a config field whose text is parsed: as a prompt, as a JSON value of prompts, or as CEL.

    `reader` says who reads the rendered prompt where that matters to the security rules: the model as its system
    message, or the user as the answer.
    """

    language: Literal["prompt", "json_prompt", "condition", "expression"]
    reader: Literal["system", "user"] | None = None


PROMPT = Place("prompt")
SYSTEM_PROMPT = Place("prompt", reader="system")
SHOWN_PROMPT = Place("prompt", reader="user")
JSON_PROMPT = Place("json_prompt")
CONDITION = Place("condition")
EXPRESSION = Place("expression")


@dataclass(frozen=True, slots=True)
class PlacedText:
    """A prompt or expression found in a config; `pointer` is a JSON pointer below the config."""

    pointer: str
    place: Place
    value: Json


def placed_texts(config: BaseModel, pointer: str = "") -> Iterator[PlacedText]:
    """Every prompt and expression of a config, in the order of its fields."""
    for name, field_info in type(config).model_fields.items():
        value = getattr(config, name)
        here = f"{pointer}/{name}"
        place = next((mark for mark in field_info.metadata if isinstance(mark, Place)), None)
        if value is None:
            continue
        if place is not None:
            yield PlacedText(here, place, value)
        elif isinstance(value, BaseModel):
            yield from placed_texts(value, here)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from placed_texts(item, f"{here}/{index}")


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """A config that breaks a rule by itself, whatever the graph around it.

    `code` is a rule of the schema, structure or security layer (see `engine.validation.rules.RULES`), `pointer` a JSON
    pointer below the config. Messages never quote a value. `hint` null is the rule's own hint.
    """

    message: str
    pointer: str = ""
    code: str = "schema.inconsistent"
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class ModelUse:
    """The model that a node calls; fields left null are taken from the graph's `model_defaults`, then the server."""

    provider: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    """The most output tokens of one call."""
    service_tier: str | None = None

    def named(self, defaults: ModelDefaults, server: tuple[str, str] | None) -> tuple[str, str] | None:
        """Provider and model: the node's own, else the graph's defaults, else the server's; null if none is named."""
        own = (self.provider, self.model)
        named = own if any(own) else (defaults.provider, defaults.model)
        server_provider, server_model = server or (None, None)
        chosen_provider = named[0] or server_provider
        chosen_model = named[1] or (server_model if named[0] in (None, server_provider) else None)
        return None if chosen_provider is None or chosen_model is None else (chosen_provider, chosen_model)

    def most_output_tokens(self, defaults: ModelDefaults) -> int:
        """The most output tokens of one call, which is what a budget reserves for it."""
        return self.max_tokens or defaults.max_tokens or DEFAULT_MAX_TOKENS


def choose_model(context: "ExecutionContext", use: ModelUse) -> ChatModel:
    """The model to call. Raises `ResourceMissing` if neither node, graph nor server names one."""
    models = context.resources.models
    named = use.named(context.graph.model_defaults, models.default())
    if named is None:
        raise ResourceMissing("no model is named: set provider and model in the node, or SPANLOOM_MODEL on the server")
    return models.get(*named)


@dataclass(frozen=True, slots=True)
class Park:
    """Suspends a visit, which holds no worker until it continues. Times are in seconds since the epoch."""

    since: float
    due_at: float
    approval: JsonObject | None = None
    """The question as an `Approval`; null for a delay."""


@dataclass(slots=True)
class NodeResult:
    """What a visit returns: an output, a label to route by, and a change of the state."""

    output: Json
    label: str | None = None
    change: Change = NO_CHANGE
    degraded: bool = False
    park: Park | None = None
    """If set, the visit is suspended and the other fields are ignored."""


C = TypeVar("C", bound=NodeConfig)


class NodeBase(Generic[C]):
    """One node of a graph. Built once per graph and shared by its executions, so it holds no state of a run."""

    type: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    category: ClassVar[Literal["flow", "model", "data"]]
    Config: ClassVar[ConfigType]
    output_schema: ClassVar[JsonObject] = {}
    """JSON Schema of the output. See `output_schema_for` where it depends on the config."""

    catches: ClassVar[bool] = True
    """`on_error` may be set."""
    default_retry: ClassVar[Retry | None] = None
    """Null: `retry` may not be set."""
    retries_calls: ClassVar[bool] = False
    """The node applies `retry` to its calls itself, not to the whole visit."""
    default_timeout_seconds: ClassVar[float | None] = None
    """`timeout_seconds` of a node that sets none; null is no timeout."""
    allows_timeout: ClassVar[bool] = False
    """`timeout_seconds` may be set."""
    streams: ClassVar[bool] = False
    """`stream` may be set."""
    must_route: ClassVar[bool] = False
    """Its edges must be labelled."""

    bounds_cycle: ClassVar[bool] = False
    """A cycle through a node of this type is ended by the node's own count."""
    is_loop: ClassVar[bool] = False
    """The node heads a loop: an edge must come back to it, and a visit knows whether it came from inside the loop."""
    handles_errors: ClassVar[bool] = False
    """The node is the target of error edges and has no use without one."""
    calls_tools: ClassVar[bool] = False
    """The node may call the tools offered by the nodes behind its `tool_calls` edge (see `tool_nodes`)."""
    runs_tool_calls: ClassVar[bool] = False
    """The node runs the calls of a `calls_tools` node and offers it tools (see `offered_tools`)."""
    output_is_untrusted: ClassVar[bool] = False
    """The output holds text of models, tools or documents, so it must not be inserted into a system message."""
    needs_checkpoint: ClassVar[bool] = False
    """A visit that parks cannot wait without a checkpoint, so durability `none` is refused."""
    read_under: ClassVar[Literal["loops", "results"] | None] = None
    """The name beside `outputs` under which expressions read what the node keeps."""

    tool_nodes: tuple["NodeBase[Any]", ...] = ()
    """Set by the plan on `calls_tools` nodes: the nodes that run their calls, nearest first."""

    def __init__(self, node: Node, config: C) -> None:
        self.node = node
        self.id = node.id
        self.config = config

    @classmethod
    def check(cls, config: C) -> Iterable[ConfigFault]:
        """Faults of this config that its field types do not exclude."""
        return ()

    @classmethod
    def labels(cls, config: C) -> tuple[str, ...]:
        """Every label a node with this config can give, in a fixed order: those of its author unless it says more."""
        return tuple(dict.fromkeys(cls.own_labels(config).values()))

    @classmethod
    def own_labels(cls, config: C) -> Mapping[str, str]:
        """The labels that the author chose in this config, by their pointer below it."""
        return {}

    @classmethod
    def may_park(cls, config: C) -> bool:
        """Whether a visit of a node with this config may park, unless the durability is `none`."""
        return False

    @classmethod
    def output_schema_for(cls, config: C) -> JsonObject:
        """JSON Schema of the output of a node with this config."""
        return cls.output_schema

    @classmethod
    def json_schemas(cls, config: C) -> Mapping[str, JsonObject]:
        """The JSON Schemas that the config holds, by their pointer below it."""
        return {}

    @classmethod
    def ordered_writes(cls, config: C) -> tuple[str, ...]:
        """Writes of a visit whose result depends on the order of edges if two parallel branches make them.

        Each text completes the sentence "More than one branch …".
        """
        return ()

    @classmethod
    def variable_set(cls, config: C) -> str | None:
        """The variable that a visit writes, if any."""
        return None

    @classmethod
    def variables_read(cls, config: C) -> Mapping[str, str]:
        """Variables that are read by name, outside expressions and prompts, by their pointer below the config."""
        return {}

    @classmethod
    def model_use(cls, config: C) -> ModelUse | None:
        """The model that a visit calls, if any; validation checks that it exists, has a price and fits the budget."""
        return None

    @classmethod
    def retriever_use(cls, config: C) -> "RetrieverUse | None":
        """The retriever that a visit asks, if any."""
        return None

    @classmethod
    def tools_named(cls, config: C) -> Mapping[str, str]:
        """The tools that the config names, by their pointer below it; `*` names all of the owner's tools."""
        return {}

    @classmethod
    def sees_tool_answers(cls, config: C) -> bool:
        """Whether a `calls_tools` node with this config reads the messages in which its calls are answered."""
        return True

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        """Do the node's work for one attempt of one visit. The state must not be changed in place."""
        raise TypeError(f"{type(self).__name__} does not define run()")

    def instead(self, failure: NodeFailure, state: WorkflowState, visit: "Visit") -> NodeResult | None:
        """A degraded result to use although the last attempt failed; null if the failure stands."""
        return None

    def offered_tools(self, context: "ExecutionContext") -> list[ToolSpec]:
        """The tools a model may call now through this `runs_tool_calls` node."""
        return []


def with_data(output_schema: JsonObject, data_schema: JsonObject) -> JsonObject:
    """An output schema whose `data` has this schema."""
    properties = output_schema["properties"]
    assert isinstance(properties, dict)
    return {**output_schema, "properties": {**properties, "data": data_schema}}
