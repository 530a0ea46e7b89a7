"""The permission to read any folder is part of an execution's identity, which the column `subject` keeps.

Executions that are queued while this runs lose the permission, which the column only pretended to keep for them.
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
