"""One database, SQLite or PostgreSQL: connections, errors, locks and migrations."""
