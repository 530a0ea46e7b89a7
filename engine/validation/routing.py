"""Structure rules about nodes and the edges between them: start and end, labels, conditions, error edges."""

from collections.abc import Callable, Iterator

from engine.expressions.cel import BadExpression, Expression
from engine.graph import ERROR_LABEL, ContinuePolicy, JsonObject, RoutePolicy
from engine.report import Layer
from engine.validation.checked_graph import CheckedGraph, PlacedEdge
from engine.validation.rules import Finding, Near
from engine.validation.schema import MAX_EDGES, MAX_EXPRESSIONS_CHARACTERS, MAX_NODES

LARGE = 0.8


def start_count(checked: CheckedGraph) -> Iterator[Finding]:
    """Not exactly one start node."""
    starts = [node.id for node in checked.graph.nodes if node.type == "start"]
    if not starts:
        yield Finding("structure.start_count", "/nodes", "The graph has no start node.")
    for node_id in starts[1:]:
        yield checked.at_node("structure.start_count", node_id, "The graph already has a start node.")


def no_end(checked: CheckedGraph) -> Iterator[Finding]:
    """No end node."""
    if all(node.type != "end" for node in checked.graph.nodes):
        yield Finding("structure.no_end", "/nodes", "The graph has no end node.")


def unknown_node(checked: CheckedGraph) -> Iterator[Finding]:
    """An edge names a node that does not exist."""
    for placed in checked.edges:
        for side, name in (("source", placed.edge.source), ("target", placed.edge.target)):
            if name not in checked.nodes:
                message = f"The edge's {side} is not a node of the graph."
                near = Near(name, checked.nodes)
                yield checked.at_edge("structure.unknown_node", placed, message, place=f"/{side}", near=near)


def duplicate_edge(checked: CheckedGraph) -> Iterator[Finding]:
    """Two edges with the same source, target, label and condition."""
    seen: set[tuple[str, str, str | None, str | None]] = set()
    for placed in checked.edges:
        edge = placed.edge
        key = (edge.source, edge.target, edge.when, edge.condition)
        if key in seen:
            yield checked.at_edge("structure.duplicate_edge", placed, "An earlier edge is the same.")
        seen.add(key)


def start_entered(checked: CheckedGraph) -> Iterator[Finding]:
    """An edge into a start node."""
    for placed in checked.edges:
        target = checked.nodes.get(placed.edge.target)
        if target is not None and target.type == "start":
            yield checked.at_edge("structure.start_entered", placed, "The edge leads into the start node.")


def end_left(checked: CheckedGraph) -> Iterator[Finding]:
    """An edge out of an end node."""
    for placed in checked.edges:
        source = checked.nodes.get(placed.edge.source)
        if source is not None and source.type == "end":
            yield checked.at_edge("structure.end_left", placed, "The edge leads out of an end node.")


def dead_end(checked: CheckedGraph) -> Iterator[Finding]:
    """A node other than an end without a normal edge out."""
    for node_id, node in checked.nodes.items():
        if node.type != "end" and not _normal(checked, node_id):
            yield checked.at_node(
                "structure.dead_end", node_id, "No edge leads out of this node; error edges do not count."
            )


def mixed_routing(checked: CheckedGraph) -> Iterator[Finding]:
    """Labelled and conditional edges on one node."""
    for node_id in checked.nodes:
        if _labelled(checked, node_id) and _conditional(checked, node_id):
            yield checked.at_node(
                "structure.mixed_routing", node_id, "Some edges of this node have labels, others have conditions."
            )


def two_defaults(checked: CheckedGraph) -> Iterator[Finding]:
    """More than one plain edge beside labelled or conditional ones."""
    for node_id in checked.nodes:
        plain = _plain(checked, node_id)
        if len(plain) > 1 and len(plain) < len(_normal(checked, node_id)):
            yield checked.at_edge("structure.two_defaults", plain[1], "The node already has a default edge.")


def unknown_label(checked: CheckedGraph) -> Iterator[Finding]:
    """An edge has a label that its source cannot give with this config."""
    for node_id in checked.nodes:
        labels = checked.labels(node_id)
        for placed in _labelled(checked, node_id):
            if placed.edge.when not in labels:
                near = Near(str(placed.edge.when), labels)
                hint = (
                    f"Labels of the source: {', '.join(labels)}."
                    if labels
                    else "The source has no labels: remove `when`."
                )
                message = "The source node cannot give this label."
                yield checked.at_edge("structure.unknown_label", placed, message, place="/when", hint=hint, near=near)


