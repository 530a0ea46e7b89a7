"""`function_tool`, which turns a Python function into a tool."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import anyio.to_thread
from pydantic import TypeAdapter, validate_call

from engine.graph import Json, JsonObject
from engine.resources import Effect, Tool, ToolContext, ToolSpec

_ANY: TypeAdapter[Any] = TypeAdapter(Any)


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A Python function as a tool. Use `function_tool` to create one."""

    spec: ToolSpec
    effect: Effect
    function: Callable[..., Any]
    validating: Callable[..., Any]
    """The function wrapped in argument validation. Kept, because wrapping takes longer than most calls."""

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        """The function's result as JSON. Synchronous functions run in a thread."""
        if inspect.iscoroutinefunction(self.function):
            result = await self.validating(**arguments)
        else:
            result = await anyio.to_thread.run_sync(functools.partial(self.validating, **arguments))
        value: Json = _ANY.dump_python(result, mode="json")
        return value


def function_tool(function: Callable[..., Any], *, effect: Effect = "write", name: str | None = None) -> Tool:
    """Make a tool of a function with type annotations. Raises `ValueError` if the function has no docstring.

    The docstring becomes the description. With the effect `write` the function never runs twice for one call; pass
    `read` or `idempotent` if a second run does no harm.
    """
    description = inspect.getdoc(function)
    if not description:
        raise ValueError(f"{function!r} needs a docstring: models choose tools by description")
    adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", function))
    parameters: JsonObject = adapter.json_schema()
    spec = ToolSpec(name or function.__name__, description, parameters)
    return FunctionTool(spec, effect, function, validate_call(function))
