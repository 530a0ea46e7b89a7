"""What calls said, and tombstones of deleted content."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)
Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "call_content",
        sa.Column("execution_id", sa.Text, nullable=False),
        sa.Column("call_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("cut", Json, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "call_id", name="pk_call_content"),
        sa.CheckConstraint("operation IN ('chat', 'execute_tool', 'retrieval')", name="ck_call_content_operation"),
    )
    op.create_table(
        "tombstones",
        sa.Column("execution_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.PrimaryKeyConstraint("execution_id", name="pk_tombstones"),
        sa.CheckConstraint("reason IN ('not_stored', 'expired', 'forgotten')", name="ck_tombstones_reason"),
    )


def downgrade() -> None:
    op.drop_table("tombstones")
    op.drop_table("call_content")
