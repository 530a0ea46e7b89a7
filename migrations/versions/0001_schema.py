"""The first schema: tables of workflows and executions, and of their records."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)
Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

TABLES = (
    "conversations",
    "dead_letter",
    "execution_control",
    "execution_rollups",
    "execution_rollups_daily",
    "executions",
    "graphs",
    "spans",
    "template_ratings",
    "workflow_definitions",
    "workflow_templates",
    "conversation_messages",
)

VIEWS = {
    "template_analytics": """
CREATE VIEW template_analytics AS
SELECT totals.*, ratings.rating_average, COALESCE(ratings.rating_count, 0) AS rating_count
FROM (
    SELECT
        template_id,
        CAST(SUM(executions_completed + executions_failed + executions_cancelled) AS BIGINT) AS total_executions,
        CAST(SUM(executions_completed) AS BIGINT) AS successful_executions,
        CAST(SUM(executions_failed) AS BIGINT) AS failed_executions,
        CAST(SUM(executions_cancelled) AS BIGINT) AS cancelled_executions,
        CAST(SUM(input_tokens + output_tokens) AS BIGINT) AS total_tokens,
        CAST(SUM(cost_nano_usd) AS BIGINT) AS total_cost_nano_usd,
        CAST(
            SUM(duration_sum_ms) / NULLIF(SUM(executions_completed + executions_failed + executions_cancelled), 0)
            AS BIGINT
        ) AS average_duration_ms,
        MAX(last_used_at) AS last_used_at,
        MAX(last_success_at) AS last_success_at,
        MAX(last_failure_at) AS last_failure_at
    FROM execution_rollups_daily
    WHERE template_id <> ''
    GROUP BY template_id
) AS totals
LEFT JOIN (
    SELECT template_id, AVG(CAST(rating AS DOUBLE PRECISION)) AS rating_average, COUNT(*) AS rating_count
    FROM template_ratings
    GROUP BY template_id
) AS ratings ON ratings.template_id = totals.template_id
""",
    "node_runs": """
CREATE VIEW node_runs AS
SELECT execution_id, span_id, parent_span_id, owner_id, trace_id, attempt, node_id, node_type, node_attempt, path,
       status, started_at, duration_us, error_type, attributes
FROM spans
WHERE kind = 'node'
""",
    "model_calls": """
CREATE VIEW model_calls AS
SELECT execution_id, span_id, parent_span_id, owner_id, trace_id, attempt, node_id, node_type, node_attempt, path,
       status, started_at, duration_us, provider, model, input_tokens, output_tokens, cache_read_tokens,
       cache_write_tokens, reasoning_tokens, cost_nano_usd, cost_source, price_version, waste, error_type
