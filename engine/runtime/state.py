"""The state of a running workflow: the JSON that nodes read and write.

A node returns a `Change`, and `merge` applies it by the rule of each field. Values inside the state are never changed
in place, so the branch of a fork copies the top level only.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from engine.errors import TypeMismatch
from engine.graph import Json, JsonObject
from engine.resources import Message


class RetrievalContext(TypedDict):
    """The result of one retrieval node."""

    query: str
    text: str
    documents: list[JsonObject]


class LoopState(TypedDict):
    """The rounds of a loop: `iteration` since it was last entered, `total` over all entries."""

    iteration: int
    total: int


class SentBack(TypedDict):
    """How often in a row an error handler retried a failed node, and the first error of that row."""

    count: int
    error_type: str
    message: str


class EndState(TypedDict):
    """The result of the end node that was reached."""

    node_id: str
    response: str | None
    output: Json


class WorkflowState(TypedDict):
    """All fields of the state. A node changes them only through the `Change` that it returns."""

    input: JsonObject
    messages: list[Message]
    variables: JsonObject
    outputs: dict[str, Json]
    retrieval_context: dict[str, RetrievalContext]
    conversation_summary: JsonObject | None
    tool_call_count: int
    loop_state: dict[str, LoopState]
    conditional_results: dict[str, str]
    error_state: dict[str, JsonObject]
    visits: dict[str, int]
    sent_back: dict[str, dict[str, SentBack]]
    """By the failed node, then by the handler; deleted when the node succeeds."""
    new_message_ids: list[str]
    removed_new_messages: dict[str, Message]
    """Messages added and removed in this execution: models no longer see them, but the conversation keeps them."""
    end: EndState | None


@dataclass(slots=True)
class VariableOperation:
    """One change of a variable; `increment` adds `value`, which may be negative."""

    name: str
    operation: Literal["set", "append", "increment"]
    value: Json


@dataclass(frozen=True, slots=True)
class Recovery:
    """The effect of an error handler on a failed node; `node_id` null means on no node."""

    node_id: str | None
    sent_back: SentBack | None = None
    output: Json = None
    """Replaces the output of the failed node; null changes nothing."""
    clears_errors: bool = False


@dataclass(slots=True, eq=False)
class Change:
    """The changes that a visit of a node makes to the state. Null fields change nothing.

    Treat it as immutable. It is not frozen because creating a frozen instance takes longer than a small node's work.
    """

    messages: tuple[Message, ...] = ()
    removed_messages: tuple[str, ...] = ()
    variable: VariableOperation | None = None
    retrieval: RetrievalContext | None = None
    summary: JsonObject | None = None
    tool_calls: int = 0
    loop: LoopState | None = None
    result: str | None = None
    recovery: Recovery | None = None
    end: EndState | None = None


NO_CHANGE = Change()


def initial_state(
    *, input: JsonObject, variables: JsonObject, messages: Iterable[Message], summary: JsonObject | None
) -> WorkflowState:
    """Return the state before the start node."""
    return WorkflowState(
        input=input,
        messages=list(messages),
        variables=dict(variables),
        outputs={},
        retrieval_context={},
        conversation_summary=summary,
        tool_call_count=0,
        loop_state={},
        conditional_results={},
        error_state={},
        visits={},
        sent_back={},
        new_message_ids=[],
        removed_new_messages={},
        end=None,
    )


def branch(state: WorkflowState) -> WorkflowState:
    """Copy the state for a branch of a fork. Branches share only `visits`, so that each visit number is unique."""
    return WorkflowState(
        input=state["input"],
        messages=list(state["messages"]),
        variables=dict(state["variables"]),
        outputs=dict(state["outputs"]),
        retrieval_context=dict(state["retrieval_context"]),
        conversation_summary=state["conversation_summary"],
        tool_call_count=state["tool_call_count"],
        loop_state=dict(state["loop_state"]),
        conditional_results=dict(state["conditional_results"]),
        error_state=dict(state["error_state"]),
        visits=state["visits"],
        sent_back=dict(state["sent_back"]),
        new_message_ids=list(state["new_message_ids"]),
        removed_new_messages=dict(state["removed_new_messages"]),
        end=None,
    )


def merge(state: WorkflowState, node_id: str, output: Json, change: Change) -> None:
    """Apply the output and changes of a visit. Raises `TypeMismatch` for an operation on a variable of another type."""
    state["outputs"][node_id] = output
    if change is NO_CHANGE:
        return
    if change.variable is not None:
        _merge_variable(state["variables"], change.variable)
    if change.removed_messages:
        _remove_messages(state, set(change.removed_messages))
    for message in change.messages:
        _merge_message(state, message)
    if change.retrieval is not None:
        state["retrieval_context"][node_id] = change.retrieval
    if change.summary is not None:
        state["conversation_summary"] = change.summary
    state["tool_call_count"] += change.tool_calls
    if change.loop is not None:
        state["loop_state"][node_id] = change.loop
    if change.result is not None:
        state["conditional_results"][node_id] = change.result
    if change.recovery is not None:
        _recover(state, node_id, change.recovery)
    if change.end is not None:
        state["end"] = change.end


def note_success(state: WorkflowState, node_id: str) -> None:
    """Record that a node succeeded: clear its earlier error and reset the retry counts of its handlers."""
    if state["error_state"]:
        state["error_state"].pop(node_id, None)
    if state["sent_back"]:
        state["sent_back"].pop(node_id, None)


def note_error(state: WorkflowState, node_id: str, error: JsonObject) -> None:
    """Record the error of a node as the newest one."""
    state["error_state"].pop(node_id, None)
    state["error_state"][node_id] = error


def _recover(state: WorkflowState, handler_id: str, recovery: Recovery) -> None:
    if recovery.clears_errors:
        state["error_state"] = {}
    if recovery.node_id is None:
        return
    if recovery.sent_back is not None:
        known = state["sent_back"].get(recovery.node_id, {})
        state["sent_back"][recovery.node_id] = {**known, handler_id: recovery.sent_back}
    if recovery.output is not None:
        state["outputs"][recovery.node_id] = recovery.output


def _remove_messages(state: WorkflowState, ids: set[str]) -> None:
    written = ids.intersection(state["new_message_ids"])
    state["removed_new_messages"].update({each["id"]: each for each in state["messages"] if each["id"] in written})
    state["messages"] = [message for message in state["messages"] if message["id"] not in ids]


def _merge_message(state: WorkflowState, message: Message) -> None:
    for position, known in enumerate(state["messages"]):
        if known["id"] == message["id"]:
            state["messages"][position] = message
            return
    state["messages"].append(message)
    state["new_message_ids"].append(message["id"])


def _merge_variable(variables: JsonObject, operation: VariableOperation) -> None:
    variables[operation.name] = variable_after(variables, operation.name, operation)


def variable_after(variables: JsonObject, name: str, operation: VariableOperation | None) -> Json:
    """Return the variable's value after the operation; without an operation, its current value.

    Raises `TypeMismatch` if the variable does not have the type that the operation needs.
    """
    if operation is None:
        return variables.get(name)
    if operation.operation == "set":
        return operation.value
    if operation.operation == "append":
        present = variables.get(name, [])
        if not isinstance(present, list):
            raise TypeMismatch(f"variable {name} is not a list, so append is not possible")
        return [*present, operation.value]
    total = _number(name, variables.get(name, 0)) + _number(name, operation.value)
    if not math.isfinite(total):
        raise TypeMismatch(f"variable {name} would exceed the largest number that can be represented")
    return total


def _number(name: str, value: Json) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeMismatch(
            f"increment of variable {name} needs numbers: the variable or the value to add is not a number"
        )
    return value


def last_user_message(messages: Iterable[Mapping[str, object]]) -> str:
    """Return the text of the newest user message, or an empty string if there is none."""
    for message in reversed(list(messages)):
        if message["role"] == "user":
            return text_of(message)
    return ""


def text_of(message: Mapping[str, object]) -> str:
    """Return the text of a message with its text parts joined."""
    content = message.get("content", "")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    return ""
