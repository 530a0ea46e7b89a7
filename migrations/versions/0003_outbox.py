"""The outbox: signals on their way through the Collector."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("is_event", sa.Boolean, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("owes_records", sa.Boolean, nullable=False),
        sa.Column("owes_webhooks", sa.Boolean, nullable=False),
        sa.Column("kept_at", Time, nullable=False),
        sa.Column("shipped_at", Time),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    unshipped = sa.text("shipped_at IS NULL")
    op.create_index(
        "ix_outbox_unshipped",
        "outbox",
        ["is_event", "attempts", "kept_at"],
        sqlite_where=unshipped,
        postgresql_where=unshipped,
    )
    op.create_index("ix_outbox_shipped", "outbox", ["shipped_at"])


def downgrade() -> None:
    op.drop_table("outbox")
