"""The node type `loop`: repeats its body while a condition is true, at most `max_iterations` times."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.errors import IterationLimit
from engine.expressions.cel import holds
from engine.expressions.cel import parse as parse_expression
from engine.graph import Node
from engine.nodes.base import CONDITION, NodeBase, NodeConfig, NodeResult
from engine.runtime.state import Change, LoopState, WorkflowState
from engine.tracing import semconv

if TYPE_CHECKING:
    from engine.runtime.visit import Visit


class LoopConfig(NodeConfig):
    """The condition and the limit of the loop."""

    max_iterations: int = Field(default=10, ge=1, le=100)
    """Most iterations each time the loop is entered."""
    condition: Annotated[str | None, CONDITION] = None
    """The loop continues while this is true; null continues until the limit."""
    on_limit: Literal["exit", "fail"] = "exit"
    """At the limit, follow the label `exit` or fail the node."""


class LoopNode(NodeBase[LoopConfig]):
    """The head of a loop. An arrival from inside the loop continues the count; any other resets it to 0."""

    type = "loop"
    title = "Loop"
    description = "Repeats nodes. Label `continue` while the condition is true and iterations are left, else `exit`."
    category = "flow"
    Config = LoopConfig
    must_route = True
    bounds_cycle = True
    is_loop = True
    read_under = "loops"
    output_schema = {
        "type": "object",
        "properties": {
            "iteration": {"type": "integer"},
            "total": {"type": "integer"},
            "reason": {"enum": ["condition", "limit", None]},
        },
    }

    def __init__(self, node: Node, config: LoopConfig) -> None:
        super().__init__(node, config)
        self._condition = parse_expression(config.condition) if config.condition is not None else None

    @classmethod
    def labels(cls, config: LoopConfig) -> tuple[str, ...]:
        return ("continue", "exit")

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        known = state["loop_state"].get(self.id, LoopState(iteration=0, total=0))
        counted = LoopState(iteration=known["iteration"] if visit.from_inside else 0, total=known["total"])
        reason = self._reason_to_stop(counted, visit)
        if reason is None:
            counted = LoopState(iteration=counted["iteration"] + 1, total=counted["total"] + 1)
        elif reason == "limit" and self.config.on_limit == "fail":
            raise IterationLimit(f"the loop reached its limit of {self.config.max_iterations} iterations")
        visit.span[semconv.LOOP_ITERATION] = counted["iteration"]
        return NodeResult(
            output={"iteration": counted["iteration"], "total": counted["total"], "reason": reason},
            label="exit" if reason else "continue",
            change=Change(loop=counted),
        )

    def _reason_to_stop(self, counted: LoopState, visit: "Visit") -> Literal["condition", "limit"] | None:
        if self._condition is not None and not holds(self._condition, visit.names.with_loop(self.id, counted)):
            return "condition"
        return "limit" if counted["iteration"] >= self.config.max_iterations else None
