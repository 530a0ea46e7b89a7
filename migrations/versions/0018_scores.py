"""Scores of executions. Ratings of templates become scores named `rating`."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)

_VIEW = """
CREATE VIEW template_analytics AS
SELECT totals.*, ratings.rating_average, COALESCE(ratings.rating_count, 0) AS rating_count
FROM (
    SELECT
        template_id,
        CAST(SUM(executions_completed + executions_failed + executions_cancelled) AS BIGINT) AS total_executions,
        CAST(SUM(executions_completed) AS BIGINT) AS successful_executions,
        CAST(SUM(executions_failed) AS BIGINT) AS failed_executions,
        CAST(SUM(executions_cancelled) AS BIGINT) AS cancelled_executions,
        CAST(SUM(input_tokens + output_tokens) AS BIGINT) AS total_tokens,
        CAST(SUM(cost_nano_usd) AS BIGINT) AS total_cost_nano_usd,
        CAST(SUM(cost_upper_nano_usd) AS BIGINT) AS total_cost_upper_nano_usd,
        CAST(SUM(unfinished_calls) AS BIGINT) AS unfinished_calls,
        CAST(SUM(unbounded_calls) AS BIGINT) AS unbounded_calls,
        CAST(SUM(unpriced_calls) AS BIGINT) AS unpriced_calls,
        CAST(SUM(unmetered_calls) AS BIGINT) AS unmetered_calls,
        CAST(SUM(failed_calls) AS BIGINT) AS failed_calls,
        CAST(
            SUM(duration_sum_ms) / NULLIF(SUM(executions_completed + executions_failed + executions_cancelled), 0)
            AS BIGINT
        ) AS average_duration_ms,
        MAX(last_used_at) AS last_used_at,
        MAX(last_success_at) AS last_success_at,
        MAX(last_failure_at) AS last_failure_at
    FROM execution_rollups_daily
    WHERE template_id <> ''
    GROUP BY template_id
) AS totals
LEFT JOIN (
    {ratings}
) AS ratings ON ratings.template_id = totals.template_id
"""
_OF_SCORES = """SELECT template_id, AVG(value) AS rating_average, COUNT(value) AS rating_count
    FROM execution_scores
    WHERE name = 'rating'
    GROUP BY template_id"""
_OF_RATINGS = """SELECT template_id, AVG(CAST(rating AS DOUBLE PRECISION)) AS rating_average, COUNT(*) AS rating_count
    FROM template_ratings
    GROUP BY template_id"""

_MOVE = """
INSERT INTO execution_scores (
    execution_id, name, source, owner_id, workflow_name, workflow_source, template_id, value, scored_at, event_id
)
SELECT
    'template/' || owner_id || '/' || template_id, 'rating', 'human', owner_id,
    COALESCE(
        (SELECT MAX(key) FROM workflow_templates WHERE workflow_templates.template_id = template_ratings.template_id),
        template_id
    ),
    'template', template_id, rating, rated_at, ''
FROM template_ratings
"""
_MOVE_BACK = """
INSERT INTO template_ratings (owner_id, template_id, rating, rated_at)
SELECT owner_id, template_id, CAST(value AS SMALLINT), scored_at
FROM execution_scores
WHERE execution_id LIKE 'template/%' AND name = 'rating'
"""


def upgrade() -> None:
    _create_scores()
    op.create_table(
        "score_comments",
        *_key(),
        sa.Column("comment", sa.Text),
        sa.Column("scored_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "name", "source", name="pk_score_comments"),
    )
    op.execute("DROP VIEW template_analytics")
    op.execute(_MOVE)
    op.drop_table("template_ratings")
    op.execute(_VIEW.format(ratings=_OF_SCORES))


def downgrade() -> None:
    op.execute("DROP VIEW template_analytics")
    op.create_table(
        "template_ratings",
        sa.Column("owner_id", sa.String, nullable=False),
        sa.Column("template_id", sa.String, nullable=False),
        sa.Column("rating", sa.SmallInteger, nullable=False),
        sa.Column("rated_at", Time, nullable=False),
        sa.CheckConstraint("rating BETWEEN 1 AND 5", name="ck_template_ratings_rating"),
        sa.PrimaryKeyConstraint("owner_id", "template_id", name="pk_template_ratings"),
    )
    op.execute(_MOVE_BACK)
    op.drop_table("score_comments")
    op.drop_table("execution_scores")
    op.execute(_VIEW.format(ratings=_OF_RATINGS))


def _create_scores() -> None:
    op.create_table(
        "execution_scores",
        *_key(),
        sa.Column("owner_id", sa.String, nullable=False),
        sa.Column("workflow_name", sa.String, nullable=False),
        sa.Column("workflow_source", sa.String, nullable=False),
        sa.Column("template_id", sa.String),
        sa.Column("template_version", sa.Integer),
        sa.Column("value", sa.Float),
        sa.Column("label", sa.String),
        sa.Column("scored_at", Time, nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "name", "source", name="pk_execution_scores"),
        sa.CheckConstraint("source IN ('human', 'model', 'code')", name="ck_execution_scores_source"),
        sa.CheckConstraint("(value IS NULL) <> (label IS NULL)", name="ck_execution_scores_value_or_label"),
    )
    op.create_index("ix_execution_scores_scored_at", "execution_scores", ["scored_at"])


def _key() -> tuple[sa.Column[str], ...]:
    return (
        sa.Column("execution_id", sa.Text, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
    )
