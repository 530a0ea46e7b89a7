"""Graphs built of blocks are valid and can be planned."""

from typing import Any

from hypothesis import given

from engine.interpreter.plan import make_plan
from engine.interpreter.topology import Topology
from tests.engine.validation.blocks import BLOCKS, Builder
from tests.engine.validation.graphs import document, validate


@given(BLOCKS)
def test_a_graph_of_nested_blocks_is_valid_and_its_branches_are_found(block: Any) -> None:
    builder, drawing = Builder.drawn(block)
    found = validate(document(drawing, {**builder.nodes}))
    assert found.report.valid, found.report.summary()
    assert found.graph is not None
    assert found.canonical is not None
    forks = Topology.of(found.graph).forks
    assert {source: [set(branch.nodes) for branch in fork.branches] for source, fork in forks.items()} == (
        builder.branches
    )
    make_plan(found.graph, found.canonical, str(found.content_hash))
