"""What is run and what was decided about it: one database, SQLite or PostgreSQL."""
