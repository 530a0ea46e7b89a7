"""What alembic runs: on the connection that `engine.database.migrations` hands over, or to text."""

from alembic import context

attributes = context.config.attributes

if context.is_offline_mode():
    context.configure(dialect_name=attributes["dialect_name"], literal_binds=True)
else:
    context.configure(connection=attributes["connection"])

with context.begin_transaction():
    context.run_migrations()
