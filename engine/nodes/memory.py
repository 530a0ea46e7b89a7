"""The node type `memory`: keeps the newest messages and a summary of the older ones."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.errors import ModelFailure, NodeFailure, NodeTimeout, ResourceMissing
from engine.expressions.prompts import parse as parse_prompt
from engine.graph import Node, Retry
from engine.nodes.base import (
    SYSTEM_PROMPT,
    TRANSIENT,
    ConfigFault,
    ModelUse,
    NodeBase,
    NodeConfig,
    NodeResult,
    choose_model,
)
from engine.resources import Message, ModelRequest, ModelSettings
from engine.runtime.calls import call_model
from engine.runtime.state import Change, WorkflowState, text_of
from engine.tracing import semconv

if TYPE_CHECKING:
    from engine.runtime.visit import Visit

SUMMARY_PROMPT = (
    "Summarise the conversation so far in a few sentences for somebody who goes on with it. Keep names, numbers, "
    "decisions and open questions; leave out greetings."
)

SUMMARY_ERRORS = (ModelFailure, NodeTimeout, ResourceMissing)


class MemoryConfig(NodeConfig):
    """How many messages are kept, and how older ones are summarised."""

    memory_window: int = Field(default=10, ge=1, le=1_000)
    """How many of the newest messages are kept."""
    strategy: Literal["summarize", "truncate"] = "summarize"
    """What happens to older messages: a model summarises them, or they are dropped."""
    summarization_threshold: int | None = Field(default=None, ge=1)
    """Number of messages above which older ones are removed; null means the window."""
    provider: str | None = None
    """Provider of the summary's model; null means the default."""
    model: str | None = None
    """Model that writes the summary; null means the default."""
    summary_max_tokens: int = Field(default=512, ge=16, le=4_096)
    """Most output tokens of the summary."""
    summary_prompt: Annotated[str, SYSTEM_PROMPT] = SUMMARY_PROMPT
    """System message of the summary's model."""
    on_summary_error: Literal["truncate", "fail"] = "truncate"
    """If the summary fails: drop the messages without a summary, or fail the node."""


class MemoryNode(NodeBase[MemoryConfig]):
    """Above the threshold, removes all but the newest messages and, depending on the strategy, summarises them."""

    type = "memory"
    title = "Memory"
    description = "Keeps the newest messages and replaces older ones by a summary."
    category = "data"
    Config = MemoryConfig
    default_retry = Retry(max_attempts=3, retry_on=[*TRANSIENT, "empty_response", "invalid_output"])
    default_timeout_seconds = 120
    allows_timeout = True
    output_schema = {
        "type": "object",
        "properties": {
            "removed": {"type": "integer"},
            "kept": {"type": "integer"},
            "summarized": {"type": "boolean"},
        },
    }

    def __init__(self, node: Node, config: MemoryConfig) -> None:
        super().__init__(node, config)
        self._prompt = parse_prompt(config.summary_prompt)

    @classmethod
    def check(cls, config: MemoryConfig) -> Iterator[ConfigFault]:
        threshold = config.summarization_threshold
        if threshold is not None and threshold < config.memory_window:
            yield ConfigFault("`summarization_threshold` is below `memory_window`.", "/summarization_threshold")

    @classmethod
    def ordered_writes(cls, config: MemoryConfig) -> tuple[str, ...]:
        return ("holds a memory node",)

    @classmethod
    def model_use(cls, config: MemoryConfig) -> ModelUse | None:
        if config.strategy == "truncate":
            return None
        return ModelUse(config.provider, config.model, config.summary_max_tokens)

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        removed = state["messages"][: self._cut(state["messages"])]
        text = await self._summary(removed, state, visit) if removed else None
        return self._result(removed, text, state, visit)

    def instead(self, failure: NodeFailure, state: WorkflowState, visit: "Visit") -> NodeResult | None:
        """Remove the messages without a summary if its model failed, timed out or is missing."""
        if self.config.on_summary_error == "fail" or not isinstance(failure, SUMMARY_ERRORS):
            return None
        removed = state["messages"][: self._cut(state["messages"])]
        return replace(self._result(removed, None, state, visit), degraded=True)

    def _result(self, removed: list[Message], text: str | None, state: WorkflowState, visit: "Visit") -> NodeResult:
        kept = len(state["messages"]) - len(removed)
        visit.span.update(
            {
                semconv.MEMORY_WINDOW: self.config.memory_window,
                semconv.MEMORY_TRUNCATED: len(removed),
                semconv.MEMORY_SUMMARIZED: len(removed) if text is not None else 0,
            }
        )
        return NodeResult(
            output={"removed": len(removed), "kept": kept, "summarized": text is not None},
            change=Change(
                removed_messages=tuple(message["id"] for message in removed),
                summary={"text": text, "covers": removed[-1]["id"]} if text is not None else None,
            ),
        )

    def _cut(self, messages: list[Message]) -> int:
        """How many of the oldest messages to remove; fewer if the cut would separate a tool message from its call."""
        config = self.config
        if len(messages) <= max(config.summarization_threshold or 0, config.memory_window):
            return 0
        cut = len(messages) - config.memory_window
        while cut > 0 and messages[cut]["role"] == "tool":
            cut -= 1
        return cut

    async def _summary(self, removed: list[Message], state: WorkflowState, visit: "Visit") -> str | None:
        use = self.model_use(self.config)
        if use is None:
            return None
        model = choose_model(visit.context, use)
        reply = await call_model(visit, model, self._request(removed, state, visit), stream_as=None)
        return reply.text

    def _request(self, removed: list[Message], state: WorkflowState, visit: "Visit") -> ModelRequest:
        earlier = state["conversation_summary"]
        lines = [f"Summary so far: {earlier['text']}"] if earlier else []
        lines += [f"{message['role']}: {text_of(message)}" for message in removed]
        request = Message(id="summary", role="user", content="\n".join(lines))
        settings = ModelSettings(max_tokens=self.config.summary_max_tokens)
        return ModelRequest(system=self._prompt.render(visit.names), messages=[request], settings=settings)
