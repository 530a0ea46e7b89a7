"""The engine's tables: workflows, conversations, and the control row that decides the fate of each execution."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    text,
)
from sqlalchemy import UniqueConstraint as Unique

from engine.database.base import JsonColumn, UtcTime, metadata, one_of
from engine.result import Status

BUILTIN_OWNER = ""
"""The owner id of built-in templates, which every owner can use."""

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
"""One conversation per row; `summary` is `{text, covers}` and replaces the messages up to the message id `covers`."""

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
    Index(None, "execution_id"),
    one_of("role", ("user", "assistant", "tool")),
)
"""One message of a conversation per row; positions are unique but may have gaps."""

execution_control = Table(
    "execution_control",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    # The process that runs the execution, and when its lease expires; null while no process owns it.
    Column("lease_owner", Text),
    Column("lease_until", UtcTime),
    # How long that process had been running when it took or last renewed the lease; null if it did not say.
    Column("lease_age_seconds", Float),
    # When a paused execution continues without an answer, or one whose young processes died may be claimed again.
    Column("not_before", UtcTime),
    # Attempts that ended because their process died; the execution fails after three.
    Column("crashes", Integer, nullable=False, server_default=text("0")),
    # Attempts in a row that ended because their process died soon after its start; they do not count as crashes.
    Column("early_losses", Integer, nullable=False, server_default=text("0")),
    # Why the next attempt starts; null while an attempt runs.
    Column("claim_reason", Text),
    Column("idempotency_key", Text),
    Column("idempotency_digest", Text),
    Column("conversation_id", Text),
    Column("correlation_id", Text, nullable=False),
    Column("trace_id", Text),
    # The root span of the current or last attempt; null before the attempt has started.
    Column("root_span_id", Text),
    Column("root_parent_span_id", Text),
    # When that attempt started; for a queued execution, when it was accepted.
    Column("root_started_at", UtcTime, nullable=False),
    # The fields of `engine.identity.ExecutionIdentity`, so that its record can be written without its process.
    Column("subject", JsonColumn),
    Column("caller_trace", Text),
    Column("workflow_name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("graph_hash", Text),
    Column("on_lost", Text, nullable=False),
    Column("request", JsonColumn, nullable=False),
    Column("result", JsonColumn),
    # Sequence number of the closing event, which carries the result.
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
    Index(None, "graph_hash"),
)
"""One row per execution, which alone decides its fate. Leases and due times use the database's clock."""

graphs = Table(
    "graphs",
    metadata,
    Column("content_hash", Text, primary_key=True),
    Column("graph", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)
"""Each graph that has ever run, stored once: its canonical JSON, byte for byte as it was hashed."""

journalled = Table(
    "journalled",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    # Ids of the spans that the record level keeps: 16 hex digits each, without separators.
    Column("span_ids", Text, nullable=False),
    # The `engine.usage.Totals` of the same signals.
    Column("totals", JsonColumn, nullable=False),
    # The `engine.store.unfinished.OpenNode`s of the attempt after this commit; null if an older version wrote the row.
    Column("open_nodes", JsonColumn),
)
"""The committed totals and spans of an unfinished execution, one row per commit. A later attempt continues from them;
if the process died, they are all that is known of its run. Deleted when the execution ends."""

call_reservations = Table(
    "call_reservations",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("call_id", Text, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("upper_tokens", BigInteger, nullable=False),
    # Null if the price is unknown.
    Column("upper_nano_usd", BigInteger),
    Column("at", UtcTime, nullable=False),
    CheckConstraint("upper_nano_usd >= 0", name="upper_nano_usd"),
)
"""Model calls in flight: written before the call, deleted when its span is stored. Rows of a dead attempt are counted
as unfinished calls."""

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
"""One approval question per row; the first answer, `{choice, data}`, resumes the execution."""

call_content = Table(
    "call_content",
    metadata,
    Column("execution_id", Text, primary_key=True),
    # Hex id of the span of the call.
    Column("call_id", Text, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("operation", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    # JSON by the keys of the GenAI conventions, compressed by zlib.
    Column("document", LargeBinary, nullable=False),
    # Keys whose value was cut to 1 MiB.
    Column("cut", JsonColumn, nullable=False),
    Column("at", UtcTime, nullable=False),
    one_of("operation", ("chat", "execute_tool", "retrieval")),
)
"""What each call said and was told, without secrets; only with `SPANLOOM_CONTENT=full`."""

tombstones = Table(
    "tombstones",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    one_of("reason", ("not_stored", "expired", "forgotten")),
)
"""Executions whose content was deleted, and why; a signal that comes late does not bring it back."""

write_probes = Table(
    "write_probes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("written_at", UtcTime, nullable=False),
)
"""One row, which the readiness check updates to see whether the database can be written."""
