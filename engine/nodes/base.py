"""What every node type is: its config, what it may do, and one method that does it.

A node type is one file beside this one and one entry of `engine.nodes.registry.NODE_TYPES`. Schema, validation, API and
docs are generated from the class attributes here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel

from engine.errors import NodeFailure
from engine.graph import Document, Json, JsonObject, Node, Retry
from engine.runtime.state import NO_CHANGE, Change, WorkflowState

if TYPE_CHECKING:
    from engine.runtime.visit import Visit


class NodeConfig(Document):
    """The config of a node: strict and closed."""


ConfigType: TypeAlias = type[NodeConfig]


@dataclass(frozen=True, slots=True)
class Place:
    """Marks a config field whose text is read by a language: a prompt, a JSON value of prompts, or CEL."""

    language: Literal["prompt", "json_prompt", "condition", "expression"]


PROMPT = Place("prompt")
JSON_PROMPT = Place("json_prompt")
CONDITION = Place("condition")
EXPRESSION = Place("expression")


@dataclass(frozen=True, slots=True)
class PlacedText:
    """A text found in a config: where (JSON pointer below the config), which language, what."""

    pointer: str
    place: Place
    value: Json


def placed_texts(config: BaseModel, pointer: str = "") -> Iterator[PlacedText]:
    """Every prompt and expression of a config, in the order of its fields."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        here = f"{pointer}/{name}"
        place = next((mark for mark in field.metadata if isinstance(mark, Place)), None)
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
class Park:
    """A visit ends for now and goes on later, without a worker meanwhile. Times in seconds since the epoch."""

    since: float
    due_at: float
    approval: JsonObject | None = None
    """The question that is asked, as an `Approval`; null for a delay."""


@dataclass(slots=True)
class NodeResult:
    """What a visit gives back: an output, a label to route by, and a change of the state."""

    output: Json
    label: str | None = None
    change: Change = NO_CHANGE
    degraded: bool = False
    park: Park | None = None
    """The visit has not ended but waits; nothing else counts then."""


C = TypeVar("C", bound=NodeConfig)

TRANSIENT = ("rate_limited", "overloaded", "provider_error", "connection", "timeout")


class NodeBase(Generic[C]):
    """One node of a graph. Built once per graph and shared by its executions, so it holds no state of a run."""

    type: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    category: ClassVar[Literal["flow", "model", "data"]]
    Config: ClassVar[ConfigType]
    output_schema: ClassVar[JsonObject] = {}
    catches: ClassVar[bool] = True
    """`on_error` may be given."""
    default_retry: ClassVar[Retry | None] = None
    """Null: `retry` may not be given."""
    retries_calls: ClassVar[bool] = False
    """The node applies `retry` to its calls itself, not to the whole visit."""
    default_timeout_seconds: ClassVar[float | None] = None
    """What `timeout_seconds` is where the node leaves it unset; null is none."""
    allows_timeout: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    """`stream` may be given."""
    must_route: ClassVar[bool] = False
    """Its edges must be labelled."""

    pauses: ClassVar[bool] = False
    """A visit may park."""

    def __init__(self, node: Node, config: C) -> None:
        self.node = node
        self.id = node.id
        self.config = config

    @classmethod
    def labels(cls, config: NodeConfig) -> tuple[str, ...]:
        """Every label a node with this config can give, in a fixed order."""
        return ()

    @classmethod
    def may_park(cls, config: NodeConfig) -> bool:
        """A visit of a node with this config may park, unless the durability is `none`."""
        return False

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        """Do the node's work for one attempt of one visit. The state must not be changed in place."""
        raise TypeError(f"{type(self).__name__} does not say how it runs")

    def instead(self, failure: NodeFailure, state: WorkflowState, visit: "Visit") -> NodeResult | None:
        """What the node gives although its last attempt failed; null: it has nothing to give and fails."""
        return None
