"""The engine's tables: what is run, and the one place where an execution's fate is decided."""

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text, text
from sqlalchemy import UniqueConstraint as Unique

from engine.result import Status
from engine.store.base import JsonColumn, UtcTime, metadata, one_of

BUILTIN_OWNER = ""
"""Whom a built-in template belongs to: everybody."""

_UNFINISHED = "status IN ('queued', 'running', 'paused')"

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
    Column("lease_owner", Text),
    Column("lease_until", UtcTime),
    Column("not_before", UtcTime),
    Column("idempotency_key", Text),
    Column("idempotency_digest", Text),
    Column("conversation_id", Text),
    Column("correlation_id", Text, nullable=False),
    Column("trace_id", Text),
    Column("root_span_id", Text),
    Column("root_started_at", UtcTime, nullable=False),
    Column("workflow_name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("graph_hash", Text),
    Column("on_lost", Text, nullable=False),
    Column("request", JsonColumn, nullable=False),
    Column("result", JsonColumn),
    Column("cancel_requested_at", UtcTime),
    Column("cancel_reason", Text),
    Column("accepted_at", UtcTime, nullable=False),
    Column("finished_at", UtcTime),
    one_of("status", Status),
    one_of("source", ("template", "definition", "graph", "chat")),
    one_of("on_lost", ("fail", "retry", "resume")),
    CheckConstraint("attempt >= 1", name="attempt"),
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
