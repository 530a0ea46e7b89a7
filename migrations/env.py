"""The script that Alembic runs, on the connection of `engine.database.migrations` or, offline, to produce SQL."""

from alembic import context

attributes = context.config.attributes

if context.is_offline_mode():
    context.configure(dialect_name=attributes["dialect_name"], literal_binds=True)
else:
    context.configure(connection=attributes["connection"])

with context.begin_transaction():
    context.run_migrations()
