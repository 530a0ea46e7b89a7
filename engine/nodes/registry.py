"""The list of node types, from which schema, validation, plan and docs are made."""

from typing import Any

from engine.nodes.approval import ApprovalNode
from engine.nodes.base import NodeBase
from engine.nodes.conditional import ConditionalNode
from engine.nodes.delay import DelayNode
from engine.nodes.end import EndNode
from engine.nodes.error_handler import ErrorHandlerNode
from engine.nodes.loop import LoopNode
from engine.nodes.memory import MemoryNode
from engine.nodes.model import ModelNode
from engine.nodes.retrieval import RetrievalNode
from engine.nodes.start import StartNode
from engine.nodes.tools import ToolsNode
from engine.nodes.variable import VariableNode

NODE_TYPES: dict[str, type[NodeBase[Any]]] = {
    node_type.type: node_type
    for node_type in (
        StartNode,
        EndNode,
        ModelNode,
        ToolsNode,
        MemoryNode,
        RetrievalNode,
        ConditionalNode,
        LoopNode,
        VariableNode,
        ErrorHandlerNode,
        DelayNode,
        ApprovalNode,
    )
}
