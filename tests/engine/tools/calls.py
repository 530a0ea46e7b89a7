"""How the tests call a tool."""

from engine.graph import Json
from engine.resources import Tool, ToolContext


async def call(tool: Tool, **arguments: Json) -> Json:
    context = ToolContext(execution_id="e", owner="local", idempotency_key="k", deadline_seconds=30)
    return await tool.call(arguments, context)
