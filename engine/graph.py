"""The workflow document: nodes, edges, limits; its canonical form and content hash.

Everything a caller may say about a workflow is a `WorkflowGraph`. The same document is stored, sent, validated and
executed. Node configs stay plain JSON here; `engine.nodes` knows their types and `engine.validation` fills their
defaults in.
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


class Document(BaseModel):
    """A strict, closed, immutable piece of a document: no coercion, no unknown field."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FailPolicy(Document):
    """The node's failure ends the execution."""

    policy: Literal["fail"] = "fail"


class ContinuePolicy(Document):
    """The node's failure is stored and the run goes on, with `output` and `label` in place of the node's own."""

    policy: Literal["continue"]
    output: Json = Field(default_factory=dict)
    label: Id | None = None


class RoutePolicy(Document):
    """The node's failure follows the edge `when: "error"`."""

    policy: Literal["route"]


ErrorPolicy = Annotated[FailPolicy | ContinuePolicy | RoutePolicy, Field(discriminator="policy")]


class Retry(Document):
    """How often and after what wait a failed attempt of a node is repeated; delays in seconds."""

    max_attempts: int = Field(ge=1, le=10)
    initial_delay_seconds: float = Field(default=0.5, ge=0, le=3600)
    multiplier: float = Field(default=2, ge=1, le=10)
    max_delay_seconds: float = Field(default=30, ge=0, le=3600)
    retry_on: list[str] | None = None
    """Error types that are retried; null means the node type's own list."""


class Node(Document):
    """One step of a workflow. `retry` and `timeout_seconds` null mean the defaults of the node's type."""

    id: Id
    type: str
    config: JsonObject = Field(default_factory=dict)
    name: str | None = Field(default=None, max_length=120)
    on_error: ErrorPolicy = FailPolicy()
    retry: Retry | None = None
    timeout_seconds: float | None = Field(default=None, gt=0, le=86_400)
    stream: bool = False
    metadata: JsonObject = Field(default_factory=dict)


class Edge(Document):
    """A way from one node to another: plain, taken on a label (`when`), or on a CEL condition."""

    source: str
    target: str
    id: str | None = None
    when: Id | None = None
    condition: str | None = Field(default=None, min_length=1)
    metadata: JsonObject = Field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Neither a label nor a condition."""
        return self.when is None and self.condition is None


class Limits(Document):
    """What an execution may use at most. Budgets: tokens, nano-USD; null is no budget."""

    max_node_executions: int = Field(default=1_000, ge=1, le=10_000)
    max_tool_calls: int = Field(default=50, ge=0, le=500)
    max_model_calls: int = Field(default=100, ge=0, le=1_000)
    max_state_bytes: int = Field(default=1 << 20, ge=1_024, le=8 << 20)
    run_seconds: float = Field(default=900, gt=0, le=86_400)
    budget_tokens: int | None = Field(default=None, ge=0)
    budget_nano_usd: int | None = Field(default=None, ge=0)


class ModelDefaults(Document):
    """Model settings for nodes that leave them unset."""

    provider: str | None = None
    model: str | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, ge=0, le=1)


DEFAULT_INPUT_SCHEMA: JsonObject = {
    "type": "object",
    "required": ["message"],
    "properties": {"message": {"type": "string", "minLength": 1}},
}


class WorkflowGraph(Document):
    """A workflow: what it is called, what it takes, its nodes and edges, and the limits it runs under."""

    schema_: Literal["spanloom/1"] = Field(alias="schema")
    name: str = Field(min_length=1, max_length=255)
    description: str = Field(default="", max_length=2_000)
    input_schema: JsonObject = Field(default_factory=lambda: dict(DEFAULT_INPUT_SCHEMA))
    nodes: list[Node]
    edges: list[Edge] = Field(default_factory=list)
    limits: Limits = Limits()
    variables: JsonObject = Field(default_factory=dict)
    model_defaults: ModelDefaults = ModelDefaults()
    durability: Durability | None = None
    on_lost: OnLost | None = None
    record_level: RecordLevel = "full"
    metadata: JsonObject = Field(default_factory=dict)

    def document(self) -> JsonObject:
        """The graph as plain JSON, by the names of the document."""
        return self.model_dump(mode="json", by_alias=True)


def canonical(graph: WorkflowGraph) -> bytes:
    """RFC 8785 JSON of a validated graph, defaults written in and `metadata` left out."""
    metadata = {"metadata": True}
    document = graph.model_dump(
        mode="json",
        by_alias=True,
        exclude={"metadata": True, "nodes": {"__all__": metadata}, "edges": {"__all__": metadata}},
    )
    return rfc8785.dumps(document)


def content_hash(canonical_form: bytes) -> str:
    """`sha256:` and the hex digest of a canonical form."""
    return "sha256:" + hashlib.sha256(canonical_form).hexdigest()


def read_canonical(canonical_form: bytes) -> WorkflowGraph:
    """The graph that runs: always read back from its canonical form, so that `2.0` is the integer 2."""
    return WorkflowGraph.model_validate(orjson.loads(canonical_form))
