"""Paths, forks, dominators and cycles in small drawn graphs, and in random graphs against the definitions."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.graph import Edge
from engine.interpreter.topology import Fork, Topology, reach

TYPES = {"s": "start", "e": "end", "e2": "end"}


def topology(drawing: str, **types: str) -> Topology:
    """A graph drawn as `a>b`, `a>b:label` and `a>b?condition`, in the order of its edges; s starts, e and e2 end."""
    edges = []
    for word in drawing.split():
        source, target = word.split(">")
        target, _, when = target.partition(":")
        target, _, condition = target.partition("?")
        edges.append(Edge(source=source, target=target, when=when or None, condition=condition or None))
    nodes = dict.fromkeys(node for edge in edges for node in (edge.source, edge.target))
    return Topology({node: types.get(node, TYPES.get(node, "variable")) for node in nodes}, edges, "s")


def fork(drawing: str, source: str = "s") -> Fork:
    return topology(drawing).forks[source]


def branches(found: Fork) -> list[str]:
    return ["".join(sorted(branch.nodes)) for branch in found.branches]


def test_a_fork_joins_at_the_first_node_that_every_path_passes() -> None:
    found = fork("s>a s>b a>c c>j b>j j>k k>e")
    assert (found.join, branches(found), found.shared) == ("j", ["ac", "b"], frozenset())


def test_branches_are_in_the_order_of_the_edges() -> None:
    assert [branch.first for branch in fork("s>c s>a s>b a>e b>e c>e").branches] == ["c", "a", "b"]


def test_an_end_can_be_the_join() -> None:
    assert fork("s>a s>b a>e b>e").join == "e"


def test_a_fork_over_two_ends_has_no_join() -> None:
    assert fork("s>a s>b a>e b>e2").join is None


def test_an_end_before_the_join_leaves_no_join() -> None:
    assert fork("s>a s>b a>j b>j b>e2?x j>e").join is None


def test_an_edge_straight_to_the_join_is_an_empty_branch() -> None:
    found = fork("s>a s>e a>e")
    assert (found.branches[1].first, found.branches[1].nodes) == ("e", frozenset())


def test_an_error_edge_beside_plain_edges_does_not_change_the_fork() -> None:
    found = topology("s>f f>a f>b f>h:error a>e b>e h>e").forks["f"]
    assert branches(found) == ["a", "b"]


@pytest.mark.parametrize("drawing", ["s>a s>b:x a>e b>e", "s>a s>b?x a>e b>e", "s>a a>e", "s>a s>h:error a>e h>e"])
def test_edges_of_other_kinds_do_not_fork(drawing: str) -> None:
    assert not topology(drawing).forks


def test_a_handler_of_one_branch_that_leads_to_the_join_belongs_to_the_branch() -> None:
    assert branches(fork("s>a s>b a>j b>j a>h:error h>j j>e")) == ["ah", "b"]


def test_a_handler_that_goes_back_into_its_branch_belongs_to_it() -> None:
    assert branches(fork("s>a s>b a>j b>j a>h:error h>a:retry h>j:fallback j>e")) == ["ah", "b"]


def test_a_handlers_path_of_several_nodes_belongs_to_the_branch() -> None:
    assert branches(fork("s>a s>b a>c c>j b>j a>h:error c>i:error h>k i>k k>j j>e")) == ["achik", "b"]


def test_a_handlers_own_handler_belongs_to_the_branch() -> None:
    assert branches(fork("s>a s>b a>j b>j a>h:error h>j h>i:error i>j j>e")) == ["ahi", "b"]


def test_a_handler_that_two_branches_route_to_belongs_to_none() -> None:
    found = fork("s>a s>b a>j b>j a>h:error b>h:error h>j j>e")
    assert (branches(found), found.shared) == (["a", "b"], frozenset())


def test_a_handler_that_leads_past_the_join_belongs_to_none() -> None:
    assert branches(fork("s>a s>b a>j b>j a>h:error h>k j>k k>e")) == ["a", "b"]


def test_a_handler_that_leads_back_before_the_fork_belongs_to_none() -> None:
    assert branches(fork("s>f f>a f>b a>j b>j a>h:error h>f j>e", "f")) == ["a", "b"]


def test_a_handler_with_a_path_to_an_end_belongs_to_none() -> None:
    assert branches(fork("s>a s>b a>j b>j a>h:error h>j?x h>e j>e")) == ["a", "b"]


def test_branches_that_meet_before_the_join_share_nodes() -> None:
    assert fork("s>a s>b s>c a>m b>m m>j c>j j>e").shared == {"m"}


def test_a_path_back_to_the_fork_puts_the_fork_into_its_branch() -> None:
    found = topology("s>f f>a f>b a>f?x a>j b>j j>e").forks["f"]
    assert "f" in found.branches[0].nodes


def test_a_fork_in_a_loop_ends_its_branches_at_the_join() -> None:
    found = topology("s>l l>f:continue l>e:exit f>a f>b a>j b>j j>l").forks["f"]
    assert (found.join, branches(found)) == ("j", ["a", "b"])


def test_forks_nest() -> None:
    forks = topology("s>a s>b a>c a>d c>i d>i i>j b>j j>e").forks
    assert (forks["s"].join, branches(forks["s"])) == ("j", ["acdi", "b"])
    assert (forks["a"].join, branches(forks["a"])) == ("i", ["c", "d"])


def test_the_tools_behind_a_model_end_at_the_next_model() -> None:
    types = {"m": "model", "n": "model", "t": "tools", "u": "tools", "v": "tools"}
    found = topology("s>m m>t:tool_calls m>e:final t>u u>n n>v:tool_calls n>e:final v>n", **types)
    assert found.tool_nodes_behind("m") == ("t", "u")
    assert found.tool_nodes_behind("n") == ("v",)


def test_a_model_without_a_tool_calls_edge_has_no_tools() -> None:
    assert topology("s>m m>t t>e", m="model", t="tools").tool_nodes_behind("m") == ()


def test_a_loop_dominates_its_body_but_no_nodes_entered_from_outside() -> None:
    found = topology("s>x x>l:true x>b:false l>a:continue l>e:exit a>l b>a")
    assert found.dominates("l", "e")
    assert not found.dominates("l", "a")


def test_cycles_are_found_with_and_without_error_edges() -> None:
    found = topology("s>a a>b b>a:x b>c:y c>d:error d>c c>e e>e2")
    assert set(found.cycles) == {frozenset("ab"), frozenset("cd")}
    assert found.normal_cycles == (frozenset("ab"),)


def test_a_self_loop_is_a_cycle() -> None:
    assert topology("s>a a>a:x a>e:y").normal_cycles == (frozenset("a"),)


def test_the_longest_chain_needs_no_deep_recursion() -> None:
    drawing = " ".join(f"n{index}>n{index + 1}" for index in range(2_000))
    found = topology(f"s>n0 {drawing} n2000>e")
    assert found.dominates("n1", "n1999")


NODES = ["s", "a", "b", "c", "d", "f", "e", "e2"]
RANDOM_EDGES = st.lists(
    st.builds(
        lambda source, target, when: Edge(source=source, target=target, when=when),
        st.sampled_from(NODES),
        st.sampled_from(NODES),
        st.sampled_from([None, None, "error", "x"]),
    ),
    max_size=20,
)


@given(RANDOM_EDGES)
def test_dominators_are_the_nodes_without_which_there_is_no_path(edges: list[Edge]) -> None:
    found = Topology({node: TYPES.get(node, "variable") for node in NODES}, edges, "s")
    for above, node in product(NODES, NODES):
        around = reach(["s"], found.successors, stop={above}.__contains__)
        assert found.dominates(above, node) == (node in found.reachable and node not in around)


@given(RANDOM_EDGES)
def test_a_join_is_on_every_path_from_its_fork_to_an_end(edges: list[Edge]) -> None:
    found = Topology({node: TYPES.get(node, "variable") for node in NODES}, edges, "s")
    for fork in found.forks.values():
        passed = {
            node for node in NODES if node != fork.source and found.ends.isdisjoint(_around(found, fork.source, node))
        }
        if fork.source in found.reaches_end and fork.source not in found.ends:
            assert (fork.join is None) == (not passed)
            assert fork.join is None or fork.join in passed
            for branch in fork.branches:
                assert passed.isdisjoint(branch.nodes - {fork.source})


def _around(found: Topology, source: str, avoided: str) -> set[str]:
    """Nodes on normal paths from `source` that do not pass `avoided`, each path cut at the first end."""
    successors = {node: [] if node in found.ends else out for node, out in found.normal_successors.items()}
    return set(reach([source], successors, stop=lambda node: node == avoided))


@given(RANDOM_EDGES)
def test_nodes_are_in_a_cycle_if_they_reach_themselves(edges: list[Edge]) -> None:
    found = Topology({node: TYPES.get(node, "variable") for node in NODES}, edges, "s")
    in_cycles = {node for cycle in found.cycles for node in cycle}
    assert in_cycles == {node for node in NODES if node in reach(found.successors[node], found.successors)}
