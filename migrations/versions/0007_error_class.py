"""The class of an execution's error, which says who has to act, and roll-up counts of failures that callers caused.

Earlier failures have no class. An older version that still runs leaves the new columns at their defaults.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ROLLUPS = ("execution_rollups", "execution_rollups_daily")


def upgrade() -> None:
    op.add_column("executions", sa.Column("error_class", sa.String))
    for table in _ROLLUPS:
        count = sa.Column("executions_failed_by_caller", sa.BigInteger, nullable=False, server_default=sa.text("0"))
        op.add_column(table, count)


def downgrade() -> None:
    op.execute("ALTER TABLE executions DROP COLUMN error_class")
    for table in _ROLLUPS:
        op.execute(f"ALTER TABLE {table} DROP COLUMN executions_failed_by_caller")
