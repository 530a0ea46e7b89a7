"""The table of API keys."""

from sqlalchemy import Column, Index, LargeBinary, Table, Text

from engine.database.base import JsonColumn, UtcTime, metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    # HMAC-SHA-256 of the whole key; the key itself is stored nowhere.
    Column("hmac", LargeBinary, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("scopes", JsonColumn, nullable=False),
    # The key that made this one; null if it was made on the command line.
    Column("created_by", Text),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    # Written at most once a minute.
    Column("last_used_at", UtcTime),
    Column("revoked_at", UtcTime),
    Index(None, "owner_id", "created_at"),
)
"""One API key per row. Revoked keys stay, so that a service with keys never becomes open again by itself."""
