"""Bodies of decisions about an execution."""

from pydantic import Field

from engine.graph import Document, Json


class CancelBody(Document):
    """The reason of a cancellation."""

    reason: str | None = Field(None, max_length=500)


class ResumeBody(Document):
    """The answer to one question of a paused execution; `data` must match the question's `response_schema`."""

    approval_id: str = Field(min_length=1, max_length=255)
    choice: str = Field(min_length=1, max_length=255)
    data: Json = None
