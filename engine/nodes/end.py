"""The node type `end`: ends the execution and sets its response and output."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from engine.errors import AuthorFailure
from engine.expressions.prompts import parse as parse_prompt
from engine.expressions.prompts import parse_json
from engine.graph import Document, Json, Node
from engine.nodes.base import JSON_PROMPT, SHOWN_PROMPT, NodeBase, NodeConfig, NodeResult
from engine.runtime.state import Change, EndState, WorkflowState

if TYPE_CHECKING:
    from engine.runtime.visit import Visit


class FailSpec(Document):
    """The error type and message of an execution that the author lets fail."""

    error_type: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    """Error type of the failed execution."""
    message: Annotated[str, SHOWN_PROMPT]
    """Error message that users read."""


class EndConfig(NodeConfig):
    """The response and output of the execution, or its failure."""

    response: Annotated[str | None, SHOWN_PROMPT] = None
    """The result's `response`; null means the last assistant text written in this execution."""
    output: Annotated[Json, JSON_PROMPT] = None
    """The result's `output`."""
    fail: FailSpec | None = None
    """If set, the execution fails instead of completing."""


class EndNode(NodeBase[EndConfig]):
    """Sets the response and output of the execution."""

    type = "end"
    title = "End"
    description = "Ends the execution. A graph has at least one, without outgoing edges."
    category = "flow"
    Config = EndConfig
    catches = False

    def __init__(self, node: Node, config: EndConfig) -> None:
        super().__init__(node, config)
        self._response = parse_prompt(config.response) if config.response is not None else None
        self._output = parse_json(config.output) if config.output is not None else None
        self._failure = parse_prompt(config.fail.message) if config.fail else None

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        if self.config.fail and self._failure:
            raise AuthorFailure(self.config.fail.error_type, self._failure.render(visit.names))
        response = self._response.render(visit.names) if self._response else None
        output = self._output.render(visit.names) if self._output else None
        end = EndState(node_id=self.id, response=response, output=output)
        return NodeResult(output={}, change=Change(end=end))
