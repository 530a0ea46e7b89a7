"""The names that expressions and prompts can read (docs/reference/expressions.md), computed only on access."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from engine.graph import Json, JsonObject
from engine.resources import as_json
from engine.result import ErrorInfo
from engine.runtime.state import LoopState, WorkflowState, last_user_message, text_of

if TYPE_CHECKING:
    from engine.runtime.context import ExecutionContext


class Names(Mapping[str, Json]):
    """The state of one execution, as a mapping of the names of the expression language."""

    __slots__ = ("_context", "_error", "_loops", "_state")

    def __init__(
        self,
        state: WorkflowState,
        context: "ExecutionContext",
        error: ErrorInfo | None = None,
        loops: Mapping[str, LoopState] | None = None,
    ) -> None:
        self._state = state
        self._context = context
        self._error = error
        self._loops = loops

    def with_loop(self, loop_id: str, counted: LoopState) -> "Names":
        """Return the same names with other counts for one loop, which is deciding about its next round."""
        return Names(self._state, self._context, self._error, {**self._state["loop_state"], loop_id: counted})

    def __getitem__(self, name: str) -> Json:
        return _NAMES[name](self)

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)

    def _last_message(self) -> JsonObject:
        messages = self._state["messages"]
        if not messages:
            return {"role": "", "text": "", "has_tool_calls": False, "tool_calls": [], "node_id": None}
        message = messages[-1]
        calls: list[Json] = [as_json(call) for call in message.get("tool_calls", ())]
        return {
            "role": message["role"],
            "text": text_of(message),
            "has_tool_calls": bool(calls),
            "tool_calls": calls,
            "node_id": message.get("node_id"),
        }

    def _errors(self) -> JsonObject:
        by_node: JsonObject = dict(self._state["error_state"])
        last = list(by_node.values())[-1] if by_node else None
        return {"count": len(by_node), "last": last, "by_node": by_node}

    def _usage(self) -> JsonObject:
        totals = self._context.tracker.totals
        usage: JsonObject = {name: count or 0 for name, count in totals.usage.model_dump().items()}
        return {**usage, "cost_nano_usd": totals.cost_nano_usd, "model_calls": totals.model_calls}

    def _execution(self) -> JsonObject:
        context = self._context
        return {
            "id": context.execution_id,
            "attempt": context.attempt,
            "source": context.source,
            "conversation_id": context.conversation_id,
            "elapsed_seconds": context.elapsed_seconds,
        }

    def _loop_counts(self) -> JsonObject:
        loops = self._loops if self._loops is not None else self._state["loop_state"]
        return {loop_id: as_json(counts) for loop_id, counts in loops.items()}

    def _summary(self) -> str:
        summary = self._state["conversation_summary"]
        return str(summary["text"]) if summary else ""

    def _retrieved(self) -> str:
        return "\n\n".join(found["text"] for found in self._state["retrieval_context"].values() if found["text"])


_NAMES: dict[str, Callable[[Names], Json]] = {
    "input": lambda names: names._state["input"],
    "variables": lambda names: names._state["variables"],
    "outputs": lambda names: names._state["outputs"],
    "last_user_message": lambda names: last_user_message(names._state["messages"]),
    "last_message": Names._last_message,
    "message_count": lambda names: len(names._state["messages"]),
    "tool_call_count": lambda names: names._state["tool_call_count"],
    "loops": Names._loop_counts,
    "results": lambda names: dict(names._state["conditional_results"]),
    "errors": Names._errors,
    "error": lambda names: names._error.model_dump(mode="json") if names._error else None,
    "usage": Names._usage,
    "execution": Names._execution,
    "retrieval_context": Names._retrieved,
    "conversation_summary": Names._summary,
}

NAMES = frozenset(_NAMES)
"""All root names."""

MEANINGS: dict[str, tuple[str, str]] = {
    "input": ("map", "The checked input."),
    "variables": ("map", "The variables."),
    "outputs": ("map", "Output of each node that has run, by node id."),
    "last_user_message": ("string", "Text of the newest user message; empty without one."),
    "last_message": ("map", "The newest message: `role`, `text`, `has_tool_calls`, `tool_calls`, `node_id`."),
    "message_count": ("int", "Number of messages."),
    "tool_call_count": ("int", "Tool calls so far."),
    "loops": ("map", "`iteration` and `total` of each loop, by node id."),
    "results": ("map", "Label of each conditional that has run, by node id."),
    "errors": ("map", "Failures so far: `count`, `last`, `by_node`."),
    "error": ("map or null", "The failure that led here: `node_id`, `error_type`, `message`, `attempts`."),
    "usage": ("map", "Tokens, `cost_nano_usd` (may be null) and `model_calls` so far."),
    "execution": ("map", "`id`, `attempt`, `source`, `conversation_id`, `elapsed_seconds`."),
    "retrieval_context": ("string", "The retrieved passages; in prompts only."),
    "conversation_summary": ("string", "Summary of older messages; in prompts only."),
}
"""The type and description of each name, for the reference."""
