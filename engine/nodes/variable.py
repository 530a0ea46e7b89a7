"""variable: sets, reads, extends and counts variables."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.expressions.cel import evaluate
from engine.expressions.cel import parse as parse_expression
from engine.expressions.prompts import parse_json
from engine.graph import ID_PATTERN, Json, Node
from engine.nodes.base import EXPRESSION, JSON_PROMPT, NodeBase, NodeConfig, NodeResult
from engine.runtime.state import Change, VariableOperation, WorkflowState, variable_after
from engine.tracing import semconv

if TYPE_CHECKING:
    from engine.runtime.visit import Visit


class VariableConfig(NodeConfig):
    """`set` and `append` take exactly one of `value` and `expression`; counting takes a number, 1 if unset."""

    operation: Literal["set", "get", "append", "increment", "decrement"] = "set"
    """What is done to the variable."""
    variable_name: str = Field(pattern=ID_PATTERN)
    """Name of the variable."""
    value: Annotated[Json, JSON_PROMPT] = None
    """The value to set or append, or the number to count by."""
    expression: Annotated[str | None, EXPRESSION] = None
    """An expression for the value instead."""


class VariableNode(NodeBase[VariableConfig]):
    """One operation on one variable."""

    type = "variable"
    title = "Variable"
    description = "Sets, gets, appends to, increments or decrements a variable."
    category = "data"
    Config = VariableConfig
    output_schema = {"type": "object", "properties": {"value": {}}}

    def __init__(self, node: Node, config: VariableConfig) -> None:
        super().__init__(node, config)
        self._expression = parse_expression(config.expression) if config.expression is not None else None
        self._value = parse_json(config.value)

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        name = self.config.variable_name
        operation = self._operation(visit)
        value = variable_after(state["variables"], name, operation)
        visit.span.update(
            {
                semconv.VARIABLE_OPERATION: self.config.operation,
                semconv.VARIABLE_NAME: name,
                semconv.VARIABLE_TYPE: json_type(value),
            }
        )
        if operation is None:
            return NodeResult(output={"value": value})
        return NodeResult(output={"value": value}, change=Change(variable=operation))

    def _operation(self, visit: "Visit") -> VariableOperation | None:
        name = self.config.variable_name
        match self.config.operation:
            case "get":
                return None
            case "set":
                return VariableOperation(name, "set", self._operand(visit))
            case "append":
                return VariableOperation(name, "append", self._operand(visit))
            case "increment":
                return VariableOperation(name, "increment", self._step())
            case "decrement":
                return VariableOperation(name, "increment", -self._step())

    def _operand(self, visit: "Visit") -> Json:
        if self._expression is not None:
            return evaluate(self._expression, visit.names)
        return self._value.render(visit.names)

    def _step(self) -> int | float:
        value = self.config.value
        return value if isinstance(value, int | float) and not isinstance(value, bool) else 1


def json_type(value: Json) -> str:
    """Name of a value's JSON type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
