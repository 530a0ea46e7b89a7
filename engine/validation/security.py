"""The security layer: secrets in the document, and untrusted text where it can act as an instruction."""

from collections.abc import Callable, Iterator

from engine.expressions.prompts import BadPrompt
from engine.report import Layer
from engine.validation.checked_graph import CheckedGraph, PlacedPrompt
from engine.validation.rules import Finding

_UNTRUSTED = frozenset(
    {"input", "last_user_message", "last_message", "retrieval_context", "conversation_summary"},
)


def secret_value(checked: CheckedGraph) -> Iterator[Finding]:
    """A value in any field that looks like a secret."""
    for pointer in checked.secrets.values:
        yield Finding("security.secret_value", pointer, "The value looks like a secret.")


def secret_in_prompt(checked: CheckedGraph) -> Iterator[Finding]:
    """A `secret://` reference; no field of a node accepts one yet."""
    for pointer in checked.secrets.references:
        yield Finding("security.secret_in_prompt", pointer, "References to secrets are not resolved here.")


def own_faults(checked: CheckedGraph) -> Iterator[Finding]:
    """What node types find in their own configs."""
    return checked.own_faults(Layer.SECURITY)


def untrusted_in_system(checked: CheckedGraph) -> Iterator[Finding]:
    """Text of users, tools, documents or models in a system message."""
    for prompt in checked.prompts:
        if prompt.place.reader == "system" and any(_is_untrusted(checked, path) for path in _paths(prompt)):
            message = "The system message includes text that others wrote."
            yield Finding("security.untrusted_in_system", prompt.pointer, message, node_id=prompt.node_id)


def error_text_shown(checked: CheckedGraph) -> Iterator[Finding]:
    """The message of an error in a text that users read."""
    for prompt in checked.prompts:
        if prompt.place.reader == "user" and any(_is_error_text(path) for path in _paths(prompt)):
            message = "The text includes the message of an error."
            yield Finding("security.error_text_shown", prompt.pointer, message, node_id=prompt.node_id)


def _paths(prompt: PlacedPrompt) -> list[tuple[str | int, ...]]:
    return [] if isinstance(prompt.parsed, BadPrompt) else [read.path for read in prompt.parsed.reads]


def _is_untrusted(checked: CheckedGraph, path: tuple[str | int, ...]) -> bool:
    if path[0] == "outputs":
        name = str(path[1]) if len(path) > 1 else None
        return name not in checked.nodes or checked.type_of(name).output_is_untrusted
    return path[0] in _UNTRUSTED


def _is_error_text(path: tuple[str | int, ...]) -> bool:
    return path[0] == "errors" or path in (("error",), ("error", "message"))


CHECKS: dict[str, Callable[[CheckedGraph], Iterator[Finding]]] = {
    "security.secret_value": secret_value,
    "security.secret_in_prompt": secret_in_prompt,
    "security.config": own_faults,
    "security.untrusted_in_system": untrusted_in_system,
    "security.error_text_shown": error_text_shown,
}
"""The check of each code."""
