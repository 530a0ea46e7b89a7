"""Webhook URLs that hold credentials are sealed; `url` keeps the form in which they are shown.

The service seals URLs of earlier versions when it starts, because only it has the key. A downgrade cannot open them: it
disables the endpoints concerned, whose URL must be given again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("webhook_endpoints", sa.Column("sealed_url", sa.Text))


def downgrade() -> None:
    op.execute(
        "UPDATE webhook_endpoints SET status = 'disabled', disabled_at = updated_at, disabled_reason = 'owner' "
        "WHERE sealed_url IS NOT NULL AND status = 'active'"
    )
    op.execute("ALTER TABLE webhook_endpoints DROP COLUMN sealed_url")
