"""Replay of dead letters to their consumers.

Dead letters of an older version are due at once, and so are existing letters of the records. Existing letters of the
webhooks are replayed only on request, since their events may be long past.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("dead_letter", sa.Column("tries", sa.Integer, nullable=False, server_default=sa.text("0")))
    at_once = sa.text("'1970-01-01 00:00:00.000000'")
    op.add_column("dead_letter", sa.Column("due_at", sa.DateTime(timezone=True), server_default=at_once))
    op.execute("UPDATE dead_letter SET due_at = NULL WHERE consumer <> 'records'")
    op.create_index("ix_dead_letter_consumer_due_at", "dead_letter", ["consumer", "due_at"])


def downgrade() -> None:
    op.drop_index("ix_dead_letter_consumer_due_at", table_name="dead_letter")
    for column in ("tries", "due_at"):
        op.execute(f"ALTER TABLE dead_letter DROP COLUMN {column}")
