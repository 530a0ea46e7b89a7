"""The node type `conditional`: chooses a label by expressions."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from engine.errors import NoRoute
from engine.expressions.cel import holds
from engine.expressions.cel import parse as parse_expression
from engine.graph import Document, Id, Node
from engine.nodes.base import CONDITION, ConfigFault, NodeBase, NodeConfig, NodeResult
from engine.runtime.state import Change, WorkflowState
from engine.tracing import semconv

if TYPE_CHECKING:
    from engine.runtime.visit import Visit


class Case(Document):
    """A label and its condition."""

    label: Id
    """Label to follow if the condition is true."""
    condition: Annotated[str, CONDITION]
    """The condition."""


class ConditionalConfig(NodeConfig):
    """Either one `condition` (labels `true` and `false`), or `cases` in order with an optional `default` label."""

    condition: Annotated[str | None, CONDITION] = None
    """One condition, with the labels `true` and `false`."""
    cases: list[Case] | None = Field(default=None, min_length=1, max_length=20)
    """Cases in order; the first whose condition is true decides."""
    default: Id | None = None
    """Label to follow if no case is true; null fails the node."""


class ConditionalNode(NodeBase[ConditionalConfig]):
    """Follows the label of the first case whose condition is true."""

    type = "conditional"
    title = "Conditional"
    description = (
        "Evaluates conditions. Labels `true` and `false` for one condition, else the label of the first true case."
    )
    category = "flow"
    Config = ConditionalConfig
    must_route = True
    read_under = "results"
    output_schema = {"type": "object", "properties": {"label": {"type": "string"}}}

    def __init__(self, node: Node, config: ConditionalConfig) -> None:
        super().__init__(node, config)
        self._condition = parse_expression(config.condition) if config.condition is not None else None
        self._cases = [(case.label, parse_expression(case.condition)) for case in config.cases or []]

    @classmethod
    def check(cls, config: ConditionalConfig) -> Iterator[ConfigFault]:
        if (config.condition is None) == (config.cases is None):
            yield ConfigFault("Set either `condition` or `cases`.", code="schema.exclusive_fields")
        if config.default is not None and config.condition is not None:
            yield ConfigFault("`default` is only for `cases`, not for a single `condition`.", "/default")
        yield from _check_cases(config.cases or [], config.default)

    @classmethod
    def labels(cls, config: ConditionalConfig) -> tuple[str, ...]:
        return super().labels(config) if config.condition is None else ("true", "false")

    @classmethod
    def own_labels(cls, config: ConditionalConfig) -> Mapping[str, str]:
        labels = {f"/cases/{index}/label": case.label for index, case in enumerate(config.cases or [])}
        return labels if config.default is None else {**labels, "/default": config.default}

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        label = self._choose(visit)
        visit.span[semconv.CONDITION_RESULT] = label
        return NodeResult(output={"label": label}, label=label, change=Change(result=label))

    def _choose(self, visit: "Visit") -> str:
        if self._condition is not None:
            return "true" if holds(self._condition, visit.names) else "false"
        for label, condition in self._cases:
            if holds(condition, visit.names):
                return label
        if self.config.default is None:
            raise NoRoute("no case is true and there is no default")
        return self.config.default


def _check_cases(cases: list[Case], default: str | None) -> Iterator[ConfigFault]:
    labels = [case.label for case in cases]
    for index, label in enumerate(labels):
        if label in labels[:index]:
            yield ConfigFault("Two cases have the same label.", f"/cases/{index}/label")
    if default in labels:
        yield ConfigFault("The default is also the label of a case.", "/default")
    if cases and default is None:
        yield ConfigFault("If no condition is true, the run fails.", "/cases", "structure.no_default")
