"""The security layer: secrets in the document, tools by the handful, foreign text where it can give orders."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator

from engine.graph import Json
from engine.nodes.tools import ToolsConfig
from engine.prompts import BadPrompt
from engine.redaction import SECRET_SHAPES
from engine.strict_json import escape
from engine.validation.rules import Finding
from engine.validation.subject import PlacedPrompt, Subject

_UNTRUSTED = frozenset(
    {"input", "last_user_message", "last_message", "retrieval_context", "conversation_summary"},
)
_UNTRUSTED_OUTPUTS = frozenset({"model", "tools", "retrieval"})
_SHOWN = frozenset({"message", "response"})
_CREDENTIAL_KEY = re.compile(r"(?i)(?:^|[_-])(?:api_?key|secret|token|passw(?:or)?d|credentials?|authorization)$")
_RANDOM = re.compile(r"[A-Za-z0-9_\-+/=.]{24,}")
_MIN_BITS_PER_CHARACTER = 3.5
_CERTAIN = ("-----BEGIN", "://")
_PREFIXES = ("sk", "pk", "rk", "spl", "whsec", "xoxa", "xoxb", "xoxp", "xoxr", "ghp", "gho", "glpat")
_KEY_MARKS = tuple(prefix + mark for prefix in _PREFIXES for mark in "-_")
_MARKS = (*_KEY_MARKS, "AIza", "AKIA", "eyJ", "-----BEGIN", "bearer", "://")
"""Texts of which one is in everything that has the shape of a secret; looked for first, since that is cheap."""


def secret_value(subject: Subject) -> Iterator[Finding]:
    """A value with the shape of a secret, in any field."""
    open_values: list[tuple[Json, str, str]] = [(subject.document, "", "")]
    while open_values:
        value, pointer, key = open_values.pop()
        if isinstance(value, dict):
            open_values.extend((child, f"{pointer}/{escape(name)}", name) for name, child in value.items())
        elif isinstance(value, list):
            open_values.extend((child, f"{pointer}/{index}", key) for index, child in enumerate(value))
        elif isinstance(value, str) and (has_secret_shape(value) or _is_credential(key, value)):
            yield Finding("security.secret_value", pointer, "The value has the shape of a secret.")


def has_secret_shape(text: str) -> bool:
    """A provider key, JWT, PEM block, bearer header or URL with a password; words without any digit are none."""
    lowered = text.lower() if "earer" in text.lower() else text
    if not any(mark in text or mark in lowered for mark in _MARKS):
        return False
    return any(
        any(character.isdigit() for character in found[0])
        or text[max(0, found.start() - 3) : found.end()].startswith(_CERTAIN)
        or found[0].startswith(_CERTAIN)
        for found in SECRET_SHAPES.finditer(text)
    )


def _is_credential(key: str, value: str) -> bool:
    if _CREDENTIAL_KEY.search(key) is None or _RANDOM.fullmatch(value) is None:
        return False
    return any(character.isdigit() for character in value) and _bits_per_character(value) > _MIN_BITS_PER_CHARACTER


def _bits_per_character(text: str) -> float:
    """Shannon entropy: English words have about 3, random letters and digits over 4."""
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares)


def all_tools(subject: Subject) -> Iterator[Finding]:
    """`allowed_tools: ["*"]`."""
    for node_id, config in subject.configs.items():
        if isinstance(config, ToolsConfig) and "*" in config.allowed_tools:
            message = "Every tool the owner may use is allowed."
            yield subject.at_node("security.all_tools", node_id, message, place="/config/allowed_tools")


def untrusted_in_system(subject: Subject) -> Iterator[Finding]:
    """Text of users, tools, documents or models in a system message."""
    for prompt in subject.prompts:
        if prompt.field == "system_message" and any(_is_untrusted(subject, path) for path in _paths(prompt)):
            message = "The system message takes in text that others wrote."
            yield Finding("security.untrusted_in_system", prompt.pointer, message, node_id=prompt.node_id)


def error_text_shown(subject: Subject) -> Iterator[Finding]:
    """The text of an error in a message or response."""
    for prompt in subject.prompts:
        if prompt.field in _SHOWN and any(_is_error_text(path) for path in _paths(prompt)):
            message = "The text takes in the message of an error."
            yield Finding("security.error_text_shown", prompt.pointer, message, node_id=prompt.node_id)


def _paths(prompt: PlacedPrompt) -> list[tuple[str | int, ...]]:
    return [] if isinstance(prompt.parsed, BadPrompt) else [read.path for read in prompt.parsed.reads]


def _is_untrusted(subject: Subject, path: tuple[str | int, ...]) -> bool:
    if path[0] == "outputs":
        node = subject.nodes.get(str(path[1])) if len(path) > 1 else None
        return node is None or node.type in _UNTRUSTED_OUTPUTS
    return path[0] in _UNTRUSTED


def _is_error_text(path: tuple[str | int, ...]) -> bool:
    return path[0] == "errors" or path in (("error",), ("error", "message"))


CHECKS: dict[str, Callable[[Subject], Iterator[Finding]]] = {
    "security.secret_value": secret_value,
    "security.all_tools": all_tools,
    "security.untrusted_in_system": untrusted_in_system,
    "security.error_text_shown": error_text_shown,
}
"""The check of each code."""
