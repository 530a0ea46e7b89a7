"""Moves the permission to read any folder into an execution's identity, stored in the column `subject`.

Executions that are queued during the migration lose the permission; the old column never took effect for them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE execution_control DROP COLUMN any_folder")


def downgrade() -> None:
    column = sa.Column("any_folder", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("execution_control", column)
