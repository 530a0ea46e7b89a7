"""Signals that were kept aside are given to their consumers again. Those that are there already are due at once."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("dead_letter", sa.Column("tries", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.add_column("dead_letter", sa.Column("due_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE dead_letter SET due_at = at WHERE consumer IN ('records', 'webhooks')")
    op.create_index("ix_dead_letter_consumer_due_at", "dead_letter", ["consumer", "due_at"])


def downgrade() -> None:
    op.drop_index("ix_dead_letter_consumer_due_at", table_name="dead_letter")
    for column in ("tries", "due_at"):
        op.execute(f"ALTER TABLE dead_letter DROP COLUMN {column}")
