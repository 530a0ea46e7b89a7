"""start: where every execution begins."""

from typing import TYPE_CHECKING

from engine.nodes.base import NodeBase, NodeConfig, NodeResult
from engine.runtime.state import WorkflowState

if TYPE_CHECKING:
    from engine.runtime.visit import Visit


class StartConfig(NodeConfig):
    """A start node has nothing to configure."""


class StartNode(NodeBase[StartConfig]):
    """History and the input's message are in the state before it runs; it marks where the graph begins."""

    type = "start"
    title = "Start"
    description = "Exactly one, without incoming edges. Puts the history and `input.message` into the messages."
    category = "flow"
    Config = StartConfig
    catches = False

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        return NodeResult(output={})
