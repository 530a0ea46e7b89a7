"""The workflow document: nodes, edges, limits; its canonical form and content hash.

A `WorkflowGraph` holds everything a caller can specify about a workflow. The same document is stored, sent, validated
and executed. Node configs are plain JSON here; `engine.nodes` defines their types and `engine.validation` fills in
their defaults.
"""

import hashlib
import re
from typing import Annotated, Literal

import orjson
import rfc8785
from pydantic import BaseModel, ConfigDict, Field, JsonValue

Json = JsonValue
JsonObject = dict[str, JsonValue]

ID_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
RESERVED_IDS = frozenset({"in", "true", "false", "null"})
ERROR_LABEL = "error"
is_id = re.compile(ID_PATTERN).fullmatch

Id = Annotated[str, Field(pattern=ID_PATTERN)]
Durability = Literal["none", "exit", "step"]
OnLost = Literal["fail", "retry", "resume"]
RecordLevel = Literal["summary", "nodes", "full"]
Spend = Literal["each_call", "at_end"]


class Document(BaseModel):
    """An immutable part of a document, parsed strictly: no coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FailPolicy(Document):
    """The node's failure ends the execution."""

    policy: Literal["fail"] = "fail"


class ContinuePolicy(Document):
    """The node's failure is stored and the run continues with `output` and `label` in place of the node's own."""

    policy: Literal["continue"]
    output: Json = Field(default_factory=dict)
    """Stored as the node's output."""
    label: Id | None = None
    """Label of the edge to follow, where the edges have labels."""


class RoutePolicy(Document):
    """After a failure the run follows the edge `when: "error"`."""

    policy: Literal["route"]


ErrorPolicy = Annotated[FailPolicy | ContinuePolicy | RoutePolicy, Field(discriminator="policy")]


class Retry(Document):
    """How often, and after which delays, a failed attempt of a node is retried; delays in seconds."""

    max_attempts: int = Field(ge=1, le=10)
    """Total number of attempts, including the first."""
    initial_delay_seconds: float = Field(default=0.5, ge=0, le=3600)
    """Delay before the second attempt."""
    multiplier: float = Field(default=2, ge=1, le=10)
    """Factor by which each delay grows."""
    max_delay_seconds: float = Field(default=30, ge=0, le=3600)
    """Longest delay."""
    retry_on: list[str] | None = None
    """Error types that are retried; null means the node type's own list."""
    max_paid_retries: int = Field(default=1, ge=0, le=9)
    """Most retries of answers that were paid for and are of no use: `empty_response`, `invalid_output`."""


class Node(Document):
    """One step of a workflow."""

    id: Id
    """Unique in the graph."""
    type: str
    """One of the node types."""
    config: JsonObject = Field(default_factory=dict)
    """The config of the type."""
    name: str | None = Field(default=None, max_length=120)
    """Title for people; null means the id."""
    on_error: ErrorPolicy = FailPolicy()
    """How a failure is handled: `fail`, `continue` or `route`."""
    retry: Retry | None = None
    """Null means the retries of the node's type."""
    timeout_seconds: float | None = Field(default=None, gt=0, le=86_400)
    """Longest duration of one attempt; null means the limit of the node's type."""
    stream: bool = False
    """Stream the text to the caller while the model writes it."""
    metadata: JsonObject = Field(default_factory=dict)
    """For editors; the engine never reads it."""


class Edge(Document):
    """A connection from one node to another: plain, taken on a label (`when`), or taken on a CEL condition."""

    source: str
    """Id of a node."""
    target: str
    """Id of a node."""
    id: str | None = None
    """Null means `e` followed by the position in the list."""
    when: Id | None = None
    """The label on which the edge is taken."""
    condition: str | None = Field(default=None, min_length=1)
    """The CEL condition on which the edge is taken."""
    metadata: JsonObject = Field(default_factory=dict)
    """For editors; the engine never reads it."""

    @property
    def is_plain(self) -> bool:
        """Whether the edge has neither a label nor a condition."""
        return self.when is None and self.condition is None


