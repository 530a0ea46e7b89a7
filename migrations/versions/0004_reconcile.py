"""The results of comparing the books, one row per hour."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)
Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "reconcile_runs",
        sa.Column("scheduled_for", Time, nullable=False),
        sa.Column("started_at", Time, nullable=False),
        sa.Column("finished_at", Time),
        sa.Column("since", Time, nullable=False),
        sa.Column("until", Time, nullable=False),
        sa.Column("differences", sa.Integer),
        sa.Column("drift_nano_usd", sa.BigInteger),
        sa.Column("report", Json),
        sa.CheckConstraint("differences >= 0", name=op.f("ck_reconcile_runs_differences")),
        sa.CheckConstraint("drift_nano_usd >= 0", name=op.f("ck_reconcile_runs_drift_nano_usd")),
        sa.PrimaryKeyConstraint("scheduled_for", name="pk_reconcile_runs"),
    )


def downgrade() -> None:
    op.drop_table("reconcile_runs")
