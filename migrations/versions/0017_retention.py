"""Retention: its rules, the sums of what it deletes, and its marks on records.

PostgreSQL cleans large tables up when a fifth of their rows is dead; here it begins earlier, so that the space of
deleted rows is used again before the tables grow.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)

_MARKS = ("control_pruned_at", "spans_pruned_at", "webhooks_pruned_at")
_DURATIONS = (*(f"duration_le_{1 << exponent}" for exponent in range(28)), "duration_le_inf")
_SUMS = (
    *(f"executions_{status}" for status in ("completed", "failed", "cancelled")),
    "executions_failed_by_caller",
    *(f"{kind}_tokens" for kind in ("input", "output", "cache_read", "cache_write", "reasoning")),
    "cost_nano_usd",
    "waste_nano_usd",
    "unpriced_calls",
    "unmetered_calls",
    "failed_calls",
    "unfinished_calls",
    "cost_upper_nano_usd",
    "unbounded_calls",
    "assumed_calls",
    "assumed_nano_usd",
    "provider_difference_nano_usd",
    "model_calls",
    "duration_sum_ms",
    *_DURATIONS,
)
_DEFAULTS = dict.fromkeys(
    (
        "executions_failed_by_caller",
        "unmetered_calls",
        "failed_calls",
        "unfinished_calls",
        "cost_upper_nano_usd",
        "unbounded_calls",
        "assumed_calls",
        "assumed_nano_usd",
        "provider_difference_nano_usd",
    ),
    sa.text("0"),
)
_TEXT_KEYS = ("owner_id", "workflow_name", "source", "template_id", "provider", "model")

_EMPTIED = (
    "executions",
    "spans",
    "execution_control",
    "call_content",
    "conversation_messages",
    "graphs",
    "outbox",
    "webhook_events",
    "webhook_deliveries",
    "webhook_attempts",
)
"""Tables from which rows are deleted all the time."""
_AUTOVACUUM = {
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "1",
}


def upgrade() -> None:
    for mark in _MARKS:
        op.add_column("executions", sa.Column(mark, Time))
    op.create_index("ix_dead_letter_execution", "dead_letter", ["execution_id"])
    op.create_index("ix_webhook_events_at", "webhook_events", ["at", "event_id"])
    op.create_index("ix_execution_control_graph_hash", "execution_control", ["graph_hash"])
    op.create_index("ix_conversation_messages_execution_id", "conversation_messages", ["execution_id"])
    _create_rules()
    _create_pruned_rollups()
    _set_autovacuum(f"SET ({', '.join(f'{name} = {value}' for name, value in _AUTOVACUUM.items())})")


def downgrade() -> None:
    _set_autovacuum(f"RESET ({', '.join(_AUTOVACUUM)})")
    op.drop_table("pruned_rollups")
    op.drop_table("retention_rules")
    op.drop_index("ix_conversation_messages_execution_id", "conversation_messages")
    op.drop_index("ix_execution_control_graph_hash", "execution_control")
    op.drop_index("ix_webhook_events_at", "webhook_events")
    op.drop_index("ix_dead_letter_execution", "dead_letter")
    for mark in _MARKS:
        op.execute(f"ALTER TABLE executions DROP COLUMN {mark}")


def _create_rules() -> None:
    op.create_table(
        "retention_rules",
        sa.Column("owner_id", sa.String, nullable=False),
        sa.Column("template", sa.String, nullable=False),
        sa.Column("content_days", sa.Float),
        sa.Column("spans_days", sa.Float),
        sa.Column("records_days", sa.Float),
        sa.PrimaryKeyConstraint("owner_id", "template", name="pk_retention_rules"),
        sa.CheckConstraint(
            "content_days >= 0 AND spans_days >= 0 AND records_days >= 0", name="ck_retention_rules_days"
        ),
    )


def _create_pruned_rollups() -> None:
    keys = ("bucket_hour", *_TEXT_KEYS[:4], "template_version", *_TEXT_KEYS[4:])
    op.create_table(
        "pruned_rollups",
        sa.Column("bucket_hour", Time, nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in _TEXT_KEYS[:4]),
        sa.Column("template_version", sa.Integer, nullable=False, autoincrement=False),
        *(sa.Column(name, sa.String, nullable=False) for name in _TEXT_KEYS[4:]),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default=_DEFAULTS.get(name)) for name in _SUMS),
        *(sa.Column(name, Time) for name in ("last_used_at", "last_success_at", "last_failure_at")),
        sa.PrimaryKeyConstraint(*keys, name="pk_pruned_rollups"),
        sa.CheckConstraint("cost_nano_usd >= 0", name="ck_pruned_rollups_cost_nano_usd"),
        sa.CheckConstraint("waste_nano_usd >= 0", name="ck_pruned_rollups_waste_nano_usd"),
    )


def _set_autovacuum(change: str) -> None:
    if op.get_context().dialect.name == "postgresql":
        for table in _EMPTIED:
            op.execute(f"ALTER TABLE {table} {change}")
