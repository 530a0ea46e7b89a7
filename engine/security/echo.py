"""Masks content in error messages: providers, tools and retrievers repeat in them what they were sent."""

from collections.abc import Iterable, Iterator

from engine.graph import Json
from engine.security.redaction import redact

MASKED = "[content]"
WINDOW = 20
"""A run of so many characters that is also in the content is taken from it, and not chance."""
SHORTEST = 8
"""A shorter text of the content is not looked for as a whole: it may be a word of any message."""


def mask_echo(message: str, content: Iterable[Json]) -> str:
    """The message without secrets, and with every part that repeats the content replaced by `[content]`.

    Secrets first: masking a part of one would leave the rest without its shape.
    """
    message = redact(message)
    texts = list(dict.fromkeys(text for value in content for text in _texts(value)))
    for text in texts:
        if SHORTEST <= len(text) <= WINDOW:
            message = message.replace(text, MASKED)
    whole = "\0".join(text for text in texts if len(text) >= WINDOW)
    return "".join(_parts(message, whole))


def _parts(message: str, whole: str) -> Iterator[str]:
    """The parts of the message that are its own, and a mask for each run that is also in the content."""
    at = own = 0
    while at <= len(message) - WINDOW:
        if message[at : at + WINDOW] not in whole:
            at += 1
            continue
        end = at + WINDOW
        while end < len(message) and message[end - WINDOW + 1 : end + 1] in whole:
            end += 1
        yield message[own:at]
        yield MASKED
        at = own = end
    yield message[own:]


def _texts(value: Json) -> Iterator[str]:
    """Every text in a JSON value; keys are names and not content."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
