"""Where content may go: into traces, and into the database."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Kept = Literal["none", "result", "full"]
"""What the database keeps of an ended execution: nothing, its input and answer, or each call's content, too."""


class Capture(StrEnum):
    """Values of `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`: what traces hold of prompts and answers."""

    NO_CONTENT = "NO_CONTENT"
    SPAN_ONLY = "SPAN_ONLY"
    EVENT_ONLY = "EVENT_ONLY"
    SPAN_AND_EVENT = "SPAN_AND_EVENT"

    @property
    def on_spans(self) -> bool:
        """Whether the spans of calls hold their content."""
        return self in (Capture.SPAN_ONLY, Capture.SPAN_AND_EVENT)

    @property
    def on_events(self) -> bool:
        """Whether each call emits an event with its content."""
        return self in (Capture.EVENT_ONLY, Capture.SPAN_AND_EVENT)


@dataclass(frozen=True, slots=True)
class ContentPolicy:
    """Where content may go; by default nowhere but into the result, which the database keeps for its caller."""

    capture: Capture = Capture.NO_CONTENT
    kept: Kept = "result"

    @property
    def wants_calls(self) -> bool:
        """Whether anything needs the content of single calls."""
        return self.kept == "full" or self.capture is not Capture.NO_CONTENT
