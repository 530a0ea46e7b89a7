"""Find the outputs that are guaranteed when a node starts, because every path to the node writes them.

This is a must-analysis over the edges: the outputs before a node are those that all its arrivals have in common. An
error edge does not carry its source's output. At a join all branches have run, so their outputs are united.
"""

from engine.graph import Edge
from engine.interpreter.topology import Fork, Topology, is_normal

_Arrival = tuple[str, Edge | None, int]
"""Its source (a node, or a fork whose branches were united), its edge, and the bits of its outputs."""


def guaranteed_outputs(topology: Topology) -> dict[str, frozenset[str]]:
    """For each reachable node, the ids of the nodes whose outputs exist on every path to it."""
    bits = {node: 1 << index for index, node in enumerate(topology.types)}
    before = _Analysis(topology, bits).solve()
    return {node: frozenset(other for other, bit in bits.items() if known & bit) for node, known in before.items()}


class _Analysis:
    """The outputs before each node as bits. A node that is missing has no known arrival yet, which excludes nothing."""

    def __init__(self, topology: Topology, bits: dict[str, int]) -> None:
        self._topology = topology
        self._bits = bits
        self._before = {topology.start: 0}
        self._forks_by_join: dict[str, list[Fork]] = {}
        for fork in sorted(topology.forks.values(), key=_size):
            if fork.join is not None:
                self._forks_by_join.setdefault(fork.join, []).append(fork)

    def solve(self) -> dict[str, int]:
        """Repeat over all nodes until nothing changes."""
        order = [node for node in self._topology.order if node != self._topology.start]
        changed = True
        while changed:
            changed = False
            for node in order:
                known = self._before.get(node, -1) & self._arrivals(node)
                if known >= 0 and self._before.get(node) != known:
                    self._before[node] = known
                    changed = True
        return self._before

    def _arrivals(self, node: str) -> int:
        arrivals = [(edge, self._along(edge)) for edge in self._topology.incoming[node]]
        known: list[_Arrival] = [(edge.source, edge, brought) for edge, brought in arrivals if brought is not None]
        for fork in self._forks_by_join.get(node, ()):
            known = _joined(fork, known)
        return _agreed([brought for _, _, brought in known])

    def _along(self, edge: Edge) -> int | None:
        before = self._before.get(edge.source)
        if before is None:
            return None
        return before | self._bits[edge.source] if is_normal(edge) else before


def _joined(fork: Fork, arrivals: list[_Arrival]) -> list[_Arrival]:
    """The arrivals, with those of the fork's branches united into one."""
    rest = list(arrivals)
    total = 0
    for branch in fork.branches:
        own = [item for item in rest if item[0] in branch.nodes or item[1] is branch.edge]
        rest = [item for item in rest if item not in own]
        total |= _agreed([brought for _, _, brought in own]) if own else 0
    return rest if len(rest) == len(arrivals) else [*rest, (fork.source, None, total)]


def _agreed(brought: list[int]) -> int:
    """The outputs that all arrivals have in common; -1, all bits, if there is no arrival yet."""
    common = -1
    for known in brought:
        common &= known
    return common


def _size(fork: Fork) -> int:
    """The number of nodes in the branches; an inner fork has fewer than the fork around it."""
    return sum(len(branch.nodes) for branch in fork.branches)
