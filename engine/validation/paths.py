"""Structure rules about paths: reachability, forks and joins, cycles, tool loops."""

from collections import Counter
from collections.abc import Callable, Iterator

from engine.graph import Edge
from engine.interpreter.topology import TOOL_CALLS_LABEL, Branch, Fork, Topology, cycles, reach
from engine.validation.checked_graph import CheckedGraph
from engine.validation.rules import Finding

MAX_BRANCHES = 32


def no_way_to_end(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A node from which no path of normal edges leads to an end."""
    for node_id in checked.nodes:
        if topology.ends and topology.normal_successors[node_id] and node_id not in topology.reaches_end:
            message = "No path leads from this node to an end node; error edges do not count."
            yield checked.at_node("structure.no_way_to_end", node_id, message)


def unreachable(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A node without a path from start."""
    for node_id in checked.nodes:
        if node_id not in topology.reachable:
            yield checked.at_node("structure.unreachable", node_id, "No path leads from start to this node.")


def fork_without_join(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A fork without a node that all of its paths pass."""
    for fork in topology.forks.values():
        if fork.join is None:
            message = "The edges of this node run in parallel, but no node joins all of their paths."
            yield checked.at_node("structure.fork_without_join", fork.source, message)


def branches_overlap(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """Two branches of a fork share a node."""
    for fork in topology.forks.values():
        if fork.shared:
            first = _first(checked, fork.shared)
            message = f"More than one branch reaches `{first}` before the join `{fork.join}`."
            yield checked.at_node("structure.branches_overlap", fork.source, message)


def branch_entered(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """An edge into a branch from outside it, or a fork inside its own branch."""
    edges = {placed.edge.id: placed for placed in checked.edges}
    reported: set[str | None] = set()
    for fork in topology.forks.values():
        if any(fork.source in branch.nodes for branch in fork.branches):
            message = "A branch leads back to its fork before the join."
            yield checked.at_node("structure.branch_entered", fork.source, message)
        elif not fork.shared:
            for edge in _entering(topology, fork):
                if edge.id in reported:
                    continue
                reported.add(edge.id)
                message = f"The edge enters a branch of the fork at `{fork.source}` from outside."
                yield checked.at_edge("structure.branch_entered", edges[edge.id], message)


def _entering(topology: Topology, fork: Fork) -> Iterator[Edge]:
    for branch in fork.branches:
        for node_id in branch.nodes:
            for edge in topology.incoming[node_id]:
                if edge.source not in branch.nodes and edge is not branch.edge:
                    yield edge


def too_many_branches(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A fork with more than 32 edges."""
    for fork in topology.forks.values():
        if len(fork.branches) > MAX_BRANCHES:
            message = f"The fork has {len(fork.branches)} branches; at most {MAX_BRANCHES} are allowed."
            yield checked.at_node("structure.too_many_branches", fork.source, message)


def empty_branch(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A fork's edge straight to its join."""
    edges = {placed.edge.id: placed for placed in checked.edges}
    for fork in topology.forks.values():
        for branch in fork.branches:
            if fork.join is not None and branch.first == fork.join:
                message = "The edge leads from the fork straight to its join."
                yield checked.at_edge("structure.empty_branch", edges[branch.edge.id], message)


def parallel_set(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """Two branches write the same thing, so the order of edges decides which write wins."""
    for fork in topology.forks.values():
        writes = Counter(what for branch in fork.branches for what in _writes(checked, branch))
        for what in sorted(what for what, branches in writes.items() if branches > 1):
            message = f"More than one branch {what}; the order of the fork's edges decides."
            yield checked.at_node("structure.parallel_set", fork.source, message)


def _writes(checked: CheckedGraph, branch: Branch) -> set[str]:
    return {
        what for node_id in branch.nodes for what in checked.type_of(node_id).ordered_writes(checked.configs[node_id])
    }


def pause_in_branch(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A node that may park in a branch of a fork: checkpoints are made of whole runs, never of branches."""
    inside = {node_id for fork in topology.forks.values() for branch in fork.branches for node_id in branch.nodes}
    for node_id, config, node_type in checked.typed:
        if node_id not in inside or not node_type.may_park(config):
            continue
        if node_type.needs_checkpoint or checked.graph.durability != "none":
            message = "The execution cannot pause here while other branches run."
            yield checked.at_node("structure.pause_in_branch", node_id, message)


def endless_cycle(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A cycle without a normal edge out of it."""
    for cycle in topology.normal_cycles:
        leaving = any(target not in cycle for node_id in cycle for target in topology.normal_successors[node_id])
        if not leaving:
            first = _first(checked, cycle)
            message = f"No edge leads out of this cycle of {len(cycle)} {_nodes(cycle)}; error edges do not count."
            yield checked.at_node("structure.endless_cycle", first, message)


def cycle_bound(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A cycle that nothing but the limits of the execution ends."""
    unbounded = set(checked.nodes_of(lambda node_type: not node_type.bounds_cycle))
    successors = {
        node_id: [target for target in targets if target in unbounded]
        for node_id, targets in topology.successors.items()
        if node_id in unbounded
    }
    for cycle in cycles(successors):
        message = f"This cycle of {len(cycle)} {_nodes(cycle)} has no iteration limit."
        yield checked.at_node("structure.cycle_bound", _first(checked, cycle), message)


def loop_without_body(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A loop node without an edge back to it from a node that it dominates."""
    for node_id in checked.nodes_of(lambda node_type: node_type.is_loop):
        inside = any(topology.dominates(node_id, edge.source) for edge in topology.incoming[node_id])
        if node_id in topology.reachable and not inside:
            message = "No path from the loop's `continue` edge leads back to the loop."
            yield checked.at_node("structure.loop_without_body", node_id, message)


def tools_not_routed(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A `tool_calls` edge without a tools node behind it before the next model."""
    for placed in checked.edges:
        edge = placed.edge
        calls = edge.when == TOOL_CALLS_LABEL and checked.type_of(edge.source).calls_tools
        if calls and not topology.tool_nodes_behind(edge.source):
            message = "No tools node follows this edge before the next model."
            yield checked.at_edge("structure.tools_not_routed", placed, message)


def tools_unused(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A tools node that no model can use: it follows no `tool_calls` edge, names no tool, or leads to no model."""
    models = checked.nodes_of(lambda node_type: node_type.calls_tools)
    used = {tools for model in models for tools in topology.tool_nodes_behind(model)}
    before_models = set(reach(models, topology.normal_predecessors))
    for node_id in checked.nodes_of(lambda node_type: node_type.runs_tool_calls):
        if node_id not in used:
            yield checked.at_node("structure.tools_unused", node_id, "The node follows no `tool_calls` edge.")
        elif node_id not in checked.tools_named:
            message = "The node names no tools."
            yield checked.at_node("structure.tools_unused", node_id, message, place="/config")
        elif node_id not in before_models:
            yield checked.at_node("structure.tools_unused", node_id, "No path leads from this node back to a model.")


def tool_loop_blind(checked: CheckedGraph, topology: Topology) -> Iterator[Finding]:
    """A model that calls tools but does not see their answers."""
    for node_id in checked.nodes_of(lambda node_type: node_type.calls_tools):
        calls = any(edge.when == TOOL_CALLS_LABEL for edge in topology.outgoing[node_id])
        if calls and not checked.type_of(node_id).sees_tool_answers(checked.configs[node_id]):
            message = "The model calls tools but is not sent the messages with their answers."
            yield checked.at_node("structure.tool_loop_blind", node_id, message, place="/config")


CHECKS: dict[str, Callable[[CheckedGraph, Topology], Iterator[Finding]]] = {
    "structure.no_way_to_end": no_way_to_end,
    "structure.unreachable": unreachable,
    "structure.fork_without_join": fork_without_join,
    "structure.branches_overlap": branches_overlap,
    "structure.branch_entered": branch_entered,
    "structure.too_many_branches": too_many_branches,
    "structure.empty_branch": empty_branch,
    "structure.parallel_set": parallel_set,
    "structure.pause_in_branch": pause_in_branch,
    "structure.endless_cycle": endless_cycle,
    "structure.cycle_bound": cycle_bound,
    "structure.loop_without_body": loop_without_body,
    "structure.tools_not_routed": tools_not_routed,
    "structure.tools_unused": tools_unused,
    "structure.tool_loop_blind": tool_loop_blind,
}
"""The check of each code. They run only if the graph has a topology."""


def _nodes(cycle: frozenset[str]) -> str:
    return "node" if len(cycle) == 1 else "nodes"


def _first(checked: CheckedGraph, nodes: frozenset[str]) -> str:
    return next(node_id for node_id in checked.nodes if node_id in nodes)
