"""The engine's tables in SQLite or PostgreSQL: templates, definitions, conversations, executions and their state."""
