"""The documents about scores: how good executions were, in somebody's judgement."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from api.schemas.executions import Answer
from engine.graph import Document
from telemetry.reads.scores import GivenScore, Score, ScoreMean

Source = Literal["human", "model", "code"]

MAX_NAME, MAX_LABEL, MAX_COMMENT = 64, 64, 4_096
MAX_VALUE = 1e15
"""Far below the numbers whose squares, which PostgreSQL adds up for a mean, are beyond a float."""


class ScoreBody(Document):
    """A score: a number, or a label such as `correct`. It replaces the score of the same name and source.

    `source` says who judges: a person, a model, or code. The comment is content: it is kept as long as the answer.
    """

    name: str = Field(min_length=1, max_length=MAX_NAME)
    value: (
        Annotated[float, Field(ge=-MAX_VALUE, le=MAX_VALUE, allow_inf_nan=False)]
        | Annotated[str, Field(min_length=1, max_length=MAX_LABEL)]
    )
    source: Source
    comment: str | None = Field(None, min_length=1, max_length=MAX_COMMENT)

    def given(self) -> GivenScore:
        """The score for the bookkeeper."""
        return GivenScore(self.name, self.source, self.value, self.comment)


class ScoreAnswer(Answer):
    """One score of an execution. `comment` is null if there is none, or it was deleted with the content."""

    name: str
    source: Source
    value: float | str
    comment: str | None
    scored_at: datetime


class ScoreList(Answer):
    """The scores of an execution, by name and source."""

    items: list[ScoreAnswer]


class ScoreMeanAnswer(Answer):
    """The scores of one name, for one workflow and one version of its template.

    `label` is null for numbers, which have a mean; labels are counted, each by itself.
    """

    name: str
    workflow: str
    template_version: int | None
    label: str | None
    scores: int
    mean: float | None
    least: float | None
    most: float | None


class ScoresAnswer(Answer):
    """Scores per name, workflow and version."""

    rows: list[ScoreMeanAnswer]


def score(one: Score) -> ScoreAnswer:
    """A score as a document."""
    return ScoreAnswer.model_validate(asdict(one))


def means(rows: Sequence[ScoreMean]) -> ScoresAnswer:
    """Means as a document."""
    return ScoresAnswer(rows=[ScoreMeanAnswer.model_validate(asdict(row)) for row in rows])
