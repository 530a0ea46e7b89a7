"""The digest of each execution's span rows, and an index that finds the webhook events of an execution."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_DIGEST = ("digest_spans", "digest", "digest_by_column", "digest_by_span")


def upgrade() -> None:
    for name in _DIGEST:
        op.add_column("executions", sa.Column(name, sa.BigInteger))
    op.create_index("ix_webhook_events_execution", "webhook_events", ["execution_id"])


def downgrade() -> None:
    op.drop_index("ix_webhook_events_execution", "webhook_events")
    for name in _DIGEST:
        op.execute(f"ALTER TABLE executions DROP COLUMN {name}")
