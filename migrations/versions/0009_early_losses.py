"""The age of the process that holds a lease, and how often processes died soon after their start."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("execution_control", sa.Column("lease_age_seconds", sa.Float))
    losses = sa.Column("early_losses", sa.Integer, nullable=False, server_default=sa.text("0"))
    op.add_column("execution_control", losses)


def downgrade() -> None:
    for column in ("early_losses", "lease_age_seconds"):
        op.execute(f"ALTER TABLE execution_control DROP COLUMN {column}")
