"""Turns the faults that node types find in their own configs into findings."""

from collections.abc import Iterator
from typing import Any

from engine.nodes.base import NodeBase, NodeConfig
from engine.report import Layer
from engine.validation.rules import RULES, Finding


def faults_of(node_type: type[NodeBase[Any]], config: NodeConfig, pointer: str, layer: Layer) -> Iterator[Finding]:
    """The faults of a config whose rule is in this layer. Raises `KeyError` for a code that is no rule."""
    for fault in node_type.check(config):
        if RULES[fault.code].layer is layer:
            yield Finding(fault.code, pointer + fault.pointer, fault.message, hint=fault.hint)
