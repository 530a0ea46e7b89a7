"""The engine's tables: what is run, and the one place where an execution's fate is decided."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy import UniqueConstraint as Unique

from engine.database.base import JsonColumn, UtcTime, metadata, one_of
from engine.result import Status

BUILTIN_OWNER = ""
"""Whom a built-in template belongs to: everybody."""

_UNFINISHED = "status IN ('queued', 'running', 'paused')"
_CLAIMABLE = f"lease_owner IS NULL AND {_UNFINISHED}"

workflow_templates = Table(
    "workflow_templates",
    metadata,
    Column("template_id", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("tags", JsonColumn, nullable=False),
    Column("parameters", JsonColumn, nullable=False),
    Column("defaults", JsonColumn, nullable=False),
    Column("graph", JsonColumn, nullable=False),
    Column("required_tools", JsonColumn, nullable=False),
    Column("required_retrievers", JsonColumn, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("is_builtin", Boolean, nullable=False),
    Column("is_public", Boolean, nullable=False),
    Column("is_latest", Boolean, nullable=False),
    Column("base_template_id", Text),
    Column("changelog", Text),
    Column("created_at", UtcTime, nullable=False),
    Unique("owner_id", "key", "version"),
    CheckConstraint("version >= 1", name="version"),
    CheckConstraint(f"is_builtin = (owner_id = '{BUILTIN_OWNER}')", name="builtin_owner"),
    Index(
        "uq_workflow_templates_latest",
        "template_id",
        unique=True,
        sqlite_where=text("is_latest"),
        postgresql_where=text("is_latest"),
    ),
)
"""One immutable version of a template per row; all versions of a template share its id."""

workflow_definitions = Table(
    "workflow_definitions",
    metadata,
    Column("definition_id", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("slug", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("graph", JsonColumn, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("tags", JsonColumn, nullable=False),
    Column("is_public", Boolean, nullable=False),
    Column("metadata", JsonColumn, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Unique("owner_id", "slug", "version"),
    CheckConstraint("version >= 1", name="version"),
)
"""One immutable version of a stored graph per row; all versions of a definition share its id."""

conversations = Table(
    "conversations",
    metadata,
    Column("conversation_id", Text, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("title", Text),
    Column("summary", JsonColumn),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Index(None, "owner_id", "updated_at"),
)
"""`summary` is `{text, covers: message id}`: what the messages up to and with that one said."""

conversation_messages = Table(
    "conversation_messages",
    metadata,
    Column("conversation_id", Text, ForeignKey(conversations.c.conversation_id, ondelete="CASCADE"), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("message_id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", JsonColumn, nullable=False),
    Column("tool_calls", JsonColumn),
    Column("tool_call_id", Text),
    Column("is_error", Boolean),
    Column("node_id", Text),
    Column("execution_id", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Unique("conversation_id", "message_id"),
    one_of("role", ("user", "assistant", "tool")),
)
"""The chat's messages; a position may be missing but never doubled."""

