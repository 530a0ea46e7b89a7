"""Pauses of an execution: the wait for an answer or a time, the answer, and the resumption."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from engine.documents.json_schema import compiled
from engine.graph import Json
from engine.result import Approval


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to an approval; `data` is valid against its `response_schema`."""

    choice: str
    data: Json = None
    answered_by: str | None = None
    approval_id: str | None = None
    """The question it answers, and the only one. Null means the question at which the run is paused."""


def answer_problem(approval: Approval, choice: str, data: Json) -> str | None:
    """Why this answer is refused, as a sentence that quotes none of its values; null if it is accepted."""
    if choice not in approval.choices:
        return f"The choices are: {', '.join(approval.choices)}."
    if approval.response_schema is None:
        return None
    mismatch = compiled(approval.response_schema, mask="the value").find_mismatch(data)
    if mismatch is None:
        return None
    place = "/".join(["data", *(str(step) for step in mismatch.path)])
    return f"At {place}: {mismatch.message}."


@dataclass(frozen=True, slots=True)
class Paused:
    """A paused run: its open approvals (none for a delay), and the time at which it continues by itself."""

    approvals: Sequence[Approval]
    due_at: datetime
    """UTC."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an attempt continues: at the newest checkpoint of earlier attempts, or from the input if there is none."""

    from_attempts: Sequence[int]
    """Newest first."""
    answers: Sequence[Answer] = ()
    """Answers to the execution's questions so far. Each answers its own question whenever the run reaches it."""
    is_due: bool = False
    """The time of the pause is up by the resuming caller's clock; if false, the worker checks its own clock."""
