"""Run by Alembic: migrates the database whose connection `lore.serve.store.database` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
