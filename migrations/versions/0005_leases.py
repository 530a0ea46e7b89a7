"""Leases of executions, their durable parts and model calls in flight, and approvals.

Executions that an older version left running have no process any more. They get an expired lease, so that the sweeper
ends them.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)
Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

CLAIMABLE = "lease_owner IS NULL AND status IN ('queued', 'running', 'paused')"
COLUMNS = (
    "crashes",
    "claim_reason",
    "root_parent_span_id",
    "subject",
    "caller_trace",
    "any_folder",
    "last_seq",
    "paused_at",
    "paused_seconds",
)


def upgrade() -> None:
    _add_to_control()
    _create_journalled()
    _create_call_reservations()
    _create_approvals()


def downgrade() -> None:
    for table in ("approvals", "call_reservations", "journalled"):
        op.drop_table(table)
    op.drop_index("ix_execution_control_claimable", table_name="execution_control")
    for column in COLUMNS:
        op.execute(f"ALTER TABLE execution_control DROP COLUMN {column}")


def _add_to_control() -> None:
    op.execute(
        "ALTER TABLE execution_control ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0"
        " CONSTRAINT ck_execution_control_leased_while_running CHECK (lease_owner IS NULL OR status = 'running')"
    )
    op.execute(
        "ALTER TABLE execution_control ADD COLUMN claim_reason TEXT CONSTRAINT ck_execution_control_claim_reason"
        " CHECK (claim_reason IN ('queued', 'answer', 'timer', 'crash', 'shutdown'))"
    )
    for column in (
        sa.Column("root_parent_span_id", sa.Text),
        sa.Column("subject", Json),
        sa.Column("caller_trace", sa.Text),
        sa.Column("any_folder", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("last_seq", sa.Integer),
        sa.Column("paused_at", Time),
        sa.Column("paused_seconds", sa.Float, nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("execution_control", column)
    op.execute(
        "UPDATE execution_control SET lease_owner = '', lease_until = accepted_at"
        " WHERE status = 'running' AND lease_owner IS NULL"
    )
    op.create_index(
        "ix_execution_control_claimable",
        "execution_control",
        ["accepted_at"],
        sqlite_where=sa.text(CLAIMABLE),
        postgresql_where=sa.text(CLAIMABLE),
    )


def _create_journalled() -> None:
    op.create_table(
        "journalled",
        sa.Column("execution_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("span_ids", sa.Text, nullable=False),
        sa.Column("totals", Json, nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "attempt", "number", name="pk_journalled"),
    )


def _create_call_reservations() -> None:
    op.create_table(
        "call_reservations",
        sa.Column("execution_id", sa.Text, nullable=False),
        sa.Column("call_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("upper_tokens", sa.BigInteger, nullable=False),
        sa.Column("upper_nano_usd", sa.BigInteger),
        sa.Column("at", Time, nullable=False),
        sa.CheckConstraint("upper_nano_usd >= 0", name=op.f("ck_call_reservations_upper_nano_usd")),
        sa.PrimaryKeyConstraint("execution_id", "call_id", name="pk_call_reservations"),
    )


def _create_approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("approval_id", sa.Text, nullable=False),
        sa.Column("execution_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("payload", Json),
        sa.Column("choices", Json, nullable=False),
        sa.Column("response_schema", Json),
        sa.Column("expires_at", Time, nullable=False),
        sa.Column("answer", Json),
        sa.Column("answered_by", sa.Text),
        sa.Column("answered_at", Time),
        sa.Column("created_at", Time, nullable=False),
        sa.CheckConstraint("(answer IS NULL) = (answered_at IS NULL)", name=op.f("ck_approvals_answered")),
        sa.PrimaryKeyConstraint("approval_id", name="pk_approvals"),
    )
    op.create_index("ix_approvals_execution_id", "approvals", ["execution_id"])