execution_control = Table(
    "execution_control",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    # Whoever runs it, and until when nobody may take it away; null while it waits for a process.
    Column("lease_owner", Text),
    Column("lease_until", UtcTime),
    # When a paused execution goes on without an answer.
    Column("not_before", UtcTime),
    # Attempts that ended because their process died: three, and it is given up.
    Column("crashes", Integer, nullable=False, server_default=text("0")),
    # Why the next attempt begins; null while one runs.
    Column("claim_reason", Text),
    Column("idempotency_key", Text),
    Column("idempotency_digest", Text),
    Column("conversation_id", Text),
    Column("correlation_id", Text, nullable=False),
    Column("trace_id", Text),
    # The root span of the attempt that runs, or ran last; null before it has begun.
    Column("root_span_id", Text),
    Column("root_parent_span_id", Text),
    # When that began; of a queued execution, when it was accepted.
    Column("root_started_at", UtcTime, nullable=False),
    # `engine.identity.Subject`: what can be said of it without its process.
    Column("subject", JsonColumn),
    Column("caller_trace", Text),
    Column("workflow_name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("graph_hash", Text),
    Column("on_lost", Text, nullable=False),
    Column("request", JsonColumn, nullable=False),
    Column("result", JsonColumn),
    # Number of the closing event that told the result.
    Column("last_seq", Integer),
    Column("cancel_requested_at", UtcTime),
    Column("cancel_reason", Text),
    Column("accepted_at", UtcTime, nullable=False),
    Column("paused_at", UtcTime),
    Column("paused_seconds", Float, nullable=False, server_default=text("0")),
    Column("finished_at", UtcTime),
    one_of("status", Status),
    one_of("source", ("template", "definition", "graph", "chat")),
    one_of("on_lost", ("fail", "retry", "resume")),
    one_of("claim_reason", ("queued", "answer", "timer", "crash", "shutdown")),
    CheckConstraint("attempt >= 1", name="attempt"),
    CheckConstraint("lease_owner IS NULL OR status = 'running'", name="leased_while_running"),
    CheckConstraint(f"({_UNFINISHED}) = (finished_at IS NULL)", name="finished"),
    Index(
        "uq_execution_control_busy_conversation",
        "conversation_id",
        unique=True,
        sqlite_where=text(_UNFINISHED),
        postgresql_where=text(_UNFINISHED),
    ),
    Index(
        "uq_execution_control_idempotency",
        "owner_id",
        "idempotency_key",
        unique=True,
        sqlite_where=text("idempotency_key IS NOT NULL"),
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    Index(
        "ix_execution_control_unfinished",
        "lease_until",
        sqlite_where=text(_UNFINISHED),
        postgresql_where=text(_UNFINISHED),
    ),
    Index(
        "ix_execution_control_claimable",
        "accepted_at",
        sqlite_where=text(_CLAIMABLE),
        postgresql_where=text(_CLAIMABLE),
    ),
    Index(None, "finished_at"),
)
"""The only place where an execution's fate is decided. Leases and due times are on the database's clock."""

graphs = Table(
    "graphs",
    metadata,
    Column("content_hash", Text, primary_key=True),
    Column("graph", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)
"""Each graph that ever ran, once: its canonical JSON as text, byte for byte what was hashed."""

journalled = Table(
    "journalled",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    # Ids of spans that the record level keeps, 16 hex digits each, without a separator.
    Column("span_ids", Text, nullable=False),
    # `engine.usage.Totals` of the same signals.
    Column("totals", JsonColumn, nullable=False),
)
"""What an unfinished execution has made durable so far, a row a commit: what a later attempt goes on from, and what
can be said of one whose process died. The rows go when the execution ends."""

call_reservations = Table(
    "call_reservations",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("call_id", Text, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("upper_tokens", BigInteger, nullable=False),
    # Null where the price is not known.
    Column("upper_nano_usd", BigInteger),
    Column("at", UtcTime, nullable=False),
    CheckConstraint("upper_nano_usd >= 0", name="upper_nano_usd"),
)
"""Model calls in flight: written before the call, deleted with its span. What a dead attempt leaves is unfinished."""

approvals = Table(
    "approvals",
    metadata,
    Column("approval_id", Text, primary_key=True),
    Column("execution_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("payload", JsonColumn),
    Column("choices", JsonColumn, nullable=False),
    Column("response_schema", JsonColumn),
    Column("expires_at", UtcTime, nullable=False),
    Column("answer", JsonColumn),
    Column("answered_by", Text),
    Column("answered_at", UtcTime),
    Column("created_at", UtcTime, nullable=False),
    CheckConstraint("(answer IS NULL) = (answered_at IS NULL)", name="answered"),
    Index(None, "execution_id"),
)
"""What people are asked; the first answer, `{choice, data}`, resumes the execution."""
