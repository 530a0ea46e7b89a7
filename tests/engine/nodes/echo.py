"""A tool that the tests of node types call."""

from engine.graph import Json, JsonObject
from engine.resources import (
    Effect,
    ToolContext,
    ToolSpec,
)


class Echo:
    """A tool that returns its argument."""

    def __init__(self, effect: Effect = "read", *, fails: int = 0, error: str = "broken") -> None:
        self.spec = ToolSpec(
            "echo",
            "Says what it is told.",
            {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
        )
        self.effect: Effect = effect
        self.keys: list[str] = []
        self._fails = fails
        self._error = error

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        self.keys.append(context.idempotency_key)
        if len(self.keys) <= self._fails:
            from engine.errors import ModelFailure

            raise ModelFailure(self._error, "the tool is down")
        return arguments["text"]
