"""The frame around retrieved texts in a prompt: data put in front of the user's text, never instructions.

    <context>
    [source: guide.md > Install]
    text of the passage
    </context>
    the user's own text

A text cannot close the frame or claim another source: `frame` escapes its own marks inside a text with a backslash, and
`unframe` removes it.
"""

import re

CONTEXT_OPEN = "<context>\n"
CONTEXT_CLOSE = "</context>\n"
SUMMARY_SOURCE = "conversation summary"

_TAG = re.compile(r"<(\\*/?context\s*>)", re.IGNORECASE)
_ESCAPED_TAG = re.compile(r"<\\(\\*/?context\s*>)", re.IGNORECASE)
_SOURCE_LINE = re.compile(r"^(\\*\[source:)", re.IGNORECASE | re.MULTILINE)
_ESCAPED_SOURCE_LINE = re.compile(r"^\\(\\*\[source:)", re.IGNORECASE | re.MULTILINE)
_SOURCE = re.compile(r"^\[source: (.*)\]\n", re.MULTILINE)


def passage(source: str, text: str) -> str:
    """One passage under the line that names its source."""
    name = " ".join(source.replace("]", ")").split())
    return f"[source: {name}]\n{_SOURCE_LINE.sub(_escape, text).rstrip()}\n"


def frame(passages_text: str, summary: str | None = None) -> str:
    """The framed part of a prompt; empty without passages and summary.

    `passages_text` is the concatenated results of `passage`.
    """
    inner = (passage(SUMMARY_SOURCE, summary) if summary else "") + passages_text
    if not inner.strip():
        return ""
    if not inner.endswith("\n"):
        inner += "\n"
    return CONTEXT_OPEN + _TAG.sub(r"<\\\1", inner) + CONTEXT_CLOSE


def unframe(text: str) -> tuple[list[tuple[str, str]], str]:
    """The (source, text) pairs of a framed text, and the text after the frame; no pairs without a frame."""
    end = text.find(CONTEXT_CLOSE)
    if not text.startswith(CONTEXT_OPEN) or end < 0:
        return [], text
    _, *parts = _SOURCE.split(text[len(CONTEXT_OPEN) : end])
    passages = [(source, _unescape(inner)) for source, inner in zip(parts[::2], parts[1::2], strict=True)]
    return passages, text[end + len(CONTEXT_CLOSE) :]


def _escape(mark: re.Match[str]) -> str:
    return "\\" + mark.group(1)


def _unescape(text: str) -> str:
    return _ESCAPED_SOURCE_LINE.sub(r"\1", _ESCAPED_TAG.sub(r"<\1", text)).strip()
