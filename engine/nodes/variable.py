"""The node type `variable`: sets, reads, appends to, increments and decrements variables."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.expressions.cel import evaluate
from engine.expressions.cel import parse as parse_expression
from engine.expressions.prompts import parse_json
from engine.graph import ID_PATTERN, RESERVED_IDS, Json, Node, json_type
from engine.nodes.base import EXPRESSION, JSON_PROMPT, ConfigFault, NodeBase, NodeConfig, NodeResult
from engine.runtime.state import Change, VariableOperation, WorkflowState, variable_after
from engine.tracing import semconv

if TYPE_CHECKING:
    from engine.runtime.visit import Visit


class VariableConfig(NodeConfig):
    """`set` and `append` take either `value` or `expression`; `increment` and `decrement` a number, 1 by default."""

    operation: Literal["set", "get", "append", "increment", "decrement"] = "set"
    """The operation on the variable."""
    variable_name: str = Field(pattern=ID_PATTERN)
    """Name of the variable."""
    value: Annotated[Json, JSON_PROMPT] = None
    """The value to set or append, or the number to count by."""
    expression: Annotated[str | None, EXPRESSION] = None
    """An expression that computes the value, instead of `value`."""


class VariableNode(NodeBase[VariableConfig]):
    """Applies one operation to one variable."""

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

    @classmethod
    def check(cls, config: VariableConfig) -> Iterator[ConfigFault]:
        if config.variable_name in RESERVED_IDS:
            yield ConfigFault("The variable's name is a reserved word.", "/variable_name", "schema.bad_id")
        match config.operation:
            case "set" | "append":
                yield from _check_operand(config)
            case "increment" | "decrement":
                yield from _check_step(config)
            case "get" if config.value is not None or config.expression is not None:
                yield ConfigFault("`get` takes neither `value` nor `expression`.")

    @classmethod
    def ordered_writes(cls, config: VariableConfig) -> tuple[str, ...]:
        return (f"sets the variable `{config.variable_name}`",) if config.operation == "set" else ()

    @classmethod
    def variable_set(cls, config: VariableConfig) -> str | None:
        return None if config.operation == "get" else config.variable_name

    @classmethod
    def variables_read(cls, config: VariableConfig) -> Mapping[str, str]:
        return {"/variable_name": config.variable_name}

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


def _check_operand(config: VariableConfig) -> Iterator[ConfigFault]:
    if (config.value is None) == (config.expression is None):
        message = f"`{config.operation}` takes exactly one of `value` and `expression`."
        hint = "Set exactly one of the two; for null write the expression `null`."
        yield ConfigFault(message, code="schema.exclusive_fields", hint=hint)


def _check_step(config: VariableConfig) -> Iterator[ConfigFault]:
    value = config.value
    if value is not None and json_type(value) != "number":
        message = f"`{config.operation}` takes a number; `value` has the type {json_type(value)}."
        yield ConfigFault(message, "/value", "schema.wrong_type")
    if config.expression is not None:
        yield ConfigFault(f"`{config.operation}` takes a number, not an expression.", "/expression")
