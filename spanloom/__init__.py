"""Run LLM workflows from Python and keep their books: the public names of spanloom.

    from spanloom import ExecutionEngine, ExecutionRequest, local_resources

Names are imported from their modules when they are first used, so `import spanloom` costs nothing. Names that are not
listed here are not public: they change without notice.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from api.client.client import AsyncClient, Client
    from api.client.errors import ServerProblem, Unreachable
    from engine.engine import ExecutionEngine
    from engine.errors import Refusal, SpanloomError
    from engine.events import EventType, ExecutionEvent
    from engine.execution.local_resources import local_resources
    from engine.graph import WorkflowGraph
    from engine.nodes.base import NodeBase, NodeConfig, NodeResult
    from engine.request import ExecutionRequest
    from engine.resources import Resources
    from engine.result import ExecutionResult, Status
    from engine.tools.function import function_tool

_HOMES = {
    "AsyncClient": "api.client.client",
    "Client": "api.client.client",
    "ServerProblem": "api.client.errors",
    "Unreachable": "api.client.errors",
    "EventType": "engine.events",
    "ExecutionEngine": "engine.engine",
    "ExecutionEvent": "engine.events",
    "ExecutionRequest": "engine.request",
    "ExecutionResult": "engine.result",
    "NodeBase": "engine.nodes.base",
    "NodeConfig": "engine.nodes.base",
    "NodeResult": "engine.nodes.base",
    "Refusal": "engine.errors",
    "Resources": "engine.resources",
    "SpanloomError": "engine.errors",
    "Status": "engine.result",
    "WorkflowGraph": "engine.graph",
    "function_tool": "engine.tools.function",
    "local_resources": "engine.execution.local_resources",
}
"""The module that each public name is imported from."""

__all__ = [
    "AsyncClient",
    "Client",
    "EventType",
    "ExecutionEngine",
    "ExecutionEvent",
    "ExecutionRequest",
    "ExecutionResult",
    "NodeBase",
    "NodeConfig",
    "NodeResult",
    "Refusal",
    "Resources",
    "ServerProblem",
    "SpanloomError",
    "Status",
    "Unreachable",
    "WorkflowGraph",
    "function_tool",
    "local_resources",
]


def __getattr__(name: str) -> object:
    """Import a public name. Raises `ImportError` where another package of the user's stands in for one of ours."""
    if name not in _HOMES:
        raise AttributeError(f"module 'spanloom' has no attribute {name!r}; public names: {', '.join(__all__)}")
    from spanloom.packages import LIBRARY, check_packages

    check_packages(LIBRARY)
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
