"""The topology of a graph: reachability, dominators, forks with their joins, and cycles.

The graph must have unique node ids, edges between existing nodes, and one start node. Other faults (a fork without
join, overlapping branches) do not raise: the validator finds them in the result. All algorithms are iterative and at
most O(nodes × edges). Where it is faster, sets of nodes are integers used as bit sets.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from engine.graph import ERROR_LABEL, Edge, WorkflowGraph
from engine.nodes.registry import NODE_TYPES

TOOL_CALLS_LABEL = "tool_calls"


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch of a fork: its edge, its first node, and all nodes that it may run before the join.

    An edge straight to the join is an empty branch: `first` is the join and `nodes` is empty.
    """

    edge: Edge
    first: str
    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Fork:
    """A node whose plain edges are all taken, in parallel.

    `join` is null if no node is on every path; then the branches have no nodes. `shared` are the nodes that several
    branches reach before the join. Both are faults, which a valid graph does not have.
    """

    source: str
    join: str | None
    branches: tuple[Branch, ...]
    shared: frozenset[str] = frozenset()


class Topology:
    """The topology of one graph. Every edge except `when: "error"` is a *normal* edge."""

    def __init__(self, types: dict[str, str], edges: Iterable[Edge], start: str) -> None:
        self.types = types
        """Node type by node id, in the order of the document."""
        self.start = start
        self.ends = frozenset(node for node, type_ in types.items() if type_ == "end")
        self.outgoing: dict[str, list[Edge]] = {node: [] for node in types}
        self.incoming: dict[str, list[Edge]] = {node: [] for node in types}
        for edge in edges:
            self.outgoing[edge.source].append(edge)
            self.incoming[edge.target].append(edge)
        self.successors = {node: [edge.target for edge in out] for node, out in self.outgoing.items()}
        """Targets of all edges."""
        self.normal_successors = {
            node: [edge.target for edge in out if is_normal(edge)] for node, out in self.outgoing.items()
        }
        self.normal_predecessors = _reversed(self.normal_successors)
        self._bits = {node: 1 << index for index, node in enumerate(types)}
        self.order = tuple(_reverse_postorder([start], self.successors))
        """The nodes with a path from the start node, error edges included, in reverse postorder."""
        self.reachable = frozenset(self.order)
        self.reaches_end = frozenset(reach(self.ends, self.normal_predecessors))
        """Nodes with a path of normal edges to an end."""
        self._dominators = _dominators([start], self.successors, self._bits)
        self._post_dominators = _dominators(self.ends, self.normal_predecessors, self._bits)
        self.cycles = cycles(self.successors)
        """Maximal sets of nodes that are connected in cycles, error edges included."""
        self.normal_cycles = cycles(self.normal_successors)
        """The cycles of normal edges only."""
        self.forks: dict[str, Fork] = {node: self._fork(node) for node in types if self._is_fork(node)}

    @classmethod
    def of(cls, graph: WorkflowGraph) -> "Topology":
        """The topology of a graph with unique node ids, edges between existing nodes, and one start node."""
        types = {node.id: node.type for node in graph.nodes}
        start = next(node.id for node in graph.nodes if node.type == "start")
        return cls(types, graph.edges, start)

    def dominates(self, above: str, node: str) -> bool:
        """Whether every path from start to `node` passes `above`; true for itself, false for unreachable nodes."""
        return bool(self._dominators.get(node, 0) & self._bits[above])

    def tool_nodes_behind(self, model_id: str) -> tuple[str, ...]:
        """The tools nodes after the model's `tool_calls` edge and before the next model node, nearest first."""
        first = [edge.target for edge in self.outgoing[model_id] if edge.when == TOOL_CALLS_LABEL]
        found = reach(first, self.normal_successors, stop=lambda node: NODE_TYPES[self.types[node]].calls_tools)
        return tuple(node for node in found if NODE_TYPES[self.types[node]].runs_tool_calls)

    def _is_fork(self, node: str) -> bool:
        normal = [edge for edge in self.outgoing[node] if is_normal(edge)]
        return len(normal) > 1 and all(edge.is_plain for edge in normal)

    def _fork(self, source: str) -> Fork:
        edges = [edge for edge in self.outgoing[source] if is_normal(edge)]
        join = self._nearest_post_dominator(source)
        if join is None:
            return Fork(source, None, tuple(Branch(edge, edge.target, frozenset()) for edge in edges))
        section = _Section(self, source, join, [edge.target for edge in edges])
        nodes = section.nodes_by_branch()
        branches = tuple(Branch(edge, edge.target, nodes[index]) for index, edge in enumerate(edges))
        return Fork(source, join, branches, frozenset(section.shared))

    def _nearest_post_dominator(self, node: str) -> str | None:
        """The nearest post-dominator: they form a chain, and the nearest one has the most post-dominators itself."""
        behind = self._post_dominators.get(node, 0) & ~self._bits[node]
        chain = [other for other, bit in self._bits.items() if behind & bit]
        return max(chain, key=lambda other: self._post_dominators[other].bit_count(), default=None)


