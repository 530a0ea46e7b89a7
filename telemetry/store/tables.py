"""The bookkeeper's tables: executions, spans, roll-ups, dead letters, webhooks, the outbox and reconcile runs.

Times are UTC, money is integer nano-USD, ids are text. Rows hold no content. `views.py` has the views.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from engine.database.base import JsonColumn, UtcTime, metadata, one_of
from engine.usage import TOKEN_FIELDS

DURATION_BOUNDS_MS = tuple(1 << exponent for exponent in range(28))
"""Upper bounds of the duration histogram: powers of two from 1 ms to 37 hours. A quantile read from it is at most a
factor of two too high. The buckets are not cumulative: each execution counts in one, so that a delta is one column."""

DURATION_COLUMNS = (*(f"duration_le_{bound}" for bound in DURATION_BOUNDS_MS), "duration_le_inf")

TIME_LEDGER_COLUMNS = (
    "time_queue_ms",
    "time_model_ms",
    "time_tool_ms",
    "time_retry_ms",
    "time_human_ms",
    "time_engine_ms",
)
DIGEST_COLUMNS = ("digest_spans", "digest", "digest_by_column", "digest_by_span")
"""The digest of an execution's span rows (`telemetry/records/digest.py`): how many it covers, and its three sums."""

ROLLUP_KEYS = ("owner_id", "workflow_name", "source", "template_id", "template_version", "provider", "model")
"""The key of a roll-up row, beside its bucket. A part that does not apply is `''`, or version 0."""

ROLLUP_SUMS = (
    "executions_completed",
    "executions_failed",
    "executions_cancelled",
    "executions_failed_by_caller",
    *TOKEN_FIELDS,
    "cost_nano_usd",
    "waste_nano_usd",
    "unpriced_calls",
    "unmetered_calls",
    "failed_calls",
    "unfinished_calls",
    # The cost, and the most that calls cut off by a crash may have cost as far as that is known.
    "cost_upper_nano_usd",
    # Unfinished calls of executions whose upper limit is unknown.
    "unbounded_calls",
    "assumed_calls",
    "assumed_nano_usd",
    "provider_difference_nano_usd",
    "model_calls",
    "duration_sum_ms",
    *DURATION_COLUMNS,
)
_ADDED = dict.fromkeys(
    (
        "executions_failed_by_caller",
        "unmetered_calls",
        "failed_calls",
        "unfinished_calls",
        "cost_upper_nano_usd",
        "unbounded_calls",
        "assumed_calls",
        "assumed_nano_usd",
        "provider_difference_nano_usd",
    ),
    text("0"),
)
"""Defaults of columns that an older program, which may still run during an upgrade, does not write."""

PRUNED_MARKS = ("control_pruned_at", "spans_pruned_at", "webhooks_pruned_at")
"""The columns of a record that only retention writes."""

ROLLUP_LATEST = ("last_used_at", "last_success_at", "last_failure_at")

