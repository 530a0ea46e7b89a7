"""Webhooks: endpoints, events, deliveries and attempts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)
Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
Id = sa.String(length=36)

TABLES = ("webhook_endpoints", "webhook_events", "webhook_deliveries", "webhook_attempts")


def upgrade() -> None:
    _create_endpoints()
    _create_events()
    _create_deliveries()
    _create_attempts()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_endpoints() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", Id, nullable=False),
        sa.Column("owner_id", sa.String, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("events", Json, nullable=False),
        sa.Column("templates", Json),
        sa.Column("header_names", Json, nullable=False),
        sa.Column("sealed_headers", sa.Text),
        sa.Column("sealed_secret", sa.Text, nullable=False),
        sa.Column("sealed_old_secret", sa.Text),
        sa.Column("old_valid_until", Time),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("disabled_at", Time),
        sa.Column("disabled_reason", sa.String),
        sa.Column("failing_since", Time),
        sa.Column("failures_in_row", sa.Integer, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("updated_at", Time, nullable=False),
        sa.CheckConstraint("status IN ('active', 'disabled')", name="ck_webhook_endpoints_status"),
        sa.CheckConstraint(
            "disabled_reason IN ('owner', 'gone', 'failing')", name="ck_webhook_endpoints_disabled_reason"
        ),
        sa.CheckConstraint(
            "(status = 'disabled') = (disabled_at IS NOT NULL)", name="ck_webhook_endpoints_disabled_at"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoints"),
    )
    op.create_index("ix_webhook_endpoints_owner_created", "webhook_endpoints", ["owner_id", "created_at", "id"])


def _create_events() -> None:
    op.create_table(
        "webhook_events",
        sa.Column("event_id", Id, nullable=False),
        sa.Column("owner_id", sa.String, nullable=False),
        sa.Column("execution_id", Id),
        sa.Column("event_type", sa.String, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_webhook_events"),
    )
    op.create_index("ix_webhook_events_owner_at", "webhook_events", ["owner_id", "at", "event_id"])


def _create_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", Id, nullable=False),
        sa.Column("event_id", Id, nullable=False),
        sa.Column("endpoint_id", Id, nullable=False),
        sa.Column("owner_id", sa.String, nullable=False),
        sa.Column("execution_id", Id),
        sa.Column("event_type", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", Time),
        sa.Column("claim", Id),
        sa.Column("last_attempt_at", Time),
        sa.Column("last_status", sa.Integer),
        sa.Column("last_error", sa.Text),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("ended_at", Time),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="ck_webhook_deliveries_state"),
        sa.CheckConstraint(
            "(state = 'pending') = (next_attempt_at IS NOT NULL)", name="ck_webhook_deliveries_next_attempt_at"
        ),
        sa.CheckConstraint("(state = 'pending') = (ended_at IS NULL)", name="ck_webhook_deliveries_ended_at"),
        sa.ForeignKeyConstraint(
            ["event_id"],
            ["webhook_events.event_id"],
            name="fk_webhook_deliveries_event_id_webhook_events",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoints.id"],
            name="fk_webhook_deliveries_endpoint_id_webhook_endpoints",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
        sa.UniqueConstraint("event_id", "endpoint_id", name="uq_webhook_deliveries_event_id_endpoint_id"),
    )
    op.create_index("ix_webhook_deliveries_owner_created", "webhook_deliveries", ["owner_id", "created_at", "id"])
    op.create_index("ix_webhook_deliveries_endpoint_created", "webhook_deliveries", ["endpoint_id", "created_at", "id"])
    op.create_index(
        "ix_webhook_deliveries_claimed",
        "webhook_deliveries",
        ["endpoint_id"],
        sqlite_where=sa.text("claim IS NOT NULL"),
        postgresql_where=sa.text("claim IS NOT NULL"),
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["endpoint_id", "next_attempt_at"],
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )


def _create_attempts() -> None:
    op.create_table(
        "webhook_attempts",
        sa.Column("delivery_id", Id, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("duration_ms", sa.BigInteger, nullable=False),
        sa.Column("http_status", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("reply", sa.Text),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["webhook_deliveries.id"],
            name="fk_webhook_attempts_delivery_id_webhook_deliveries",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name="pk_webhook_attempts"),
    )
