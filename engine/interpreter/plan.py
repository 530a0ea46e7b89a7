"""The plan of a graph: nodes built, routes and forks worked out; made once per content hash, shared by all runs."""

from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import orjson

from engine.documents.json_schema import validator as schema_validator
from engine.errors import InvalidInput, NoRoute
from engine.expressions.cel import Expression, holds
from engine.expressions.cel import parse as parse_expression
from engine.graph import (
    ERROR_LABEL,
    ContinuePolicy,
    Durability,
    Edge,
    JsonObject,
    Node,
    OnLost,
    Retry,
    WorkflowGraph,
)
from engine.interpreter.topology import Fork, Topology
from engine.nodes.base import TRANSIENT, NodeBase
from engine.nodes.registry import NODE_TYPES
from engine.runtime.names import Names
from engine.runtime.visit import SearchSource, VisitedNode
from engine.tracing import semconv
from engine.tracing.attributes import Attributes

DEFAULT_RETRIEVER = "default"
MAX_INPUT_BYTES = 262_144
NO_RETRY = Retry(max_attempts=1)


@dataclass(frozen=True, slots=True)
class Way:
    """Where a run goes on: the target, and the edge as it stands on the span."""

    target: str
    edge: str


@dataclass(frozen=True, slots=True)
class Routing:
    """How a node chooses its way: by label, by conditions in order, else the default; or a single plain edge."""

    labelled: dict[str, Way]
    conditions: tuple[tuple[Expression, Way], ...]
    default: Way | None
    error: Way | None

    def choose(self, label: str | None, names: Names) -> Way:
        """The way on. Raises `NoRoute` if nothing matches: a router that matches nothing fails closed."""
        if label is not None and label in self.labelled:
            return self.labelled[label]
        for condition, way in self.conditions:
            if holds(condition, names):
                return way
        if self.default is None:
            raise NoRoute
        return self.default


@dataclass(frozen=True, slots=True)
class PlannedNode(VisitedNode):
    """A node as the walker uses it; static span attributes are prepared once."""

    node: NodeBase[Any]
    timeout_seconds: float | None
    routing: Routing
    fork: Fork | None
    fork_edges: str
    static: Attributes
    is_end: bool

    @property
    def continues(self) -> ContinuePolicy | None:
        """The policy of a node whose failure does not end the run."""
        policy = self.node.node.on_error
        return policy if isinstance(policy, ContinuePolicy) else None


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph ready to run."""

    graph: WorkflowGraph
    canonical: bytes
    content_hash: str
    nodes: dict[str, PlannedNode]
    start: str
    span_names: dict[str, str]
    bounded_span_names: dict[str, str]
    """For ad-hoc graphs, by node type: names of spans must be bounded by what is stored."""
    input_validator: jsonschema_rs.Draft202012Validator

    @property
    def durability(self) -> Durability:
        """When the run is checkpointed; the validator has written it in."""
        return self.graph.durability or "none"

    @property
    def on_lost(self) -> OnLost:
        """What becomes of an execution whose worker is lost."""
        return self.graph.on_lost or ("resume" if self.durability == "step" else "fail")

    def check_input(self, value: JsonObject) -> None:
        """Raises `InvalidInput` naming the place, never the value."""
        if len(orjson.dumps(value)) > MAX_INPUT_BYTES:
            raise InvalidInput(f"the input is larger than {MAX_INPUT_BYTES} bytes")
        error = next(iter(self.input_validator.iter_errors(value)), None)
        if error is not None:
            raise InvalidInput(_input_problem(error))


def _input_problem(error: jsonschema_rs.ValidationError) -> str:
    place = "/".join(str(step) for step in error.instance_path)
    rule = "/".join(str(step) for step in error.schema_path)
    if error.schema_path and error.schema_path[-1] == "required":
        return f"the input lacks a required field: {error.message}"
    return f"the input at /{place} does not fit the workflow's input_schema (rule {rule})"


def make_plan(graph: WorkflowGraph, canonical: bytes, content_hash: str) -> Plan:
    """Build the nodes and work out the routes of a valid graph."""
    topology = Topology.of(graph)
    built = {node.id: _build(node) for node in graph.nodes}
    _connect_tools(built, topology)
    search_source = _search_source(built)
    return Plan(
        graph=graph,
        canonical=canonical,
        content_hash=content_hash,
        nodes={node.id: _plan_node(node, topology, search_source) for node in built.values()},
        start=topology.start,
        span_names={node_id: f"{semconv.SPAN_NODE} {node_id}" for node_id in built},
        bounded_span_names={node_id: f"{semconv.SPAN_NODE} {node.type}" for node_id, node in built.items()},
        input_validator=schema_validator(graph.input_schema),
    )


def _build(node: Node) -> NodeBase[Any]:
    node_type = NODE_TYPES[node.type]
    return node_type(node, node_type.Config.model_validate(node.config))


def _connect_tools(built: dict[str, NodeBase[Any]], topology: Topology) -> None:
    for node in built.values():
        if node.calls_tools:
            node.tool_nodes = tuple(built[node_id] for node_id in topology.tool_nodes_behind(node.id))


def _plan_node(node: NodeBase[Any], topology: Topology, search_source: SearchSource) -> PlannedNode:
    document = node.node
    retry = document.retry or type(node).default_retry or NO_RETRY
    fork = topology.forks.get(node.id)
    return PlannedNode(
        id=node.id,
        type=node.type,
        node=node,
        retry=retry,
        retry_on=frozenset(retry.retry_on if retry.retry_on is not None else TRANSIENT),
        retries_calls=type(node).retries_calls,
        timeout_seconds=document.timeout_seconds or type(node).default_timeout_seconds,
        routing=_routing(topology.outgoing.get(node.id, []), is_fork=fork is not None),
        fork=fork,
        fork_edges=",".join(branch.edge.id or "" for branch in fork.branches) if fork else "",
        inside=_inside(node, topology),
        static={
            semconv.NODE_ID: node.id,
            semconv.NODE_TYPE: node.type,
            semconv.NODE_PATH: node.id,
        },
        search_source=search_source,
        is_end=node.type == "end",
    )


def _search_source(built: dict[str, NodeBase[Any]]) -> SearchSource:
    """Where tools search: as the graph's first node that asks a retriever, else in the server's default one."""
    for node in built.values():
        use = node.retriever_use(node.config)
        if use is not None:
            return SearchSource(use.name, use.options)
    return SearchSource(DEFAULT_RETRIEVER)


def _inside(node: NodeBase[Any], topology: Topology) -> frozenset[str]:
    if not node.is_loop:
        return frozenset()
    return frozenset(other for other in topology.reachable if other != node.id and topology.dominates(node.id, other))


def _routing(edges: list[Edge], *, is_fork: bool) -> Routing:
    labelled: dict[str, Way] = {}
    conditions: list[tuple[Expression, Way]] = []
    default: Way | None = None
    error: Way | None = None
    for edge in edges:
        way = Way(edge.target, edge.id or "")
        if edge.when == ERROR_LABEL:
            error = way
        elif edge.when is not None:
            labelled[edge.when] = way
        elif edge.condition is not None:
            conditions.append((parse_expression(edge.condition), way))
        elif not is_fork:
            default = way
    return Routing(labelled, tuple(conditions), default, error)
