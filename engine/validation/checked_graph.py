"""The graph as the rules of the later layers see it: defaults written in, texts parsed, paths worked out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.expressions.cel import BadExpression, Expression
from engine.expressions.cel import parse as parse_expression
from engine.expressions.prompts import BadPrompt, JsonPrompt, Prompt, parse_json
from engine.expressions.prompts import parse as parse_prompt
from engine.graph import Edge, Json, JsonObject, Node, WorkflowGraph
from engine.interpreter.topology import TOOL_CALLS_LABEL, Topology
from engine.nodes.base import ModelUse, NodeBase, NodeConfig, Place, placed_texts
from engine.nodes.registry import NODE_TYPES
from engine.report import Layer
from engine.runtime.visit import RetrieverUse
from engine.validation.config_faults import faults_of
from engine.validation.guaranteed_outputs import guaranteed_outputs
from engine.validation.rules import Finding, Near
from engine.validation.secrets import Secrets, find_secrets


@dataclass(frozen=True, slots=True)
class PlacedExpression:
    """An expression of the graph: its place, and its parsed form or why it does not parse.

    `node_id` is the node it belongs to: for an edge's condition, the source, which has then run.
    """

    pointer: str
    node_id: str
    edge_id: str | None
    is_condition: bool
    parsed: Expression | BadExpression


@dataclass(frozen=True, slots=True)
class PlacedPrompt:
    """A prompt, or a JSON value of prompts, in the config of a node; `place` says who reads it."""

    pointer: str
    node_id: str
    place: Place
    parsed: "Prompt | JsonPrompt | BadPrompt"


@dataclass(frozen=True, slots=True)
class PlacedRead:
    """A path that a text reads; `safe` if the text handles its absence. For an edge, `node_id` is the source."""

    pointer: str
    node_id: str
    edge_id: str | None
    path: tuple[str | int, ...]
    safe: bool

    @property
    def second(self) -> str | None:
        """The name below the root, if one is given."""
        return self.path[1] if len(self.path) > 1 and isinstance(self.path[1], str) else None

    def finding(self, code: str, message: str, near: Near | None = None) -> Finding:
        """A finding where the path is read."""
        node_id = self.node_id if self.edge_id is None else None
        return Finding(code, self.pointer, message, node_id=node_id, edge_id=self.edge_id, near=near)


@dataclass(frozen=True, slots=True)
class PlacedEdge:
    """An edge and its pointer."""

    pointer: str
    edge: Edge


class CheckedGraph:
    """A graph without schema errors. Everything derived from it is worked out once, when a rule first needs it."""

    def __init__(self, document: JsonObject, graph: WorkflowGraph, configs: dict[str, NodeConfig]) -> None:
        self.document = document
        """As sent, with its metadata."""
        self.graph = graph
        self.configs = configs
        self.nodes: dict[str, Node] = {node.id: node for node in graph.nodes}
        self.pointers = {node.id: f"/nodes/{index}" for index, node in enumerate(graph.nodes)}
        self.edges = [PlacedEdge(f"/edges/{index}", edge) for index, edge in enumerate(graph.edges)]
        self.outgoing: dict[str, list[PlacedEdge]] = {node.id: [] for node in graph.nodes}
        """Edges out of each node, edges to unknown nodes included."""
        for placed in self.edges:
            if placed.edge.source in self.outgoing:
                self.outgoing[placed.edge.source].append(placed)

    @cached_property
    def topology(self) -> Topology | None:
        """The paths; null unless the graph has exactly one start and all edges connect existing nodes."""
        starts = sum(node.type == "start" for node in self.graph.nodes)
        if starts != 1 or any(not {edge.source, edge.target} <= self.nodes.keys() for edge in self.graph.edges):
            return None
        return Topology.of(self.graph)

    @cached_property
    def expressions(self) -> list[PlacedExpression]:
        """Every expression, those of nodes first."""
        return [*self._node_expressions(), *self._edge_expressions()]

    @cached_property
    def prompts(self) -> list[PlacedPrompt]:
        """Every prompt and JSON value of prompts."""
        return list(self._prompts())

    @cached_property
    def reads(self) -> list[PlacedRead]:
        """Every path that an expression or a prompt reads."""
        return [*self._expression_reads(), *self._prompt_reads()]

    @cached_property
    def secrets(self) -> Secrets:
        """The places of secrets and of references to secrets, `metadata` included."""
        return find_secrets(self.document)

    @cached_property
    def guaranteed(self) -> dict[str, frozenset[str]]:
        """For each node, the nodes whose outputs are guaranteed when it starts; empty without a topology."""
        return guaranteed_outputs(self.topology) if self.topology else {}

    @cached_property
    def typed(self) -> list[tuple[str, NodeConfig, type[NodeBase[Any]]]]:
        """Id, config and type of every node, in the order of the document."""
        return [(node_id, self.configs[node_id], NODE_TYPES[node.type]) for node_id, node in self.nodes.items()]

    @cached_property
    def model_uses(self) -> dict[str, ModelUse]:
        """How each node that calls a model calls it."""
        uses = ((node_id, node_type.model_use(config)) for node_id, config, node_type in self.typed)
        return {node_id: use for node_id, use in uses if use is not None}

    @cached_property
    def retriever_uses(self) -> dict[str, RetrieverUse]:
        """How each node that asks a retriever asks it."""
        uses = ((node_id, node_type.retriever_use(config)) for node_id, config, node_type in self.typed)
        return {node_id: use for node_id, use in uses if use is not None}

    @cached_property
    def tools_named(self) -> dict[str, Mapping[str, str]]:
        """The tools that each node names, by their pointers."""
        named = ((node_id, node_type.tools_named(config)) for node_id, config, node_type in self.typed)
        return {node_id: tools for node_id, tools in named if tools}

    def nodes_of(self, wanted: Callable[[type[NodeBase[Any]]], bool]) -> list[str]:
        """The ids of the nodes whose type is wanted, in the order of the document."""
        return [node_id for node_id, _, node_type in self.typed if wanted(node_type)]

    def type_of(self, node_id: str) -> type[NodeBase[Any]]:
        """The class of a node's type."""
        return NODE_TYPES[self.nodes[node_id].type]

    def labels(self, node_id: str) -> tuple[str, ...]:
        """The labels that a node with this config can give.

        A node that calls tools gives `tool_calls` only if one of its edges has that label: else no tool is offered.
        """
        node_type = self.type_of(node_id)
        labels = node_type.labels(self.configs[node_id])
        if not node_type.calls_tools or any(out.edge.when == TOOL_CALLS_LABEL for out in self.outgoing[node_id]):
            return labels
        return tuple(label for label in labels if label != TOOL_CALLS_LABEL)

    def own_faults(self, layer: Layer) -> Iterator[Finding]:
        """The faults that node types find in their own configs, as findings of one layer."""
        for node_id, config, node_type in self.typed:
            yield from faults_of(node_type, config, f"{self.pointers[node_id]}/config", layer)

    def at_node(self, code: str, node_id: str, message: str, *, place: str = "", hint: str | None = None) -> Finding:
        """A finding at a node, or at a place below it."""
        return Finding(code, self.pointers[node_id] + place, message, node_id=node_id, hint=hint)

    def at_edge(
        self,
        code: str,
        placed: PlacedEdge,
        message: str,
        *,
        place: str = "",
        hint: str | None = None,
        near: Near | None = None,
    ) -> Finding:
        """A finding at an edge, or at a place below it."""
        return Finding(code, placed.pointer + place, message, edge_id=placed.edge.id, hint=hint, near=near)

    def _node_expressions(self) -> Iterator[PlacedExpression]:
        for node_id, config in self.configs.items():
            for text in placed_texts(config, f"{self.pointers[node_id]}/config"):
                if text.place.language in ("condition", "expression"):
                    is_condition = text.place.language == "condition"
                    yield PlacedExpression(text.pointer, node_id, None, is_condition, _expression(text.value))

    def _edge_expressions(self) -> Iterator[PlacedExpression]:
        for placed in self.edges:
            edge = placed.edge
            if edge.condition is not None:
                parsed = _expression(edge.condition)
                yield PlacedExpression(f"{placed.pointer}/condition", edge.source, edge.id, True, parsed)

    def _prompts(self) -> Iterator[PlacedPrompt]:
        for node_id, config in self.configs.items():
            for text in placed_texts(config, f"{self.pointers[node_id]}/config"):
                if text.place.language in ("prompt", "json_prompt"):
                    yield PlacedPrompt(text.pointer, node_id, text.place, _prompt(text.value))

    def _expression_reads(self) -> Iterator[PlacedRead]:
        for placed in self.expressions:
            if isinstance(placed.parsed, Expression):
                for read in placed.parsed.reads:
                    yield PlacedRead(placed.pointer, placed.node_id, placed.edge_id, read.path, read.guarded)

    def _prompt_reads(self) -> Iterator[PlacedRead]:
        for placed in self.prompts:
            if not isinstance(placed.parsed, BadPrompt):
                for read in placed.parsed.reads:
                    yield PlacedRead(placed.pointer, placed.node_id, None, read.path, read.has_default)


def _expression(text: Json) -> Expression | BadExpression:
    try:
        return parse_expression(str(text))
    except BadExpression as error:
        return error


def _prompt(value: Json) -> Prompt | JsonPrompt | BadPrompt:
    try:
        return parse_prompt(value) if isinstance(value, str) else parse_json(value)
    except BadPrompt as error:
        return error