executions = Table(
    "executions",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("owner_id", String, nullable=False),
    Column("status", String, nullable=False),
    # A record moves only to a strictly higher (attempt, rank, seq). Rank: 0 queued, 1 running, 1 paused, 2 terminal.
    Column("attempt", Integer, nullable=False),
    Column("rank", SmallInteger, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("workflow_name", String, nullable=False),
    Column("workflow_source", String, nullable=False),
    Column("template_id", String),
    Column("template_version", Integer),
    Column("definition_id", String),
    Column("graph_hash", String),
    Column("conversation_id", String),
    Column("correlation_id", String),
    Column("trace_id", String(32)),
    Column("root_span_id", String(16)),
    Column("trigger", String),
    Column("streaming", Boolean),
    Column("record_level", String, nullable=False),
    Column("queued_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("completed_at", UtcTime),
    Column("duration_ms", BigInteger),
    Column("time_to_first_token_ms", BigInteger),
    *(Column(name, BigInteger) for name in TIME_LEDGER_COLUMNS),
    *(Column(name, BigInteger) for name in TOKEN_FIELDS),
    # Null if there were model calls and none had a price, and until the execution has ended.
    Column("cost_nano_usd", BigInteger),
    # Calls to models without a price, calls without usage, and calls that failed, whatever they cost.
    Column("unpriced_calls", Integer, nullable=False),
    Column("unmetered_calls", Integer, nullable=False, server_default=text("0")),
    Column("failed_calls", Integer, nullable=False, server_default=text("0")),
    # Calls at the catalogue's price, although the server is not the provider's.
    Column("assumed_calls", Integer, nullable=False, server_default=text("0")),
    Column("waste_nano_usd", BigInteger, nullable=False),
    # Calls cut off by a crash, and the cost including the most that they may have cost.
    Column("unfinished_calls", Integer, nullable=False),
    Column("cost_upper_nano_usd", BigInteger),
    Column("model_calls", Integer, nullable=False),
    Column("tool_calls", Integer, nullable=False),
    Column("nodes_total", Integer, nullable=False),
    Column("nodes_failed", Integer, nullable=False),
    Column("nodes_retried", Integer, nullable=False),
    # The seal: how many spans the terminal event announced with the hash of their ids, and how many are stored.
    Column("spans_expected", Integer),
    Column("seal", String),
    Column("spans_stored", Integer, nullable=False),
    # Null if a program without digests has begun the record.
    *(Column(name, BigInteger) for name in DIGEST_COLUMNS),
    Column("error_type", String),
    # Who has to act: caller, workflow, provider, tool, engine. Null unless it failed.
    Column("error_class", String),
    Column("error_message", Text),
    Column("error_node_id", String),
    Column("cancel_reason", Text),
    Column("retry_of", String(36)),
    Column("tags", JsonColumn, nullable=False),
    Column("params", JsonColumn, nullable=False),
    # When retention deleted the control row, the span rows and the webhook events; reconcile expects none from then on.
    *(Column(name, UtcTime) for name in PRUNED_MARKS),
    CheckConstraint("status IN ('queued', 'running', 'paused', 'completed', 'failed', 'cancelled')", name="status"),
    CheckConstraint("workflow_source IN ('template', 'definition', 'graph', 'chat')", name="workflow_source"),
    CheckConstraint("record_level IN ('summary', 'nodes', 'full')", name="record_level"),
    CheckConstraint("cost_nano_usd >= 0", name="cost_nano_usd"),
    CheckConstraint("waste_nano_usd >= 0", name="waste_nano_usd"),
    CheckConstraint("cost_upper_nano_usd >= 0", name="cost_upper_nano_usd"),
    Index("ix_executions_owner_queued", "owner_id", "queued_at", "id"),
    Index("ix_executions_template_queued", "template_id", "queued_at"),
    Index("ix_executions_status_queued", "status", "queued_at"),
    Index("ix_executions_correlation", "correlation_id"),
    Index("ix_executions_conversation", "conversation_id"),
    Index("ix_executions_trace", "trace_id"),
)

spans = Table(
    "spans",
    metadata,
    Column("execution_id", String(36), primary_key=True),
    Column("span_id", String(16), primary_key=True),
    Column("owner_id", String, nullable=False),
    Column("trace_id", String(32), nullable=False),
    Column("parent_span_id", String(16)),
    Column("attempt", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("node_id", String),
    Column("node_type", String),
    Column("node_attempt", Integer),
    Column("path", String),
    Column("status", String, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    # Nanoseconds within the microsecond of `started_at`: siblings can be that close.
    Column("started_nanos", SmallInteger, nullable=False),
    Column("duration_us", BigInteger, nullable=False),
    Column("provider", String),
    Column("model", String),
    *(Column(name, BigInteger) for name in TOKEN_FIELDS),
    Column("cost_nano_usd", BigInteger),
    Column("cost_source", String),
    Column("price_version", String),
    # Why there is no cost; the tier of the answer; the cost as the provider reported it.
    Column("unpriced_reason", String),
    Column("service_tier", String),
    Column("provider_nano_usd", BigInteger),
    Column("waste", String),
    Column("error_type", String),
    Column("attributes", JsonColumn),
    CheckConstraint("kind IN ('workflow', 'node', 'model', 'tool', 'retrieval', 'embedding')", name="kind"),
    CheckConstraint("status IN ('completed', 'failed', 'skipped', 'retrying', 'paused', 'cancelled')", name="status"),
    CheckConstraint("cost_nano_usd >= 0", name="cost_nano_usd"),
    CheckConstraint("duration_us >= 0", name="duration_us"),
)


def rollup_table(name: str, bucket: str) -> Table:
    """A table of roll-up rows, with the time of its buckets in the column `bucket`."""
    return Table(
        name,
        metadata,
        Column(bucket, UtcTime, primary_key=True),
        Column("owner_id", String, primary_key=True),
        Column("workflow_name", String, primary_key=True),
        Column("source", String, primary_key=True),
        Column("template_id", String, primary_key=True),
        Column("template_version", Integer, primary_key=True, autoincrement=False),
        Column("provider", String, primary_key=True),
        Column("model", String, primary_key=True),
        *(Column(column, BigInteger, nullable=False, server_default=_ADDED.get(column)) for column in ROLLUP_SUMS),
        *(Column(column, UtcTime) for column in ROLLUP_LATEST),
        CheckConstraint("cost_nano_usd >= 0", name="cost_nano_usd"),
        CheckConstraint("waste_nano_usd >= 0", name="waste_nano_usd"),
    )


execution_rollups = rollup_table("execution_rollups", "bucket_hour")
execution_rollups_daily = rollup_table("execution_rollups_daily", "bucket_day")

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("consumer", String, nullable=False),
    Column("execution_id", String),
    Column("signal", JsonColumn, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    # Number of retries, and when the next is due; null: only on request. By default a row is due at once.
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("due_at", UtcTime, server_default=text("'1970-01-01 00:00:00.000000'")),
    Index("ix_dead_letter_consumer_at", "consumer", "at"),
    Index("ix_dead_letter_consumer_due_at", "consumer", "due_at"),
    Index("ix_dead_letter_execution", "execution_id"),
)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("owner_id", String, nullable=False),
    Column("url", Text, nullable=False),
    Column("description", Text),
    Column("events", JsonColumn, nullable=False),
    # Ids or keys of templates; null is every execution.
    Column("templates", JsonColumn),
    Column("header_names", JsonColumn, nullable=False),
    # `url` as it is shown; sealed: the whole URL if it holds credentials, the headers as JSON, the secret, and during a
    # rotation the one before.
    Column("sealed_url", Text),
    Column("sealed_headers", Text),
    Column("sealed_secret", Text, nullable=False),
    Column("sealed_old_secret", Text),
    Column("old_valid_until", UtcTime),
    Column("status", String, nullable=False),
    Column("disabled_at", UtcTime),
    Column("disabled_reason", String),
    # When the first of the failures in a row was; null after a success.
    Column("failing_since", UtcTime),
    Column("failures_in_row", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    one_of("status", ("active", "disabled")),
    one_of("disabled_reason", ("owner", "gone", "failing")),
    CheckConstraint("(status = 'disabled') = (disabled_at IS NOT NULL)", name="disabled_at"),
    Index("ix_webhook_endpoints_owner_created", "owner_id", "created_at", "id"),
)
"""The receivers of webhooks."""

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("event_id", String(36), primary_key=True),
    Column("owner_id", String, nullable=False),
    Column("execution_id", String(36)),
    Column("event_type", String, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("ix_webhook_events_owner_at", "owner_id", "at", "event_id"),
    Index("ix_webhook_events_execution", "execution_id"),
    Index("ix_webhook_events_at", "at", "event_id"),
)
"""Each event that at least one endpoint of its owner subscribes to, with the body that every endpoint gets.

An event is stored for a disabled endpoint too, so that it can be sent once the endpoint is enabled again.
"""

_PENDING = "state = 'pending'"

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("event_id", String(36), ForeignKey(webhook_events.c.event_id, ondelete="CASCADE"), nullable=False),
    Column("endpoint_id", String(36), ForeignKey(webhook_endpoints.c.id, ondelete="CASCADE"), nullable=False),
    Column("owner_id", String, nullable=False),
    Column("execution_id", String(36)),
    Column("event_type", String, nullable=False),
    Column("state", String, nullable=False),
    # All there were; `step` is the place in the schedule, which a redelivery begins again.
    Column("attempts", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    # On the database's clock. While a sender holds the claim, when it ends.
    Column("next_attempt_at", UtcTime),
    Column("claim", String(36)),
    Column("last_attempt_at", UtcTime),
    Column("last_status", Integer),
    Column("last_error", Text),
    Column("created_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    UniqueConstraint("event_id", "endpoint_id"),
    one_of("state", ("pending", "delivered", "failed")),
    CheckConstraint("(state = 'pending') = (next_attempt_at IS NOT NULL)", name="next_attempt_at"),
    CheckConstraint("(state = 'pending') = (ended_at IS NULL)", name="ended_at"),
    Index("ix_webhook_deliveries_owner_created", "owner_id", "created_at", "id"),
    Index("ix_webhook_deliveries_endpoint_created", "endpoint_id", "created_at", "id"),
    Index(
        "ix_webhook_deliveries_claimed",
        "endpoint_id",
        sqlite_where=text("claim IS NOT NULL"),
        postgresql_where=text("claim IS NOT NULL"),
    ),
    Index(
        "ix_webhook_deliveries_due",
        "endpoint_id",
        "next_attempt_at",
        sqlite_where=text(_PENDING),
        postgresql_where=text(_PENDING),
    ),
)
"""The delivery of one event to one endpoint; the body is that of the event."""

webhook_attempts = Table(
    "webhook_attempts",
    metadata,
    Column("delivery_id", String(36), ForeignKey(webhook_deliveries.c.id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    # Null if there was no response; then `error` says why.
    Column("http_status", Integer),
    Column("error", Text),
    Column("reply", Text),
)
"""The outcome of each attempt, with the beginning of the response."""

outbox = Table(
    "outbox",
    metadata,
    # The execution's id, a slash, and the id of the span or event.
    Column("id", Text, primary_key=True),
    Column("is_event", Boolean, nullable=False),
    Column("scope", Text, nullable=False),
    # One OTLP `Span` or `LogRecord`.
    Column("payload", LargeBinary, nullable=False),
    Column("owes_records", Boolean, nullable=False),
    Column("owes_webhooks", Boolean, nullable=False),
    Column("kept_at", UtcTime, nullable=False),
    # When it was last sent to the Collector, by the database's clock; null before.
    Column("shipped_at", UtcTime),
    Column("attempts", Integer, nullable=False),
    Index(
        "ix_outbox_unshipped",
        "is_event",
        "attempts",
        "kept_at",
        sqlite_where=text("shipped_at IS NULL"),
        postgresql_where=text("shipped_at IS NULL"),
    ),
    Index("ix_outbox_shipped", "shipped_at"),
)
"""Signals on their way through the Collector. A row is deleted when no consumer owes it any more."""

RECONCILE_CHECKS = (
    "record",
    "span",
    "control",
    "webhook",
    "dead_letter",
    "leftover",
    "rollup",
    "daily_rollup",
    "counter",
)
"""The kinds of differences, by the books that are compared (`telemetry.reconcile.findings.Check`)."""

reconcile_runs = Table(
    "reconcile_runs",
    metadata,
    # The hour that the run was due for: only one of several keepers makes it.
    Column("scheduled_for", UtcTime, primary_key=True),
    Column("started_at", UtcTime, nullable=False),
    Column("finished_at", UtcTime),
    Column("since", UtcTime, nullable=False),
    Column("until", UtcTime, nullable=False),
    Column("differences", Integer),
    Column("drift_nano_usd", BigInteger),
    Column("report", JsonColumn),
    CheckConstraint("differences >= 0", name="differences"),
    CheckConstraint("drift_nano_usd >= 0", name="drift_nano_usd"),
)
