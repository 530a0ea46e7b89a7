"""The plan of a graph, with its nodes built and its routes and forks resolved. All runs of a content hash share it."""

from dataclasses import dataclass
from typing import Any

from engine.documents.json_schema import Mismatch, Schema, compiled
from engine.documents.json_text import to_json
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
from engine.runtime.visit import RetrieverUse, VisitedNode
from engine.tracing import semconv
from engine.tracing.attributes import Attributes

DEFAULT_RETRIEVER = "default"
MAX_INPUT_BYTES = 262_144
NO_RETRY = Retry(max_attempts=1)


@dataclass(frozen=True, slots=True)
class Route:
    """A route to the next node: the target, and the edge id for the span."""

    target: str
    edge: str


@dataclass(frozen=True, slots=True)
class Routing:
    """The routes from a node. A route is chosen by label, then by the first true condition, then by default."""

    labelled: dict[str, Route]
    conditions: tuple[tuple[Expression, Route], ...]
    default: Route | None
    error: Route | None

    def choose(self, label: str | None, names: Names) -> Route:
        """The chosen route. Raises `NoRoute` if none matches: a router fails closed."""
        if label is not None and label in self.labelled:
            return self.labelled[label]
        for condition, route in self.conditions:
            if holds(condition, names):
                return route
        if self.default is None:
            raise NoRoute
        return self.default


@dataclass(frozen=True, slots=True)
class PlannedNode(VisitedNode):
    """A node prepared for the walker. `static` has the span attributes that are equal in all visits."""

    node: NodeBase[Any]
    timeout_seconds: float | None
    routing: Routing
    fork: Fork | None
    fork_edges: str
    static: Attributes
    is_end: bool

    @property
    def continues(self) -> ContinuePolicy | None:
        """The node's policy to continue after a failure, if it has one."""
        policy = self.node.node.on_error
        return policy if isinstance(policy, ContinuePolicy) else None


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph prepared for running."""

    graph: WorkflowGraph
    canonical: bytes
    content_hash: str
    nodes: dict[str, PlannedNode]
    start: str
    span_names: dict[str, str]
    input_schema: Schema

    @property
    def durability(self) -> Durability:
        """When the run is checkpointed; the validator has filled in the default."""
        return self.graph.durability or "none"

    @property
    def on_lost(self) -> OnLost:
        """The policy for an execution whose worker is lost."""
        return self.graph.on_lost or ("resume" if self.durability == "step" else "fail")

    def check_input(self, value: JsonObject) -> None:
        """Check a run's input. Raises `InvalidInput`, which names the place but never the value."""
        if len(to_json(value)) > MAX_INPUT_BYTES:
            raise InvalidInput(f"the input is larger than {MAX_INPUT_BYTES:,} bytes")
        mismatch = self.input_schema.find_mismatch(value)
        if mismatch is not None:
            raise InvalidInput(_input_problem(mismatch))


def _input_problem(mismatch: Mismatch) -> str:
    place = "/".join(str(step) for step in mismatch.path)
    rule = "/".join(str(step) for step in mismatch.rule)
    if mismatch.keyword == "required":
        return f"the input lacks a required field: {mismatch.message}"
    return f"the input at /{place} does not fit the workflow's input_schema" + (f" (rule {rule})" if rule else "")


def make_plan(graph: WorkflowGraph, canonical: bytes, content_hash: str) -> Plan:
    """Build the nodes of a valid graph and resolve its routes and forks."""
    topology = Topology.of(graph)
    built = {node.id: _build(node) for node in graph.nodes}
    _connect_tools(built, topology)
    searched = _searched(built)
    return Plan(
        graph=graph,
        canonical=canonical,
        content_hash=content_hash,
        nodes={node.id: _plan_node(node, topology, searched) for node in built.values()},
        start=topology.start,
        span_names={node_id: f"{semconv.SPAN_NODE} {node_id}" for node_id in built},
        input_schema=compiled(graph.input_schema),
    )


def _build(node: Node) -> NodeBase[Any]:
    node_type = NODE_TYPES[node.type]
    return node_type(node, node_type.Config.model_validate(node.config))


def _connect_tools(built: dict[str, NodeBase[Any]], topology: Topology) -> None:
    for node in built.values():
        if node.calls_tools:
            node.tool_nodes = tuple(built[node_id] for node_id in topology.tool_nodes_behind(node.id))


def _plan_node(node: NodeBase[Any], topology: Topology, searched: RetrieverUse) -> PlannedNode:
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
        searched=searched,
        is_end=node.type == "end",
    )


def _searched(built: dict[str, NodeBase[Any]]) -> RetrieverUse:
    """The retriever that tools search: the first one used by a node of the graph, else the server's default."""
    for node in built.values():
        use = node.retriever_use(node.config)
        if use is not None:
            return use
    return RetrieverUse(DEFAULT_RETRIEVER)


def _inside(node: NodeBase[Any], topology: Topology) -> frozenset[str]:
    if not node.is_loop:
        return frozenset()
    return frozenset(other for other in topology.reachable if other != node.id and topology.dominates(node.id, other))


def _routing(edges: list[Edge], *, is_fork: bool) -> Routing:
    labelled: dict[str, Route] = {}
    conditions: list[tuple[Expression, Route]] = []
    default: Route | None = None
    error: Route | None = None
    for edge in edges:
        route = Route(edge.target, edge.id or "")
        if edge.when == ERROR_LABEL:
            error = route
        elif edge.when is not None:
            labelled[edge.when] = route
        elif edge.condition is not None:
            conditions.append((parse_expression(edge.condition), route))
        elif not is_fork:
            default = route
    return Routing(labelled, tuple(conditions), default, error)