def duplicate_label(checked: CheckedGraph) -> Iterator[Finding]:
    """One label on edges to different targets."""
    for node_id in checked.nodes:
        targets: dict[str | None, str] = {}
        for placed in _labelled(checked, node_id):
            known = targets.setdefault(placed.edge.when, placed.edge.target)
            if known != placed.edge.target:
                yield checked.at_edge(
                    "structure.duplicate_label", placed, "Another edge of the node has the same label."
                )


def uncovered_label(checked: CheckedGraph) -> Iterator[Finding]:
    """A label that the node can give has no edge, and there is no default."""
    for node_id in checked.nodes:
        labelled = _labelled(checked, node_id)
        must_route = checked.type_of(node_id).must_route
        if not labelled and (not must_route or not _normal(checked, node_id)):
            continue
        if labelled and _plain(checked, node_id):
            continue
        covered = {placed.edge.when for placed in labelled}
        for label in checked.labels(node_id):
            if label not in covered:
                message = f"The label `{label}` has no edge."
                yield checked.at_node("structure.uncovered_label", node_id, message)


def no_default(checked: CheckedGraph) -> Iterator[Finding]:
    """Conditional edges without a default edge; a conditional node checks its own cases."""
    for node_id in checked.nodes:
        if _conditional(checked, node_id) and not _plain(checked, node_id):
            yield checked.at_node("structure.no_default", node_id, "If no condition is true, the run fails.")


def dead_condition(checked: CheckedGraph) -> Iterator[Finding]:
    """A condition that is constant, equal to an earlier one, or after one that is always true."""
    groups: dict[tuple[str, str | None], list[tuple[str, Expression]]] = {}
    for placed in checked.expressions:
        if placed.is_condition and isinstance(placed.parsed, Expression):
            group = placed.node_id, "edges" if placed.edge_id is not None else None
            groups.setdefault(group, []).append((placed.pointer, placed.parsed))
    for (node_id, _), conditions in groups.items():
        for pointer, message in _dead(conditions):
            yield Finding("structure.dead_condition", pointer, message, node_id=node_id)


def _dead(conditions: list[tuple[str, Expression]]) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    decided = False
    for pointer, expression in conditions:
        if decided:
            yield pointer, "An earlier condition is always true."
        elif expression.text in seen:
            yield pointer, "An earlier condition is the same."
        elif isinstance(expression.constant, bool):
            yield pointer, f"The condition is always {str(expression.constant).lower()}."
        seen.add(expression.text)
        decided = decided or expression.constant is True


def error_edge(checked: CheckedGraph) -> Iterator[Finding]:
    """`route` without exactly one error edge, or an error edge without `route`."""
    for node_id, node in checked.nodes.items():
        edges = [placed for placed in checked.outgoing[node_id] if placed.edge.when == ERROR_LABEL]
        if isinstance(node.on_error, RoutePolicy):
            if len(edges) != 1:
                message = f"The node routes its failures, so it needs exactly one error edge; it has {len(edges)}."
                yield checked.at_node("structure.error_edge", node_id, message)
        elif edges:
            yield checked.at_edge(
                "structure.error_edge",
                edges[0],
                "The edge is for failures, but the source's `on_error` policy is not `route`.",
            )


def continue_label(checked: CheckedGraph) -> Iterator[Finding]:
    """`continue` on a node with labelled edges without a label that has an edge."""
    for node_id, node in checked.nodes.items():
        labels = {placed.edge.when for placed in _labelled(checked, node_id)}
        if isinstance(node.on_error, ContinuePolicy) and labels and node.on_error.label not in labels:
            message = "After a failure the run continues, but `on_error.label` names no labelled edge."
            yield checked.at_node("structure.continue_label", node_id, message, place="/on_error")


def handler_unused(checked: CheckedGraph) -> Iterator[Finding]:
    """An error handler without an error edge to it."""
    routed = {placed.edge.target for placed in checked.edges if placed.edge.when == ERROR_LABEL}
    for node_id in checked.nodes_of(lambda node_type: node_type.handles_errors):
        if node_id not in routed:
            yield checked.at_node("structure.handler_unused", node_id, "No error edge leads to this handler.")


def bad_expression(checked: CheckedGraph) -> Iterator[Finding]:
    """An expression that is not CEL, or uses a part of CEL that is not allowed."""
    for placed in checked.expressions:
        if isinstance(placed.parsed, BadExpression):
            position = placed.parsed.position
            data: JsonObject = {"position": position} if position is not None else {}
            node_id = placed.node_id if placed.edge_id is None else None
            yield Finding(
                "structure.bad_expression",
                placed.pointer,
                placed.parsed.message,
                node_id=node_id,
                edge_id=placed.edge_id,
                data=data,
            )


