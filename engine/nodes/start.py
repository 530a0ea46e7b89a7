"""The node type `start`: the beginning of every execution."""

from typing import TYPE_CHECKING

from engine.nodes.base import NodeBase, NodeConfig, NodeResult
from engine.runtime.state import WorkflowState

if TYPE_CHECKING:
    from engine.runtime.visit import Visit


class StartConfig(NodeConfig):
    """A start node has nothing to configure."""


class StartNode(NodeBase[StartConfig]):
    """Marks the beginning of the graph. History and input message are already in the state when it runs."""

    type = "start"
    title = "Start"
    description = (
        "Begins the execution with the history and `input.message` as messages. Exactly one, without incoming edges."
    )
    category = "flow"
    Config = StartConfig
    catches = False

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        return NodeResult(output={})