class Limits(Document):
    """The most that an execution may use."""

    max_node_executions: int = Field(default=1_000, ge=1, le=10_000)
    """Most node visits."""
    max_tool_calls: int = Field(default=50, ge=0, le=500)
    """Most tool calls."""
    max_model_calls: int = Field(default=100, ge=0, le=1_000)
    """Most attempts to call a model."""
    max_state_bytes: int = Field(default=1 << 20, ge=1_024, le=8 << 20)
    """Largest size of the state, in bytes."""
    run_seconds: float = Field(default=900, gt=0, le=86_400)
    """Longest run time in seconds, not counting pauses."""
    budget_tokens: int | None = Field(default=None, ge=0)
    """Most tokens; null means no budget."""
    budget_nano_usd: int | None = Field(default=None, ge=0)
    """Highest cost in nano-USD; null means no budget."""
    spend: Spend = "each_call"
    """When the cost of calls is committed: around `each_call`, or `at_end`, which a crash forgets up to the budget."""


class ModelDefaults(Document):
    """Model settings for nodes that leave them unset."""

    provider: str | None = None
    """Provider."""
    model: str | None = None
    """Model."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most output tokens of a call."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Nucleus sampling."""


DEFAULT_INPUT_SCHEMA: JsonObject = {
    "type": "object",
    "required": ["message"],
    "properties": {"message": {"type": "string", "minLength": 1}},
}


class WorkflowGraph(Document):
    """A workflow: its name, its input, its nodes and edges, and its limits."""

    schema_: Literal["spanloom/1"] = Field(alias="schema")
    """Version of the document."""
    name: str = Field(min_length=1, max_length=255)
    """Name of the workflow."""
    description: str = Field(default="", max_length=2_000)
    """Text for people."""
    input_schema: JsonObject = Field(default_factory=lambda: dict(DEFAULT_INPUT_SCHEMA))
    """JSON Schema of the input."""
    nodes: list[Node]
    """The steps."""
    edges: list[Edge] = Field(default_factory=list)
    """The connections between nodes. Their order counts: conditions are tried one after the other."""
    limits: Limits = Limits()
    """The most that an execution may use."""
    variables: JsonObject = Field(default_factory=dict)
    """Initial variables, at most 1,000."""
    model_defaults: ModelDefaults = ModelDefaults()
    """Model settings for nodes that leave them unset."""
    durability: Durability | None = None
    """Which checkpoints are stored; null means `step` if the graph can pause, else `none`."""
    on_lost: OnLost | None = None
    """What happens if the process dies; null means `resume` with `step`, else `fail`."""
    record_level: RecordLevel = "full"
    """Which spans are stored as rows; those of model calls always are."""
    metadata: JsonObject = Field(default_factory=dict)
    """For editors; the engine never reads it."""

    def document(self) -> JsonObject:
        """The graph as plain JSON, with the field names of the document."""
        return self.model_dump(mode="json", by_alias=True)


def canonical(graph: WorkflowGraph) -> bytes:
    """RFC 8785 JSON of a validated graph, with defaults filled in and without `metadata`.

    `limits.spend` is left out where it is the default: graphs without it keep their hash and run on older versions.
    """
    metadata = {"metadata": True}
    document = graph.model_dump(
        mode="json",
        by_alias=True,
        exclude={
            "metadata": True,
            "nodes": {"__all__": metadata},
            "edges": {"__all__": metadata},
            **({"limits": {"spend"}} if graph.limits.spend == "each_call" else {}),
        },
    )
    return rfc8785.dumps(document)


def content_hash(canonical_form: bytes) -> str:
    """`sha256:` followed by the hex digest of a canonical form."""
    return "sha256:" + hashlib.sha256(canonical_form).hexdigest()


def read_canonical(canonical_form: bytes) -> WorkflowGraph:
    """Read a graph back from its canonical form. Only such graphs run, so `2.0` in a document is the integer 2."""
    return WorkflowGraph.model_validate(orjson.loads(canonical_form))


def json_type(value: Json) -> str:
    """Name of a value's JSON type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