def expression_type(checked: CheckedGraph) -> Iterator[Finding]:
    """A condition that cannot be boolean."""
    for placed in checked.expressions:
        parsed = placed.parsed
        if placed.is_condition and isinstance(parsed, Expression) and parsed.result_type not in ("bool", "dyn"):
            node_id = placed.node_id if placed.edge_id is None else None
            message = f"The result of the condition is a {parsed.result_type}, not a boolean."
            yield Finding("structure.expression_type", placed.pointer, message, node_id=node_id, edge_id=placed.edge_id)


def durability(checked: CheckedGraph) -> Iterator[Finding]:
    """A node that needs checkpoints, or `on_lost: resume`, where none are kept; `spend: at_end` where some are."""
    if checked.graph.durability == "none":
        for node_id in checked.nodes_of(lambda node_type: node_type.needs_checkpoint):
            message = "The execution cannot wait for an answer, because durability `none` keeps no checkpoints."
            hint = "Set `durability` to `step` or `exit`, or remove it."
            yield checked.at_node("structure.durability", node_id, message, hint=hint)
    if checked.graph.on_lost == "resume" and checked.graph.durability != "step":
        yield Finding("structure.durability", "/on_lost", "Only durability `step` keeps checkpoints to resume from.")
    if checked.graph.limits.spend == "at_end" and checked.graph.durability != "none":
        message = "An execution that books its calls at its end cannot go on behind a checkpoint."
        hint = "Set `spend` to `each_call`, or `durability` to `none`."
        yield Finding("structure.durability", "/limits/spend", message, hint=hint)


def nothing_streams(checked: CheckedGraph) -> Iterator[Finding]:
    """No node has `stream`."""
    if not any(node.stream for node in checked.graph.nodes):
        yield Finding(
            "structure.nothing_streams",
            "/nodes",
            "No node has `stream`, so a stream of this workflow carries no tokens.",
        )


def large(checked: CheckedGraph) -> Iterator[Finding]:
    """More than 80 % of the allowed nodes, edges or expression text."""
    texts = (placed.parsed for placed in checked.expressions)
    characters = sum(len(parsed.text) for parsed in texts if isinstance(parsed, Expression))
    for what, pointer, count, limit in (
        ("nodes", "/nodes", len(checked.graph.nodes), MAX_NODES),
        ("edges", "/edges", len(checked.graph.edges), MAX_EDGES),
        ("characters of expressions", "", characters, MAX_EXPRESSIONS_CHARACTERS),
    ):
        if count > LARGE * limit:
            message = f"The graph has {count:,} of at most {limit:,} {what}."
            yield Finding("structure.large", pointer, message, data={"count": count, "limit": limit})


def own_faults(checked: CheckedGraph) -> Iterator[Finding]:
    """What node types find in their own configs."""
    return checked.own_faults(Layer.STRUCTURE)


CHECKS: dict[str, Callable[[CheckedGraph], Iterator[Finding]]] = {
    "structure.start_count": start_count,
    "structure.no_end": no_end,
    "structure.unknown_node": unknown_node,
    "structure.duplicate_edge": duplicate_edge,
    "structure.start_entered": start_entered,
    "structure.end_left": end_left,
    "structure.dead_end": dead_end,
    "structure.mixed_routing": mixed_routing,
    "structure.two_defaults": two_defaults,
    "structure.unknown_label": unknown_label,
    "structure.duplicate_label": duplicate_label,
    "structure.uncovered_label": uncovered_label,
    "structure.no_default": no_default,
    "structure.dead_condition": dead_condition,
    "structure.error_edge": error_edge,
    "structure.continue_label": continue_label,
    "structure.handler_unused": handler_unused,
    "structure.bad_expression": bad_expression,
    "structure.expression_type": expression_type,
    "structure.durability": durability,
    "structure.nothing_streams": nothing_streams,
    "structure.large": large,
    "structure.config": own_faults,
}
"""The check of each code."""


def _normal(checked: CheckedGraph, node_id: str) -> list[PlacedEdge]:
    return [placed for placed in checked.outgoing[node_id] if placed.edge.when != ERROR_LABEL]


def _labelled(checked: CheckedGraph, node_id: str) -> list[PlacedEdge]:
    return [placed for placed in _normal(checked, node_id) if placed.edge.when is not None]


def _conditional(checked: CheckedGraph, node_id: str) -> list[PlacedEdge]:
    return [placed for placed in checked.outgoing[node_id] if placed.edge.condition is not None]


def _plain(checked: CheckedGraph, node_id: str) -> list[PlacedEdge]:
    return [placed for placed in checked.outgoing[node_id] if placed.edge.is_plain]
