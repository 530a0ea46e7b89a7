"""A run that waits without a worker: what it waits for, the answer that ends the wait, and where it goes on from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from engine.documents.json_schema import validator
from engine.graph import Json
from engine.result import Approval


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to an approval; `data` fits its `response_schema`."""

    choice: str
    data: Json = None
    answered_by: str | None = None
    approval_id: str | None = None
    """The question it answers: no other is ever answered by it. Null: the one at which the run stands."""


def answer_problem(approval: Approval, choice: str, data: Json) -> str | None:
    """Why this cannot be the answer, as a sentence that holds no value of it; null if it can."""
    if choice not in approval.choices:
        return f"The choices are: {', '.join(approval.choices)}."
    if approval.response_schema is None:
        return None
    error = next(iter(validator(approval.response_schema, mask="the value").iter_errors(data)), None)
    if error is None:
        return None
    place = "/".join(["data", *(str(step) for step in error.instance_path)])
    return f"At {place}: {error.message}."


@dataclass(frozen=True, slots=True)
class Paused:
    """How a run stopped that goes on later: the open approvals (none: a delay), and when it goes on by itself."""

    approvals: Sequence[Approval]
    due_at: datetime
    """UTC."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an attempt goes on: at the newest checkpoint of these earlier attempts, else from the input."""

    from_attempts: Sequence[int]
    """Newest first."""
    answers: Sequence[Answer] = ()
    """To the execution's questions so far: each ends the wait for its own, however often the run comes to it."""
    is_due: bool = False
    """The time of the pause is up, by the clock of whoever resumes; else the worker looks at its own."""