FROM spans
WHERE kind = 'model'
""",
}


def upgrade() -> None:
    _create_conversations()
    _create_dead_letter()
    _create_execution_control()
    _create_rollup("execution_rollups", "bucket_hour")
    _create_rollup("execution_rollups_daily", "bucket_day")
    _create_executions()
    _create_graphs()
    _create_spans()
    _create_template_ratings()
    _create_workflow_definitions()
    _create_workflow_templates()
    _create_conversation_messages()
    for statement in VIEWS.values():
        op.execute(statement)


def downgrade() -> None:
    for view in VIEWS:
        op.execute(f"DROP VIEW {view}")
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("summary", Json),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("updated_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", name="pk_conversations"),
    )
    op.create_index("ix_conversations_owner_id_updated_at", "conversations", ["owner_id", "updated_at"])


def _create_dead_letter() -> None:
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("consumer", sa.String, nullable=False),
        sa.Column("execution_id", sa.String),
        sa.Column("signal", Json, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letter"),
    )
    op.create_index("ix_dead_letter_consumer_at", "dead_letter", ["consumer", "at"])


def _create_execution_control() -> None:
    op.create_table(
        "execution_control",
        sa.Column("execution_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_until", Time),
        sa.Column("not_before", Time),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("idempotency_digest", sa.Text),
        sa.Column("conversation_id", sa.Text),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("trace_id", sa.Text),
        sa.Column("root_span_id", sa.Text),
        sa.Column("root_started_at", Time, nullable=False),
        sa.Column("workflow_name", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("graph_hash", sa.Text),
        sa.Column("on_lost", sa.Text, nullable=False),
        sa.Column("request", Json, nullable=False),
        sa.Column("result", Json),
        sa.Column("cancel_requested_at", Time),
        sa.Column("cancel_reason", sa.Text),
        sa.Column("accepted_at", Time, nullable=False),
        sa.Column("finished_at", Time),
        sa.CheckConstraint(
            "(status IN ('queued', 'running', 'paused')) = (finished_at IS NULL)", name="ck_execution_control_finished"
        ),
        sa.CheckConstraint("on_lost IN ('fail', 'retry', 'resume')", name="ck_execution_control_on_lost"),
        sa.CheckConstraint("source IN ('template', 'definition', 'graph', 'chat')", name="ck_execution_control_source"),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'paused', 'completed', 'failed', 'cancelled')",
            name="ck_execution_control_status",
        ),
        sa.CheckConstraint("attempt >= 1", name="ck_execution_control_attempt"),
        sa.PrimaryKeyConstraint("execution_id", name="pk_execution_control"),
    )
    op.create_index("ix_execution_control_finished_at", "execution_control", ["finished_at"])
    op.create_index(
        "ix_execution_control_unfinished",
        "execution_control",
        ["lease_until"],
        sqlite_where=sa.text("status IN ('queued', 'running', 'paused')"),
        postgresql_where=sa.text("status IN ('queued', 'running', 'paused')"),
    )
    op.create_index(
        "uq_execution_control_busy_conversation",
        "execution_control",
        ["conversation_id"],
        unique=True,
        sqlite_where=sa.text("status IN ('queued', 'running', 'paused')"),
        postgresql_where=sa.text("status IN ('queued', 'running', 'paused')"),
    )
    op.create_index(
        "uq_execution_control_idempotency",
        "execution_control",
        ["owner_id", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )


def _create_rollup(table: str, bucket: str) -> None:
    op.create_table(
        table,
        sa.Column(bucket, Time, nullable=False),
        sa.Column("owner_id", sa.String, nullable=False),
        sa.Column("workflow_name", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("template_id", sa.String, nullable=False),
        sa.Column("template_version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("provider", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("executions_completed", sa.BigInteger, nullable=False),
        sa.Column("executions_failed", sa.BigInteger, nullable=False),
        sa.Column("executions_cancelled", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
        sa.Column("waste_nano_usd", sa.BigInteger, nullable=False),
        sa.Column("unpriced_calls", sa.BigInteger, nullable=False),
        sa.Column("model_calls", sa.BigInteger, nullable=False),
        sa.Column("duration_sum_ms", sa.BigInteger, nullable=False),
        sa.Column("duration_le_1", sa.BigInteger, nullable=False),
        sa.Column("duration_le_2", sa.BigInteger, nullable=False),
        sa.Column("duration_le_4", sa.BigInteger, nullable=False),
        sa.Column("duration_le_8", sa.BigInteger, nullable=False),
        sa.Column("duration_le_16", sa.BigInteger, nullable=False),
        sa.Column("duration_le_32", sa.BigInteger, nullable=False),
        sa.Column("duration_le_64", sa.BigInteger, nullable=False),
        sa.Column("duration_le_128", sa.BigInteger, nullable=False),
        sa.Column("duration_le_256", sa.BigInteger, nullable=False),
        sa.Column("duration_le_512", sa.BigInteger, nullable=False),
        sa.Column("duration_le_1024", sa.BigInteger, nullable=False),
        sa.Column("duration_le_2048", sa.BigInteger, nullable=False),
        sa.Column("duration_le_4096", sa.BigInteger, nullable=False),
        sa.Column("duration_le_8192", sa.BigInteger, nullable=False),
        sa.Column("duration_le_16384", sa.BigInteger, nullable=False),
        sa.Column("duration_le_32768", sa.BigInteger, nullable=False),
        sa.Column("duration_le_65536", sa.BigInteger, nullable=False),
        sa.Column("duration_le_131072", sa.BigInteger, nullable=False),
        sa.Column("duration_le_262144", sa.BigInteger, nullable=False),
        sa.Column("duration_le_524288", sa.BigInteger, nullable=False),
        sa.Column("duration_le_1048576", sa.BigInteger, nullable=False),
        sa.Column("duration_le_2097152", sa.BigInteger, nullable=False),
        sa.Column("duration_le_4194304", sa.BigInteger, nullable=False),
        sa.Column("duration_le_8388608", sa.BigInteger, nullable=False),
        sa.Column("duration_le_16777216", sa.BigInteger, nullable=False),
        sa.Column("duration_le_33554432", sa.BigInteger, nullable=False),
        sa.Column("duration_le_67108864", sa.BigInteger, nullable=False),
        sa.Column("duration_le_134217728", sa.BigInteger, nullable=False),
        sa.Column("duration_le_inf", sa.BigInteger, nullable=False),
        sa.Column("last_used_at", Time),
        sa.Column("last_success_at", Time),
        sa.Column("last_failure_at", Time),
        sa.CheckConstraint("cost_nano_usd >= 0", name=f"ck_{table}_cost_nano_usd"),
        sa.CheckConstraint("waste_nano_usd >= 0", name=f"ck_{table}_waste_nano_usd"),
        sa.PrimaryKeyConstraint(
            bucket,
            "owner_id",
            "workflow_name",
            "source",
            "template_id",
            "template_version",
            "provider",
            "model",
            name=f"pk_{table}",
        ),
    )


def _create_executions() -> None:
    op.create_table(
        "executions",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("owner_id", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("rank", sa.SmallInteger, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("workflow_name", sa.String, nullable=False),
        sa.Column("workflow_source", sa.String, nullable=False),
        sa.Column("template_id", sa.String),
        sa.Column("template_version", sa.Integer),
        sa.Column("definition_id", sa.String),
        sa.Column("graph_hash", sa.String),
        sa.Column("conversation_id", sa.String),
        sa.Column("correlation_id", sa.String),
        sa.Column("trace_id", sa.String(length=32)),
        sa.Column("root_span_id", sa.String(length=16)),
        sa.Column("trigger", sa.String),
        sa.Column("streaming", sa.Boolean),
        sa.Column("record_level", sa.String, nullable=False),
        sa.Column("queued_at", Time, nullable=False),
        sa.Column("started_at", Time),
        sa.Column("completed_at", Time),
        sa.Column("duration_ms", sa.BigInteger),
        sa.Column("time_to_first_token_ms", sa.BigInteger),
        sa.Column("time_queue_ms", sa.BigInteger),
        sa.Column("time_model_ms", sa.BigInteger),
        sa.Column("time_tool_ms", sa.BigInteger),
        sa.Column("time_retry_ms", sa.BigInteger),
        sa.Column("time_human_ms", sa.BigInteger),
        sa.Column("time_engine_ms", sa.BigInteger),
        sa.Column("input_tokens", sa.BigInteger),
        sa.Column("output_tokens", sa.BigInteger),
        sa.Column("cache_read_tokens", sa.BigInteger),
        sa.Column("cache_write_tokens", sa.BigInteger),
        sa.Column("reasoning_tokens", sa.BigInteger),
        sa.Column("cost_nano_usd", sa.BigInteger),
        sa.Column("unpriced_calls", sa.Integer, nullable=False),
        sa.Column("waste_nano_usd", sa.BigInteger, nullable=False),
        sa.Column("unfinished_calls", sa.Integer, nullable=False),
        sa.Column("cost_upper_nano_usd", sa.BigInteger),
        sa.Column("model_calls", sa.Integer, nullable=False),
        sa.Column("tool_calls", sa.Integer, nullable=False),
        sa.Column("nodes_total", sa.Integer, nullable=False),
        sa.Column("nodes_failed", sa.Integer, nullable=False),
        sa.Column("nodes_retried", sa.Integer, nullable=False),
        sa.Column("spans_expected", sa.Integer),
        sa.Column("seal", sa.String),
        sa.Column("spans_stored", sa.Integer, nullable=False),
        sa.Column("error_type", sa.String),
        sa.Column("error_message", sa.Text),
        sa.Column("error_node_id", sa.String),
        sa.Column("cancel_reason", sa.Text),
        sa.Column("retry_of", sa.String(length=36)),
        sa.Column("tags", Json, nullable=False),
        sa.Column("params", Json, nullable=False),
        sa.CheckConstraint("record_level IN ('summary', 'nodes', 'full')", name="ck_executions_record_level"),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'paused', 'completed', 'failed', 'cancelled')", name="ck_executions_status"
        ),
        sa.CheckConstraint(
            "workflow_source IN ('template', 'definition', 'graph', 'chat')", name="ck_executions_workflow_source"
        ),
        sa.CheckConstraint("cost_nano_usd >= 0", name="ck_executions_cost_nano_usd"),
        sa.CheckConstraint("cost_upper_nano_usd >= 0", name="ck_executions_cost_upper_nano_usd"),
        sa.CheckConstraint("waste_nano_usd >= 0", name="ck_executions_waste_nano_usd"),
        sa.PrimaryKeyConstraint("id", name="pk_executions"),
    )
    op.create_index("ix_executions_conversation", "executions", ["conversation_id"])
    op.create_index("ix_executions_correlation", "executions", ["correlation_id"])
    op.create_index("ix_executions_owner_queued", "executions", ["owner_id", "queued_at", "id"])
    op.create_index("ix_executions_status_queued", "executions", ["status", "queued_at"])
    op.create_index("ix_executions_template_queued", "executions", ["template_id", "queued_at"])
    op.create_index("ix_executions_trace", "executions", ["trace_id"])


def _create_graphs() -> None:
    op.create_table(
        "graphs",
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("graph", sa.Text, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("content_hash", name="pk_graphs"),
    )


def _create_spans() -> None:
    op.create_table(
        "spans",
        sa.Column("execution_id", sa.String(length=36), nullable=False),
        sa.Column("span_id", sa.String(length=16), nullable=False),
        sa.Column("owner_id", sa.String, nullable=False),
        sa.Column("trace_id", sa.String(length=32), nullable=False),
        sa.Column("parent_span_id", sa.String(length=16)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("node_id", sa.String),
        sa.Column("node_type", sa.String),
        sa.Column("node_attempt", sa.Integer),
        sa.Column("path", sa.String),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("started_at", Time, nullable=False),
        sa.Column("started_nanos", sa.SmallInteger, nullable=False),
        sa.Column("duration_us", sa.BigInteger, nullable=False),
        sa.Column("provider", sa.String),
        sa.Column("model", sa.String),
        sa.Column("input_tokens", sa.BigInteger),
        sa.Column("output_tokens", sa.BigInteger),
        sa.Column("cache_read_tokens", sa.BigInteger),
        sa.Column("cache_write_tokens", sa.BigInteger),
        sa.Column("reasoning_tokens", sa.BigInteger),
        sa.Column("cost_nano_usd", sa.BigInteger),
        sa.Column("cost_source", sa.String),
        sa.Column("price_version", sa.String),
        sa.Column("waste", sa.String),
        sa.Column("error_type", sa.String),
        sa.Column("attributes", Json),
        sa.CheckConstraint(
            "kind IN ('workflow', 'node', 'model', 'tool', 'retrieval', 'embedding')", name="ck_spans_kind"
        ),
        sa.CheckConstraint(
            "status IN ('completed', 'failed', 'skipped', 'retrying', 'paused', 'cancelled')", name="ck_spans_status"
        ),
        sa.CheckConstraint("cost_nano_usd >= 0", name="ck_spans_cost_nano_usd"),
        sa.CheckConstraint("duration_us >= 0", name="ck_spans_duration_us"),
        sa.PrimaryKeyConstraint("execution_id", "span_id", name="pk_spans"),
    )


def _create_template_ratings() -> None:
    op.create_table(
        "template_ratings",
        sa.Column("owner_id", sa.String, nullable=False),
        sa.Column("template_id", sa.String, nullable=False),
        sa.Column("rating", sa.SmallInteger, nullable=False),
        sa.Column("rated_at", Time, nullable=False),
        sa.CheckConstraint("rating BETWEEN 1 AND 5", name="ck_template_ratings_rating"),
        sa.PrimaryKeyConstraint("owner_id", "template_id", name="pk_template_ratings"),
    )


def _create_workflow_definitions() -> None:
    op.create_table(
        "workflow_definitions",
        sa.Column("definition_id", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("graph", Json, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("tags", Json, nullable=False),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("metadata", Json, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.CheckConstraint("version >= 1", name="ck_workflow_definitions_version"),
        sa.PrimaryKeyConstraint("definition_id", "version", name="pk_workflow_definitions"),
        sa.UniqueConstraint("owner_id", "slug", "version", name="uq_workflow_definitions_owner_id_slug_version"),
    )


def _create_workflow_templates() -> None:
    op.create_table(
        "workflow_templates",
        sa.Column("template_id", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("tags", Json, nullable=False),
        sa.Column("parameters", Json, nullable=False),
        sa.Column("defaults", Json, nullable=False),
        sa.Column("graph", Json, nullable=False),
        sa.Column("required_tools", Json, nullable=False),
        sa.Column("required_retrievers", Json, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("is_builtin", sa.Boolean, nullable=False),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("is_latest", sa.Boolean, nullable=False),
        sa.Column("base_template_id", sa.Text),
        sa.Column("changelog", sa.Text),
        sa.Column("created_at", Time, nullable=False),
        sa.CheckConstraint("is_builtin = (owner_id = '')", name="ck_workflow_templates_builtin_owner"),
        sa.CheckConstraint("version >= 1", name="ck_workflow_templates_version"),
        sa.PrimaryKeyConstraint("template_id", "version", name="pk_workflow_templates"),
        sa.UniqueConstraint("owner_id", "key", "version", name="uq_workflow_templates_owner_id_key_version"),
    )
    op.create_index(
        "uq_workflow_templates_latest",
        "workflow_templates",
        ["template_id"],
        unique=True,
        sqlite_where=sa.text("is_latest"),
        postgresql_where=sa.text("is_latest"),
    )


def _create_conversation_messages() -> None:
    op.create_table(
        "conversation_messages",
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", Json, nullable=False),
        sa.Column("tool_calls", Json),
        sa.Column("tool_call_id", sa.Text),
        sa.Column("is_error", sa.Boolean),
        sa.Column("node_id", sa.Text),
        sa.Column("execution_id", sa.Text, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.CheckConstraint("role IN ('user', 'assistant', 'tool')", name="ck_conversation_messages_role"),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.conversation_id"],
            name="fk_conversation_messages_conversation_id_conversations",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("conversation_id", "position", name="pk_conversation_messages"),
        sa.UniqueConstraint(
            "conversation_id", "message_id", name="uq_conversation_messages_conversation_id_message_id"
        ),
    )
