"""The tables of retention: its rules, and the sums of the rows that it has deleted."""

from sqlalchemy import CheckConstraint, Column, Float, String, Table

from engine.database.base import metadata
from telemetry.store.tables import rollup_table

retention_rules = Table(
    "retention_rules",
    metadata,
    # `''` is every owner, and every template; a template is named by its key or id.
    Column("owner_id", String, primary_key=True),
    Column("template", String, primary_key=True),
    # Null: as another rule or the settings say.
    Column("content_days", Float),
    Column("spans_days", Float),
    Column("records_days", Float),
    CheckConstraint("content_days >= 0 AND spans_days >= 0 AND records_days >= 0", name="days"),
)
"""How long the executions of an owner or of a template are kept, where that differs from the settings."""

pruned_rollups = rollup_table("pruned_rollups", "bucket_hour")
"""The sums of deleted records and spans, by the key of their hourly roll-up row: that row = rows that still exist +
this one."""
