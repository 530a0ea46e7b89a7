"""What providers say of their bills: service tier and reported cost; and calls whose price is an assumption."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_OF_SPANS = {"service_tier": sa.String, "provider_nano_usd": sa.BigInteger, "unpriced_reason": sa.String}
_OF_ROLLUPS = ("assumed_calls", "assumed_nano_usd", "provider_difference_nano_usd")
_ROLLUPS = ("execution_rollups", "execution_rollups_daily")


def upgrade() -> None:
    for name, kind in _OF_SPANS.items():
        op.add_column("spans", sa.Column(name, kind))
    op.add_column("executions", sa.Column("assumed_calls", sa.Integer, nullable=False, server_default=sa.text("0")))
    for table in _ROLLUPS:
        for name in _OF_ROLLUPS:
            op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    for table in _ROLLUPS:
        for name in _OF_ROLLUPS:
            op.drop_column(table, name)
    op.drop_column("executions", "assumed_calls")
    for name in _OF_SPANS:
        op.drop_column("spans", name)