class _Section:
    """The nodes between a fork and its join. `owner` is the index of each node's branch."""

    def __init__(self, topology: Topology, source: str, join: str, targets: list[str]) -> None:
        self._topology = topology
        self._source = source
        self._join = join
        self._branches = len(targets)
        self.owner: dict[str, int] = {}
        self.shared: set[str] = set()
        self._spread(targets)
        self._add_handlers()

    def nodes_by_branch(self) -> list[frozenset[str]]:
        """The nodes of each branch, in the order of the fork's edges."""
        nodes: list[set[str]] = [set() for _ in range(self._branches)]
        for node, owner in self.owner.items():
            nodes[owner].add(node)
        return [frozenset(branch) for branch in nodes]

    def _spread(self, targets: list[str]) -> None:
        """Follow normal edges up to the join or back to the fork; the first branch to reach a node owns it."""
        queue = deque((target, index) for index, target in enumerate(targets))
        while queue:
            node, index = queue.popleft()
            if node == self._join:
                continue
            if node in self.owner:
                if self.owner[node] != index:
                    self.shared.add(node)
                continue
            self.owner[node] = index
            if node != self._source:
                queue.extend((target, index) for target in self._topology.normal_successors[node])

    def _add_handlers(self) -> None:
        """Add error handlers to a branch if only that branch routes to them and they lead only to the join."""
        candidates = self._candidates()
        doubtful = deque(candidates)
        while doubtful:
            node = doubtful.popleft()
            if node not in candidates or self._belongs(node, candidates):
                continue
            del candidates[node]
            doubtful.extend(self._topology.successors[node])
            doubtful.extend(edge.source for edge in self._topology.incoming[node])
        self.owner.update(candidates)

    def _candidates(self) -> dict[str, int]:
        """The nodes after the branches' error edges and before the join, with the first branch that reaches each."""
        owner = dict(self.owner)
        frontier = deque(self.owner)
        while frontier:
            node = frontier.popleft()
            if node == self._source:
                continue
            for target in self._topology.successors[node]:
                if target not in owner and target != self._join:
                    owner[target] = owner[node]
                    frontier.append(target)
        return {node: index for node, index in owner.items() if node not in self.owner}

    def _belongs(self, node: str, candidates: Mapping[str, int]) -> bool:
        index = candidates[node]
        normal = self._topology.normal_successors[node]
        if not normal or node == self._source:
            return False
        if any(self._owner(edge.source, candidates) != index for edge in self._topology.incoming[node]):
            return False
        return all(target == self._join or self._owner(target, candidates) == index for target in normal)

    def _owner(self, node: str, candidates: Mapping[str, int]) -> int | None:
        if node == self._source:
            return None
        return self.owner.get(node, candidates.get(node))


def is_normal(edge: Edge) -> bool:
    """Whether the edge is not an error edge."""
    return edge.when != ERROR_LABEL


def reach(
    first: Iterable[str], successors: Mapping[str, Iterable[str]], stop: Callable[[str], bool] = lambda node: False
) -> list[str]:
    """All nodes reachable from `first`, including these, nearest first. Paths end before a `stop` node."""
    found: dict[str, None] = {}
    queue = deque(first)
    while queue:
        node = queue.popleft()
        if node not in found and not stop(node):
            found[node] = None
            queue.extend(successors[node])
    return list(found)


def cycles(successors: Mapping[str, Iterable[str]]) -> tuple[frozenset[str], ...]:
    """The strongly connected components that contain an edge (Kosaraju's algorithm)."""
    predecessors = _reversed(successors)
    assigned: set[str] = set()
    found: list[frozenset[str]] = []
    for node in _reverse_postorder(successors, successors):
        if node in assigned:
            continue
        component = frozenset(reach([node], predecessors, stop=assigned.__contains__))
        assigned |= component
        if len(component) > 1 or node in successors[node]:
            found.append(component)
    return tuple(found)


def _reversed(successors: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    predecessors: dict[str, list[str]] = {node: [] for node in successors}
    for node, targets in successors.items():
        for target in targets:
            predecessors[target].append(node)
    return predecessors


def _dominators(
    roots: Iterable[str], successors: Mapping[str, Iterable[str]], bits: Mapping[str, int]
) -> dict[str, int]:
    """The dominators (as a bit set) of every node reachable from the roots; each node dominates itself.

    Solves dom(n) = {n} ∪ ⋂ dom(p) over the predecessors p of n, in reverse postorder.
    """
    known = {root: bits[root] for root in roots}
    inner = [node for node in _reverse_postorder(list(known), successors) if node not in known]
    predecessors = _reversed(successors)
    changed = True
    while changed:
        changed = False
        for node in inner:
            on_all_paths = -1
            for predecessor in predecessors[node]:
                on_all_paths &= known.get(predecessor, -1)
            on_all_paths |= bits[node]
            if known.get(node) != on_all_paths:
                known[node] = on_all_paths
                changed = True
    return known


def _reverse_postorder(roots: Iterable[str], successors: Mapping[str, Iterable[str]]) -> list[str]:
    """The nodes reachable from the roots, in the reverse of the order in which a depth-first search leaves them."""
    seen: set[str] = set()
    postorder: list[str] = []
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        path = [(root, iter(successors[root]))]
        while path:
            node, targets = path[-1]
            target = next((found for found in targets if found not in seen), None)
            if target is None:
                path.pop()
                postorder.append(node)
            else:
                seen.add(target)
                path.append((target, iter(successors[target])))
    return postorder[::-1]
