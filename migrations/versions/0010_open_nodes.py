"""The nodes of an unfinished execution whose spans have not ended, though spans below them are stored."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("journalled", sa.Column("open_nodes", sa.JSON().with_variant(postgresql.JSONB(), "postgresql")))


def downgrade() -> None:
    op.execute("ALTER TABLE journalled DROP COLUMN open_nodes")
