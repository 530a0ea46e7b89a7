"""The tables of scores: how good executions were, in somebody's judgement."""

from sqlalchemy import CheckConstraint, Column, Float, Index, Integer, String, Table, Text

from engine.database.base import UtcTime, metadata, one_of

SOURCES = ("human", "model", "code")
"""Who gives a score."""

execution_scores = Table(
    "execution_scores",
    metadata,
    # Ratings that the older system gave to a template, rather than to an execution, have `template/<owner>/<id>` here.
    Column("execution_id", Text, primary_key=True),
    Column("name", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("owner_id", String, nullable=False),
    Column("workflow_name", String, nullable=False),
    Column("workflow_source", String, nullable=False),
    Column("template_id", String),
    Column("template_version", Integer),
    # A number or a label.
    Column("value", Float),
    Column("label", String),
    # By the database's clock; of two scores the later one counts.
    Column("scored_at", UtcTime, nullable=False),
    Column("event_id", String(36), nullable=False),
    one_of("source", SOURCES),
    CheckConstraint("(value IS NULL) <> (label IS NULL)", name="value_or_label"),
    Index("ix_execution_scores_scored_at", "scored_at"),
)
"""The newest score of each execution, name and source."""

score_comments = Table(
    "score_comments",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("name", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("comment", Text),
    Column("scored_at", UtcTime, nullable=False),
)
"""The comment of a score. It is content: no event carries it, and it is deleted with the content of its execution."""
